"""Samples machine and processes and keeps all series, in a thread of its own: both may block."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from actors.blocking_actor import BlockingActor
from actors.sqlite_file import Unusable
from engine.log import get_logger
from engine.series_store import SeriesStore, StoreError
from engine.state_path import state_directory

DECIMALS: Final = 3
"""Of a percentage, a rate and a millisecond."""


class Sample(NamedTuple):
    """Ask: look at these processes, by name, and keep what is found together with ``engine``, the engine's own series.

    The answer is a :class:`Sampled`. ``ts``: Unix milliseconds.
    """

    ts: int
    pids: Mapping[str, int]
    engine: Mapping[str, float]


class Sampled(NamedTuple):
    """All series at one time, finite numbers. ``trouble``: why they are not kept, or not on disk, if so."""

    values: dict[str, float]
    trouble: str | None


class ListSeries(NamedTuple):
    """Ask: the names of all series, sorted."""


class ReadSeries(NamedTuple):
    """Ask: see :meth:`engine.series_store.SeriesStore.read`. Times are Unix milliseconds."""

    names: list[str]
    start: int
    end: int
    points: int


class Sampler(BlockingActor):
    """Only asked, never told: what it raises is its answer, so no error ends it.

    A database that cannot be used is left alone until the engine's next start, and the series are in memory meanwhile.
    Where a sample cannot be written (the disk is full), it is lost and the next one tried.

    Args:
        path: of the database; ``None``: in memory.
        interval: between samples, ms.
    """

    def __init__(self, path: Path | None, interval: int) -> None:
        super().__init__()
        self._path, self._interval = path, interval
        self._lasting: str | None = None  # trouble of this whole life
        self._passing: str | None = None  # trouble of the last sample

    def on_start(self) -> None:
        """Open the database; here, because it may take its time."""
        from engine.machine import Machine  # psutil: 2 MB that only who samples needs

        self._machine = Machine(state_directory() if self._path is None else self._path.parent)
        try:
            self._store = SeriesStore(self._path, self._interval)
        except (Unusable, StoreError) as error:
            self._lasting = f"{error}; until the next start the series are in memory"
            get_logger().error("metrics_not_kept", reason=self._lasting)
            self._store = SeriesStore(None, self._interval)

    def on_stop(self) -> None:
        """Close the database."""
        self._store.close()

    def on_sample(self, message: Sample) -> Sampled:
        """See :class:`Sample`."""
        found = {**message.engine, **self._machine.sample(time.monotonic(), message.pids)}
        values = {name: round(value, DECIMALS) for name, value in found.items() if math.isfinite(value)}
        try:
            self._store.add(message.ts, values)
        except StoreError as error:
            self._enter_trouble(str(error))
        else:
            self._enter_trouble(None)
        return Sampled(values, self._passing or self._lasting)

    def _enter_trouble(self, reason: str | None) -> None:
        if reason is not None and self._passing is None:
            get_logger().error("metrics_not_kept", reason=reason)
        elif reason is None and self._passing is not None:
            get_logger().warning("metrics_kept_again")
        self._passing = reason

    def on_list_series(self, _message: ListSeries) -> list[str]:
        """See :class:`ListSeries`."""
        return self._store.names()

    def on_read_series(self, message: ReadSeries) -> tuple[dict[str, list[tuple[float, float, float, float]]], int]:
        """See :class:`ReadSeries`."""
        return self._store.read(*message)
