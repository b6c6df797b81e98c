"""Blocking actors on their own threads, alone; under a supervisor they are in test_supervisor.py."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import pykka
import pytest

from actors.blocking_actor import BlockingActor
from actors.mailbox_actor import MailboxActor
from actors.ref import Ref
from transport.errors import ActorError, WouldDeadlock

DEADLINE_S = 5.0


class Work(NamedTuple):
    value: int


class Hang(NamedTuple):
    until: threading.Event


class Break(NamedTuple):
    pass


class Wrong(NamedTuple):
    pass


class AskOneself(NamedTuple):
    pass


class Nobody(NamedTuple):
    pass


class Worker(BlockingActor):
    def __init__(self) -> None:
        super().__init__()
        self.done: list[int] = []
        self.hooks: list[str] = []
        self.thread_name = ""

    def on_start(self) -> None:
        self.thread_name = threading.current_thread().name

    def on_stop(self) -> None:
        self.hooks.append("stop")

    def on_failure(self, exception_type: Any, exception_value: Any, traceback: Any) -> None:
        self.hooks.append(f"failure {exception_value}")

    def on_work(self, work: Work) -> int:
        self.done.append(work.value)
        return len(self.done)

    def on_hang(self, hang: Hang) -> None:
        hang.until.wait(DEADLINE_S)

    def on_break(self, _: Break) -> None:
        raise LookupError("broken")

    async def on_wrong(self, _: Wrong) -> None:
        pass

    def on_ask_oneself(self, _: AskOneself) -> None:
        self.actor_ref.ask(Work(1))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def started() -> tuple[Worker, Ref]:
    actor = Worker()
    actor._begin()
    return actor, actor.actor_ref


class Watching:
    """Writes down what an actor reports."""

    def __init__(self) -> None:
        self.exits: list[BaseException | None] = []

    def started(self, actor: MailboxActor) -> None:
        pass

    def exited(self, actor: MailboxActor, error: BaseException | None) -> None:
        self.exits.append(error)


def test_works_in_order_on_its_own_thread() -> None:
    actor, ref = started()
    for value in range(100):
        ref.tell(Work(value))
    assert ref.ask(Work(100)) == 101
    assert ref.stop() is True
    assert actor.done == list(range(101))
    assert actor.thread_name == "actor-Worker"
    assert actor.hooks == ["stop"]
    assert ref.stop() is False
    assert ref.mailbox.statistics().handled >= 101
    ref.tell(Work(0))
    assert ref.mailbox.statistics().dead_letters == 1
    assert not pykka.ActorRegistry.get_by_class(Worker)


def test_error_of_an_ask_goes_to_the_asker() -> None:
    _, ref = started()
    with pytest.raises(LookupError, match="broken"):
        ref.ask(Break())
    with pytest.raises(ActorError, match="must not be `async def`"):
        ref.ask(Wrong())
    with pytest.raises(ActorError, match="does not handle Nobody"):
        ref.ask(Nobody())
    with pytest.raises(WouldDeadlock):
        ref.ask(AskOneself())
    assert ref.ask(Work(1)) == 1
    ref.stop()


def test_error_of_a_tell_ends_it() -> None:
    actor, ref = started()
    ref.tell(Break())
    until(lambda: not ref.is_alive())
    assert actor.hooks == ["failure broken"]
    assert ref.mailbox.statistics().failed == 1
    assert not pykka.ActorRegistry.get_by_class(Worker)


def test_pykkas_proxy_works() -> None:
    actor, ref = started()
    proxy = ref.proxy()
    assert proxy.thread_name.get() == "actor-Worker"
    proxy.stop().get()
    until(lambda: not ref.is_alive())
    assert actor.hooks == ["stop"]


def test_one_that_hangs_can_be_left_and_says_what_was_left() -> None:
    actor, ref = started()
    event = threading.Event()
    question = ref.ask(Hang(event), block=False)
    ref.tell(Work(1))
    until(lambda: ref.mailbox.statistics().depth == 1)
    thread = ref.mailbox.thread
    assert thread is not None
    assert thread.daemon
    left = actor.kill()
    assert left == ("Worker", 1, ("actor-Worker",))
    with pytest.raises(pykka.ActorDeadError):
        question.get(timeout=0)
    successor, watching = Worker(), Watching()
    successor.launch(ref.mailbox, watching)
    assert ref.ask(Work(2)) == 2
    event.set()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()
    assert actor.done == [], "the successor got what waited"
    assert successor.done == [1, 2]
    assert ref.ask(Work(3)) == 3, "the late end of the first one did not disturb the second"
    ref.stop()
    assert watching.exits == [None]


def test_message_taken_at_the_instant_of_the_kill_is_given_back() -> None:
    looks = iter([True, False])

    class Killed(Worker):
        def _runs(self) -> bool:
            return next(looks)

    actor = Killed()
    actor.mailbox.put(Work(1))
    actor.mailbox.put(Work(2))
    actor._handle_all()
    assert list(actor.mailbox.items) == [Work(1), Work(2)]
    assert actor.done == []


def test_what_was_told_in_init_reaches_the_mailbox_it_is_given() -> None:
    class Eager(Worker):
        def __init__(self) -> None:
            super().__init__()
            self.own = self.actor_ref
            self.own.tell(Work(1))

    mailbox = Worker().mailbox
    actor = Eager()
    actor.launch(mailbox, Watching())
    assert actor.own.ask(Work(2)) == 2
    assert actor.own.name == mailbox.name
    assert actor.actor_ref is mailbox.ref
    mailbox.ref.stop()
