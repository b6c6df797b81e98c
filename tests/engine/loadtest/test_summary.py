from __future__ import annotations

from typing import Any

import msgspec
import pytest

from engine.loadtest.compare import NotComparable
from engine.loadtest.judging import judged
from engine.loadtest.report import Percentiles, Report, TargetFacts
from engine.loadtest.scenario import MEDIUM
from engine.loadtest.summary import comparison, failures, summary
from tests.engine.loadtest.sample_report import LATENCY, good

SLOW = msgspec.structs.replace(LATENCY, p99=1_820.0)


def run(**changes: Any) -> Report:
    return judged(good(**changes))


def test_a_good_run_shows_its_figures_and_passes() -> None:
    lines = [line.text for line in summary(run())]
    assert lines[0] == "light: 100 connections, 50 messages/s, 60 s, against ws://127.0.0.1:8765/ws (heliograph 0.1.0)"
    assert " ✓ p99 of delivery at most 50 ms              8 ms" in lines
    assert any(line.startswith("deliveries   300,000 of 300,000, 5,000/s in the median second") for line in lines)
    assert lines[-1] == "PASSED: all 12 criteria that could be measured"


def test_what_failed_and_what_was_not_measured_is_explained() -> None:
    lines = [line.text for line in summary(run(latency=SLOW, uptime=None, notes=["no worker was killed"]))]
    assert lines[lines.index(" ✗ p99 of delivery at most 50 ms              1,820 ms") + 1].startswith("     99 % of")
    assert lines[lines.index(" – open for at least 99 % of the time") + 1].startswith("     no connection was watched")
    assert lines[-2:] == ["note: no worker was killed", "FAILED: 1 of 11 criteria"]


def test_what_the_tester_s_own_faults_cost_is_told_apart() -> None:
    phases = [
        msgspec.structs.replace(phase, missing=400) if phase.name == "recovery" else phase for phase in good().phases
    ]
    lines = [line.text for line in summary(run(phases=phases))]
    assert any(line.endswith("; 400 missing of the recovery phase, which is not judged") for line in lines)
    assert lines[-1].startswith("PASSED")


def test_in_short_only_what_failed_is_told() -> None:
    lines = [line.text for line in failures(run(latency=SLOW))]
    assert len(lines) == 2
    assert lines[0].startswith("p99 of delivery at most 50 ms: 99 % of the deliveries took at most 1,820 ms")


def test_an_invalid_run_says_why() -> None:
    lines = [line.text for line in summary(run(invalid=["client-1 has ended"]))]
    assert lines[-2:] == ["invalid: client-1 has ended", "INVALID: this run says nothing about the server"]


def test_a_run_without_any_figure_can_be_shown() -> None:
    report = run(phases=[], latency=Percentiles(), answers=Percentiles(), clients=[], criteria=[], faults=[])
    assert any(line.text == "latency      none measured" for line in summary(report))


def test_a_terminal_gets_nothing_to_obey_from_a_server() -> None:
    evil = "\x1b]0;x\x07"
    report = run(
        name=evil,
        target=TargetFacts(url=f"ws://{evil}", kind="plain", server=evil),
        notes=[evil],
        invalid=[evil],
        lost={evil: 1},
        uptime=0.1,
    )
    assert all(line.text.isprintable() for line in (*summary(report), *failures(report)))


def test_two_runs_are_shown_side_by_side() -> None:
    lines = [line.text for line in comparison(run(), run(latency=SLOW, uptime=None))]
    shown = {line[:20].strip(): line[20:].split() for line in lines[1:18]}
    assert shown["delivery p99"] == ["8", "ms", "1,820", "ms", "227.50", "worse"]
    assert shown["delivery p50"][-3:] == ["same", "(±15", "%)"]
    assert shown["uptime"][-3:] == ["–", "not", "measured"]
    assert lines[-1].startswith("B is better in 0 figures and worse in 1;")
    with pytest.raises(NotComparable):
        list(comparison(run(), run(scenario=MEDIUM)))
