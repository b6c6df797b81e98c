"""What the engine's own figures say as series: gauges, rates, quantiles of the last interval. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from engine.metrics import Life
from transport.meter import DeliverySeconds, Meter

GAUGES: Final = ("connections", "subscriptions", "slow_sessions", "outbox_bytes")


class _Counted(NamedTuple):
    """Of one process."""

    events: int
    deliveries: int
    dropped: int
    delivery: list[int]

    @classmethod
    def of(cls, meter: Meter) -> _Counted:
        return cls(meter.events_published, meter.deliveries, sum(meter.dropped.values()), meter.delivery.counts)


class _Pace(NamedTuple):
    """Between the last two reports of one process: per second, and deliveries by how long they took."""

    events: float = 0.0
    deliveries: float = 0.0
    dropped: float = 0.0
    delivery: tuple[int, ...] = ()


class EngineSeries:
    """Remembers what each process had counted when it was last looked at.

    A process reports at times of its own. So its rates are those between its last two reports, by its own clock, and
    hold until the next one: taken at each sample, a report that comes a moment late would be a gap and then a peak.
    """

    def __init__(self) -> None:
        self._last: dict[str, Life] = {}
        self._paces: dict[str, _Pace] = {}

    def take(self, lives: Mapping[str, Life]) -> dict[str, float]:
        """The series, by the newest reports (:meth:`engine.metrics.Figures.lives`). Costs some 5 µs a process."""
        for process, life in lives.items():
            before = self._last.get(process)
            if before is None or before.incarnation != life.incarnation:
                self._paces[process] = _Pace()
            elif life.at > before.at:
                self._paces[process] = _pace(before, life)
        self._last = dict(lives)
        self._paces = {process: self._paces[process] for process in lives}
        return self._series([life.meter for life in lives.values()])

    def _series(self, meters: list[Meter]) -> dict[str, float]:
        paces = self._paces.values()
        series: dict[str, float] = {f"engine.{name}": sum(getattr(meter, name) for meter in meters) for name in GAUGES}
        series["engine.events"] = sum(pace.events for pace in paces)
        series["engine.deliveries"] = sum(pace.deliveries for pace in paces)
        series["engine.dropped"] = sum(pace.dropped for pace in paces)
        series["engine.loop_lag"] = max((meter.loop_lag for meter in meters), default=0.0) * 1_000
        delivered = [pace.delivery for pace in paces if pace.delivery]
        seconds = DeliverySeconds([sum(column) for column in zip(*delivered, strict=True)])
        for name, q in (("p50", 0.5), ("p99", 0.99)):
            if (quantile := seconds.quantile(q)) is not None:
                series[f"engine.latency_{name}"] = quantile * 1_000
        return series


def _pace(before: Life, after: Life) -> _Pace:
    seconds = after.at - before.at
    old, new = _Counted.of(before.meter), _Counted.of(after.meter)
    return _Pace(
        (new.events - old.events) / seconds,
        (new.deliveries - old.deliveries) / seconds,
        (new.dropped - old.dropped) / seconds,
        tuple(b - a for a, b in zip(old.delivery, new.delivery, strict=True)),
    )
