"""The load tester against servers that are good, and against ones that must fail: all of them real, all at once.

The runs share two cores with each other and perhaps with more: how late a message was, and how much CPU was used, says
nothing here. So these criteria are wide, and what is asserted is which of the others failed, and why.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import msgspec
import psutil
import pytest

from engine.loadtest.criteria import Criteria
from engine.loadtest.judging import judged
from engine.loadtest.progress import Progress
from engine.loadtest.report import Judgement, Report, from_json
from engine.loadtest.scenario import Faults, Phases, Scenario, TargetConfig
from engine.loadtest.tester import WebSocketLoadTester
from tests.integration.load_targets import STALL_S, load_target

CONNECTIONS, RATE, SECONDS = 30, 100.0, 3.0
LONG = 5.0  # s of runs that are disturbed: it is seen a second or two later that messages come
HELD_UP = 0.8  # s
BROAD = Criteria(
    delivery_p99_ms=60_000, delivery_mean_ms=60_000, longest_silence_s=None, cpu=None, rate=0.01, recovery_mean_s=60
)
PLAIN = {"kind": "plain", "subscribe": "SUB {topic}", "publish": "{topic} {data}"}
SOCKETIO = {
    "kind": "socketio",
    "subscribe": '["subscribe", {"topics": ["{topic}"]}]',
    "publish": '["publish", {"topic": "{topic}", "data": {data}}]',
}


def scenario(topic: str, **fields: Any) -> Scenario:
    target = TargetConfig(**fields.pop("target", {}))
    given = {"connections": CONNECTIONS, "rate": RATE, "seconds": SECONDS, "criteria": BROAD, **fields}
    return Scenario(name=topic, topic=topic, target=target, **given)


class Watch:
    """Keeps what it is told, and does something once messages come."""

    def __init__(self, do: Callable[[], object]) -> None:
        self._do, self._done = do, False
        self.seen: list[Progress] = []

    def __call__(self, progress: Progress) -> None:
        self.seen.append(progress)
        if progress.published and not self._done:
            self._done = True
            self._do()


class Runs:
    """All of them, started together."""

    def __init__(self) -> None:
        self.reports: dict[str, Report] = {}
        self.progress: list[Progress] = []

    async def run(self, url_of: dict[str, str]) -> None:
        plain = {name: {"url": url, **PLAIN} for name, url in url_of.items()}
        undisturbed = Phases(broadcast=1.0, stability=0.0, recovery=0.0, sustained=0.0)
        kill = Phases(broadcast=0.25, stability=0.0, recovery=0.5, sustained=0.25)
        socketio = {"url": url_of["socketio"], **SOCKETIO}
        async with asyncio.TaskGroup() as group:
            for name, target in plain.items():
                if name != "socketio":
                    phases = Phases() if name == "none" else undisturbed
                    faults = Faults(kill_workers=1)  # of an engine only, which none of these is
                    silence = STALL_S - 0.5 if name == "stall" else None
                    criteria = msgspec.structs.replace(BROAD, longest_silence_s=silence)
                    given = {"target": target, "phases": phases, "faults": faults, "criteria": criteria}
                    group.create_task(self._one(scenario(name, **given)))
            group.create_task(self._one(scenario("socketio", target=socketio)))
            engine = scenario("engine", seconds=LONG, phases=kill, faults=Faults(cut=0.1, kill_workers=1))
            group.create_task(self._one(engine, start_workers=2))
            for name, disturb in (("stopped", _stop_publisher), ("died", _kill_client), ("interrupted", _interrupt)):
                disturbed = scenario(name, seconds=LONG, target=plain["none"], phases=undisturbed)
                group.create_task(self._one(disturbed, disturb))

    async def _one(
        self,
        scenario: Scenario,
        disturb: Callable[[WebSocketLoadTester], object] | None = None,
        start_workers: int | None = None,
    ) -> None:
        tester = WebSocketLoadTester(scenario, start_workers=start_workers)
        watch = Watch(lambda: disturb(tester) if disturb is not None else None)
        self.reports[scenario.name] = await tester.run(watch)
        if scenario.name == "none":
            self.progress = watch.seen


def _stop_publisher(tester: WebSocketLoadTester) -> None:
    """Messages are due, and not sent, and the server has no part in it."""
    pid = tester.pids["publisher"]
    os.kill(pid, signal.SIGSTOP)
    asyncio.get_running_loop().call_later(HELD_UP, os.kill, pid, signal.SIGCONT)


def _kill_client(tester: WebSocketLoadTester) -> None:
    os.kill(tester.pids["client-0"], signal.SIGKILL)


def _interrupt(tester: WebSocketLoadTester) -> None:
    tester.interrupt()


def engines() -> set[psutil.Process]:
    """Processes below this one that are an engine's or a load test's."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if any(word.startswith("engine") for word in process.cmdline()):
                found.add(process)
    return found


