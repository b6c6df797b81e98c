"""What a client has of the engine now: a connection or none, and requests that outlast the loss of one."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Callable
from enum import StrEnum
from typing import Any, TypeVar

from actors.backoff import Backoff, BackoffPolicy
from engine.client_connection import ClientConnection
from transport.codes import ErrorCode
from transport.errors import ConnectionLost, HeliographError, RequestError
from transport.requests import Request

REFUSED_FOR_NOW = frozenset((ErrorCode.UNAVAILABLE, ErrorCode.RATE_LIMITED))
"""Asking again may help."""

AnswerT = TypeVar("AnswerT")
_log = logging.getLogger("heliograph.client")


class State(StrEnum):
    """Where a client stands; the log tells each change."""

    NEW = "new"
    CONNECTING = "connecting"
    OPEN = "open"
    CLOSED = "closed"


class ClientLink:
    """One for a client's life, while connections come and go; :class:`engine.client_keeper.ClientKeeper` sees to that.

    Args:
        url: of the engine.
        request_timeout: seconds a request may take, waiting for a connection included.
        reconnect: how long to wait between repetitions.
    """

    def __init__(self, url: str, request_timeout: float, reconnect: BackoffPolicy) -> None:
        self.url, self.request_timeout, self.reconnect = url, request_timeout, reconnect
        self._state = State.NEW
        self._failure: HeliographError | None = None
        self._connection: ClientConnection | None = None
        self._changed = asyncio.Event()  # set while OPEN or CLOSED

    @property
    def state(self) -> State:
        """Where the client stands now."""
        return self._state

    @property
    def session(self) -> str:
        """The engine's name for the present connection; empty without one."""
        return self._connection.welcome.session if self._connection is not None else ""

    # What stands on it

    async def request(
        self,
        request: Request,
        answer: type[AnswerT],
        *,
        repeat: bool = True,
        insist: bool = False,
        on_answer: Callable[[AnswerT], None] | None = None,
        within: float | None = None,
    ) -> AnswerT:
        """Ask the engine, as soon as there is a connection.

        Args:
            repeat: after a lost connection.
            insist: while the engine is ``unavailable``.
            on_answer: see :meth:`ClientConnection.request`.
            within: seconds, else ``request_timeout``.

        Raises:
            RequestError: refused.
            ConnectionLost: outcome unknown, or no connection in time.
            HeliographError: the client is not open.
        """
        seconds = self.request_timeout if within is None else within
        refused: RequestError | None = None
        backoff = self.patience()
        try:
            async with asyncio.timeout(seconds):
                while True:
                    connection = await self._connected()
                    try:
                        return await connection.request(request, answer, on_answer)
                    except ConnectionLost:
                        if not repeat:
                            raise
                        refused = None
                    except RequestError as error:
                        if not insist or error.code != ErrorCode.UNAVAILABLE:
                            raise
                        refused = error
                        await asyncio.sleep(backoff.failed())
        except TimeoutError:
            if refused is not None:
                raise refused from None
            what = "answer; outcome unknown" if self._state is State.OPEN else "connection"
            raise ConnectionLost(f"{self.url}: after {seconds:g} s no {what}") from None

    async def renounce(self, request: Request, answer: type[Any]) -> None:
        """Ask the engine to end what ends with the connection anyway: without one, or if that fails, it is done."""
        if self._connection is not None:
            with contextlib.suppress(HeliographError, TimeoutError):
                async with asyncio.timeout(self.request_timeout):
                    await self._connection.request(request, answer)

    def check_open(self) -> None:
        """Raise before the client is entered (:class:`HeliographError`), and after its end (what ended it)."""
        if self._state is State.NEW:
            raise HeliographError("the client is not open: use `async with Client(url) as client`")
        if self._state is State.CLOSED:
            raise self._failure or ConnectionLost("the client is closed")

    def patience(self) -> Backoff:
        """Between repetitions of one request: however long the engine took to refuse, it is no success."""
        return Backoff(dataclasses.replace(self.reconnect, stable_s=float("inf")))

    # The keeper's side

    async def settled(self) -> None:
        """Until the client is open; raises what ended it before."""
        await self._changed.wait()
        if self._failure is not None:
            raise self._failure

    def opened(self, connection: ClientConnection) -> None:
        """Requests go there from now on."""
        self._connection = connection
        self._become(State.OPEN, f"connected to {self.url}")

    def lost(self) -> None:
        """The connection is gone."""
        self._connection = None
        self._become(State.CONNECTING)

    def connecting(self, why: str = "") -> None:
        """There is no connection, but there will be; ``why`` not yet."""
        self._become(State.CONNECTING, why)

    def end(self, failure: HeliographError | None) -> None:
        """There will be none any more: requests raise ``failure`` from now on."""
        self._failure = failure
        self._become(State.CLOSED)

    async def _connected(self) -> ClientConnection:
        while self._connection is None:
            self.check_open()
            await self._changed.wait()
        return self._connection

    def _become(self, state: State, why: str = "") -> None:
        if self._state is State.CLOSED:
            return
        if state is not self._state or why:
            level = logging.INFO if state is State.OPEN or not why else logging.WARNING
            _log.log(level if why else logging.DEBUG, "%s", why or state)
        self._state = state
        if state in (State.OPEN, State.CLOSED):
            self._changed.set()
        else:
            self._changed.clear()
