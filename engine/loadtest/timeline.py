"""The seconds of a run: what its processes tell of each, put together in rows. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Hashable, Sequence
from typing import Final, NamedTuple

from engine.loadtest.commands import PublisherSecond, Second
from engine.loadtest.latency import Latency
from engine.loadtest.report import Series, Throughput
from engine.loadtest.resources import ResourceSample

LONGEST: Final = 1_000
"""Seconds that a report shows; the oldest go."""
BEHIND: Final = 3
"""Seconds by which a process may tell of one later than the others; what comes later still is in the next row."""
_PERCENT: Final = 100.0
_PUBLISHER: Final = "publisher"


class Row(NamedTuple):
    """A second of all processes together, the one that ends at ``t``; latencies in ms, ``None``: nothing came.

    ``cpu`` (% of a core) and ``lag_ms`` are of the busiest process and the latest one.
    """

    t: float
    open: int
    published: int
    delivered: int
    p50: float | None
    p99: float | None
    worst: float | None
    cpu: float | None
    lag_ms: float | None


class _Moment:
    """A second that not all have told of yet. Its histogram takes 160 kB, so few of them are kept."""

    def __init__(self) -> None:
        self.open: dict[Hashable, int] = {}
        self.published = 0
        self.delivered = 0
        self.cpu: list[float] = []
        self.lag_ms: list[float] = []
        self.latency = Latency()


class Timeline:
    """Rows of the seconds since ``began``, in order and without holes.

    Each process tells once a second, at its own time of it: what it tells n seconds after its first word, half a second
    more or less, is of the n-th row after that one's.

    Args:
        began: s of the clock of what is added.
        processes: that will tell.
        on_row: is given each row when all have told of its second, or one of a later one by :data:`BEHIND`.
        longest: rows that are kept.
    """

    def __init__(self, began: float, processes: int, on_row: Callable[[Row], None], longest: int = LONGEST) -> None:
        self._began, self._processes, self._on_row, self._longest = began, processes, on_row, longest
        self.rows: list[Row] = []
        """The last ones."""
        self._next = 1
        self._moments: dict[int, _Moment] = {}
        self._clocks: dict[Hashable, tuple[float, int, int]] = {}  # a process's first time, its second, its last one
        self._open: dict[Hashable, int] = {}

    def add(self, second: Second) -> None:
        """What a client process tells of a second."""
        moment = self._moment(second.process, second.t)
        if moment is not None:
            moment.open[second.process] = second.open
            moment.delivered += second.delivered
            moment.latency.merge(Latency.decode(second.latency))
            moment.cpu.append(second.cpu)
            moment.lag_ms.append(second.lag_ms)
        self._close_told()

    def add_publisher(self, second: PublisherSecond) -> None:
        """What the publisher tells of a second."""
        moment = self._moment(_PUBLISHER, second.t)
        if moment is not None:
            moment.published += second.published
            moment.cpu.append(second.cpu)
            moment.lag_ms.append(second.lag_ms)
        self._close_told()

    def finish(self) -> None:
        """Nothing more will be added."""
        self._close(max(self._moments, default=0))

    def _moment(self, process: Hashable, t: float) -> _Moment | None:
        """``None``: of before the begin."""
        if process in self._clocks:
            first_t, first, _ = self._clocks[process]
            at = first + round(t - first_t)
        else:
            first_t, first = t, round(t - self._began)
            at = first
        self._clocks[process] = first_t, first, at
        if at < 1:
            return None
        return self._moments.setdefault(max(at, self._next), _Moment())

    def _close_told(self) -> None:
        told = [last for _, _, last in self._clocks.values()]
        self._close(max(max(told) - BEHIND, min(told) if len(told) == self._processes else 0))

    def _close(self, last: int) -> None:
        for at in range(self._next, last + 1):
            moment = self._moments.pop(at, None) or _Moment()
            self._open |= moment.open  # who says nothing has what it had
            p50 = p99 = worst = None
            if moment.latency.count:
                found = moment.latency.percentiles()
                p50, p99, worst = found.p50, found.p99, found.worst
            cpu, lag_ms = max(moment.cpu, default=None), max(moment.lag_ms, default=None)
            busiest = None if cpu is None else _PERCENT * cpu
            open_now = sum(self._open.values())
            row = Row(float(at), open_now, moment.published, moment.delivered, p50, p99, worst, busiest, lag_ms)
            self.rows.append(row)
            self._on_row(row)
        self._next = max(self._next, last + 1)
        del self.rows[: -self._longest]

    def throughput(self, start: float, end: float) -> Throughput:
        """Of the whole seconds between ``start`` and ``end``."""
        delivered = sorted(row.delivered for row in self.rows if start <= row.t - 1 and row.t <= end)
        if not delivered:
            return Throughput()
        return Throughput(peak=delivered[-1], sustained=delivered[len(delivered) // 2])

    def series(self, resources: Sequence[ResourceSample]) -> Series:
        """The rows as columns, each with the last sample at its time; ``resources`` is of the same clock."""
        times = [sample.t - self._began for sample in resources]
        samples = [resources[at - 1] if (at := bisect_right(times, row.t)) else None for row in self.rows]
        return Series(
            t=[row.t for row in self.rows],
            p50=[row.p50 for row in self.rows],
            p99=[row.p99 for row in self.rows],
            worst=[row.worst for row in self.rows],
            published=[row.published for row in self.rows],
            delivered=[row.delivered for row in self.rows],
            open=[row.open for row in self.rows],
            machine_cpu=[sample and sample.cpu for sample in samples],
            machine_steal=[sample and sample.steal for sample in samples],
            machine_memory=[sample and sample.memory for sample in samples],
            server_cpu=[sample and sample.server_cpu for sample in samples],
            server_memory_mb=[sample and sample.server_memory_mb for sample in samples],
            client_cpu=[row.cpu for row in self.rows],
            client_lag_ms=[row.lag_ms for row in self.rows],
            net_mb=[sample and sample.net_mb for sample in samples],
        )
