"""The answer to one ``ask``: waited for by a thread or awaited on a loop, set from either."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from pykka import ThreadingFuture, Timeout

from transport.errors import ActorError, WouldDeadlock

if TYPE_CHECKING:
    from types import TracebackType

    from actors.mailbox import Mailbox


class AskTimeout(ActorError, Timeout, TimeoutError):
    """No answer in time. Whether the actor will still do what it was asked is unknown."""


class Reply(ThreadingFuture[Any]):
    """pykka's future, which can be awaited too. The first answer wins; later ones are ignored.

    Args:
        answerer: whose thread has to set the answer; ``None`` for futures derived by ``map``, ``filter`` and so on.
    """

    def __init__(self, answerer: Mailbox | None = None) -> None:
        super().__init__()
        self._answerer = answerer
        self._callbacks: list[Callable[[], None]] = []

    def get(self, *, timeout: float | None = None) -> Any:
        """Blocks this thread until there is an answer, at most ``timeout`` seconds (``None``: forever).

        Raises:
            WouldDeadlock: on the thread that has to answer.
            AskTimeout: no answer in time.
            Exception: what the handler raised.
        """
        if self._answerer is not None and self._result is None:
            check_may_block(self._answerer, "ask")
        try:
            return super().get(timeout=timeout)
        except Timeout as error:
            name = self._answerer.name if self._answerer is not None else "the actor"
            raise AskTimeout(f"no answer from {name} in {timeout} s") from error

    def set(self, value: Any = None) -> None:
        """Any thread."""
        with self._condition:
            if self._result is not None:
                return
            super().set(value)
        self._tell_waiters()

    def set_exception(
        self,
        exc_info: tuple[type[BaseException] | None, BaseException | None, TracebackType | None] | None = None,
    ) -> None:
        """Any thread. Without ``exc_info`` the exception being handled."""
        with self._condition:
            if self._result is not None:
                return
            super().set_exception(exc_info)
        self._tell_waiters()

    def fail(self, error: BaseException) -> None:
        """Any thread: the answer is ``error``."""
        self.set_exception((type(error), error, error.__traceback__))

    def __await__(self) -> Generator[Any, None, Any]:
        """On a running loop, without blocking it; no timeout, see ``Ref.ask_async``."""
        loop = asyncio.get_running_loop()
        thread = threading.get_ident()
        waiter: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not waiter.done():
                waiter.set_result(None)

        def answered() -> None:
            if threading.get_ident() == thread:
                wake()
            else:
                with contextlib.suppress(RuntimeError):  # the asker's loop is closed: nobody waits any more
                    loop.call_soon_threadsafe(wake)

        with self._condition:
            pending = self._result is None and self._get_hook is None
            if pending:
                self._callbacks.append(answered)
        if pending:
            yield from waiter.__await__()
        return self.get(timeout=0)

    def _tell_waiters(self) -> None:
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()


def check_may_block(answerer: Mailbox, what: str) -> None:
    """Raises WouldDeadlock if blocking this thread would keep ``answerer``'s actor from running."""
    here, there = threading.current_thread(), answerer.thread
    if answerer.closed:
        return
    if there is None:  # not started yet: whichever loop runs here may be the one that will start it
        if asyncio._get_running_loop() is None:
            return
    elif here is not there:
        return
    raise WouldDeadlock(
        f"a blocking {what} of actor {answerer.name} on thread {here.name!r}, which has to run that actor: "
        f"use `await ref.ask_async(...)`, or `ref.stop(block=False)`"
    )
