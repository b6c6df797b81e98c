"""The listening socket and the connections that came through it.

Several workers listen on one port with ``SO_REUSEPORT``; the kernel spreads new connections over them.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import socket
import sys
from typing import Final

from transport.errors import HeliographError
from transport.keepalive import Keepalive
from transport.websocket import ConnectionLimits, Door, WebSocketConnection

BACKLOG: Final = 4096  # the kernel cuts it to net.core.somaxconn
NOTSENT_LOWAT: Final = 64 * 1024  # bytes
FULL_PAUSE: Final = 1.0  # seconds without accepting when descriptors run out
RESERVED_DESCRIPTORS: Final = 64  # kept for what is no client: logs, the bus, files
# Linux 25, macOS 0x201; missing from the socket module before Python 3.12.
_TCP_NOTSENT_LOWAT = {"linux": 25, "darwin": 0x201}.get(sys.platform)

_log = logging.getLogger(__name__)


def bind(host: str, port: int, reuse_port: bool = True) -> socket.socket:
    """A bound TCP socket, not listening yet; accepted sockets inherit its options.

    Port 0 takes a free one, ``getsockname()[1]`` says which. With ``reuse_port`` others of the same user may then bind
    the same number, as long as all do so with ``reuse_port``; whoever bound first should keep its socket until then.

    Raises:
        HeliographError: the address is taken, not here, or may not be bound; the message names host and port.
    """
    if not 0 <= port <= 65535:  # the resolver would wrap it
        raise HeliographError(f"cannot listen on {_shown(host, port)}: a port is 0 to 65535")
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, proto)
    except (OSError, UnicodeError) as error:
        raise HeliographError(f"cannot listen on {_shown(host, port)}: {error}") from None
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if _TCP_NOTSENT_LOWAT is not None:
            # Otherwise the kernel takes 4 MB for a client that does not read, before anyone here notices.
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, NOTSENT_LOWAT)
        sock.bind(address)
    except OSError as error:
        sock.close()
        why = "the port is taken by another process" if error.errno == errno.EADDRINUSE else str(error)
        raise HeliographError(f"cannot listen on {_shown(host, port)}: {why}") from None
    return sock


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Listener:
    """Accepts connections on one socket and owns them, and the timer for their deadlines.

    How many clients are let in is the door's decision, which can then say why. What is bounded here are descriptors:
    near the process's limit accepting pauses, and clients wait in the kernel's queue.

    Args:
        loop: the loop of the thread that uses it.
        sock: see :func:`bind`; belongs to the listener from now on.
        door: who decides.
        limits: what a connection may take; may be exchanged for those to come.

    Attributes:
        connections: all of them, those in the handshake and those closing included.
        capacity: how many there may be before accepting pauses.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, door: Door, limits: ConnectionLimits
    ) -> None:
        self.limits = limits
        self.connections: set[WebSocketConnection] = set()
        self.capacity = _spare_descriptors()
        self._loop, self._sock, self._door = loop, sock, door
        self._keepalive = Keepalive(loop, limits.tick)
        self._server: asyncio.Server | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._reopening: asyncio.Task[None] | None = None
        self._stopped = False
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def port(self) -> int:
        """The number it listens on."""
        return int(self._sock.getsockname()[1])

    async def start(self) -> None:
        """Listen."""
        self._keepalive.start()
        await self._listen()

    async def stop_accepting(self) -> None:
        """Close the listening socket; connections live on. Clients in the kernel's queue are reset. Idempotent."""
        self._stopped = True
        if self._retry is not None:
            self._retry.cancel()
        if self._reopening is not None:
            await self._reopening
        self._shut()
        self._sock.close()

    def drop_unfinished(self) -> None:
        """Drop those still in the handshake, to whom nothing was promised: a silent one would hold up the end."""
        for connection in tuple(self.connections):
            if not connection.open and not connection.closing:
                connection.abort()

    async def wait_closed(self, patience: float) -> None:
        """Wait until the last connection is gone; what is left after ``patience`` seconds is dropped."""
        cut = self._loop.call_later(patience, self._abort_all)
        try:
            await self._empty.wait()
        finally:
            cut.cancel()

    async def stop(self) -> None:
        """Stop accepting, drop what is connected, and the timer."""
        await self.stop_accepting()
        self._abort_all()
        await self.wait_closed(0.0)
        self._keepalive.stop()

    def joined(self, connection: WebSocketConnection) -> None:
        """Called by the connection."""
        self.connections.add(connection)
        self._empty.clear()
        if len(self.connections) >= self.capacity and self._retry is None and not self._stopped:
            _log.error(
                "descriptors run out, accepting pauses; raise the limit on open files (ulimit -n)",
                extra={"connections": len(self.connections)},
            )
            self._shut()
            self._retry = self._loop.call_later(FULL_PAUSE, self._reopen)

    def left(self, connection: WebSocketConnection) -> None:
        """Called by the connection."""
        self.connections.discard(connection)
        if not self.connections:
            self._empty.set()

    def _abort_all(self) -> None:
        for connection in tuple(self.connections):
            connection.abort()

    def _connect(self) -> WebSocketConnection:
        return WebSocketConnection(self._door, self.limits, self._keepalive, self)

    async def _listen(self) -> None:
        # A duplicate, so that a pause closes that one: the socket itself stays and keeps its queue in the kernel.
        self._server = await self._loop.create_server(self._connect, sock=self._sock.dup(), backlog=BACKLOG)

    def _shut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _reopen(self) -> None:
        if len(self.connections) >= self.capacity:
            self._retry = self._loop.call_later(FULL_PAUSE, self._reopen)
        else:
            self._retry = None
            self._reopening = self._loop.create_task(self._listen_again(), name="accept again")

    async def _listen_again(self) -> None:
        try:
            await self._listen()
        except OSError as error:  # somebody else took the descriptors meanwhile
            _log.error("cannot accept yet: %s", error)
            if not self._stopped:
                self._retry = self._loop.call_later(FULL_PAUSE, self._reopen)


def _spare_descriptors() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return sys.maxsize
    return max(1, soft - len(os.listdir("/dev/fd")) - RESERVED_DESCRIPTORS)
