"""Each criterion: when it fails, that no other does, and what it tells whom it failed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.loadtest.criteria import Criteria
from engine.loadtest.judging import judge, judged, percent
from engine.loadtest.report import ClientProcess, Connects, Fault, Percentiles, Publishing, Report, Series, TargetFacts
from engine.loadtest.scenario import Scenario
from tests.engine.loadtest.sample_report import LATENCY, good, phase

replace = msgspec.structs.replace
BEFORE, STABLE, RECOVERY, AFTER = good().phases


def failures(report: Report) -> dict[str, str]:
    return {judgement.name: judgement.explanation for judgement in judged(report).criteria if judgement.passed is False}


def test_a_good_run_passes_every_criterion() -> None:
    report = judged(good())
    assert (report.verdict, report.invalid) == ("passed", [])
    assert {judgement.name: judgement.passed for judgement in report.criteria} == dict.fromkeys(
        Criteria.__struct_fields__, True
    )
    explained = {judgement.name: judgement.explanation for judgement in report.criteria}
    assert explained["connections"] == "all 100 connections were open after 0.4 s"
    assert explained["delivered"] == "each of 240,000 messages came"
    assert explained["rate"] == "50.0 of 50 messages a second were published (100 %)"
    assert explained["recovery_mean_s"].startswith("10 connections were back after 0.20 s in the mean")
    assert explained["cpu"].endswith("; of one core the server needed 11 %, the load client 9 %")


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        (
            {"connects": Connects(attempted=100, opened=90, failed=10, reasons={"HTTP 503": 9, "timeout": 1})},
            {"connections": "10 of 100 connections were refused or failed: 9 × HTTP 503, 1 × timeout"},
        ),
        (
            {
                "phases": [
                    replace(BEFORE, missing=2_448, missing_connections=98, missing_at=3.2),
                    STABLE,
                    RECOVERY,
                    AFTER,
                ]
            },
            {
                "delivered": "1.02 % of the messages never came: 2,448 of 240,000, at 98 of 100 connections, "
                "the first at 3.2 s"
            },
        ),
        (
            {"phases": [BEFORE, replace(STABLE, silence=2.0, silence_at=14.1), RECOVERY, AFTER]},
            {
                "longest_silence_s": "nothing came for 2.0 s at 14.1 s although 50 messages a second were to be "
                "published"
            },
        ),
        (
            {"latency": replace(LATENCY, p99=1_820.0)},
            {
                "delivery_p99_ms": "99 % of the deliveries took at most 1,820 ms, half of them 1.2 ms, "
                "the worst 31 ms; the worst second was at 60 s, with a p99 of 8 ms"
            },
        ),
        (
            {"latency": replace(LATENCY, mean=51.0)},
            {"delivery_mean_ms": "120,000 deliveries took 51 ms in the mean"},
        ),
        (
            {"publishing": Publishing(published=2_460, rate=41.0, blocked=9.4)},
            {
                "rate": "41.0 of 50 messages a second were published (82 %); the server held the publisher up: "
                "it did not read for 9.4 s"
            },
        ),
        (
            {"publishing": Publishing(published=2_460, rate=41.0, errors={"rate_limited": 540})},
            {"rate": "41.0 of 50 messages a second were published (82 %); the server refused 540 × rate_limited"},
        ),
        (
            {"uptime": 0.9899, "lost": {"closed (1006)": 2, "reset": 1}},
            {"uptime": "the connections were open 98.99 % of the time; 3 went unasked: 2 × closed (1006), 1 × reset"},
        ),
        (
            {
                "phases": [
                    replace(BEFORE, duplicates=600, out_of_order=120),
                    STABLE,
                    replace(RECOVERY, duplicates=9),
                    AFTER,
                ]
            },
            {"in_order": "of 240,000 deliveries 600 were duplicates and 120 out of order"},
        ),
        (
            {
                "uptime": 0.9,
                "lost": {"reset": 7},
                "faults": [Fault(t=1, kind="kill", what="worker-0", affected=5, recovered=5, mean_s=1.0, worst_s=1.0)],
            },
            {
                "uptime": "the connections were open 90 % of the time; 7 went unasked, 5 of them with a killed worker: "
                "7 × reset"
            },
        ),
        (
            {"faults": [Fault(t=1, kind="cut", what="10 cut", affected=10, recovered=9, mean_s=0.1, worst_s=1.0)]},
            {"recovered": "9 of 10 connections came back (10 cut)"},
        ),
        (
            {"faults": [Fault(t=1, kind="kill", what="worker 1 killed", affected=10, recovered=0)]},
            {
                "recovery_mean_s": "none of 10 connections came back",
                "recovered": "0 of 10 connections came back (worker 1 killed)",
            },
        ),
        (
            {
                "faults": [
                    Fault(t=1, kind="cut", what="10 cut", affected=10, recovered=10, mean_s=4.0, worst_s=5.0),
                    Fault(t=1, kind="kill", what="a kill", affected=30, recovered=30, mean_s=6.0, worst_s=9.0),
                ]
            },
            {"recovery_mean_s": "40 connections were back after 5.50 s in the mean, the last one after 9.00 s"},
        ),
    ],
)
def test_one_fault_fails_what_it_should_and_nothing_else(changes: dict[str, Any], failed: dict[str, str]) -> None:
    report = judged(good(**changes))
    assert failures(good(**changes)) == failed
    assert (report.verdict, report.invalid) == ("failed", [])


def test_a_busy_machine_fails_its_criteria_but_not_seconds_outside_the_phases() -> None:
    series = Series(
        t=[0.0, 2.0, 3.0, 99.0], machine_cpu=[100.0, 80.0, 70.0, 100.0], machine_memory=[1.0, 81.0, None, 99.0]
    )
    failed = failures(good(series=series, clients=[]))
    assert failed == {
        "cpu": "the machine's 2 cores were 75 % busy in the mean, 80 % at most",
        "memory": "at most 81 % of the machine's 8 GB were in use",
    }


@pytest.mark.parametrize(("server", "others"), [(50.0, True), (150.0, False)])
def test_a_machine_that_is_busy_with_something_else_is_told(server: float, others: bool) -> None:
    series = Series(t=[2.0], machine_cpu=[95.0], machine_memory=[1.0], server_cpu=[server])
    assert ("most of it went to other programs" in failures(good(series=series))["cpu"]) == others


@pytest.mark.parametrize(
    ("steal", "silence", "verdict"), [(12.0, 0.1, "invalid"), (12.0, 2.0, "failed"), (4.0, 0.1, "failed")]
)
def test_what_the_host_withholds_is_told_and_makes_lateness_alone_invalid(
    steal: float, silence: float, verdict: str
) -> None:
    series = Series(t=[2.0], machine_cpu=[95.0], machine_steal=[steal], machine_memory=[1.0], server_cpu=[100.0])
    phases = [replace(BEFORE, silence=silence), STABLE, RECOVERY, AFTER]
    report = judged(good(series=series, phases=phases, latency=replace(good().latency, p99=80.0)))
    assert report.verdict == verdict
    assert f", {steal:.0f} % withheld by the host of this virtual machine" in failures(report)["cpu"]
    assert any("(steal)" in reason for reason in report.invalid) == (verdict == "invalid")


def test_of_a_server_elsewhere_cpu_and_memory_are_not_judged() -> None:
    target = TargetFacts(url="ws://far/ws", kind="native", local=False)
    report = judged(good(target=target))
    unmeasured = {judgement.name for judgement in report.criteria if judgement.passed is None}
    assert unmeasured == {"cpu", "memory"}
    assert report.verdict == "passed"


def test_the_recovery_phase_is_not_judged_by_deliveries() -> None:
    bad = replace(RECOVERY, missing=100, missing_connections=5, silence=3.0)
    assert failures(good(phases=[BEFORE, STABLE, bad, AFTER])) == {}


def test_holes_in_several_phases_are_of_at_least_so_many_connections() -> None:
    holes = {"missing": 1, "missing_connections": 1, "missing_at": 30.0}
    phases = [replace(BEFORE, **holes), STABLE, RECOVERY, replace(AFTER, **{**holes, "missing_at": 50.0})]
    told = failures(good(phases=phases, gaps=2, publishing=Publishing(published=9, rate=50.0, errors={"too big": 3})))
    assert "at 1 or more of 100 connections, the first at 30.0 s" in told["delivered"]
    assert told["delivered"].endswith("refused to publish 3 × too big; it told its clients of 2 gaps")


def test_slow_schedules_may_be_silent_between_messages() -> None:
    report = good(scenario=Scenario(rate=0.5), phases=[phase("broadcast", 0.0, 60.0, silence=2.1)])
    [silence] = [found for found in judge(report, Criteria()) if found.name == "longest_silence_s"]
    assert (silence.limit, silence.passed) == (4.0, True)


def test_a_criterion_without_a_limit_is_not_judged() -> None:
    names = [judgement.name for judgement in judge(good(), Criteria(cpu=None, uptime=None))]
    assert names == [name for name in Criteria.__struct_fields__ if name not in {"cpu", "uptime"}]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"invalid": ["interrupted"]}, "interrupted"),
        (
            {"clients": [ClientProcess(name="client 1", pid=1, busy=0.34)]},
            "client 1 needed more than 90 % of a core in 34",
        ),
        ({"publishing": Publishing(published=1, rate=20.0, late_p99_ms=120.0)}, "was 120 ms behind its schedule (p99)"),
    ],
)
def test_a_run_that_says_nothing_of_the_server_is_invalid(changes: dict[str, Any], why: str) -> None:
    report = judged(good(**changes))
    assert report.verdict == "invalid"
    assert why in report.invalid[0]


def test_what_the_load_client_was_late_itself_is_not_blamed_on_the_server() -> None:
    silent = [replace(phase, silence=2.0, silence_at=14.0) for phase in good().phases]
    for lag, verdict in ((900.0, "failed"), (1_100.0, "invalid")):
        clients = [ClientProcess(name="client-0", pid=1), ClientProcess(name="publisher", pid=2, lag_worst_ms=lag)]
        report = judged(good(phases=silent, clients=clients))
        assert report.verdict == verdict
        assert (report.invalid or ["publisher itself stood still for"])[0].startswith(
            "publisher itself stood still for"
        )
    for pause, verdict in ((0.9, "failed"), (1.1, "invalid")):
        publishing = Publishing(published=3_000, rate=50.0, pause=pause)
        assert judged(good(phases=silent, publishing=publishing)).verdict == verdict
    slow = replace(good().latency, p99=80.0)
    for late, verdict in ((0.05, "failed"), (0.2, "invalid")):
        report = judged(good(latency=slow, clients=[ClientProcess(name="client-0", pid=1, late=late)]))
        assert report.verdict == verdict
    idle = [ClientProcess(name="client-0", pid=1, late=0.2, lag_worst_ms=9_000.0)]
    assert judged(good(clients=idle)).verdict == "passed"  # late, and it did not matter


def test_a_server_that_is_not_there_fails_for_that_alone() -> None:
    empty = Report(
        name="x",
        started="",
        scenario=Scenario(),
        target=good().target,
        machine=good().machine,
        connects=Connects(attempted=100, failed=100, reasons={"connection refused": 100}),
    )
    assert failures(empty) == {"connections": "100 of 100 connections were refused or failed: 100 × connection refused"}
    assert judged(empty).verdict == "failed"
    assert judged(replace(empty, connects=Connects())).invalid == ["no criterion could be measured"]


def test_a_server_that_delivers_nothing_fails() -> None:
    silent = [replace(phase, delivered=0, missing=phase.expected, silence=20.0) for phase in good().phases]
    assert failures(good(phases=silent, latency=Percentiles())).keys() == {"delivered", "longest_silence_s"}


@given(st.floats(0, 1).filter(lambda share: share == 1.0 or share < 1.0 - 1e-7))
def test_what_is_not_whole_never_looks_whole(share: float) -> None:
    assert (percent(share) == "100 %") == (share == 1.0)
    assert float(percent(share).removesuffix(" %")) == pytest.approx(100 * share, rel=0.006)
