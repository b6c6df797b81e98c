"""Is the working tree cheaper than BASE? One iteration is a pair of runs, one of each, on fresh engines, in turns.

    python -m bench.compare BASE [--rates 100,1000] [--clients 500] [--seconds 3]

Prints per rate the median of (working tree / BASE) of the CPU per delivery, with its 95 % bootstrap interval: below 1
is cheaper. There are at least 9 pairs, then more until every interval is narrower than 5 %, at most 30.

A pair does not count if one of its runs was above 0.7 of a core, lost something, or had to share the core with others:
pacing takes a slow flush for a busy engine, makes the batches larger, and so a delivery cheaper.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from bench import report, wsload
from bench.fanout import numbers
from bench.report import Row, note
from bench.server import ROOT, engine
from bench.wsload import Load

LEAST_PAIRS, MOST_PAIRS = 9, 30
NARROW = 0.05  # width of the interval that is enough
ROOM = 0.7  # of a core
STRANGERS = 0.1  # of the engine's core
RESAMPLES = 2000


def interval(ratios: Sequence[float], resamples: int = RESAMPLES) -> tuple[float, float]:
    """The 95 % bootstrap interval of the median."""
    draw = random.Random(0).choices
    medians = sorted(median(draw(ratios, k=len(ratios))) for _ in range(resamples))
    return medians[int(0.025 * resamples)], medians[int(0.975 * resamples)]


@contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """A worktree of a revision, for the time of the measurement; it runs with this interpreter's packages."""
    with tempfile.TemporaryDirectory(prefix="heliograph-base-") as directory:
        path = Path(directory) / "base"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", path, revision], cwd=ROOT, check=True)
        try:
            yield path
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", path], cwd=ROOT, check=True)


def pair(sources: Sequence[Path], rates: Sequence[int], clients: int, seconds: float) -> list[list[Load]]:
    """One run of each source at each rate, as ``[source][rate]``; in the order of ``sources``."""
    loads: list[list[Load]] = []
    for source in sources:
        with engine(1, source) as server:
            loads.append(
                [wsload.run(server.port, server.pids, clients=clients, rate=rate, seconds=seconds) for rate in rates]
            )
    return loads


def counts(load: Load) -> bool:
    """Whether a run says something about the cost."""
    return load.whole and load.server <= ROOM and load.others <= STRANGERS


def compare(base: Path, rates: Sequence[int], clients: int, seconds: float) -> list[Row]:
    """Pairs until it is decided; a row per rate."""
    ratios: dict[int, list[float]] = {rate: [] for rate in rates}
    for number in range(1, MOST_PAIRS + 1):
        if number % 2:
            before, after = pair((base, ROOT), rates, clients, seconds)
        else:
            after, before = pair((ROOT, base), rates, clients, seconds)
        for rate, old, new in zip(rates, before, after, strict=True):
            if counts(old) and counts(new):
                ratios[rate].append(new.us / old.us)
            note(f"pair {number}, {rate}/s: {old.us:.3f} -> {new.us:.3f} us, {new.server:.2f} cores")
        if all(_decided(found) for found in ratios.values()):
            break
    return [_row(rate, found) for rate, found in ratios.items()]


def _decided(ratios: Sequence[float]) -> bool:
    if len(ratios) < LEAST_PAIRS:
        return False
    low, high = interval(ratios)
    return high - low < NARROW


def _row(rate: int, ratios: Sequence[float]) -> Row:
    if not ratios:
        none = "-"
        return {"msg/s": rate, "pairs": 0, "ratio": none, "from": none, "to": none, "verdict": "no run had room"}
    low, high = interval(ratios)
    verdict = "cheaper" if high < 1 else "dearer" if low > 1 else "no difference seen"
    return {"msg/s": rate, "pairs": len(ratios), "ratio": median(ratios), "from": low, "to": high, "verdict": verdict}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 if some rate has become dearer."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__.split("\n")[0])
    parser.add_argument("base", metavar="BASE", help="a git revision")
    parser.add_argument("--rates", type=numbers, default=[100, 1000], help="messages per second")
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=3.0, help="measured per run")
    options = parser.parse_args(arguments)
    if (warning := report.warning()) is not None:
        note(warning)
    with checkout(options.base) as base:
        rows = compare(base, options.rates, options.clients, options.seconds)
    print(report.table(rows))
    return 1 if any(row["verdict"] == "dearer" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
