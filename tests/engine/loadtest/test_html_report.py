"""The pages of a report: whole, closed, escaped; what they say is what the report says."""

from __future__ import annotations

import re
from base64 import b64decode
from hashlib import sha256
from html.parser import HTMLParser

import msgspec
import pytest

from engine.loadtest.compare import NotComparable
from engine.loadtest.html_report import render, render_comparison
from engine.loadtest.report import Report, Series
from tests.engine.loadtest import sample_report
from tests.engine.loadtest.lively_report import EVIL, hostile, lively

VOID = {"meta", "link"}
TAGS = VOID | {
    *("html", "head", "title", "style", "body", "a", "header", "h1", "h2", "main", "section", "footer", "div", "p"),
    *("svg", "circle", "path", "rect", "text", "figure", "figcaption", "details", "summary", "span"),
    *("dl", "dt", "dd", "ul", "li", "table", "thead", "tbody", "tr", "th", "td"),
}


class Page(HTMLParser):
    """A page as a browser reads it: its elements with their attributes, its tables, its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: dict[str, list[str]] = {}
        self.text = ""
        self.style = ""
        self._open: list[str] = []
        self._cells: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self._cells = []
        elif tag in ("td", "th"):
            self._cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag == "tr":
            self.rows[self._cells[0]] = self._cells[1:]

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["style"]:
            self.style += data
            return
        self.text += data
        if self._cells and not {"td", "th"}.isdisjoint(self._open):
            self._cells[-1] += data

    def having(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        return [its for name, its in self.elements if name == tag and attributes.items() <= its.items()]


@pytest.mark.parametrize("page", [render(lively()), render_comparison(lively(), lively(2)), render(hostile())])
def test_a_page_loads_nothing_runs_nothing_and_allows_only_its_own_style(page: str) -> None:
    read = Page(page)
    assert {tag for tag, _ in read.elements} <= TAGS
    attributes = {(name, value) for _, its in read.elements for name, value in its.items()}
    assert not [name for name, _ in attributes if name.startswith("on") or name in ("style", "src", "srcset")]
    assert {value for name, value in attributes if name in ("href", "xlink:href")} == {"#main", "data:,"}
    assert "url(" not in read.style and "@import" not in read.style

    (policy,) = read.having("meta", **{"http-equiv": "Content-Security-Policy"})
    found = re.fullmatch(r"default-src 'none'; img-src data:; style-src 'sha256-(.+)'; .+", policy["content"] or "")
    assert found is not None and b64decode(found[1]) == sha256(read.style.encode()).digest()


def test_whatever_a_report_says_is_text() -> None:
    page = render(hostile())
    assert "<img" not in page and "<script" not in page and page.count("</style>") == 1
    read = Page(page)
    assert EVIL in read.rows  # of a phase, of a criterion
    assert read.text.count(EVIL) >= 50
    assert any(EVIL in (its.get("aria-label") or "") for its in read.having("svg", role="img"))

    one, other = (msgspec.structs.replace(hostile(), verdict="passed", started=EVIL * n) for n in (1, 2))
    other = msgspec.structs.replace(other, target=msgspec.structs.replace(other.target, server=EVIL * 2))
    assert EVIL in Page(render_comparison(one, other)).text


def test_what_a_report_says_stands_on_its_page() -> None:
    phases = [sample_report.phase("broadcast", 1.0, 24.0, missing=1_530, missing_connections=98, missing_at=3.2)]
    report = lively(phases=[*phases, *sample_report.good().phases[1:]], notes=["no worker was killed"], gaps=7)
    read = Page(render(report))

    assert "Failed: heliograph 0.1.0 did not handle 100 connections and 50 messages a second for 60 s" in read.text
    assert "11 of 12 criteria met" in read.text and "no worker was killed" in read.text
    for judgement in report.criteria:
        result, measured, explanation = read.rows[judgement.goal]
        assert result[1:] == ("met" if judgement.passed else "not met"), judgement
        assert measured != "–" and explanation == judgement.explanation
    assert read.rows["broadcast"][:5] == ["24.0", "1,200", "120,000", "1,530", "0"]
    assert read.rows["worker-0 killed"] == ["41 s", "10 of 10", "0.2 s", "0.3 s"]
    assert read.rows["Deliveries"] == ["120,000", "1.2 ms", "2 ms", "3 ms", "8 ms", "20 ms", "31 ms", "1.5 ms"]
    assert read.rows["client 1 (7)"][0] == "9 %"
    assert read.rows["21"][:3] == ["–", "–", "–"] and read.rows["38"][2] == "700 ms"  # of the table by seconds

    charts = {(its["aria-label"] or "").split(".")[0]: its["aria-label"] for its in read.having("svg", role="img")}
    assert "worst from 20 ms to 700 ms" in (charts["Delivery latency"] or "")
    assert "worker-0 killed at 41 s" in (charts["Open connections"] or "")
    assert {"Deliveries per second", "Processor", "Memory of the server", "Lag of the load client"} <= charts.keys()
    assert len(re.findall("Not measured", read.text)) == 1  # the network


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        (
            {},
            "Passed: heliograph 0.1.0 handled 100 connections and 50 messages a second for 60 s; 12 of 12",
        ),
        ({"invalid": ["interrupted"]}, "Invalid: this run of 100 connections and 50 messages a second for 60 s says"),
    ],
)
def test_the_verdict_is_a_sentence(changes: dict[str, list[str]], verdict: str) -> None:
    assert verdict in Page(render(lively(**changes))).text


def test_a_run_that_ended_before_it_began_has_a_page() -> None:
    whole = sample_report.good()
    empty = Report(
        name="light", started=whole.started, scenario=whole.scenario, target=whole.target, machine=whole.machine
    )
    read = Page(render(empty))
    assert read.text.count("Not measured.") == 10 and "None." in read.text
    one = msgspec.structs.replace(whole, series=Series(t=[1.0], p50=[1.2], open=[100]))
    assert len(Page(render(one)).having("svg", role="img")) == 3  # with the distribution


def test_two_reports_are_compared_figure_by_figure() -> None:
    a = lively()
    b = lively(
        latency=msgspec.structs.replace(a.latency, p99=16.0), target=msgspec.structs.replace(a.target, server="x 2")
    )
    read = Page(render_comparison(a, b))
    assert "Against A, B is worse in delivery p99." in read.text
    assert "different servers: heliograph 0.1.0 and x 2" in read.text
    assert read.rows["delivery p99"] == ["8 ms", "16 ms", "2 ×", "■worse", "25 %"]
    assert read.rows["delivery p50"][3] == "○the same"
    charts = [its["aria-label"] or "" for its in read.having("svg", role="img")]
    assert len(charts) == 8 and all("A from" in told and "B from" in told for told in charts)
    assert "B is as A" in Page(render_comparison(a, a)).text
    with pytest.raises(NotComparable, match="interrupted"):
        render_comparison(a, lively(invalid=["interrupted"]))