@pytest.fixture(scope="module")
def runs() -> Runs:
    found, before = Runs(), engines()
    with ExitStack() as stack:
        faults = ("none", "drop", "stall", "refuse")
        urls = {fault: stack.enter_context(load_target("plain", fault)) for fault in faults}
        urls["socketio"] = stack.enter_context(load_target("socketio"))
        asyncio.run(found.run(urls))
    assert engines() <= before
    return found


def calm(report: Report) -> Report:
    """As it would have been judged, had the machine had enough for the load client."""
    assert all("machine of its own" in reason for reason in report.invalid), report.invalid
    publishing = msgspec.structs.replace(report.publishing, late_p99_ms=0.0)
    return judged(msgspec.structs.replace(report, publishing=publishing, clients=[], invalid=[]))


def failed(report: Report) -> dict[str, Judgement]:
    return {judgement.name: judgement for judgement in report.criteria if judgement.passed is False}


def judgement(report: Report, name: str) -> Judgement:
    return next(judgement for judgement in report.criteria if judgement.name == name)


@pytest.mark.parametrize("name", ["none", "socketio", "engine"])
def test_a_good_server_passes(runs: Runs, name: str) -> None:
    report = runs.reports[name]
    assert failed(report) == {}
    assert calm(report).verdict == "passed"
    assert report.connects.opened == CONNECTIONS
    assert report.connects.times.count == CONNECTIONS
    for phase in report.phases:
        if name != "engine":  # whose killed worker may have been the publisher's
            assert phase.published == round(RATE * report.scenario.lengths()[phase.name])
        assert (phase.duplicates, phase.out_of_order) == (0, 0)
        if phase.name != "recovery":
            assert phase.missing == 0
            assert phase.delivered == phase.expected
            if name == "engine":  # at others, who was cut has missed what was on its way
                assert phase.delivered == phase.published * CONNECTIONS
    assert report.latency.count == sum(phase.delivered for phase in report.phases if phase.name != "recovery")
    assert report.answers.count > 0
    assert judgement(report, "connections").passed
    assert judgement(report, "recovered").passed
    assert judgement(report, "delivered").value == 1.0
    assert from_json(report.to_json()) == report


def test_a_server_that_drops_one_message_in_a_hundred_fails_for_that(runs: Runs) -> None:
    report = runs.reports["drop"]
    assert calm(report).verdict == "failed"
    assert failed(report).keys() == {"delivered"}
    published = round(RATE * SECONDS)
    (phase,) = report.phases
    assert phase.missing == published * CONNECTIONS // 100
    told = failed(report)["delivered"].explanation
    assert f"{phase.missing:,} of {published * CONNECTIONS:,}" in told
    assert "1 % of the messages never came" in told


def test_a_server_that_stalls_for_two_seconds_fails_for_that(runs: Runs) -> None:
    report = runs.reports["stall"]
    assert calm(report).verdict == "failed"
    assert failed(report).keys() == {"longest_silence_s"}
    told = failed(report)["longest_silence_s"]
    assert told.value is not None
    assert told.value >= 1.9
    assert "nothing came for" in told.explanation
    assert "100 messages a second" in told.explanation
    assert report.latency.worst > 1_900  # from when it was due, not from when the server came to it


