"""Two reports side by side: what is better, what is worse, and what is within the noise. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import fmean
from typing import Final, Literal, NamedTuple

from engine.loadtest.report import Report
from transport.errors import HeliographError

Change = Literal["better", "worse", "same"]


class NotComparable(HeliographError):
    """Two reports of which one says nothing about the other; says why."""


class Difference(NamedTuple):
    """A figure of both. ``ratio`` is b / a; it and ``change`` are ``None`` where one of the two is not known."""

    name: str
    unit: str
    a: float | None
    b: float | None
    ratio: float | None
    change: Change | None
    noise: float
    """Two runs of the same server differ by so much (share of the greater one): that is called the same."""


class _Figure(NamedTuple):
    name: str
    unit: str
    noise: float
    least: float  # no smaller difference is called one, whatever its share
    more_is_better: bool
    of: Callable[[Report], float | None]


MATTERS: Final = ("connections", "rate", "seconds", "payload_bytes", "phases", "faults")
"""Fields of a scenario that must be the same. Of publishing, only its way."""


def compare(a: Report, b: Report) -> list[Difference]:
    """Each figure of both, b measured against a.

    Raises:
        NotComparable: one of them is invalid, or they measured different loads.
    """
    if why := list(obstacles(a, b)):
        raise NotComparable(f"these reports cannot be compared: {'; '.join(why)}")
    return [_difference(figure, figure.of(a), figure.of(b)) for figure in _FIGURES]


def obstacles(a: Report, b: Report) -> Iterator[str]:
    """Why they cannot be compared."""
    for name, report in (("the first", a), ("the second", b)):
        if report.verdict == "invalid":
            yield f"{name} is invalid ({'; '.join(report.invalid)})"
    for field in MATTERS:
        one, other = getattr(a.scenario, field), getattr(b.scenario, field)
        if one != other:
            yield f"{field} differs ({_shown(one)} and {_shown(other)})"
    if a.scenario.publish.via != b.scenario.publish.via:
        yield f"publish.via differs ({a.scenario.publish.via} and {b.scenario.publish.via})"


def circumstances(a: Report, b: Report) -> list[str]:
    """What else was not the same, to be kept in mind."""
    pairs = (
        ("machines", f"{a.machine.cpu}, {a.machine.cores} cores", f"{b.machine.cpu}, {b.machine.cores} cores"),
        ("Python", a.machine.python, b.machine.python),
        ("servers", _server(a), _server(b)),
    )
    return [f"different {what}: {one} and {other}" for what, one, other in pairs if one != other]


def _server(report: Report) -> str:
    return report.target.server or report.target.kind


def _shown(value: object) -> str:
    return f"{value:,g}" if isinstance(value, (int, float)) else str(value)


def _difference(figure: _Figure, a: float | None, b: float | None) -> Difference:
    ratio, change = None, None
    if a is not None and b is not None:
        ratio = b / a if a else None
        change = _change(figure, a, b)
    return Difference(figure.name, figure.unit, a, b, ratio, change, figure.noise)


def _change(figure: _Figure, a: float, b: float) -> Change:
    if abs(b - a) <= max(figure.noise * max(abs(a), abs(b)), figure.least):
        return "same"
    return "better" if (b > a) == figure.more_is_better else "worse"


def _mean(series: str) -> Callable[[Report], float | None]:
    def of(report: Report) -> float | None:
        seen = [value for value in getattr(report.series, series) if value is not None]
        return fmean(seen) if seen else None

    return of


def _missing(report: Report) -> float:
    return float(sum(phase.missing for phase in report.phases))


def _recovery(report: Report) -> float | None:
    back = [fault for fault in report.faults if fault.recovered and fault.mean_s is not None]
    count = sum(fault.recovered for fault in back)
    return sum((fault.mean_s or 0.0) * fault.recovered for fault in back) / count if count else None


def _lasting(report: Report, ms: float) -> float | None:
    return ms if report.latency.count else None


_FIGURES: Final = (
    _Figure("connections opened", "", 0.0, 0.0, True, lambda report: float(report.connects.opened)),
    _Figure("ramp-up", "s", 0.2, 0.05, False, lambda report: report.connects.seconds),
    _Figure("delivery p50", "ms", 0.15, 0.1, False, lambda report: _lasting(report, report.latency.p50)),
    _Figure("delivery mean", "ms", 0.15, 0.1, False, lambda report: _lasting(report, report.latency.mean)),
    _Figure("delivery p95", "ms", 0.2, 0.1, False, lambda report: _lasting(report, report.latency.p95)),
    _Figure("delivery p99", "ms", 0.25, 0.1, False, lambda report: _lasting(report, report.latency.p99)),
    _Figure("delivery p99.9", "ms", 0.4, 0.1, False, lambda report: _lasting(report, report.latency.p999)),
    _Figure("answers p99", "ms", 0.25, 0.1, False, lambda report: report.answers.p99 if report.answers.count else None),
    _Figure("published", "messages/s", 0.02, 0.1, True, lambda report: report.publishing.rate),
    _Figure("sustained", "deliveries/s", 0.02, 1.0, True, lambda report: report.throughput.sustained),
    _Figure("peak", "deliveries/s", 0.1, 1.0, True, lambda report: report.throughput.peak),
    _Figure("never came", "", 0.0, 0.0, False, _missing),
    _Figure("uptime", "%", 0.0, 0.05, True, lambda report: None if report.uptime is None else 100 * report.uptime),
    _Figure("recovery", "s", 0.3, 0.05, False, _recovery),
    _Figure("CPU of the machine", "%", 0.1, 1.0, False, _mean("machine_cpu")),
    _Figure("CPU of the server", "%", 0.1, 1.0, False, _mean("server_cpu")),
    _Figure("memory of the server", "MB", 0.05, 5.0, False, _mean("server_memory_mb")),
)
