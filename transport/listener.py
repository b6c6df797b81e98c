"""The listening socket and the connections that came through it.

Several workers listen on one port with ``SO_REUSEPORT``; the kernel spreads new connections over them.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
import sys
from collections.abc import Coroutine, Mapping
from functools import partial
from typing import Any, Final

from transport.codes import RefusalReason
from transport.descriptors import highest_descriptor
from transport.door import Connected, Door, Mount
from transport.errors import HeliographError
from transport.gate import Gate, GatePolicy, too_often
from transport.http import Heads
from transport.keepalive import Keepalive
from transport.refusals import Refusals
from transport.websocket import ConnectionLimits, WebSocketConnection

BACKLOG: Final = 4096  # the kernel cuts it to net.core.somaxconn
NOTSENT_LOWAT: Final = 64 * 1024  # bytes
ACCEPTS: Final = 32  # connections a turn of the loop, so that a flood of them does not hold up the flush for long
HANDSHAKES: Final = 4_096  # connections that have not said what they want, and as many in TLS's; the oldest are dropped
FULL_PAUSE: Final = 1.0  # seconds without accepting when descriptors run out
# Linux 25, macOS 0x201; missing from the socket module before Python 3.12.
_TCP_NOTSENT_LOWAT = {"linux": 25, "darwin": 0x201}.get(sys.platform)

_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

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

    How many clients are let in is the door's decision, which can then say why. What is bounded here costs others
    something before a door is reached: descriptors (near the process's limit accepting pauses, and clients wait in the
    kernel's queue), connections from one address (the gate's decision; refused with 429 or, under TLS, just closed),
    and handshakes that are not done.

    Accepting is done here and not by the loop's server: that would close what waits when descriptors run out, and make
    a transport for whom it then refuses. Without TLS it takes 20 µs up to the connection; with a task for each it was
    30.

    Args:
        loop: the loop of the thread that uses it.
        sock: see :func:`bind`; belongs to the listener from now on.
        door: who decides.
        limits: what a connection may take; may be exchanged for those to come.
        gate: who may knock; none: anybody.
        tls: none: clients speak in the clear.
        refusals: where connections of which no session comes are counted, by :class:`RefusalReason`.
        mounts: who answers in place of the door, by path; started, drained and stopped with the listener.

    Attributes:
        connections: all of them, those in the handshake and those closing included, but for those in TLS's handshake.
        paused: whether descriptors have run out.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        door: Door,
        limits: ConnectionLimits,
        gate: Gate | None = None,
        tls: ssl.SSLContext | None = None,
        refusals: dict[str, int] | None = None,
        mounts: Mapping[str, Mount] | None = None,
    ) -> None:
        self.limits = limits
        self.gate = gate or Gate(GatePolicy(), loop.time)
        self.heads = Heads()
        self.mounts = {} if mounts is None else mounts
        self.connections: set[Connected] = set()
        self.paused = False
        self._loop, self._sock, self._door, self._tls = loop, sock, door, tls
        self._port = int(sock.getsockname()[1])
        self._family = sock.family  # asked for at each connection
        self._keepalive = Keepalive(loop, limits.tick)
        self._refusals = Refusals(loop)
        self._counted = {} if refusals is None else refusals
        # In order of arrival: dictionaries without values.
        self._arriving: dict[asyncio.Task[None], None] = {}
        self._adopting: set[asyncio.Task[None]] = set()
        self._unfinished: dict[Connected, None] = {}
        self._retry: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def port(self) -> int:
        """The number it listens on."""
        return self._port

    async def start(self) -> None:
        """Listen."""
        self._keepalive.start()
        for mount in self._mounted():
            mount.start()
        self._sock.listen(BACKLOG)
        self._loop.add_reader(self._sock, self._accept)

    async def stop_accepting(self) -> None:
        """Close the listening socket; connections live on. Clients in the kernel's queue are reset. Idempotent."""
        if self._retry is not None:
            self._retry.cancel()
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._sock.close()
        self._refusals.stop()
        for mount in self._mounted():
            mount.shut()

    def drop_unfinished(self) -> None:
        """Drop those still in the handshake, to whom nothing was promised: a silent one would hold up the end."""
        self._cancel_tls()
        for mount in self._mounted():
            mount.drain()
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
        self._cancel_tls()
        if arriving := self._arriving.keys() | self._adopting:
            await asyncio.wait(arriving)
        await asyncio.sleep(0)  # what was accepted in this turn is connected in the next
        for mount in self._mounted():
            mount.stop()
        self._abort_all()
        await self.wait_closed(0.0)
        self._keepalive.stop()

    def adopt(self, sock: socket.socket, peer: tuple[str, int], received: bytes) -> None:
        """Take in a connection that another worker has accepted, and has read ``received`` of; also when stopping.

        Args:
            sock: non-blocking, in the clear; belongs to the listener from now on.
            peer: the client's host and port, which need not be the socket's.
        """
        if sock.fileno() >= highest_descriptor():
            _log.warning("a connection from another worker is dropped: descriptors run out")
            sock.close()
            return
        connection = _Adopted(self._door, self.limits, self._keepalive, self, peer, received)
        task = self._loop.create_task(self._join(sock, connection), name="adoption")
        self._adopting.add(task)
        task.add_done_callback(self._adopting.discard)

    def joined(self, connection: Connected) -> None:
        """Called by the connection."""
        self.connections.add(connection)
        self._empty.clear()
        self._unfinished[connection] = None
        if len(self._unfinished) > HANDSHAKES:
            _log.warning("too many clients that do not say what they want: the oldest are dropped")
            self.refused(RefusalReason.CROWDED)
            oldest = next(iter(self._unfinished))
            del self._unfinished[oldest]  # at once: of those that come in one turn each drops another
            oldest.abort()

    def opened(self, connection: Connected) -> None:
        """Called by the connection."""
        del self._unfinished[connection]

    def refused(self, reason: RefusalReason) -> None:
        """Called by the connection, and here for those that have got none."""
        self._counted[reason] = self._counted.get(reason, 0) + 1

    def left(self, connection: Connected) -> None:
        """Called by the connection."""
        self.connections.discard(connection)
        self._unfinished.pop(connection, None)
        if not self.connections:
            self._empty.set()

    def resume(self, transport: asyncio.Transport, peer: tuple[str, int], received: bytes) -> None:
        """Called by a mount: what it has taken begins anew."""
        connection = self._connection()
        transport.set_protocol(connection)
        connection.connection_made(transport)
        connection.host, connection.address = peer[0], f"{peer[0]}:{peer[1]}"
        connection.data_received(received)

    def _mounted(self) -> set[Mount]:
        return set(self.mounts.values())  # one may have several paths

    def _abort_all(self) -> None:
        for connection in tuple(self.connections):
            connection.abort()

    def _cancel_tls(self) -> None:
        # Others arrive within a turn of the loop, and a loop whose task is cancelled then tells the connection nothing.
        if self._tls is not None:
            for task in tuple(self._arriving):
                task.cancel()

    # accepting -------------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        highest = highest_descriptor()
        for _ in range(ACCEPTS):
            try:
                descriptor, address = self._sock._accept()  # type: ignore[attr-defined]  # accept() asks for enums thrice
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause(str(error))
                    return
                continue  # one that went again while it waited
            sock = socket.socket(self._family, socket.SOCK_STREAM, 0, descriptor)
            wait = self.gate.wait(address[0])
            if wait:
                self._refuse(sock, wait)
                continue
            if self._tls is None:
                self._connect(sock)
            else:
                self._begin_tls(sock, self._tls)
            if descriptor >= highest:
                self._pause(f"{descriptor} are in use")
                return

    def _connect(self, sock: socket.socket) -> None:
        """Give it to the loop, which makes the connection in its next turn."""
        arriving = self._loop.connect_accepted_socket(self._connection, sock)
        try:
            made = arriving.send(None)
        except OSError as error:
            sock.close()
            _log.debug("a connection was lost as it came: %s", error)
            return
        made.add_done_callback(partial(_step, arriving))

    def _begin_tls(self, sock: socket.socket, tls: ssl.SSLContext) -> None:
        task = self._loop.create_task(self._shake_hands(sock, tls))
        self._arriving[task] = None
        task.add_done_callback(partial(self._arrived, sock))
        if len(self._arriving) > HANDSHAKES and self._drop_oldest():
            _log.warning("too many clients in the TLS handshake: the oldest are dropped")
            self.refused(RefusalReason.CROWDED)

    async def _join(self, sock: socket.socket, connection: WebSocketConnection) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: connection, sock)
        except OSError as error:
            sock.close()
            _log.debug("a connection was lost on its way here: %s", error)

    def _drop_oldest(self) -> bool:
        """Of those in TLS's handshake; false: it has ended by itself, just now."""
        return next(oldest for oldest in self._arriving if not oldest.cancelling()).cancel()

    async def _shake_hands(self, sock: socket.socket, tls: ssl.SSLContext) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._connection,
                sock,
                ssl=tls,
                ssl_handshake_timeout=self.limits.handshake_timeout,
                ssl_shutdown_timeout=self.limits.close_timeout,
            )
        except OSError as error:  # ssl.SSLError, ConnectionError and TimeoutError are some
            self.refused(RefusalReason.TLS)
            _log.debug("a connection was lost in its TLS handshake: %s", error)

    def _connection(self) -> WebSocketConnection:
        return WebSocketConnection(self._door, self.limits, self._keepalive, self)

    def _arrived(self, sock: socket.socket, task: asyncio.Task[None]) -> None:
        del self._arriving[task]
        if task.cancelled() and sock.fileno() >= 0:  # no transport has taken it
            sock.close()

    def _refuse(self, sock: socket.socket, wait: float) -> None:
        self.refused(RefusalReason.CONNECT_RATE)
        sock.setblocking(False)
        if self._tls is None:
            self._refusals.refuse(sock, too_often(wait).response())
        else:  # to say it would cost us a handshake
            sock.close()

    def _pause(self, why: str) -> None:
        self._loop.remove_reader(self._sock)
        self._retry = self._loop.call_later(FULL_PAUSE, self._resume)
        if not self.paused:
            self.paused = True
            self._refusals.stop()
            _log.error(
                "descriptors run out, accepting pauses; raise the limit on open files (ulimit -n): %s",
                why,
                extra={"event": "accepting_pauses", "connections": len(self.connections), "reason": why},
            )

    def _resume(self) -> None:
        try:
            lowest = os.dup(self._sock.fileno())
        except OSError:
            lowest = sys.maxsize
        else:
            os.close(lowest)
        if lowest < highest_descriptor():
            self.paused = False
            fields = {"event": "accepting_goes_on", "connections": len(self.connections)}
            _log.info("there are descriptors again, accepting goes on", extra=fields)
            self._loop.add_reader(self._sock, self._accept)
        else:
            self._retry = self._loop.call_later(FULL_PAUSE, self._resume)


def _step(arriving: Coroutine[Any, Any, Any], _made: object) -> None:
    """The transport is made: all that the loop's coroutine waits for. A task to wait with it would cost 5 µs."""
    try:
        arriving.send(None)
    except StopIteration:
        pass


class _Adopted(WebSocketConnection):
    """A connection whose first bytes another worker has read."""

    __slots__ = ("_first", "_peer")

    def __init__(
        self,
        door: Door,
        limits: ConnectionLimits,
        keepalive: Keepalive,
        owner: Listener,
        peer: tuple[str, int],
        received: bytes,
    ) -> None:
        super().__init__(door, limits, keepalive, owner)
        self._peer, self._first = peer, received

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.host, self.address = self._peer[0], f"{self._peer[0]}:{self._peer[1]}"
        # Not within this call: uvloop begins to read only after it, whatever the handler has said by then.
        self._keepalive.loop.call_soon(self._begin)

    def data_received(self, data: bytes) -> None:
        first, self._first = self._first, b""
        super().data_received(first + data)

    def _begin(self) -> None:
        if self._first and not self._transport.is_closing():
            self.data_received(b"")
