"""The committed reports of load tests: they passed, they are of the scenarios that are built in, and what the README
says is what they say."""

from __future__ import annotations

from pathlib import Path

import msgspec

from bench import reports
from engine.loadtest.report import Report
from engine.loadtest.scenario import BUILT_IN, UNJUDGED
from tests.engine.loadtest.lively_report import lively

ROOT = Path(__file__).parents[2]
REMEDY = "replace it with what `python -m bench.reports --table` prints"


def test_the_readme_says_what_the_committed_reports_say() -> None:
    assert reports.in_text((ROOT / "README.md").read_text(encoding="utf-8")) == reports.table(reports.committed()), (
        REMEDY
    )


def test_committed_reports_are_of_whole_runs_that_passed() -> None:
    for report in reports.committed():
        check(report)


def check(report: Report) -> None:
    scenario = BUILT_IN[report.name]
    for field in ("connections", "rate", "seconds", "payload_bytes", "phases", "faults", "criteria"):
        assert getattr(report.scenario, field) == getattr(scenario, field), field
    assert (report.verdict, report.invalid, report.time_scale) == ("passed", [], 1.0)
    assert all(judgement.passed for judgement in report.criteria)
    assert sum(phase.missing for phase in report.phases if phase.name not in UNJUDGED) == 0
    picture = reports.REPORTS / f"{report.name}.png"
    assert picture.read_bytes()[:4] == b"\x89PNG" and picture.stat().st_size < reports.MOST_BYTES


def test_what_lies_there_is_of_the_built_in_scenarios() -> None:
    assert {file.stem for file in reports.REPORTS.glob("*.json")} <= set(BUILT_IN)
    assert {file.stem for file in reports.REPORTS.glob("*.png")} == {report.name for report in reports.committed()}


def test_the_table_has_a_row_a_report_and_is_found_again(tmp_path: Path) -> None:
    for name in ("medium", "light"):
        (tmp_path / f"{name}.json").write_bytes(msgspec.structs.replace(lively(), name=name).to_json())
    table = reports.table(reports.committed(tmp_path))
    assert reports.in_text(f"before\n\n{table}\n\nafter") == table
    lines = table.splitlines()[1:-1]
    assert len({line.count("|") for line in lines}) == 1
    light, medium = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:])
    assert [row[0] for row in (light, medium)] == ["light", "medium"]
    assert light[1:9] == ["100", "50", "60", "5,000", "0", "1.2 ms", "8 ms", "31 ms"]
    count = len(lively().criteria)
    assert light[-2:] == ["0.2 s", f"passed, {count} of {count}"]
    assert reports.table([]) == reports.in_text("no table") == ""