def test_a_server_that_refuses_each_tenth_connection_fails_for_that(runs: Runs) -> None:
    report = runs.reports["refuse"]
    assert calm(report).verdict == "failed"
    assert failed(report).keys() == {"connections"}
    assert report.connects.failed == CONNECTIONS // 10
    told = failed(report)["connections"].explanation
    assert told == f"3 of {CONNECTIONS} connections were refused or failed: 3 × HTTP 503 Service Unavailable"
    (phase,) = report.phases
    assert phase.delivered == phase.published * (CONNECTIONS - 3)


def test_cut_connections_and_those_of_a_killed_worker_come_back(runs: Runs) -> None:
    report = runs.reports["engine"]
    cut, kill = report.faults
    assert (cut.kind, cut.affected, cut.recovered) == ("cut", 3, 3)
    assert (kill.kind, kill.what[:7]) == ("kill", "worker-")
    assert kill.affected == kill.recovered > 0
    assert sum(report.lost.values()) == kill.affected
    assert report.target.server.startswith("heliograph ")
    (recovery,) = (phase for phase in report.phases if phase.name == "recovery")
    # What they missed meanwhile they got, as the target recovers. If the publisher's worker was killed, what was on its
    # way there is published to nobody.
    assert recovery.missing % CONNECTIONS == 0
    assert recovery.missing < recovery.expected / 10


def test_a_fault_that_was_left_out_is_told(runs: Runs) -> None:
    report = runs.reports["none"]
    assert [fault.kind for fault in report.faults] == ["cut"]
    assert report.notes == [
        "no worker was killed: that takes an engine on this machine whose admin API is known (--admin-url)"
    ]
    assert runs.reports["engine"].notes == []


def test_servers_processes_are_watched_where_they_are_local(runs: Runs) -> None:
    for name in ("engine", "none"):
        series = runs.reports[name].series
        assert runs.reports[name].target.local
        assert any(cpu is not None for cpu in series.server_cpu)
        assert all(memory is None or memory > 1 for memory in series.server_memory_mb)
        assert any(cpu is not None for cpu in series.machine_cpu)


def test_a_publisher_that_was_held_up_makes_a_run_invalid(runs: Runs) -> None:
    report = runs.reports["stopped"]
    assert report.verdict == "invalid"
    assert any("the publisher was" in reason and "behind its schedule" in reason for reason in report.invalid)


def test_a_load_client_that_dies_makes_a_run_invalid_and_ends_it(runs: Runs) -> None:
    report = runs.reports["died"]
    assert report.verdict == "invalid"
    assert "client-0" in report.invalid[0]
    assert "signal 9" in report.invalid[0]


def test_a_run_that_is_interrupted_tells_what_it_has(runs: Runs) -> None:
    report = runs.reports["interrupted"]
    assert report.verdict == "invalid"
    assert report.invalid[0] == "it was interrupted"
    (phase,) = report.phases
    assert phase.end - phase.start < LONG
    assert 0 < phase.published < RATE * LONG
    assert phase.delivered > 0
    assert failed(report).keys() <= {"delivered"}  # what was on its way has two seconds


def test_a_run_that_is_interrupted_before_anything_is_started_tells_that() -> None:
    tester = WebSocketLoadTester(scenario("early"))
    tester.interrupt()
    report = asyncio.run(tester.run())
    assert (report.verdict, report.invalid[0]) == ("invalid", "it was interrupted")
    assert set(tester.pids.values()) == {0}


def test_progress_goes_through_the_phases(runs: Runs) -> None:
    phases = list(dict.fromkeys(progress.phase for progress in runs.progress))
    assert phases == ["starting", "ramp-up", "broadcast", "stability", "recovery", "sustained", "drain"]
    assert runs.progress[-1].elapsed == pytest.approx(SECONDS)
    assert {progress.connections for progress in runs.progress} == {CONNECTIONS}
    assert max(progress.delivered for progress in runs.progress) > 0
