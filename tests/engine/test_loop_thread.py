"""A loop in a thread of its own: errors reach who starts it, nothing waits for ever, and it always ends."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from engine.loop_thread import LoopThread, call_in_loop
from transport.errors import ConnectionLost, HeliographError, WouldDeadlock

DEADLINE_S = 5.0
NAME = "thread-of-a-test"


class Life:
    """A context manager that notes where and how it is entered and left."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.threads: set[str] = set()
        self.tasks: set[Any] = set()
        self.may_enter = True
        self.entering = threading.Event()

    def note(self, what: str) -> None:
        self.told.append(what)
        self.threads.add(threading.current_thread().name)
        self.tasks.add(asyncio.current_task())

    @asynccontextmanager
    async def live(self) -> AsyncIterator[Life]:
        self.note("entering")
        self.entering.set()
        try:
            if not self.may_enter:
                await asyncio.Event().wait()
            self.note("entered")
            yield self
        finally:
            self.note("left")


@pytest.fixture
def life() -> Iterator[Life]:
    yield Life()
    assert NAME not in [thread.name for thread in threading.enumerate()]


@pytest.fixture
def lived(life: Life) -> Iterator[LoopThread[Life]]:
    thread = LoopThread(NAME, life.live)
    assert thread.start(DEADLINE_S) is life
    yield thread
    assert thread.stop(DEADLINE_S)


async def loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def test_it_enters_and_leaves_in_one_task_of_its_thread(life: Life) -> None:
    thread = LoopThread(NAME, life.live)
    assert thread.start(DEADLINE_S) is life
    assert life.told == ["entering", "entered"]
    assert thread.stop(DEADLINE_S)
    assert (life.told, life.threads, len(life.tasks)) == (["entering", "entered", "left"], {NAME}, 1)
    assert thread.stop(DEADLINE_S)  # again, and one that never began
    assert LoopThread(NAME, life.live).stop(DEADLINE_S)


def test_results_and_errors_come_back(lived: LoopThread[Life]) -> None:
    async def double(number: int) -> int:
        return 2 * number

    async def fail() -> None:
        raise LookupError("not here")

    assert lived.run(double(21), DEADLINE_S) == 42
    assert [future.result(DEADLINE_S) for future in [lived.submit(double(i)) for i in range(5)]] == [0, 2, 4, 6, 8]
    with pytest.raises(LookupError, match="not here"):
        lived.run(fail())


def test_it_works_where_a_loop_runs_already(life: Life) -> None:
    async def notebook() -> None:
        thread = LoopThread(NAME, life.live)
        thread.start(DEADLINE_S)
        assert thread.run(loop(), DEADLINE_S) is not asyncio.get_running_loop()
        assert thread.stop(DEADLINE_S)

    asyncio.run(notebook())


