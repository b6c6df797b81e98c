"""The Socket.IO door of a worker: packets of Engine.IO clients to the namespaces that they are in.

A client is one Engine.IO session (a :class:`Visitor`) and in each of its namespaces a plain :class:`Session`, which is
served as those of native clients.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from actors.clients import Clients
from actors.namespace_connection import NamespaceConnection, Space
from actors.session import Connection
from transport.codes import CloseCode
from transport.socketio import Decoder, Kind, Packet, SocketIoError, encode

NAMESPACES: Final = 16
"""That one client may be in at once."""
TASKS: Final = 16
"""Methods of the application that run for one client at once; beyond, it is not read."""
REFUSALS: Final = 16
"""For one connection; then it is closed, and the limits on new ones count."""
STRANGERS: Final = 4_096
"""Clients of a worker that are in no namespace: they count for no limit. The oldest are closed."""

_log = logging.getLogger(__name__)


class SocketIoDoor:
    """One per worker, on its loop.

    Args:
        clients: owns the sessions.
        spaces: what there is, by namespace.
        connect_timeout: seconds for a client to be in a namespace, from the beginning and again whenever it is in none.
        max_payload: bytes of a packet with its attachments.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clients: Clients,
        spaces: Mapping[str, Space],
        connect_timeout: float,
        max_payload: int,
    ) -> None:
        self.loop, self.clients, self.spaces = loop, clients, spaces
        self.connect_timeout, self.max_payload = connect_timeout, max_payload
        self._strangers: dict[Visitor, None] = {}  # in the order of their coming

    def accept(self, socket: Connection) -> Visitor:
        """An Engine.IO session (:class:`transport.engine_socket.EngineSocket`) has begun."""
        return Visitor(self, socket)

    def nowhere(self, visitor: Visitor) -> None:
        """It is in no namespace."""
        self._strangers[visitor] = None
        if len(self._strangers) > STRANGERS:
            _log.warning("too many Socket.IO clients that are in no namespace: the oldest are closed")
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]  # at once: of those that come in one turn each closes another
            oldest.socket.close(CloseCode.TRY_LATER, "too many clients")

    def somewhere(self, visitor: Visitor) -> None:
        """It is in one, or gone."""
        self._strangers.pop(visitor, None)


