"""Supervisors with real actors: restarts that senders do not notice, order, deadlines, escalation, nesting."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pykka
import pytest
import uvloop

from actors.blocking_actor import BlockingActor
from actors.loop_actor import LoopActor
from actors.ref import Ref
from actors.supervision import Restart, Strategy
from actors.supervisor import ChildSpec, ChildState, GetStatistics, StopChildren, Supervisor, SupervisorStatistics
from transport.errors import ConfigError

DEADLINE_S = 5.0


class Note(NamedTuple):
    value: int


class GetNotes(NamedTuple):
    pass


class Break(NamedTuple):
    pass


class Hang(NamedTuple):
    until: threading.Event


class Sleep(NamedTuple):
    pass


class Recorder(LoopActor):
    """Writes its life into a log that outlives it."""

    def __init__(self, label: str, log: list[str]) -> None:
        super().__init__()
        self.label, self.log = label, log
        self.notes: list[int] = []

    def on_start(self) -> None:
        self.log.append(f"+{self.label}")

    def on_stop(self) -> None:
        self.log.append(f"-{self.label}")

    def on_note(self, note: Note) -> None:
        self.log.append(f"{self.label}{note.value}")

    def on_break(self, _: Break) -> None:
        raise LookupError("broken")

    async def on_sleep(self, _: Sleep) -> None:
        await asyncio.sleep(3600)

    def on_get_notes(self, _: GetNotes) -> list[str]:
        return list(self.log)


class Blocker(BlockingActor):
    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self.log = log

    def on_note(self, note: Note) -> None:
        self.log.append(f"blocker{note.value}")

    def on_break(self, _: Break) -> None:
        raise LookupError("broken")

    def on_hang(self, hang: Hang) -> None:
        hang.until.wait(DEADLINE_S)

    def on_get_notes(self, _: GetNotes) -> list[str]:
        return list(self.log)


def recorders(log: list[str], *labels: str, **settings: Any) -> list[ChildSpec]:
    return [ChildSpec(label, partial(Recorder, label, log), **settings) for label in labels]


async def statistics(ref: Ref) -> SupervisorStatistics:
    answer = await ref.ask_async(GetStatistics())
    assert isinstance(answer, SupervisorStatistics)
    return answer


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.001)


def run(main: Any) -> None:
    """Runs it and checks that nothing of an actor stays behind."""
    before = len(pykka.ActorRegistry.get_all()), threading.active_count()

    async def checked() -> None:
        await main()
        await until(lambda: len(asyncio.all_tasks()) == 1)

    uvloop.run(checked())
    assert (len(pykka.ActorRegistry.get_all()), threading.active_count()) == before


def test_starts_in_order_and_stops_in_reverse() -> None:
    async def main() -> None:
        log: list[str] = []
        specs = recorders(log, "a", "b", "c")
        specs[2].ref.tell(Note(7))  # before the start
        supervisor = Supervisor.start(children=specs)
        report = await statistics(supervisor)
        assert [(child.name, child.state, child.restarts) for child in report.children] == [
            ("a", ChildState.RUNNING, 0),
            ("b", ChildState.RUNNING, 0),
            ("c", ChildState.RUNNING, 0),
        ]
        await specs[2].ref.ask_async(GetNotes())
        assert await supervisor.ask_async(StopChildren()) == ()
        assert log == ["+a", "+b", "+c", "c7", "-c", "-b", "-a"]
        specs[0].ref.tell(Note(1))
        with pytest.raises(pykka.ActorDeadError):
            await specs[0].ref.ask_async(GetNotes())
        assert specs[0].mailbox.statistics().dead_letters == 2
        assert [child.state for child in (await statistics(supervisor)).children] == [ChildState.STOPPED] * 3
        assert await supervisor.stop_async()

    run(main)


@pytest.mark.parametrize("blocking", [False, True], ids=["loop", "blocking"])
def test_sender_notices_nothing_of_a_restart(blocking: bool) -> None:
    async def main() -> None:
        log: list[str] = []
        create: Callable[[], pykka.Actor] = (lambda: Blocker(log)) if blocking else (lambda: Recorder("blocker", log))
        spec = ChildSpec("child", create)
        supervisor = Supervisor.start(children=[spec])
        await statistics(supervisor)
        for number in range(20):
            spec.ref.tell(Note(number))
            if number % 5 == 2:
                spec.ref.tell(Break())
        assert await spec.ref.ask_async(GetNotes()) == log
        assert [entry for entry in log if entry != "+blocker"] == [f"blocker{number}" for number in range(20)]
        counted = spec.mailbox.statistics()
        assert (counted.handled, counted.failed, counted.dropped, counted.dead_letters) == (21, 4, 0, 0)
        assert (await statistics(supervisor)).children[0].restarts == 4
        assert len(pykka.ActorRegistry.get_all()) == 2
        await supervisor.stop_async()

    run(main)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (Strategy.ONE_FOR_ONE, ["+b"]),
        (Strategy.ONE_FOR_ALL, ["-c", "-a", "+a", "+b", "+c"]),
        (Strategy.REST_FOR_ONE, ["-c", "+b", "+c"]),
    ],
)
def test_strategy(strategy: Strategy, expected: list[str]) -> None:
    async def main() -> None:
        log: list[str] = []
        specs = recorders(log, "a", "b", "c")
        supervisor = Supervisor.start(children=specs, strategy=strategy)
        await statistics(supervisor)
        log.clear()
        specs[1].ref.tell(Break())
        await specs[1].ref.ask_async(GetNotes())
        report = await statistics(supervisor)
        assert log == expected
        assert [child.restarts for child in report.children] == [log.count(f"+{label}") for label in "abc"]
        await supervisor.stop_async()

    run(main)


def test_transient_child_that_finished_stays_down() -> None:
    async def main() -> None:
        log: list[str] = []
        (spec,) = recorders(log, "a", restart=Restart.TRANSIENT)
        supervisor = Supervisor.start(children=[spec])
        await statistics(supervisor)
        assert await spec.ref.stop_async()
        await until(lambda: not spec.ref.is_alive())
        spec.ref.tell(Note(1))
        assert (await statistics(supervisor)).children[0].state is ChildState.STOPPED
        assert log == ["+a", "-a"]
        await supervisor.stop_async()

    run(main)


def test_escalates_when_it_keeps_failing_and_says_why() -> None:
    async def main() -> None:
        log: list[str] = []
        reasons: list[str] = []
        steady, failing = recorders(log, "a")[0], ChildSpec("f", lambda: Recorder("f", log), intensity=2)
        supervisor = Supervisor.start(children=[steady, failing], on_escalate=reasons.append)
        await statistics(supervisor)
        for _ in range(5):
            failing.ref.tell(Break())
        await until(lambda: not supervisor.is_alive())
        assert reasons == ["f needs more than 2 restarts within 60 s"]
        assert log == ["+a", "+f", "+f", "+f", "-a"]
        assert failing.mailbox.statistics().failed == 3
        assert failing.mailbox.statistics().dead_letters == 2
        assert not steady.ref.is_alive()

    run(main)


def test_restarts_spread_over_the_period_do_not_escalate() -> None:
    async def main() -> None:
        now = 0.0
        (spec,) = recorders([], "a", intensity=1, period=10.0)
        supervisor = Supervisor.start(children=[spec], clock=lambda: now)
        for _ in range(5):
            spec.ref.tell(Break())
            await spec.ref.ask_async(GetNotes())
            now += 10.0
        assert (await statistics(supervisor)).children[0].restarts == 5
        await supervisor.stop_async()

    run(main)


@pytest.mark.parametrize("stage", ["create", "on_start", "async on_start", "not an actor", "never up"])
def test_child_that_cannot_start_escalates(stage: str) -> None:
    class Sync(LoopActor):
        def on_start(self) -> None:
            raise LookupError("start")

    class Async(LoopActor):
        async def on_start(self) -> None:  # type: ignore[override]
            await asyncio.sleep(0)
            raise LookupError("start")

    class Never(LoopActor):
        async def on_start(self) -> None:  # type: ignore[override]
            await asyncio.sleep(3600)

    def create() -> pykka.Actor:
        if stage == "create":
            raise LookupError("create")
        if stage == "not an actor":
            return object()  # type: ignore[return-value]
        return {"on_start": Sync, "async on_start": Async, "never up": Never}[stage]()

    async def main() -> None:
        reasons: list[str] = []
        spec = ChildSpec("f", create, intensity=2, start_timeout=0.01)
        supervisor = Supervisor.start(children=[spec], on_escalate=reasons.append)
        await until(lambda: not supervisor.is_alive())
        assert len(reasons) == 1

    run(main)


def test_hung_children_are_killed_at_their_deadline_and_reported() -> None:
    event = threading.Event()

    async def main() -> None:
        log: list[str] = []
        blocking = ChildSpec("disk", lambda: Blocker(log), shutdown_timeout=0.02)
        looping = ChildSpec("net", lambda: Recorder("net", log), shutdown_timeout=0.02)
        supervisor = Supervisor.start(children=[blocking, looping])
        await statistics(supervisor)
        blocking.ref.tell(Hang(event))
        looping.ref.tell(Sleep())
        await until(lambda: blocking.mailbox.statistics().depth + looping.mailbox.statistics().depth == 0)
        blocking.ref.tell(Note(1))
        net, disk = await supervisor.ask_async(StopChildren())
        assert (net.name, net.running) == ("net", ("net.Sleep",))
        assert (disk.name, disk.running) == ("disk", ("actor-disk",))
        assert disk.depth == 2, "the note and the stop"
        assert blocking.mailbox.statistics().dead_letters == 1
        thread = blocking.mailbox.thread
        assert thread is not None
        event.set()
        await asyncio.get_running_loop().run_in_executor(None, thread.join, DEADLINE_S)
        assert log == ["+net"]
        await supervisor.stop_async()

    async def without_the_executor() -> None:
        await main()
        await asyncio.get_running_loop().shutdown_default_executor()

    run(without_the_executor)


def test_a_killed_siblings_stop_does_not_stop_its_successor() -> None:
    async def main() -> None:
        log: list[str] = []
        specs = recorders(log, "a", "b", shutdown_timeout=0.02)
        supervisor = Supervisor.start(children=specs, strategy=Strategy.ONE_FOR_ALL)
        await statistics(supervisor)
        specs[1].ref.tell(Sleep())
        await until(lambda: specs[1].mailbox.statistics().depth == 0)
        specs[0].ref.tell(Break())
        specs[1].ref.tell(Note(1))
        assert "b1" in await specs[1].ref.ask_async(GetNotes())
        await statistics(supervisor)
        assert log == ["+a", "+b", "+a", "+b", "b1"]
        assert [child.restarts for child in (await statistics(supervisor)).children] == [1, 1]
        await supervisor.stop_async()

    run(main)


def test_supervisor_that_gives_up_is_restarted_by_its_own() -> None:
    async def main() -> None:
        log: list[str] = []
        leaf = ChildSpec("leaf", lambda: Recorder("leaf", log), intensity=1)
        other = recorders(log, "other")[0]
        nested = ChildSpec("nested", lambda: Supervisor([other, leaf]), shutdown_timeout=None)
        top = Supervisor.start(children=[nested])
        await statistics(top)
        for number in range(4):
            leaf.ref.tell(Break())
            leaf.ref.tell(Note(number))
        await leaf.ref.ask_async(GetNotes())
        assert [entry for entry in log if entry[-1].isdigit()] == ["leaf0", "leaf1", "leaf2", "leaf3"]
        assert (await statistics(top)).children[0].restarts == 2
        assert (await statistics(nested.ref)).name == "nested"
        log.clear()
        await top.stop_async()
        assert log == ["-leaf", "-other"]
        assert not leaf.ref.is_alive()
        assert not nested.ref.is_alive()

    run(main)


def test_killed_supervisor_takes_its_children_along() -> None:
    async def main() -> None:
        log: list[str] = []
        leaf = ChildSpec("leaf", lambda: Recorder("leaf", log), shutdown_timeout=60.0)
        nested = ChildSpec("nested", lambda: Supervisor([leaf]), shutdown_timeout=0.02)
        top = Supervisor.start(children=[nested])
        await statistics(top)
        leaf.ref.tell(Sleep())
        await until(lambda: leaf.mailbox.statistics().depth == 0)
        (left,) = await top.ask_async(StopChildren())
        assert left.name == "nested"
        assert "leaf: ('leaf.Sleep',)" in left.running
        assert not leaf.ref.is_alive()
        await top.stop_async()

    run(main)


def test_late_news_of_a_predecessor_is_ignored() -> None:
    async def main() -> None:
        (spec,) = recorders([], "a")
        supervisor = Supervisor([spec])
        supervisor._begin()
        await statistics(supervisor.actor_ref)
        child = supervisor._children["a"]
        predecessor = child.actor
        assert predecessor is not None
        spec.ref.tell(Break())
        await spec.ref.ask_async(GetNotes())
        child.exited(predecessor, LookupError("late"))
        await spec.ref.ask_async(GetNotes())
        assert (await statistics(supervisor.actor_ref)).children[0][1:3] == (ChildState.RUNNING, 1)
        await supervisor.actor_ref.stop_async()

    run(main)


def test_refs_held_by_children_stay_valid() -> None:
    class Forwarder(Recorder):
        def __init__(self, log: list[str], target: Ref) -> None:
            super().__init__("f", log)
            self.target, self.me = target, self.actor_ref

        def on_note(self, note: Note) -> None:
            self.target.tell(note)
            if note.value < 3:
                self.me.tell(Note(note.value + 1))

    async def main() -> None:
        log: list[str] = []
        (target,) = recorders(log, "t")
        forwarder = ChildSpec("f", lambda: Forwarder(log, target.ref))
        supervisor = Supervisor.start(children=[forwarder, target])
        await statistics(supervisor)
        target.ref.tell(Break())
        forwarder.ref.tell(Break())
        forwarder.ref.tell(Note(0))
        await until(lambda: "t3" in log)
        assert [entry for entry in log if entry[-1].isdigit()] == ["t0", "t1", "t2", "t3"]
        await supervisor.stop_async()

    run(main)


def test_same_name_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="two children are called a"):
        Supervisor(recorders([], "a", "a"))


def test_fifty_lives_leave_nothing_behind(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)  # pytest would keep the records, and with their tracebacks the actors
    made: list[weakref.ref[pykka.Actor]] = []

    def remembered(kind: Callable[..., pykka.Actor], *arguments: Any) -> pykka.Actor:
        actor = kind(*arguments)
        made.append(weakref.ref(actor))
        return actor

    async def main() -> None:
        for turn in range(50):
            log: list[str] = []
            specs = [
                ChildSpec("blocker", partial(remembered, Blocker, log)),
                ChildSpec("recorder", partial(remembered, Recorder, "r", log)),
            ]
            supervisor = Supervisor.start(children=specs)
            specs[turn % 2].ref.tell(Break())
            for spec in specs:
                await spec.ref.ask_async(GetNotes())
            await supervisor.stop_async()

    run(main)
    gc.collect()
    assert len(made) == 150
    assert [one for one in made if one() is not None] == []
