"""``tell`` and ``ask`` across the bus: a :class:`RemoteRef` here, a :class:`Dispatcher` at the other end.

Works in both directions over anything with ``send(packed)``: a :class:`transport.bus_server.Peer` or a
:class:`transport.bus_client.BusClient`. The bus's owner gives each message of a batch to :meth:`RemoteLink.receive`
and says when the link is lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial
from inspect import iscoroutine
from typing import Any, Protocol

from transport.codec import pack
from transport.codes import ErrorCode
from transport.errors import CodecError, ConnectionLost, RequestError
from transport.messages import Ask, Refused, Reply, Tell

_log = logging.getLogger(__name__)
ASK_TIMEOUT = 5.0
"""Seconds that an ask waits for its answer unless told otherwise."""
MAX_PENDING = 10_000
"""Asks of one link without an answer; more are refused."""
MAX_RUNNING = 1_000
"""Asynchronous handlers of one dispatcher that may run at once; more are refused."""


class Outlet(Protocol):
    """The sending end of a bus link; raises :class:`ConnectionLost` while there is none."""

    def send(self, packed: bytes) -> None: ...


class RemoteRef:
    """An actor at the other end of a link, by name."""

    __slots__ = ("_link", "actor")

    def __init__(self, link: RemoteLink, actor: str) -> None:
        self._link, self.actor = link, actor

    def __repr__(self) -> str:
        return f"<RemoteRef {self.actor}>"

    def tell(self, method: str, body: Any = None) -> None:
        """Send and forget; whether it arrives is not told. ``body`` is what msgpack can express.

        Raises:
            ConnectionLost: there is no link now.
            CodecError: ``body`` cannot be packed.
        """
        self._link.send(Tell(self.actor, method, body))

    async def ask(self, method: str, body: Any = None, timeout: float = ASK_TIMEOUT) -> Any:  # noqa: ASYNC109  # pykka's
        """Send and return the answer; tuples come back as lists.

        Raises:
            RequestError: the code with which the other end refused; ``unavailable`` as soon as the link is lost, or
                after ``timeout`` seconds: the outcome is then unknown.
            CodecError: ``body`` cannot be packed.
        """
        ref, answer = self._link.ask(self.actor, method, body)
        try:
            async with asyncio.timeout(timeout):
                return await answer
        except TimeoutError:
            message = f"{self.actor}.{method} did not answer within {timeout:g} s"
            raise RequestError(ErrorCode.UNAVAILABLE, message) from None
        finally:
            self._link.forget(ref)


class RemoteLink:
    """The questions and answers of one bus link. Lives on the loop's thread, for as long as its outlet.

    Its asks have negative numbers, so that a :class:`~transport.messages.Refused` says by its sign whether it answers
    an ask or the owner's own publish.
    """

    def __init__(self, outlet: Outlet, dispatcher: Dispatcher | None = None) -> None:
        self._outlet, self._dispatcher = outlet, dispatcher
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._last = 0

    def ref(self, actor: str) -> RemoteRef:
        """The actor named ``actor`` at the other end, whether or not it exists."""
        return RemoteRef(self, actor)

    def receive(self, message: Any) -> bool:
        """Take a message from the bus; returns false if it is not for this module."""
        kind = type(message)
        if kind is Ask or kind is Tell:
            if self._dispatcher is not None:
                self._dispatcher.dispatch(self._outlet, message)
            elif kind is Ask:
                _send_answer(self._outlet, Refused(message.ref, ErrorCode.NOT_FOUND, "no actor answers on this link"))
            return True
        if kind is Reply or (kind is Refused and message.ref < 0):
            answer = self._pending.get(message.ref)  # none: its asker gave up
            if answer is not None and not answer.done():
                if kind is Reply:
                    answer.set_result(message.body)
                else:
                    answer.set_exception(_error(message))
            return True
        return False

    def lost(self, reason: str) -> None:
        """The link is gone: every ask that waits fails at once with ``unavailable``. A later link may be used again."""
        for answer in self._pending.values():
            if not answer.done():
                answer.set_exception(RequestError(ErrorCode.UNAVAILABLE, f"the other end is gone: {reason}"))

    def send(self, message: Tell | Ask) -> None:
        """Pack and send; :class:`ConnectionLost` while there is no link."""
        self._outlet.send(pack(message))

    def ask(self, actor: str, method: str, body: Any) -> tuple[int, asyncio.Future[Any]]:
        """Send a question; returns its number and where its answer comes. :meth:`forget` it in any case."""
        if len(self._pending) >= MAX_PENDING:
            raise RequestError(ErrorCode.LIMIT_EXCEEDED, f"{MAX_PENDING} questions wait on this link already")
        self._last -= 1
        ref = self._last
        try:
            self.send(Ask(ref, actor, method, body))
        except ConnectionLost as error:
            raise RequestError(ErrorCode.UNAVAILABLE, str(error)) from None
        answer = self._pending[ref] = asyncio.get_running_loop().create_future()
        return ref, answer

    def forget(self, ref: int) -> None:
        """The asker no longer waits."""
        self._pending.pop(ref, None)


class Dispatcher:
    """Names of actors and what may be asked of them. One serves any number of links, on the loop's thread.

    A plain handler runs within :meth:`RemoteLink.receive`; an ``async`` one runs as a task of the dispatcher, so its
    answer may be overtaken by later ones.
    """

    def __init__(self) -> None:
        self._handlers: dict[tuple[str, str], Callable[[Any], Any]] = {}
        self._running: set[asyncio.Task[Any]] = set()

    def register(self, actor: str, target: object, methods: Iterable[str]) -> None:
        """Make ``target.on_<method>(body)`` callable as ``actor``, for each of ``methods`` and nothing else.

        Raises:
            ValueError: the name is taken, or ``target`` lacks a method.
        """
        for method in methods:
            handler = getattr(target, f"on_{method}", None)
            if not callable(handler):
                raise ValueError(f"{actor} has no on_{method}")
            if (actor, method) in self._handlers:
                raise ValueError(f"{actor}.{method} is registered already")
            self._handlers[actor, method] = handler

    def unregister(self, actor: str) -> None:
        """Forget the actor; what runs goes on."""
        for key in [key for key in self._handlers if key[0] == actor]:
            del self._handlers[key]

    def dispatch(self, outlet: Outlet, message: Tell | Ask) -> None:
        """Run the handler; an :class:`Ask` is answered on ``outlet``. Never raises."""
        handler = self._handlers.get((message.actor, message.method))
        if handler is None:
            _refuse(outlet, message, RequestError(ErrorCode.NOT_FOUND, f"there is no {message.actor}.{message.method}"))
            return
        try:
            result = handler(message.body)
        except Exception as error:
            _refuse(outlet, message, error)
            return
        if not iscoroutine(result):
            _answer(outlet, message, result)
        elif len(self._running) >= MAX_RUNNING:
            result.close()
            _refuse(outlet, message, RequestError(ErrorCode.LIMIT_EXCEEDED, f"{MAX_RUNNING} handlers run already"))
        else:
            name = f"{message.actor}.{message.method}"
            task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(result, name=name)
            self._running.add(task)
            task.add_done_callback(partial(self._finished, outlet, message))

    async def close(self) -> None:
        """Cancel what runs, and wait for it; its askers are refused with ``unavailable``."""
        running = tuple(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _finished(self, outlet: Outlet, message: Tell | Ask, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if task.cancelled():
            why = f"{message.actor} stopped before it answered"
            _refuse(outlet, message, RequestError(ErrorCode.UNAVAILABLE, why))
        elif (error := task.exception()) is not None:
            _refuse(outlet, message, error)
        else:
            _answer(outlet, message, task.result())


def _answer(outlet: Outlet, message: Tell | Ask, value: Any) -> None:
    if isinstance(message, Tell):
        return
    try:
        _send_answer(outlet, Reply(message.ref, value))
    except CodecError as error:
        _refuse(outlet, message, error)


def _refuse(outlet: Outlet, message: Tell | Ask, error: BaseException) -> None:
    refused = error if isinstance(error, RequestError) else None
    if refused is None:
        _log.error("%s.%s failed", message.actor, message.method, exc_info=error)
    elif isinstance(message, Tell):
        _log.warning("%s.%s was told in vain: %s", message.actor, message.method, refused)
    if isinstance(message, Tell):
        return
    if refused is None:
        # What went wrong inside is for this side's log; the asker learns where to look.
        refused = RequestError(ErrorCode.INTERNAL, f"{message.actor}.{message.method} failed: {type(error).__name__}")
    _send_answer(outlet, Refused(message.ref, refused.code, refused.message, refused.field))


def _send_answer(outlet: Outlet, message: Reply | Refused) -> None:
    """Send an answer; if its asker has gone, nobody waits for it."""
    try:
        outlet.send(pack(message))
    except ConnectionLost as error:
        _log.debug("an answer came too late: %s", error)


def _error(message: Refused) -> RequestError:
    try:
        return RequestError(message.code, message.message, message.field)
    except ValueError:
        return RequestError(ErrorCode.INTERNAL, f"refused with an unknown code {message.code!r}: {message.message}")
