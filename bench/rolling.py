"""Is anything lost while the engine is replaced? Its workers, or all of it, several times, under load.

    python -m bench.rolling [--clients 300] [--rate 1000] [--topics 20] [--workers 2] [--times 3] [--wildcards]
                            [--durable] [--whole | --plain]

Each time is a ``heliograph reload --restart``; with ``--whole`` a SIGTERM and a new start on the same port and runtime
directory, with ``--plain`` a ``heliograph reload``. In the end each client has every acknowledged event of its topics
exactly once and in order (see :mod:`bench.chaos`, whose clients and oracle these are). Nobody has lost the connection
more than once each time, and nobody was refused; whoever comes while there is no engine, with ``--whole``, has to come
again. Nobody at all has lost the connection where nothing was restarted. Exits with 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Sequence

import uvloop

from bench import report
from bench.chaos_engine import ChaosEngine
from bench.chaos_load import DURABLE, QUIET_S, parser, tell, under_load


async def rolling(
    engine: ChaosEngine, replace: Callable[[], None], options: argparse.Namespace
) -> tuple[report.Row, list[str]]:
    """One run: its figures, and what was wrong. ``replace`` blocks until it is done."""

    async def happen() -> list[float]:
        took = []
        for _ in range(options.times):
            await asyncio.sleep(QUIET_S)
            began = time.monotonic()
            await asyncio.to_thread(replace)
            took.append(time.monotonic() - began)
        await asyncio.sleep(QUIET_S)
        return took

    load, took = await under_load(engine, options, "rolling", happen)
    faults = load.ledger.faults
    losses = max(made.most_connections for made in load.results) - 1
    losses = max(losses, *(publisher.connections - 1 for publisher in load.publishers))
    refused = sum(made.refused for made in load.results) + sum(publisher.refused for publisher in load.publishers)
    allowed = 0 if options.plain else options.times
    if losses > allowed:
        faults.add(f"a client lost its connection {losses} times")
    if refused and not options.whole:
        faults.add(f"{refused} connections were refused")
    row = {"times": options.times, "longest, s": max(took), "most losses of one": losses, "refused": refused}
    return {**row, **load.figures()}, load.wrong()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 if nothing was wrong, else 1."""
    known = parser("python -m bench.rolling", __doc__.split("\n")[0])
    known.add_argument("--times", type=int, default=3)
    known.add_argument("--durable", action="store_true", help="durable topics")
    how = known.add_mutually_exclusive_group()
    how.add_argument("--whole", action="store_true", help="stop the engine and start it again")
    how.add_argument("--plain", action="store_true", help="only reload the configuration")
    options = known.parse_args(arguments)
    with ChaosEngine(DURABLE if options.durable else "", options.workers) as engine:

        def replace() -> None:
            if options.whole:
                engine.stop()
                engine.start()
            else:
                engine.reload(*([] if options.plain else ["--restart"]))

        return tell(*uvloop.run(rolling(engine, replace, options)))


if __name__ == "__main__":
    sys.exit(main())
