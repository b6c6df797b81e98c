"""What does a message to an actor cost? One iteration is 5,000 tells, until the actor has handled the last one: from
the actor's own loop, or from another thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import uvloop

from actors.loop_actor import LoopActor
from actors.ref import Ref

MESSAGES = 5_000  # less than a mailbox holds


class Count(NamedTuple):
    """A message."""

    n: int


class Counter(LoopActor):
    """Says when it has had as many as were sent."""

    def __init__(self, done: Callable[[], None]) -> None:
        super().__init__()
        self._done = done

    def on_count(self, message: Count) -> None:
        """One message."""
        if message.n == MESSAGES:
            self._done()


def _tell_all(ref: Ref) -> None:
    for n in range(1, MESSAGES + 1):
        ref.tell(Count(n))


def test_tell_on_the_loop(measure: Callable[..., Any], loop: asyncio.AbstractEventLoop) -> None:
    handled = asyncio.Event()

    async def start() -> Ref:
        return Counter.start(handled.set)

    ref = loop.run_until_complete(start())

    async def iteration() -> None:
        handled.clear()
        _tell_all(ref)
        await handled.wait()

    measure(lambda: loop.run_until_complete(iteration()), MESSAGES)
    loop.run_until_complete(ref.stop_async(timeout=5))


def test_tell_from_another_thread(measure: Callable[..., Any]) -> None:
    handled, refs = threading.Event(), list[Ref]()

    async def live() -> None:
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        refs.append(Counter.start(handled.set))
        stop.append(lambda: loop.call_soon_threadsafe(stopped.set))
        handled.set()
        await stopped.wait()
        await refs[0].stop_async(timeout=5)

    stop: list[Callable[[], Any]] = []
    thread = threading.Thread(target=lambda: uvloop.run(live()))
    thread.start()
    try:
        assert handled.wait(5)

        def iteration() -> None:
            handled.clear()
            _tell_all(refs[0])
            assert handled.wait(5)

        measure(iteration, MESSAGES)
    finally:
        for call in stop:
            call()
        thread.join(5)
