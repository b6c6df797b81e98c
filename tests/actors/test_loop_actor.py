"""Loop actors on a real loop: order, one at a time, asks, errors, threads, owned tasks and timers, the end."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import weakref
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple

import pykka
import pytest
import uvloop

from actors.loop_actor import LoopActor
from actors.mailbox import Mailbox
from actors.ref import Ref
from actors.reply import AskTimeout
from transport.errors import ActorError, WouldDeadlock

DEADLINE_S = 5.0


class Note(NamedTuple):
    value: Any


class GetNotes(NamedTuple):
    pass


class Pause(NamedTuple):
    until: asyncio.Event


class Break(NamedTuple):
    """The handler raises."""


class Nobody(NamedTuple):
    """Has no handler."""


class HTTPRequest2Seen(NamedTuple):
    """Has capitals in a row and a digit."""


class Start(NamedTuple):
    """Would be handled by a hook."""


class Notebook(LoopActor):
    """Writes down what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[Any] = []

    def on_note(self, note: Note) -> int:
        self.notes.append(note.value)
        return len(self.notes)

    async def on_pause(self, pause: Pause) -> str:
        self.notes.append("pause")
        await pause.until.wait()
        self.notes.append("resume")
        return "rested"

    def on_get_notes(self, _: GetNotes) -> list[Any]:
        return list(self.notes)

    def on_break(self, _: Break) -> None:
        raise LookupError("broken")

    def on_http_request2_seen(self, _: HTTPRequest2Seen) -> None:
        self.notes.append("http")

    def shout(self, text: str) -> str:
        return text.upper()


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Awaitable[Any]], Any]:
    return request.param  # type: ignore[no-any-return]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.001)


async def in_thread(function: Callable[[], Any]) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, function)


async def ended(ref: Ref) -> None:
    await until(lambda: not ref.is_alive())


def test_handles_in_order_and_answers(run: Any) -> None:
    async def main() -> None:
        ref = Notebook.start()
        ref.tell(Note(1))
        ref.tell(HTTPRequest2Seen())
        assert await ref.ask_async(Note(2)) == 3
        assert await ref.ask_async(GetNotes()) == [1, "http", 2]
        assert await ref.stop_async()
        assert not await ref.stop_async()
        statistics = ref.mailbox.statistics()
        assert (statistics.handled, statistics.failed, statistics.depth) == (4, 0, 0)

    run(main())


def test_one_message_at_a_time_across_awaits(run: Any) -> None:
    async def main() -> None:
        ref, event = Notebook.start(), asyncio.Event()
        paused = ref.ask(Pause(event), block=False)
        ref.tell(Note(1))
        for _ in range(10):  # turns in which it could go wrong
            await asyncio.sleep(0)
            ref.mailbox._wake()  # two threads may find the mailbox resting at the same instant
        assert ref.mailbox.statistics().depth == 1
        event.set()
        assert await paused == "rested"
        assert await ref.ask_async(GetNotes()) == ["pause", "resume", 1]
        await ref.stop_async()

    run(main())


def test_a_turn_is_bounded_by_what_was_queued_when_it_began(run: Any) -> None:
    class Echo(LoopActor):
        count = 0

        def on_note(self, note: Note) -> None:
            self.count += 1
            self.actor_ref.tell(note)

    async def main() -> None:
        actor = Echo()
        actor._begin()
        actor.actor_ref.tell(Note(1))
        turns = 0
        while actor.count < 5:
            before = actor.count
            await asyncio.sleep(0)
            turns += 1
            assert actor.count - before <= 1
            assert turns < 100
        await actor.actor_ref.stop_async()

    run(main())


def test_error_of_an_ask_goes_to_the_asker_and_the_actor_lives(run: Any) -> None:
    async def main() -> None:
        ref = Notebook.start()
        with pytest.raises(LookupError, match="broken"):
            await ref.ask_async(Break())
        assert await ref.ask_async(Note(1)) == 1
        assert ref.mailbox.statistics().failed == 0
        await ref.stop_async()

    run(main())


