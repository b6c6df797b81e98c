"""A report, and a comparison of two, as lines of text for a terminal. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from engine.cli import printable
from engine.loadtest.compare import Difference, circumstances, compare
from engine.loadtest.judging import percent
from engine.loadtest.report import Judgement, Percentiles, Report
from engine.loadtest.scenario import UNJUDGED

PASSED, FAILED, ABSENT = "green", "bold red", "yellow"
PLAIN, FAINT = "", "dim"
MARKS: Final = {True: ("✓", PASSED), False: ("✗", FAILED), None: ("–", ABSENT)}
VERDICTS: Final = {"passed": PASSED, "failed": FAILED, "invalid": ABSENT}
CHANGES: Final = {"better": PASSED, "worse": FAILED, "same": FAINT, None: FAINT}


class Line(NamedTuple):
    """A line and its style, as rich calls styles."""

    text: str
    style: str = PLAIN


def summary(report: Report) -> Iterator[Line]:
    """What was run, each criterion, the headline figures, the verdict."""
    scenario, target = report.scenario, report.target
    yield Line(
        f"{printable(report.name)}: {scenario.connections:,} connections, {scenario.rate:,g} messages/s, "
        f"{scenario.seconds:,g} s, against {printable(target.url)} ({printable(target.server or target.kind)})"
    )
    yield Line("")
    width = max((len(judgement.goal) for judgement in report.criteria), default=0)
    for judgement in report.criteria:
        mark, style = MARKS[judgement.passed]
        yield Line(f" {mark} {judgement.goal:<{width}}  {value_of(judgement)}".rstrip(), style)
        if not judgement.passed:
            yield Line(f"     {printable(judgement.explanation)}")
    yield Line("")
    for name, text in _figures(report):
        yield Line(f"{name:<12} {printable(text)}")
    yield Line("")
    yield from verdict(report)


def verdict(report: Report) -> Iterator[Line]:
    """The verdict with its reasons."""
    for note in report.notes:
        yield Line(f"note: {printable(note)}")
    for reason in report.invalid:
        yield Line(f"invalid: {printable(reason)}", ABSENT)
    judged = [judgement for judgement in report.criteria if judgement.passed is not None]
    failed = [judgement for judgement in judged if not judgement.passed]
    style = VERDICTS[report.verdict]
    match report.verdict:
        case "passed":
            yield Line(f"PASSED: all {len(judged)} criteria that could be measured", style)
        case "failed":
            yield Line(f"FAILED: {len(failed)} of {len(judged)} criteria", style)
        case "invalid":
            yield Line("INVALID: this run says nothing about the server", style)


def failures(report: Report) -> Iterator[Line]:
    """The verdict, and of the criteria only those that failed."""
    for judgement in report.criteria:
        if judgement.passed is False:
            yield Line(f"{judgement.goal}: {printable(judgement.explanation)}", FAILED)
    yield from verdict(report)


def value_of(judgement: Judgement) -> str:
    """What was measured, with its unit; empty where nothing was."""
    if judgement.value is None:
        return ""
    return percent(judgement.value) if judgement.unit == "share" else _with_unit(judgement.value, judgement.unit)


def comparison(a: Report, b: Report) -> Iterator[Line]:
    """Each figure of both. Raises :class:`~engine.loadtest.compare.NotComparable`."""
    rows = [("", "A", "B", "B / A", "")]
    differences = compare(a, b)
    rows += [_cells(difference) for difference in differences]
    styles = ["bold", *(CHANGES[difference.change] for difference in differences)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for (name, *figures, change), style in zip(rows, styles, strict=True):
        cells = [name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(figures, widths[1:4], strict=True))]
        yield Line("  ".join([*cells, change]).rstrip(), style)
    for text in circumstances(a, b):
        yield Line(f"note: {printable(text)}")
    worse = sum(1 for difference in differences if difference.change == "worse")
    better = sum(1 for difference in differences if difference.change == "better")
    yield Line("")
    yield Line(f"B is better in {better} figures and worse in {worse}; the others are within the noise of two runs")


def _cells(difference: Difference) -> tuple[str, str, str, str, str]:
    change: str = difference.change or "not measured"
    if difference.change == "same" and difference.noise:
        change = f"same (±{100 * difference.noise:g} %)"
    a, b = ("–" if value is None else _with_unit(value, difference.unit) for value in (difference.a, difference.b))
    return difference.name, a, b, "" if difference.ratio is None else f"{difference.ratio:.2f}", change


def _with_unit(value: float, unit: str) -> str:
    number = f"{value:,.0f}" if value >= 1_000 else f"{value:.4g}" if value >= 100 or unit == "%" else f"{value:.3g}"
    return f"{number} {'%' if unit == 'percent' else unit}".rstrip()


def _figures(report: Report) -> Iterator[tuple[str, str]]:
    delivered, expected, duplicates, disorder = (
        sum(getattr(phase, name) for phase in report.phases)
        for name in ("delivered", "expected", "duplicates", "out_of_order")
    )
    unjudged = sum(phase.missing for phase in report.phases if phase.name in UNJUDGED)
    throughput, connects = report.throughput, report.connects
    yield (
        "deliveries",
        f"{delivered:,} of {expected:,}, {throughput.sustained:,.0f}/s in the median second, "
        f"{throughput.peak:,.0f}/s in the best; {duplicates:,} duplicates, {disorder:,} out of order"
        + (f"; {unjudged:,} missing of the recovery phase, which is not judged" if unjudged else ""),
    )
    yield "latency", _times(report.latency)
    yield "answers", _times(report.answers)
    yield "connecting", f"{connects.opened:,} in {connects.seconds:.2f} s; {_times(connects.times)}"
    for fault in report.faults:
        back = f", after {fault.mean_s:.2f} s in the mean" if fault.mean_s is not None else ""
        yield "fault", f"{fault.what} at {fault.t:.0f} s: {fault.recovered:,} of {fault.affected:,} back{back}"
    busiest = max(report.clients, key=lambda client: client.cpu_mean, default=None)
    if busiest is not None:
        yield (
            "load client",
            f"{busiest.name} needed {busiest.cpu_mean:.0f} % of a core, the most of {len(report.clients)}; "
            f"publisher {report.publishing.late_p99_ms:.1f} ms late (p99)",
        )


def _times(times: Percentiles) -> str:
    if not times.count:
        return "none measured"
    named = (("p50", times.p50), ("p95", times.p95), ("p99", times.p99), ("p99.9", times.p999), ("worst", times.worst))
    return ", ".join(f"{name} {_with_unit(ms, 'ms')}" for name, ms in named)
