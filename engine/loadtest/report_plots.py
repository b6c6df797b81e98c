"""Which plots a report has, and which one shows two of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from engine.loadtest import figures
from engine.loadtest.axis import Axis, linear, logarithmic
from engine.loadtest.plot import Band, Format, Line, Mark, Plot
from engine.loadtest.report import Report

Values = Sequence[float | None]

_LOG: Final = "logarithmic"


def plots(report: Report) -> Iterator[Plot]:
    """What matters most comes first: latency, its distribution, throughput, processor."""
    series = report.series
    over = _OverTime(report)
    latency = [_line(report, "worst", series.worst, 4), _line(report, "p99", series.p99, 2)]
    latency.append(_line(report, "p50", series.p50, 1))
    yield over.plot("Delivery latency", latency, figures.ms, logarithmic(_seen(latency)), _LOG)
    yield _distribution([_spread(report, "deliveries", 1)])
    delivered = [_line(report, "delivered", series.delivered, 1)]
    yield over.plot("Deliveries per second", delivered, figures.number)
    processor = [
        _line(report, "machine, of all cores", series.machine_cpu, 1),
        _line(report, "server, of one core", series.server_cpu, 2),
        _line(report, "busiest load client, of one core", series.client_cpu, 3),
        _line(report, "withheld by the host, of all cores", series.machine_steal, 4),
    ]
    yield over.plot("Processor", processor, figures.percentage)
    published = [_line(report, "published", series.published, 3)]
    yield over.plot("Messages published per second", published, figures.number)
    yield over.plot("Open connections", [_line(report, "open", series.open, 1)], figures.number)
    server = [_line(report, "server", series.server_memory_mb, 2)]
    yield over.plot("Memory of the server", server, figures.megabytes)
    machine = [_line(report, "machine", series.machine_memory, 1)]
    yield over.plot("Memory of the machine in use", machine, figures.percentage)
    lag = [_line(report, "load client", series.client_lag_ms, 3)]
    yield over.plot("Lag of the load client", lag, figures.ms)
    net = [_line(report, "received", series.net_mb, 1)]
    yield over.plot("Network of the machine, per second", net, figures.megabytes)


def comparing_plots(a: Report, b: Report) -> Iterator[Plot]:
    """The same of two reports, A and B, one over the other."""
    over = _OverTime(a, b)

    def both(title: str, name: str, format_y: Format, log: bool = False) -> Plot:
        lines = [_line(a, "A", getattr(a.series, name), 1), _line(b, "B", getattr(b.series, name), 2, dashed=True)]
        return over.plot(title, lines, format_y, logarithmic(_seen(lines)) if log else None, _LOG if log else "")

    yield _distribution([_spread(a, "A", 1), _spread(b, "B", 2)._replace(dashed=True)])
    yield both("Delivery latency, p50", "p50", figures.ms, log=True)
    yield both("Delivery latency, p99", "p99", figures.ms, log=True)
    yield both("Deliveries per second", "delivered", figures.number)
    yield both("Open connections", "open", figures.number)
    yield both("Processor, machine, of all cores", "machine_cpu", figures.percentage)
    yield both("Processor, server, of one core", "server_cpu", figures.percentage)
    yield both("Memory of the server", "server_memory_mb", figures.megabytes)


class _OverTime:
    """Plots that share their horizontal axis; phases and faults are those of the first report."""

    def __init__(self, *reports: Report) -> None:
        first = reports[0]
        ends = [phase.end for report in reports for phase in report.phases]
        self._axis = linear([*ends, *(t for report in reports for t in report.series.t)], ticks=8, room=1.0)
        self._bands = [Band(phase.name, phase.start, phase.end) for phase in first.phases]
        if first.phases and first.phases[0].start > 0:
            self._bands.insert(0, Band("ramp-up", 0.0, first.phases[0].start))
        self._marks = [Mark(fault.what, fault.t) for fault in first.faults] if len(reports) == 1 else []

    def plot(
        self, title: str, lines: Sequence[Line], format_y: Format, axis: Axis | None = None, note: str = ""
    ) -> Plot:
        y = linear(_seen(lines)) if axis is None else axis
        return Plot(title, lines, self._axis, y, figures.seconds, format_y, self._bands, self._marks, note)


def _line(report: Report, label: str, values: Values, hue: int, dashed: bool = False) -> Line:
    return Line(label, list(zip(report.series.t, values, strict=False)), hue, dashed)


def _seen(lines: Sequence[Line]) -> list[float]:
    return [value for line in lines for _, value in line.points if value is not None]


def _spread(report: Report, label: str, hue: int) -> Line:
    """Percentiles by how many nines they have: 90 is at 1, 99 at 2; the worst is where its count puts it."""
    most = math.log10(max(10, report.latency.count))
    return Line(label, [(_nines(percentile, most), value) for percentile, value in report.distribution], hue)


def _nines(percentile: float, most: float) -> float:
    left = 1 - percentile / 100
    return most if left <= 0 else min(most, -math.log10(left))


def _distribution(lines: Sequence[Line]) -> Plot:
    most = max([1.0, *(x for line in lines for x, _ in line.points)])
    ticks = tuple(float(n) for n in range(math.floor(most) + 1))
    return Plot(
        "Delivery latency by percentile",
        lines,
        Axis(0.0, most, ticks),
        linear(_seen(lines)),
        _percentile,
        figures.ms,
        note="judged phases together",
    )


def _percentile(nines: float | None) -> str:
    if nines is None:
        return figures.NONE
    return f"{100 * (1 - 10**-nines):.{max(0, math.ceil(nines) - 2)}f}"
