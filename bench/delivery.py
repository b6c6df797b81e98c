"""Does every client get every event once, in order? One iteration is ``--rate × --seconds`` events to every client.

python -m bench.delivery [--clients 1000] [--rate 200] [--seconds 30] [--workers 2]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bench import wsload
from bench.server import engine


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 if so, else 1."""
    parser = argparse.ArgumentParser(prog="python -m bench.delivery", description=__doc__.split("\n")[0])
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--rate", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    with engine(options.workers) as server:
        load = wsload.run(
            server.port,
            server.pids,
            clients=options.clients,
            rate=options.rate,
            seconds=options.seconds,
            warm=0.0,
        )
    print(
        f"{load.open} clients, {load.total} events: each client got {load.least} to {load.most}; offsets missing"
        f" {load.missing}, repeated or out of order {load.repeated}; closed {load.closed}, refused {load.failed}\n"
        f"{load.us:.2f} us per delivery, p99 {load.p99:.1f} ms\n"
        f"{'every event once, in order' if load.whole else 'NOT every event once, in order'}"
    )
    return 0 if load.whole else 1


if __name__ == "__main__":
    sys.exit(main())