def test_a_function_is_called_on_the_loops_thread(lived: LoopThread[Life]) -> None:
    running = lived.run(loop())
    assert call_in_loop(running, threading.current_thread, DEADLINE_S).name == NAME
    with pytest.raises(ZeroDivisionError):
        call_in_loop(running, lambda: 1 // 0, DEADLINE_S)
    with blocked(lived), pytest.raises(TimeoutError):
        call_in_loop(running, lambda: None, 0.01)


@contextmanager
def blocked(thread: LoopThread[Life]) -> Iterator[None]:
    """Its loop does nothing at all."""
    begun, may_end = threading.Event(), threading.Event()

    async def block() -> None:
        begun.set()
        may_end.wait(DEADLINE_S)

    thread.submit(block())
    assert begun.wait(DEADLINE_S)
    try:
        yield
    finally:
        may_end.set()


def test_errors_before_it_is_entered_reach_the_starter(life: Life) -> None:
    def create() -> Any:
        raise HeliographError("no such thing")

    for wrong in (create, failing):
        thread: LoopThread[None] = LoopThread(NAME, wrong)
        with pytest.raises(HeliographError, match="no such thing"):
            thread.start(DEADLINE_S)
        assert thread.stop(DEADLINE_S)


@asynccontextmanager
async def failing() -> AsyncIterator[None]:
    raise HeliographError("no such thing")
    yield


def test_who_cannot_be_entered_in_time_is_given_up(life: Life) -> None:
    life.may_enter = False
    thread = LoopThread(NAME, life.live)
    with pytest.raises(TimeoutError):
        thread.start(0.01)
    assert thread.stop(DEADLINE_S)
    assert life.told in (["entering", "left"], [])  # []: the thread came too late to begin


def test_a_stop_while_it_starts_reaches_the_starter(life: Life) -> None:
    life.may_enter = False
    thread = LoopThread(NAME, life.live)

    def stop() -> None:
        assert life.entering.wait(DEADLINE_S)
        thread.stop(DEADLINE_S)

    other = threading.Thread(target=stop)
    other.start()
    with pytest.raises(HeliographError, match=f"{NAME} was stopped while it started"):
        thread.start(DEADLINE_S)
    other.join(DEADLINE_S)
    assert life.told == ["entering", "left"]


def test_a_stop_before_it_begins_is_heeded(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    thread = LoopThread(NAME, life.live)
    run = asyncio.run

    def stopped_first(main: Coroutine[Any, Any, None]) -> None:
        with pytest.raises(WouldDeadlock):
            thread.stop(DEADLINE_S)
        run(main)

    monkeypatch.setattr(asyncio, "run", stopped_first)
    with pytest.raises(HeliographError, match=f"{NAME} was stopped while it started"):
        thread.start(DEADLINE_S)
    assert thread.stop(DEADLINE_S)
    assert life.told == []


def test_a_thread_that_does_not_end_is_told(life: Life, caplog: pytest.LogCaptureFixture) -> None:
    thread = LoopThread(NAME, life.live)
    thread.start(DEADLINE_S)
    with blocked(thread), caplog.at_level(logging.WARNING, "engine.loop_thread"):
        assert not thread.stop(0.01)
    assert caplog.messages == [f"{NAME} did not stop within 0.01 s"]
    assert thread.stop(DEADLINE_S)


def test_what_goes_on_when_it_stops_is_lost_and_nothing_begins_after(life: Life) -> None:
    thread = LoopThread(NAME, life.live)
    thread.start(DEADLINE_S)
    begun = threading.Event()

    async def wait() -> None:
        begun.set()
        await asyncio.Event().wait()

    def stop() -> None:
        assert begun.wait(DEADLINE_S)
        thread.stop(DEADLINE_S)

    other = threading.Thread(target=stop)
    other.start()
    with pytest.raises(ConnectionLost, match=f"{NAME} was stopped meanwhile; outcome unknown"):
        thread.run(wait(), DEADLINE_S)
    other.join(DEADLINE_S)
    for use in (thread.run, thread.submit):
        with pytest.raises(ConnectionLost, match=f"{NAME} has ended"):
            use(wait())


def test_work_that_comes_while_it_ends_is_never_left_waiting(life: Life) -> None:
    """Many times over, as who stops and who calls meet at another point each time."""

    async def nothing() -> None:
        await asyncio.sleep(0)

    for _ in range(20):
        thread = LoopThread(NAME, life.live)
        thread.start(DEADLINE_S)
        outcomes: list[BaseException | None] = []

        def call(thread: LoopThread[Life] = thread, outcomes: list[BaseException | None] = outcomes) -> None:
            while True:
                try:
                    thread.run(nothing(), DEADLINE_S)
                except BaseException as error:
                    outcomes.append(error)
                    return

        callers = [threading.Thread(target=call) for _ in range(2)]
        for caller in callers:
            caller.start()
        assert thread.stop(DEADLINE_S)
        for caller in callers:
            caller.join(DEADLINE_S)
        assert [type(outcome) for outcome in outcomes] == [ConnectionLost] * 2


def test_work_at_which_the_loop_does_not_look_any_more_is_lost(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    thread = LoopThread(NAME, life.live)
    thread.start(DEADLINE_S)

    def too_late(work: Coroutine[Any, Any, None], _: object) -> concurrent.futures.Future[None]:
        assert thread.stop(DEADLINE_S)
        work.close()
        return concurrent.futures.Future()

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", too_late)
    with pytest.raises(ConnectionLost, match="outcome unknown"):
        thread.run(asyncio.sleep(0), DEADLINE_S)


@pytest.mark.parametrize("interrupt", [False, True])
def test_a_wait_that_ends_early_cancels_its_work(lived: LoopThread[Life], interrupt: bool) -> None:
    cancelled = threading.Event()

    async def wait() -> None:
        if interrupt:
            await asyncio.sleep(0.05)  # so that the wait has begun
            os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(KeyboardInterrupt if interrupt else TimeoutError):
        lived.run(wait(), DEADLINE_S if interrupt else 0.01)
    assert cancelled.wait(DEADLINE_S)


def test_its_own_thread_does_not_wait_for_itself(life: Life, wait_until: Callable[..., None]) -> None:
    thread = LoopThread(NAME, life.live)
    thread.start(DEADLINE_S)

    async def inside() -> None:
        with pytest.raises(WouldDeadlock):
            thread.run(inside())
        thread.stop(DEADLINE_S)

    with pytest.raises(WouldDeadlock):
        thread.run(inside(), DEADLINE_S)
    wait_until(lambda: life.told[-1] == "left")  # it was stopped all the same
    thread.stop(DEADLINE_S)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_has_no_such_thread(lived: LoopThread[Life]) -> None:
    child = os.fork()
    if not child:
        status = 1
        try:
            lived.run(loop(), DEADLINE_S)
        except ConnectionLost:
            status = 0 if lived.stop(DEADLINE_S) else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert lived.run(loop(), DEADLINE_S)
