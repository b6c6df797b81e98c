"""An asyncio loop in a thread of its own, for code without a loop and for Jupyter, where one runs already."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeVar

from transport.errors import ConnectionLost, HeliographError, WouldDeadlock

T = TypeVar("T")
ResultT = TypeVar("ResultT")
_log = logging.getLogger(__name__)


class LoopThread(Generic[T]):
    """The life of one async context manager: entered, lived and left in one task, on a loop and a thread of its own.

    Used once, from any other thread. It is a daemon thread, so that what nobody stopped does not keep the interpreter
    from ending; a forked child does not have it, there it has ended. What the manager raises when it is left goes to
    :func:`threading.excepthook`.

    Args:
        name: of the thread; it says what lives there.
        create: makes the context manager, on the thread.
    """

    def __init__(self, name: str, create: Callable[[], AbstractAsyncContextManager[T]]) -> None:
        self.name = name
        self._create = create
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()), name=name, daemon=True)
        self._started: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._loop: asyncio.AbstractEventLoop | None = None  # none once nothing more is done
        self._life: asyncio.Task[None] | None = None
        self._end = asyncio.Event()
        self._stopped = False

    def start(self, timeout: float | None = None) -> T:
        """What entering gave. After an error, an interrupt included, call :meth:`stop`.

        Raises:
            TimeoutError: it took longer than ``timeout`` seconds.
            HeliographError: it was stopped meanwhile.
            BaseException: what making or entering the manager raised.
        """
        self._thread.start()
        try:
            return self._started.result(timeout)
        except concurrent.futures.CancelledError:
            raise HeliographError(f"{self.name} was stopped while it started") from None

    def stop(self, timeout: float) -> bool:
        """Leave the manager, or give up entering it, and end the thread.

        Returns:
            Whether it ended within ``timeout`` seconds; that it did not is logged too.

        Raises:
            WouldDeadlock: on the thread itself, which cannot wait; it ends nevertheless.
        """
        self._stopped = True  # before the loop is looked at: a life that begins looks in the other order
        loop = self._loop
        if not self._thread.is_alive():
            return True
        if loop is not None:
            try:
                loop.call_soon_threadsafe(self._let_end)
            except RuntimeError:
                pass  # it has just ended by itself
        self._refuse_own_thread()
        self._thread.join(timeout)
        if self._thread.is_alive():
            _log.warning("%s did not stop within %g s", self.name, timeout)
            return False
        return True

    def submit(self, work: Coroutine[Any, Any, ResultT]) -> concurrent.futures.Future[ResultT]:
        """Run a coroutine on the loop; cancelled where the thread ends first.

        Raises:
            ConnectionLost: the thread has ended.
        """
        loop = self._loop
        try:
            if loop is None or not self._thread.is_alive():
                raise RuntimeError("no loop")
            future = asyncio.run_coroutine_threadsafe(work, loop)
        except RuntimeError:
            work.close()
            raise ConnectionLost(f"{self.name} has ended") from None
        if self._loop is None:
            future.cancel()  # the loop has ended since, perhaps without having looked
        return future

    def run(self, work: Coroutine[Any, Any, ResultT], timeout: float | None = None) -> ResultT:
        """Run a coroutine on the loop and wait for it; an interrupt and the timeout cancel it.

        Raises:
            TimeoutError: it took longer than ``timeout`` seconds.
            ConnectionLost: the thread has ended, or ended meanwhile.
            WouldDeadlock: on the thread itself.
        """
        try:
            self._refuse_own_thread()
        except WouldDeadlock:
            work.close()
            raise
        future = self.submit(work)
        try:
            return future.result(timeout)
        except concurrent.futures.CancelledError:
            raise ConnectionLost(f"{self.name} was stopped meanwhile; outcome unknown") from None
        except BaseException:
            future.cancel()
            raise

    def _refuse_own_thread(self) -> None:
        if self._thread is threading.current_thread():
            raise WouldDeadlock(f"a blocking call on the thread of {self.name} waits for itself")

    def _let_end(self) -> None:
        self._end.set()
        if self._life is not None and not self._started.done():
            self._life.cancel()

    async def _live(self) -> None:
        self._life, self._loop = asyncio.current_task(), asyncio.get_running_loop()
        try:
            if self._stopped:
                raise asyncio.CancelledError
            async with self._create() as entered:
                self._started.set_result(entered)
                await self._end.wait()
        except asyncio.CancelledError:
            self._started.cancel()
        except BaseException as error:
            if self._started.done():
                raise
            self._started.set_exception(error)
        finally:
            self._loop = None


def call_in_loop(loop: asyncio.AbstractEventLoop, function: Callable[[], ResultT], timeout: float) -> ResultT:
    """The function's result, called on a loop that runs in another thread.

    Raises:
        TimeoutError: the loop did not come to it within ``timeout`` seconds; it may do so yet.
    """
    done: concurrent.futures.Future[ResultT] = concurrent.futures.Future()

    def call() -> None:
        try:
            done.set_result(function())
        except BaseException as error:
            done.set_exception(error)

    loop.call_soon_threadsafe(call)
    return done.result(timeout)
