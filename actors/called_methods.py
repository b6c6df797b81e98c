"""What a client answers when somebody calls: handlers by topic and method, each call a task of its own.

For :class:`actors.inner_client.InnerClient` and :class:`heliograph.Client` alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, TypeAlias

import msgspec

from actors.call_desk import CALL_TIMEOUT
from transport.client_messages import CallMessage
from transport.codes import ErrorCode
from transport.errors import HeliographError, RequestError
from transport.event import to_json
from transport.requests import CallError, Result

Handler: TypeAlias = Callable[[Any, str | None], Any]
"""``handler(params, caller) → result``, sync or async; ``caller`` is a user, ``None``: a session of nobody's. A
:class:`RequestError` that it raises is the caller's."""
MESSAGE_SHOWN = 1_000  # characters of an error's text that the caller is told

_log = logging.getLogger(__name__)


class CalledMethods:
    """At most as many calls at once as the hub lets wait for one session. All of it on one loop.

    Args:
        turn: held while a handler runs; without it they run side by side.

    Attributes:
        handlers: by topic; to be changed at will.
    """

    def __init__(self, turn: AbstractAsyncContextManager[Any] | None = None) -> None:
        self.handlers: dict[str, Mapping[str, Handler]] = {}
        self._turn: AbstractAsyncContextManager[Any] = nullcontext() if turn is None else turn
        self._running: set[asyncio.Task[None]] = set()

    def called(self, message: CallMessage, send: Callable[[Result], Awaitable[Any]]) -> None:
        """Run the handler; what it gives goes out by ``send``, as one request."""
        name = f"{message.method} of {message.topic}"
        task = asyncio.get_running_loop().create_task(self._answer(message, send, name), name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def end(self, within: float) -> None:
        """Cancel what runs, which answers nobody then, and wait for it, ``within`` seconds at most. A handler that asks
        for it goes on."""
        self.handlers.clear()
        running = self._running - {asyncio.current_task()}
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=within)

    async def _answer(self, message: CallMessage, send: Callable[[Result], Awaitable[Any]], name: str) -> None:
        answer, task = Result(id=0, call=message.call), asyncio.current_task()
        assert task is not None, "each call is one"
        try:
            # Nobody waits any longer then: the hub has told the caller.
            async with asyncio.timeout(CALL_TIMEOUT) as limit, self._turn:
                answer.result = msgspec.Raw(await self._run(message))
        except RequestError as error:
            answer.error = CallError(error.code, error.message[:MESSAGE_SHOWN], error.field)
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and task.cancelling():
                raise  # else it is of something that the handler has awaited
            if isinstance(error, TimeoutError) and limit.expired():
                _log.error("%s did not answer within %g s", name, CALL_TIMEOUT)
                return
            # What went wrong inside is for this side's log; the caller learns where to look.
            _log.error("%s failed", name, exc_info=error)
            answer.error = CallError(ErrorCode.INTERNAL, f"{name} failed: {type(error).__name__}")
        try:
            await send(answer)
        except RequestError as error:
            _log.warning("the answer of %s was not taken: %s", name, error)
            if error.code is not ErrorCode.UNAVAILABLE:  # else the engine has told the caller
                code = error.code if error.code is ErrorCode.LIMIT_EXCEEDED else ErrorCode.INTERNAL
                text = f"{name}: its answer could not be sent"
                with contextlib.suppress(HeliographError):
                    await send(Result(id=0, call=message.call, error=CallError(code, text)))
        except HeliographError as error:  # the caller is told by the engine
            _log.warning("the answer of %s came too late: %s", name, error)

    async def _run(self, message: CallMessage) -> bytes:
        handler = self.handlers.get(message.topic, {}).get(message.method)
        if handler is None:  # it was served a moment ago
            raise RequestError(
                ErrorCode.NOT_FOUND, f"{message.topic} has no method {message.method!r} any more", "method"
            )
        try:
            params = msgspec.json.decode(message.params)
        except msgspec.DecodeError as error:  # 1e999 is JSON, too
            raise RequestError(ErrorCode.BAD_REQUEST, f"params: {error}", "params") from None
        result = handler(params, message.user)
        result = await result if inspect.isawaitable(result) else result
        try:
            return to_json(result, "result")
        except RequestError as error:  # nothing that the caller could mend
            raise TypeError(error.message) from None
