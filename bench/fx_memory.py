"""What does the FX market-data server of examples/fx take? One iteration is an engine, in one process (its default) or
with two workers, and its clients, subscribed to two pairs each, at 20 prices a second.

    python -m bench.fx_memory [--seconds 4] [--json]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import product

from bench import report, wsload
from bench.peers import SOCKETIO
from bench.report import Row
from bench.server import ROOT, engine
from bench.wsload import NATIVE, Dialect

FX = Dialect(
    path=SOCKETIO.path,
    subscribe=("40", '42["subscribe",{"pairs":["EUR_USD","GBP_USD"]}]'),
    publish='{"op":"publish","id":%S,"topic":"price.EUR_USD","type":"price_update",'
    '"data":{"instrument":"EUR_USD","bid":%T,"ask":%T}}',  # the time of publishing is the price
    after="40",
    publish_path=NATIVE.path,
    marker='"bid":',
)
FX_CONFIG = ROOT / "examples" / "fx" / "engine.toml"
FX_CLIENTS = (100, 500, 1_000)
FX_GOALS = {100: 100, 500: 300, 1_000: 500}  # MB
FX_WORKERS = (0, 2)
FX_RATE = 20  # prices/s
SETTLE = 3.0  # s for an idle engine to come to rest


class Options(argparse.Namespace):
    """The command line."""

    seconds: float
    json: bool


def memory(options: Options) -> list[Row]:
    """Memory of all processes of the FX server, CPU and deliveries at 20 prices a second."""
    rows: list[Row] = []
    for workers, clients in product(FX_WORKERS, FX_CLIENTS):
        with (
            tempfile.TemporaryDirectory() as directory,
            engine(workers, config=FX_CONFIG, environment={"FX_DSN": f"sqlite:///{directory}/fx.db"}) as server,
        ):
            time.sleep(SETTLE)
            idle = server.pss()
            run = wsload.Run(
                server.port,
                server.pids,
                dialect=FX,
                clients=clients,
                rate=FX_RATE,
                seconds=options.seconds,
                check=False,
            )
            time.sleep(1.0 + options.seconds / 2)
            loaded = server.pss()
            load = run.wait()
        rows.append(
            {
                "workers": workers or "one process",
                "clients": load.open,
                "MB idle": idle,
                "MB": loaded,
                "below": FX_GOALS[clients],
                "cores": load.server,
                "delivered/s": load.delivered,
                "p50 ms": load.p50,
                "p99 ms": load.p99,
            }
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.fx_memory", description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="measured per run")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments, Options())
    report.show({"memory": memory}, ["memory"], options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