class Visitor:
    """What is behind one Engine.IO session; implements :class:`transport.engine_socket.EngineHandler`.

    One per client: what few of them need is made when it is needed.
    """

    __slots__ = (
        "_decoder",
        "_holds",
        "_refused",
        "_running",
        "_timer",
        "_waiting",
        "connections",
        "door",
        "known",
        "paused",
        "socket",
    )

    def __init__(self, door: SocketIoDoor, socket: Connection) -> None:
        self.door, self.socket = door, socket
        self.connections: dict[str, NamespaceConnection] = {}
        self.paused = False  # it does not read
        self.known: tuple[str, ...] = ()  # namespaces that it has knocked at
        self._decoder = Decoder(door.max_payload)
        self._holds: set[Any] | None = None  # who wants it not to be read
        self._running = 0  # tasks
        self._refused = 0  # times
        self._waiting: deque[tuple[bytes, bool]] | None = None  # what was read before that took effect
        self._timer: asyncio.TimerHandle | None = None
        self._watch()

    def on_message(self, data: bytes, binary: bool) -> None:
        """One message of Engine.IO's; what is no packet, or comes before a CONNECT, ends the connection."""
        if self._running >= TASKS or self._waiting:
            self._waiting = self._waiting or deque()
            self._waiting.append((data, binary))
        else:
            self._read(data, binary)

    def _read(self, data: bytes, binary: bool) -> None:
        try:
            packet = self._decoder.binary(data) if binary else self._decoder.text(data)
        except SocketIoError as error:
            self._close(str(error))
            return
        if packet is not None:
            self._take(packet)

    def on_paused(self) -> None:
        """Write no more."""
        self.paused = True
        for connection in tuple(self.connections.values()):
            connection.session.on_paused()

    def on_resumed(self) -> None:
        """There is room again."""
        self.paused = False
        for connection in tuple(self.connections.values()):
            connection.session.on_resumed()

    def on_rewired(self) -> None:
        """``write`` is another one."""
        for connection in tuple(self.connections.values()):
            connection.rewire()

    def on_closed(self, code: int, reason: str) -> None:
        """The session is over: its clients leave all namespaces."""
        self._waiting = self._holds = None
        for connection in tuple(self.connections.values()):
            connection.lost(code)
        self._stop_watch()

    # packets ---------------------------------------------------------------------------------------------------------

    def _take(self, packet: Packet) -> None:
        kind, namespace = packet.kind, packet.namespace
        if kind is Kind.CONNECT:
            self._connect(packet)
            return
        connection = self.connections.get(namespace)
        if connection is None or not connection.open:
            # One that was in may not have heard yet that it is out; who is being let in cannot leave.
            if namespace not in self.known or (connection is not None and kind is Kind.DISCONNECT):
                self._close("a packet for a namespace that it is not in")
        elif kind is Kind.EVENT:
            connection.event(packet)
        elif kind is Kind.DISCONNECT:
            connection.left()
        elif kind is not Kind.ACK:  # nobody here asks for acknowledgements: one that comes is for nothing
            self._close(f"a packet of type {kind.value} from a client")

    def _connect(self, packet: Packet) -> None:
        namespace = packet.namespace
        if self.paused:  # answers that are no session's are bounded by this
            self.socket.close(CloseCode.SLOW, "it does not read")
            return
        try:
            values = packet.values()
        except SocketIoError as error:
            self._close(str(error))
            return
        space = self.door.spaces.get(namespace)
        if space is None:
            self._refuse(namespace, "Invalid namespace")
        elif namespace in self.connections:
            self._close("it is in that namespace already")
        elif len(self.connections) >= NAMESPACES:
            self._refuse(namespace, f"a client may be in {NAMESPACES} namespaces at once")
        else:
            if namespace not in self.known:
                self.known += (namespace,)
            connection = self.connections[namespace] = NamespaceConnection(self, namespace, space)
            self._stop_watch()
            connection.knock(values[0] if values else None)

    def _refuse(self, namespace: str, message: str) -> None:
        self.refuse(encode(Kind.CONNECT_ERROR, namespace, data={"message": message}))

    def refuse(self, frames: bytes) -> None:
        """It may not enter a namespace. Who is refused again and again has to make another connection for more."""
        self.socket.write(frames)
        self._refused += 1
        if self._refused >= REFUSALS:
            self._close("refused too often")

    def _close(self, why: str) -> None:
        _log.info("a Socket.IO client was closed: %s", why, extra={"address": self.socket.address})
        self._waiting = None
        self.socket.close(CloseCode.PROTOCOL_ERROR, why)

    # of its namespaces -----------------------------------------------------------------------------------------------

    def left(self, connection: NamespaceConnection) -> None:
        """It is out of a namespace."""
        self.connections.pop(connection.namespace, None)
        self.release(connection)
        if not self.connections:
            self._watch()

    def _watch(self) -> None:
        self.door.nowhere(self)
        self._timer = self.door.loop.call_later(self.door.connect_timeout, self._nowhere)

    def _stop_watch(self) -> None:
        self.door.somewhere(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _nowhere(self) -> None:
        self._timer = None
        self.socket.close(CloseCode.NORMAL, "in no namespace")

    # reading ---------------------------------------------------------------------------------------------------------

    def hold(self, who: Any) -> None:
        """Do not read the client, until all who wanted that have released it."""
        if not self._holds:
            self._holds = set()
            self.socket.pause_reading()
        self._holds.add(who)

    def release(self, who: Any) -> None:
        """See :meth:`hold`; harmless from who does not hold it."""
        if self._holds and who in self._holds:
            self._holds.discard(who)
            if not self._holds:
                self.socket.resume_reading()

    def began(self) -> None:
        """A task runs for it."""
        self._running += 1
        if self._running >= TASKS:
            self.hold(self)

    def ended(self) -> None:
        """A task is over: what waited for that is next."""
        self._running -= 1
        while self._waiting and self._running < TASKS:
            self._read(*self._waiting.popleft())
        if self._running < TASKS and not self._waiting:
            self.release(self)