def test_error_of_a_tell_ends_a_standalone_actor(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        failures: list[Any] = []

        class Fragile(Notebook):
            def on_failure(self, exception_type: Any, exception_value: Any, traceback: Any) -> None:
                failures.append(exception_value)

        ref = Fragile.start()
        ref.tell(Break())
        ref.tell(Note(1))
        waiting = ref.ask(GetNotes(), block=False)
        await ended(ref)
        with pytest.raises(pykka.ActorDeadError):
            await waiting
        ref.tell(Note(2))  # does not raise
        statistics = ref.mailbox.statistics()
        assert (statistics.handled, statistics.failed, statistics.dead_letters) == (0, 1, 3)
        assert [str(failure) for failure in failures] == ["broken"]
        with pytest.raises(pykka.ActorDeadError):
            await ref.ask_async(GetNotes())

    run(main())
    assert "broken" in caplog.text


def test_unknown_message_is_counted_and_logged_once(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        ref = Notebook.start()
        for _ in range(3):
            ref.tell(Nobody())
        ref.tell(Start())
        with pytest.raises(ActorError, match="Notebook does not handle Nobody"):
            await ref.ask_async(Nobody())
        assert ref.mailbox.statistics().unknown == 5
        await ref.stop_async()

    with caplog.at_level(logging.WARNING):
        run(main())
    assert [record.getMessage() for record in caplog.records] == [
        "Notebook Notebook does not handle Nobody (no method on_nobody)",
        "Notebook Notebook does not handle Start (no method on_start)",
    ]


def test_pykkas_proxies_and_on_receive_work(run: Any) -> None:
    class Classic(LoopActor):
        got: Any = None

        def on_receive(self, message: Any) -> Any:
            self.got = message
            return "classic"

    async def main() -> None:
        proxy = Notebook.start().proxy()
        assert await proxy.shout("hi") == "HI"
        proxy.shout.defer("hi")
        assert await proxy.notes == []
        assert await in_thread(lambda: proxy.shout("thread").get(timeout=DEADLINE_S)) == "THREAD"
        with pytest.raises(WouldDeadlock):
            proxy.shout("hi").get()
        await proxy.actor_ref.stop_async()  # type: ignore[attr-defined]
        classic = Classic.start()
        assert await classic.ask_async({"any": "thing"}) == "classic"
        await classic.stop_async()

    run(main())


def test_tells_from_threads_keep_their_order(run: Any) -> None:
    async def main() -> None:
        ref, each = Notebook.start(), 1_000
        barrier = threading.Barrier(3)

        def send(sender: int) -> None:
            barrier.wait()
            for number in range(each):
                ref.tell(Note((sender, number)))

        await asyncio.gather(*(in_thread(partial(send, sender)) for sender in range(3)))
        notes = await ref.ask_async(GetNotes())
        for sender in range(3):
            assert [number for who, number in notes if who == sender] == list(range(each))
        await ref.stop_async()

    run(main())


def test_blocking_ask_and_stop_work_from_another_thread_only(run: Any) -> None:
    async def main() -> None:
        ref = Notebook.start()
        here = threading.current_thread().name
        with pytest.raises(WouldDeadlock, match=f"ask of actor Notebook on thread '{here}'"):
            ref.ask(Note(1))
        with pytest.raises(WouldDeadlock, match="stop of actor Notebook"):
            ref.stop()
        assert await in_thread(lambda: ref.ask(Note(1), timeout=DEADLINE_S)) == 1
        assert await in_thread(lambda: ref.stop(timeout=DEADLINE_S)) is True
        with pytest.raises(pykka.ActorDeadError):
            ref.ask(Note(1))

    run(main())


def test_ask_of_an_actor_that_is_not_started_would_deadlock_on_a_loop() -> None:
    async def main() -> None:
        with pytest.raises(WouldDeadlock):
            Mailbox("later").ref.ask(Note(1))

    asyncio.run(main())
    with pytest.raises(AskTimeout):
        Mailbox("never").ref.ask(Note(1), timeout=0.001)


def test_timeout_of_an_ask_and_of_a_handler_are_told_apart(run: Any) -> None:
    class Late(LoopActor):
        async def on_note(self, note: Note) -> None:
            raise TimeoutError("the handler's own")

    async def main() -> None:
        ref, event = Notebook.start(), asyncio.Event()
        with pytest.raises(AskTimeout, match=r"no answer from Notebook in 0\.01 s"):
            await ref.ask_async(Pause(event), timeout=0.01)
        event.set()
        await ref.stop_async()
        late = Late.start()
        with pytest.raises(TimeoutError, match="the handler's own"):
            await late.ask_async(Note(1))
        await late.stop_async()

    run(main())


def test_start_and_stop_hooks_may_wait(run: Any) -> None:
    class Patient(Notebook):
        async def on_start(self) -> None:  # type: ignore[override]
            await asyncio.sleep(0)
            self.notes.append("up")

        async def on_stop(self) -> None:  # type: ignore[override]
            await asyncio.sleep(0)
            self.notes.append("down")

    async def main() -> None:
        ref = Patient.start()
        notes = await ref.proxy().notes
        assert await ref.ask_async(Note(1)) == 2
        assert await ref.stop_async()
        assert notes == ["up", 1, "down"]

    run(main())


def test_needs_a_running_loop() -> None:
    with pytest.raises(ActorError, match="must be started on a running loop"):
        Notebook.start()
    assert not pykka.ActorRegistry.get_by_class(Notebook)


def test_owned_tasks_and_timers_end_with_the_actor(run: Any) -> None:
    class Owner(Notebook):
        def on_start(self) -> None:
            self.timer = self.later(3600, Note("never"))
            self.later(0.0, Note("timer"))
            self.later(0.0, Note("cancelled")).cancel()
            self.task = self.spawn(self.wait(), name="waiting")

        async def wait(self) -> None:
            try:
                await asyncio.sleep(3600)
            finally:
                self.notes.append("cancelled task")

        def on_stop(self) -> None:
            self.notes.append("stop")

    async def main() -> None:
        actor = Owner()
        actor._begin()
        await until(lambda: actor.notes == ["timer"])
        assert await actor.actor_ref.stop_async()
        assert actor.notes == ["timer", "cancelled task", "stop"]
        assert actor.task.cancelled()
        assert not actor._timers
        with pytest.raises(ActorError, match="is ended: it cannot own a timer"):
            actor.later(1, Note(1))
        with pytest.raises(ActorError, match="is ended: it cannot own task t"):
            actor.spawn(actor.wait(), name="t")
        assert len(asyncio.all_tasks()) == 1

    run(main())


def test_task_that_fails_fails_the_actor_and_whoever_waits_hears_of_it(run: Any) -> None:
    class Owner(Notebook):
        async def on_note(self, note: Note) -> None:  # type: ignore[override]
            self.spawn(self.fail(), name="failing")
            await asyncio.sleep(3600)

        async def fail(self) -> None:
            raise LookupError("task")

    async def main() -> None:
        ref = Owner.start()
        with pytest.raises(pykka.ActorDeadError, match="ended while it handled the message"):
            await ref.ask_async(Note(1))
        await ended(ref)
        assert ref.mailbox.statistics().failed == 1
        assert not pykka.ActorRegistry.get_by_class(Owner)
        assert len(asyncio.all_tasks()) == 1

    run(main())


def test_task_that_fails_while_the_actor_stops_does_not_end_it_twice(run: Any) -> None:
    class Owner(Notebook):
        def on_note(self, note: Note) -> int:
            self.spawn(self.fail(), name="failing")
            return 0

        async def fail(self) -> None:
            raise LookupError("task")

        def on_stop(self) -> None:
            self.notes.append("stop")

        def on_failure(self, exception_type: Any, exception_value: Any, traceback: Any) -> None:
            self.notes.append("failure")

    async def main() -> None:
        actor = Owner()
        actor._begin()
        actor.actor_ref.tell(Note(1))
        assert await actor.actor_ref.stop_async()
        assert actor.notes == ["stop"]
        await until(lambda: len(asyncio.all_tasks()) == 1)

    run(main())


def test_use_on_another_thread_names_both(run: Any) -> None:
    async def main() -> None:
        actor = Notebook()
        actor._begin()
        own = threading.current_thread().name

        def misuse() -> str:
            with pytest.raises(ActorError, match=f"belongs to thread '{own}'") as caught:
                actor.later(1, Note(1))
            return str(caught.value).replace(threading.current_thread().name, "OTHER")

        assert await in_thread(misuse) == f"Notebook Notebook belongs to thread '{own}' and was used on thread 'OTHER'"
        await actor.actor_ref.stop_async()

    run(main())


def test_a_closed_loop_turns_tells_into_dead_letters() -> None:
    async def main() -> Ref:
        return Notebook.start()

    ref = asyncio.run(main())
    ref.tell(Note(1))
    ref.tell(Note(2))
    assert ref.mailbox.statistics().dead_letters == 2
    assert not pykka.ActorRegistry.get_by_class(Notebook)


def test_fifty_lives_leave_nothing_behind(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)  # pytest would keep the records, and with their tracebacks the actors

    async def main() -> None:
        remains = []
        for turn in range(50):
            actor = Notebook()
            actor._begin()
            remains.append(weakref.ref(actor))
            ref = actor.actor_ref
            del actor
            assert await ref.ask_async(Note(turn)) == 1
            if turn % 2:
                ref.tell(Break())
                await ended(ref)
            else:
                await ref.stop_async()
        await asyncio.sleep(0)
        gc.collect()
        assert [one for one in remains if one() is not None] == []
        assert len(asyncio.all_tasks()) == 1

    before = threading.active_count(), len(pykka.ActorRegistry.get_all())
    run(main())
    assert (threading.active_count(), len(pykka.ActorRegistry.get_all())) == before
