"""What does a delivery to a Socket.IO client cost, beside a native client and beside other Socket.IO servers?

    python -m bench.socketio [delivery memory | all] [--rates 100,1000] [--json]

``delivery``: 500 subscribers on one topic, the same work for all, in turns: native clients and Socket.IO clients of one
engine, python-socketio's server, socket.io in Node; each on one core, the load client on another. A run in which either
uses more than 0.9 of its core is saturated: a server that cannot keep up shows what a delivery costs it at its limit.
``memory``: the FX market-data server of examples/fx in one process (its default) and with two workers, its clients
subscribed to two pairs each.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

from bench import report, wsload
from bench.fanout import Subject, Turns, in_turns, missing, numbers
from bench.peers import PEERS, SOCKETIO
from bench.report import Row
from bench.server import ROOT, engine
from bench.wsload import NATIVE, TOPIC, Dialect

OURS = Dialect(
    path=SOCKETIO.path,
    subscribe=("40", f'42["subscribe",{{"topics":["{TOPIC}"]}}]'),
    publish=f'42["publish",{{"topic":"{TOPIC}","data":{{"t":%T,"s":%S,"x":"%X"}}}}]',
    init="40",
    after="40",
)
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
NATIVELY, AS_SOCKETIO = "heliograph, native", "heliograph, Socket.IO"


class Options(Turns):
    """The command line."""

    what: list[str]
    json: bool


def delivery(options: Options) -> list[Row]:
    """CPU per delivery and latency; `against` is the ratio of medians to native clients."""
    peers = [peer for peer in PEERS if peer.dialect is SOCKETIO and not peer.missing]
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory, "engine.toml")
        config.write_text("[socketio]\nenabled = true\n")
        ours: Subject = (lambda: engine(1, config=config), [(NATIVELY, NATIVE), (AS_SOCKETIO, OURS)])
        loads = in_turns([ours, *((peer.start, [(peer.name, peer.dialect)]) for peer in peers)], options)
    for peer in PEERS:
        if peer.dialect is SOCKETIO and peer.missing:
            print(missing(peer))
    rows: list[Row] = []
    for rate in options.rates:
        natively = report.summary(loads[NATIVELY, rate])["us each"]
        for name in (NATIVELY, AS_SOCKETIO, *(peer.name for peer in peers)):
            summary = report.summary(loads[name, rate])
            rows.append({"who": name, "msg/s": rate, "against": summary["us each"] / natively, **summary})
    return rows


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


MODES: dict[str, Callable[[Options], list[Row]]] = {"delivery": delivery, "memory": memory}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.socketio", description=__doc__.split("\n")[0])
    parser.add_argument("what", nargs="*", choices=[*MODES, "all", []], metavar="WHAT", help="default: all")
    parser.add_argument("--rates", type=numbers, default=[100, 1000], help="messages per second")
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=4.0, help="measured per run")
    parser.add_argument("--repeat", type=int, default=3, help="runs per figure")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments, Options())
    what = list(MODES) if "all" in options.what or not options.what else options.what
    report.show(MODES, what, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
