"""Servers that are measured in turns, so that what the machine does to one it does to all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from bench import wsload
from bench.report import note
from bench.server import Server
from bench.wsload import Dialect, Load


class Subject(NamedTuple):
    """A server, and how it is spoken to."""

    name: str
    start: Callable[[], Server]
    dialect: Dialect


Loads = dict[tuple[str, int], list[Load]]
"""Runs, by the subject's name and the rate."""


def in_turns(subjects: Sequence[Subject], rates: Sequence[int], *, clients: int, seconds: float, repeat: int) -> Loads:
    """``repeat`` rounds of runs at each rate, the lowest first, on a fresh server per round; then, for runs that
    strangers spoiled, as many more at most. A run that fails is named on stderr and missing in the result.
    """
    loads: Loads = {(subject.name, rate): [] for subject in subjects for rate in rates}
    for turn in range(2 * repeat):
        for name, start, dialect in subjects:
            wanted = [rate for rate in sorted(rates) if turn < repeat or _spoiled(loads[name, rate], repeat)]
            if not wanted:
                continue
            try:
                with start() as server:
                    for rate in wanted:
                        load = wsload.run(
                            server.port, server.pids, dialect=dialect, clients=clients, rate=rate, seconds=seconds
                        )
                        loads[name, rate].append(load)
                        note(f"{name} {rate}/s: {load.us:.3f} us, {load.server:.2f} cores, p99 {load.p99:.1f} ms")
            except (RuntimeError, ValueError) as error:
                note(f"{name}: {error}")
    return loads


def _spoiled(loads: Sequence[Load], repeat: int) -> bool:
    calm = sum(not load.saturated for load in loads)
    return calm < repeat and any(load.disturbed for load in loads)
