"""A report of a load test as a page for people, and two of them side by side. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from engine.loadtest import figures, report_tables
from engine.loadtest.compare import Difference, circumstances, compare
from engine.loadtest.judging import percent
from engine.loadtest.markup import Markup, tag
from engine.loadtest.page import many, page, panel, scroll, state, table
from engine.loadtest.plot import Plot, draw
from engine.loadtest.report import Report
from engine.loadtest.report_plots import comparing_plots, plots

_STATES: Final = {"passed": ("ok", "●"), "failed": ("bad", "■"), "invalid": ("warn", "▲")}
_METHOD: Final = (
    "Messages are published by a schedule that does not wait (open loop): message n is due at n ÷ rate, whatever "
    "became of those before it. The latency of a delivery is the time from when its message was due to when a client "
    "read it from its socket, so a server that falls behind is charged for all the time that it does (no coordinated "
    "omission). All connections are real sockets, and each message is counted at each of them. Percentiles are of "
    "histograms of all deliveries, not of samples. Where the load client itself was the bottleneck the run is invalid."
)


def render(report: Report) -> str:
    """A report as a page: one file, a few hundred kB for a test of five minutes."""
    facts = {
        "Scenario": report.name,
        "Server": report.target.server or report.target.kind,
        "Address": report.target.url,
        "Started": report.started,
    }
    every_second = scroll("Second by second", report_tables.seconds(report))
    behind = tag("details", tag("summary", "The figures of these plots, second by second"), every_second)
    sections = (
        _verdict(report),
        tag("section", tag("div", *_tiles(report), class_="tiles"), class_="wide", aria_label="Key figures"),
        panel("Criteria", report_tables.criteria(report.criteria)) if report.criteria else None,
        panel("Over time", _figures(plots(report)), behind, report_tables.distribution(report)),
        panel("Phases", report_tables.phases(report)),
        panel(
            "Connections and faults",
            report_tables.connections(report),
            report_tables.faults(report) if report.faults else None,
            half=True,
        ),
        panel("Load client", report_tables.clients(report), half=True),
        panel("Scenario", report_tables.scenario(report), half=True),
        panel("Machine and method", report_tables.machine(report), tag("p", _METHOD, class_="prose"), half=True),
    )
    return page(f"{report.name}: {report.verdict}", "Load test", facts, sections)


def render_comparison(a: Report, b: Report) -> str:
    """Two reports as a page, b measured against a.

    Raises:
        NotComparable: one of them is invalid, or they measured different loads.
    """
    differences = compare(a, b)
    runs = table(
        ("Run", "Scenario", "Server", "Started", "Verdict"),
        [
            (
                name,
                run.name,
                run.target.server or run.target.kind,
                run.started,
                state(*_STATES[run.verdict], run.verdict),
            )
            for name, run in (("A", a), ("B", b))
        ],
    )
    warnings = [tag("li", text) for text in circumstances(a, b)]
    sections = (
        tag(
            "section",
            tag("p", _summary(differences), class_="verdict"),
            tag("ul", *warnings, class_="reasons") if warnings else None,
            class_="wide panel",
            aria_label="Summary",
        ),
        panel("Runs", runs),
        panel("Differences", report_tables.differences(differences)),
        panel("Over time", _figures(comparing_plots(a, b))),
    )
    title = f"{a.name}: A and B"
    return page(title, "Two load tests", {"A": a.started, "B": b.started}, sections)


def _verdict(report: Report) -> Markup:
    scenario = report.scenario
    server = report.target.server or f"the server at {report.target.url}"
    clients, rate = many(scenario.connections, "connection"), f"{scenario.rate:,g} messages a second"
    load = f"{clients} and {rate} for {scenario.seconds:,g} s"
    failed = [judgement for judgement in report.criteria if judgement.passed is False]
    reasons: list[str] = []
    if report.verdict == "passed":
        text = f"{server} handled {load}; {_met(report)}."
    elif report.verdict == "failed":
        text = f"{server} did not handle {load}; {_met(report)}."
        reasons = [f"{judgement.goal}: {judgement.explanation}" for judgement in failed]
    else:
        text = f"this run of {load} says nothing about {server}."
        reasons = report.invalid
    return tag(
        "section",
        tag("p", state(*_STATES[report.verdict], report.verdict.capitalize()), ": ", text, class_="verdict"),
        tag("ul", *(tag("li", reason) for reason in reasons), class_="reasons") if reasons else None,
        tag("ul", *(tag("li", note) for note in report.notes), class_="reasons notes") if report.notes else None,
        class_="wide panel",
        aria_label="Verdict",
    )


def _met(report: Report) -> str:
    met = sum(judgement.passed is True for judgement in report.criteria)
    unknown = sum(judgement.passed is None for judgement in report.criteria)
    text = f"{met} of {many(len(report.criteria), 'criterion', 'criteria')} met"
    return f"{text}, {unknown} not measured" if unknown else text


def _tiles(report: Report) -> list[Markup]:
    connects, latency = report.connects, report.latency
    missing, expected = (sum(getattr(phase, name) for phase in report.phases) for name in ("missing", "expected"))
    back = [fault for fault in report.faults if fault.mean_s is not None]
    recovered, affected = (sum(getattr(fault, name) for fault in report.faults) for name in ("recovered", "affected"))
    mean = sum((fault.mean_s or 0.0) * fault.recovered for fault in back) / max(1, sum(each.recovered for each in back))
    known = latency.count > 0
    return [
        _tile(
            "Connections", f"{connects.opened:,}", f"of {connects.attempted:,} in {figures.seconds(connects.seconds)}"
        ),
        _tile("Published", f"{figures.number(report.publishing.rate)}/s", f"{report.publishing.published:,} in all"),
        _tile(
            "Deliveries",
            f"{figures.number(report.throughput.sustained)}/s",
            f"best second {figures.number(report.throughput.peak)}",
        ),
        _tile("Latency p50", figures.ms(latency.p50 if known else None), f"mean {figures.ms(latency.mean)}"),
        _tile("Latency p99", figures.ms(latency.p99 if known else None), f"worst {figures.ms(latency.worst)}"),
        _tile("Never came", f"{missing:,}", f"of {expected:,}"),
        _tile("Uptime", figures.NONE if report.uptime is None else percent(report.uptime), _lost(report)),
        _tile("Recovery", figures.seconds(mean if back else None), f"{recovered:,} of {affected:,} back"),
    ]


def _tile(label: str, value: str, note: str) -> Markup:
    return tag(
        "div",
        tag("span", label, class_="label"),
        tag("span", value, class_="value"),
        tag("span", note, class_="note"),
        class_="tile",
    )


def _lost(report: Report) -> str:
    count = sum(report.lost.values())
    return f"{many(count, 'connection')} lost" if count else "none lost"


def _summary(differences: Sequence[Difference]) -> str:
    better, worse = ([each.name for each in differences if each.change == change] for change in ("better", "worse"))
    if not better and not worse:
        return "B is as A, within what two runs of the same server differ by."
    told = [f"{word} in {', '.join(names)}" for word, names in (("better", better), ("worse", worse)) if names]
    return f"Against A, B is {'; '.join(told)}."


def _figures(drawn: Iterable[Plot]) -> Markup:
    return tag("div", *map(draw, drawn), class_="plots")
