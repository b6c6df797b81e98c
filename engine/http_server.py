"""An ASGI application on a bound socket, in a loop that belongs to somebody else."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn.config
import uvicorn.server
from uvicorn.protocols.http.h11_impl import H11Protocol

from transport.errors import HeliographError
from transport.tls import HANDSHAKE_TIMEOUT

START_TIMEOUT = 5.0  # s
STOP_TIMEOUT = 5.0  # s, of which GRACE for requests in progress
GRACE = 2  # s; uvicorn takes whole seconds
HEAD_TIMEOUT = 10.0  # s until a connection's next request has arrived, but for its body
CONNECTIONS = 128  # at once; above it those go that have waited longest for a request, and if none waits, 503

_log = logging.getLogger(__name__)


class HttpServer:
    """Serves until :meth:`stop`; one life.

    It touches no signal handler, writes no access log and does not wake the loop while nothing happens.

    Args:
        app: the ASGI application; it gets no lifespan events.
        sock: bound, not listening; closed by :meth:`stop`.
        tls: for HTTPS.
        on_death: called with the reason if serving ends by itself.
    """

    def __init__(
        self,
        app: Any,
        sock: socket.socket,
        *,
        tls: ssl.SSLContext | None = None,
        on_death: Callable[[str], None] | None = None,
    ) -> None:
        self._sock, self._on_death = sock, on_death
        self._server = _Server(
            uvicorn.config.Config(
                app,
                http=_Protocol,
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                limit_concurrency=CONNECTIONS + 1,
                timeout_graceful_shutdown=GRACE,
            ),
            tls,
        )
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    async def start(self) -> None:
        """Return when connections are accepted.

        Raises:
            HeliographError: that did not come to pass.
        """
        assert self._task is None, "an HttpServer has one life"
        self._task = asyncio.create_task(self._server.serve(sockets=[self._sock]), name="http")
        accepting = asyncio.create_task(self._server.accepting.wait(), name="http accepting")
        try:
            await asyncio.wait({self._task, accepting}, timeout=START_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
        finally:
            accepting.cancel()
        if not self._server.accepting.is_set():
            reason = _reason(self._task) if self._task.done() else f"not accepting within {START_TIMEOUT:g} s"
            await self.stop()
            raise HeliographError(f"HTTP server: {reason}")
        self._task.add_done_callback(self._ended)

    async def stop(self) -> None:
        """Accept no more, finish requests in progress, cut off what takes longer than ``GRACE``. Idempotent."""
        self._stopping = True
        self._server.leave.set()
        if self._task is not None:
            done, _ = await asyncio.wait({self._task}, timeout=STOP_TIMEOUT)
            if not done:
                self._task.cancel()
                await asyncio.wait({self._task}, timeout=STOP_TIMEOUT)
            for server in getattr(self._server, "servers", ()):  # still listening if serving ended by itself
                server.close()
            state = self._server.server_state
            for connection in list(state.connections):
                connection.transport.abort()
            if state.tasks:  # cancelled by uvicorn, which does not wait
                await asyncio.wait(state.tasks, timeout=STOP_TIMEOUT)
        self._sock.close()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not self._stopping:
            reason = f"HTTP server ended: {_reason(task)}"
            _log.error(reason)
            if self._on_death is not None:
                self._on_death(reason)


class _Server(uvicorn.server.Server):
    """uvicorn's server as a guest: signals stay the owner's, and it waits instead of looking ten times a second."""

    def __init__(self, config: uvicorn.config.Config, tls: ssl.SSLContext | None) -> None:
        super().__init__(config)
        self._tls = tls
        self.accepting, self.leave = asyncio.Event(), asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # uvicorn's own takes files instead of a context, and gives a TLS handshake a minute.
        assert sockets is not None
        config = self.config

        def connect() -> asyncio.Protocol:
            state = self.server_state
            return config.http_protocol_class(config=config, server_state=state, app_state={})  # type: ignore[call-arg]

        timeout = None if self._tls is None else HANDSHAKE_TIMEOUT
        loop = asyncio.get_running_loop()
        self.servers = [
            await loop.create_server(connect, sock=sock, ssl=self._tls, ssl_handshake_timeout=timeout)
            for sock in sockets
        ]
        self.started = True
        self.accepting.set()

    async def main_loop(self) -> None:
        await self.leave.wait()


class _Protocol(H11Protocol):
    """uvicorn's h11 protocol, which by itself waits for ever for the first request and for whoever does not read."""

    _deadline: asyncio.TimerHandle | None = None
    _waiting_since = 0.0  # loop's time

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect()
        others = [other for other in self.connections if other is not self and not other.transport.is_closing()]
        if len(others) >= CONNECTIONS:
            # A stranger's silent connections must not keep an operator out.
            waiting = [other for other in others if isinstance(other, _Protocol) and other._waits()]
            if waiting:
                min(waiting, key=lambda other: other._waiting_since).transport.abort()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._deadline is not None:
            self._deadline.cancel()

    def _waits(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _expect(self) -> None:
        self._waiting_since = self.loop.time()
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(HEAD_TIMEOUT, self._too_late)

    def _too_late(self) -> None:
        if self.transport.is_closing():
            self.transport.abort()  # closed, and it does not take what was still to be sent
        else:
            if self._waits():
                self.transport.close()
            self._expect()


def _reason(task: asyncio.Task[None]) -> str:
    error = None if task.cancelled() else task.exception()
    return f"{type(error).__name__}: {error}" if error is not None else "cancelled" if task.cancelled() else "no reason"
