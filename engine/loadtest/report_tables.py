"""What a page of a load test says in tables and lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from engine.loadtest import figures
from engine.loadtest.compare import Difference
from engine.loadtest.judging import listed, percent
from engine.loadtest.markup import Markup, join
from engine.loadtest.page import definitions, many, state, table
from engine.loadtest.report import Judgement, Percentiles, Report

_PASSED: Final = {True: ("ok", "●", "met"), False: ("bad", "■", "not met"), None: ("idle", "○", "not measured")}
_COUNTS: Final = ("published", "delivered", "missing", "duplicates", "out_of_order")
_CHANGES: Final = {
    "better": ("ok", "●", "better"),
    "worse": ("bad", "■", "worse"),
    "same": ("idle", "○", "the same"),
    None: ("idle", "–", "unknown"),
}


def criteria(judgements: Sequence[Judgement]) -> Markup:
    """Each criterion, whether it was met, and what was seen."""
    rows = [
        (judgement.goal, state(*_PASSED[judgement.passed]), _value(judgement), judgement.explanation)
        for judgement in judgements
    ]
    return table(("Criterion", "Result", "Measured", "What was seen"), rows, numeric=(2,), kind="long")


def _value(judgement: Judgement) -> str:
    value = judgement.value
    if value is None:
        return figures.NONE
    match judgement.unit:
        case "share":
            return percent(value)
        case "ms":
            return figures.ms(value)
        case "s":
            return figures.seconds(value)
        case "percent" | "%":
            return figures.percentage(value)
        case unit:
            return f"{figures.number(value)} {unit}".strip()


def phases(report: Report) -> Markup:
    """What was delivered in each, and how long it took."""
    counts = ("Published", "Delivered", "Never came", "Twice", "Out of order")
    head = ("Phase", "Seconds", *counts, "p50", "p99", "Worst", "Answer p99")
    rows = [
        (
            phase.name,
            f"{phase.end - phase.start:,.1f}",
            *(f"{getattr(phase, name):,}" for name in _COUNTS),
            *_times(phase.latency, "p50", "p99", "worst"),
            *_times(phase.answers, "p99"),
        )
        for phase in report.phases
    ]
    return table(head, rows, numeric=range(1, len(head)))


def _times(latency: Percentiles, *names: str) -> list[str]:
    return [figures.ms(getattr(latency, name) if latency.count else None) for name in names]


def connections(report: Report) -> Markup:
    """How they were opened, and which were lost."""
    connects = report.connects
    p50, p99, worst = _times(connects.times, "p50", "p99", "worst")
    return definitions(
        {
            "Ramp-up": f"{connects.opened:,} of {connects.attempted:,} in {figures.seconds(connects.seconds)}",
            "Refused or failed": listed(connects.reasons) or f"{connects.failed:,}",
            "Connect and subscribe": f"p50 {p50}, p99 {p99}, worst {worst}",
            "Lost unasked": listed(report.lost) or "none",
            "Gaps told by the server": f"{report.gaps:,}",
        }
    )


def faults(report: Report) -> Markup:
    """What was broken on purpose, and who came back."""
    rows = [
        (
            fault.what,
            figures.seconds(fault.t),
            f"{fault.recovered:,} of {fault.affected:,}",
            figures.seconds(fault.mean_s),
            figures.seconds(fault.worst_s),
        )
        for fault in report.faults
    ]
    return table(("Fault", "At", "Came back", "Mean", "Slowest"), rows, numeric=range(1, 5))


def clients(report: Report) -> Markup:
    """The processes that made the load: whether they were the bottleneck."""
    rows = [
        (
            f"{client.name} ({client.pid})",
            figures.percentage(client.cpu_mean),
            figures.percentage(client.cpu_peak),
            percent(client.busy),
            percent(client.late),
            figures.ms(client.lag_p99_ms),
            figures.ms(client.lag_worst_ms),
        )
        for client in report.clients
    ]
    head = ("Process", "CPU", "Peak", "Busy", "Late", "Lag p99", "Worst")
    publishing = report.publishing
    facts = {
        "Busy, late": "share of the seconds with more than 90 % of a core, or standing still for more than 50 ms",
        "Publisher behind its schedule": f"{figures.ms(publishing.late_p99_ms)} (p99)",
        "Server did not read what was published": figures.seconds(publishing.blocked),
        "Refused publishes": listed(publishing.errors) or "none",
    }
    return join(table(head, rows, numeric=range(1, len(head))), definitions(facts))


def scenario(report: Report) -> Markup:
    """What was asked of the server."""
    ran = report.scenario
    workers = many(ran.faults.kill_workers, "worker")
    return definitions(
        {
            "Connections": f"{ran.connections:,}, {ran.ramp_batch:,} begun at a time",
            "Messages": f"{ran.rate:,g} a second to every connection, {ran.payload_bytes:,} bytes of data each",
            "Phases": ", ".join(f"{name} {figures.seconds(length)}" for name, length in ran.lengths().items()),
            "Faults": f"{percent(ran.faults.cut)} of the connections cut, {workers} killed",
            "Published by": f"{ran.publish.via}, topic {ran.topic}",
            "Time scale": f"{report.time_scale:g}",
        }
    )


def machine(report: Report) -> Markup:
    """Where it ran."""
    client = report.machine
    where = "on the same machine" if report.target.local else "on another machine"
    return definitions(
        {
            "Load client": f"{client.cpu}, {many(client.cores, 'core')}, {client.memory_gb:g} GB",
            "System": client.system,
            "Software": f"{client.python}, heliograph {client.heliograph}",
            "Server": f"{report.target.server or 'says nothing of itself'}, {where}",
        }
    )


def seconds(report: Report) -> Markup:
    """All series, a row a second; without those that were not measured."""
    columns = [name for name in _COLUMNS if any(value is not None for value in getattr(report.series, name))]
    values = [[_COLUMNS[name][1](value) for value in getattr(report.series, name)] for name in columns]
    rows = list(zip(map(figures.number, report.series.t), *values, strict=False))
    return table(("s", *(_COLUMNS[name][0] for name in columns)), rows, numeric=range(len(columns) + 1))


_COLUMNS: Final = {
    "p50": ("p50", figures.ms),
    "p99": ("p99", figures.ms),
    "worst": ("Worst", figures.ms),
    "published": ("Published", figures.number),
    "delivered": ("Delivered", figures.number),
    "open": ("Open", figures.number),
    "machine_cpu": ("CPU", figures.percentage),
    "machine_steal": ("Withheld by the host", figures.percentage),
    "machine_memory": ("Memory", figures.percentage),
    "server_cpu": ("Server's CPU", figures.percentage),
    "server_memory_mb": ("Server's memory", figures.megabytes),
    "client_cpu": ("Client's CPU", figures.percentage),
    "client_lag_ms": ("Client's lag", figures.ms),
    "net_mb": ("Received", figures.megabytes),
}


def distribution(report: Report) -> Markup:
    """Percentiles of deliveries and of answers, judged phases together."""
    latency = report.latency
    names = ("p50", "p90", "p95", "p99", "p999", "worst", "mean")
    heads = ("p50", "p90", "p95", "p99", "p99.9", "Worst", "Mean")
    row = ("Deliveries", f"{latency.count:,}", *_times(latency, *names))
    answers = ("Answers to pings", f"{report.answers.count:,}", *_times(report.answers, *names))
    return table(("Latency", "Count", *heads), [row, answers], numeric=range(1, 9))


def differences(found: Sequence[Difference]) -> Markup:
    """Each figure of two reports."""

    def shown(value: float | None, unit: str) -> str:
        return figures.NONE if value is None else f"{figures.number(value)} {unit}".strip()

    rows = [
        (
            each.name,
            shown(each.a, each.unit),
            shown(each.b, each.unit),
            figures.NONE if each.ratio is None else f"{each.ratio:.3g} ×",
            state(*_CHANGES[each.change]),
            f"{100 * each.noise:g} %" if each.noise else "any difference counts",
        )
        for each in found
    ]
    return table(("Figure", "A", "B", "B ÷ A", "B is", "The same within"), rows, numeric=(1, 2, 3))
