"""A Socket.IO client in one namespace: what its session needs of a socket, and its way in and out.

    KNOCKING ──► OPEN ──► CLOSED
        └─ refused ────────┘

Knocking it has a session already, which counts, and waits for its seat and for the application; what is written to it
meanwhile is kept, and follows the CONNECT packet that says that it is in.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from actors.clients import UNWELCOME, Unwelcome
from actors.namespace import ConnectionRefused, SocketClient
from actors.session import Session
from transport.codes import ByeReason, CloseCode, ErrorCode
from transport.errors import RequestError
from transport.socketio import Kind, Packet, encode
from transport.socketio_form import SocketIoForm

if TYPE_CHECKING:
    from actors.socketio_door import Visitor

EARLY_BYTES: Final = 1 << 20
"""Of what is written to a client before it is in; with more it is refused."""
BY_CLIENT: Final = "client namespace disconnect"
BY_SERVER: Final = "server namespace disconnect"
GONE: Final = "transport close"
"""Why a client left a namespace, as Socket.IO's own servers say it."""
_REASONS: Final[dict[int, str]] = {
    CloseCode.GOING_AWAY: "ping timeout",
    CloseCode.PROTOCOL_ERROR: "parse error",
    CloseCode.RESTART: "server shutting down",
    CloseCode.SLOW: "transport error",
}

_log = logging.getLogger(__name__)


class Space(Protocol):
    """What is behind a namespace, for all its clients of a worker."""

    form: SocketIoForm

    def arrive(self, connection: NamespaceConnection, auth: Any) -> Coroutine[Any, Any, Any] | None:
        """A client has a seat; raises :class:`ConnectionRefused`. A coroutine is run before it is let in."""

    def event(self, connection: NamespaceConnection, packet: Packet) -> Coroutine[Any, Any, Any] | None:
        """An event of a client; a coroutine is run as a task of the client's."""

    def done(self, connection: NamespaceConnection, packet: Packet, task: asyncio.Task[Any]) -> None:
        """That task has ended, unless it was cancelled because its client has gone."""

    def left(self, connection: NamespaceConnection, reason: str) -> None:
        """A client that was let in is gone; once."""

    def subscriptions(self, connection: NamespaceConnection) -> int:
        """Those of a client that are to be counted."""


class State(IntEnum):
    """Where a client is on its way."""

    KNOCKING, OPEN, CLOSED = range(3)


class NamespaceConnection:
    """Satisfies :class:`actors.session.Connection`.

    Attributes:
        guest: what the application knows it as, where there is one.
        write: to the client; while knocking, to what follows when it is in.
    """

    __slots__ = (
        "_early",
        "_early_bytes",
        "_ref",
        "_seated",
        "_state",
        "_tasks",
        "_timer",
        "guest",
        "namespace",
        "session",
        "space",
        "subscriptions",
        "token",
        "visitor",
        "write",
    )

    session: Session
    subprotocol: str | None = None
    write: Callable[[bytes], None]

    def __init__(self, visitor: Visitor, namespace: str, space: Space) -> None:
        self.visitor, self.namespace, self.space = visitor, namespace, space
        self.guest: SocketClient | None = None
        self.token: str | None = None
        self.subscriptions = 0  # as counted last
        self.write = self._keep
        self._state = State.KNOCKING
        self._early: list[bytes] | None = []
        self._early_bytes = 0
        self._ref = 0  # of the question for a seat
        self._seated = False
        self._tasks: set[asyncio.Task[Any]] | None = None
        self._timer: asyncio.TimerHandle | None = None

    # of the socket ---------------------------------------------------------------------------------------------------

    @property
    def user(self) -> str | None:
        """Who the client says it is."""
        return self.visitor.socket.user

    @property
    def token_in_query(self) -> bool:
        """Whether its token came in the address."""
        return self.visitor.socket.token_in_query and self.token is self.visitor.socket.token

    @property
    def address(self) -> str:
        """The peer's."""
        return self.visitor.socket.address

    @property
    def host(self) -> str:
        """The peer's."""
        return self.visitor.socket.host

    @property
    def buffered(self) -> int:
        """Bytes that wait in the socket, for all namespaces."""
        return self.visitor.socket.buffered

    def pause_reading(self) -> None:
        """Read the client no more, in any namespace."""
        self.visitor.hold(self)

    def resume_reading(self) -> None:
        """Read it again, as far as this one is concerned."""
        self.visitor.release(self)

    @property
    def open(self) -> bool:
        """Whether it is in."""
        return self._state is State.OPEN

    # the way in ------------------------------------------------------------------------------------------------------

    def knock(self, auth: Any) -> None:
        """It wants in: a session, a seat, then the application's word."""
        door = self.visitor.door
        given = auth.get("token") if isinstance(auth, dict) else None
        self.token = given if isinstance(given, str) and given else self.visitor.socket.token
        try:
            self.session = door.clients.enter(self, self.space.form)
        except Unwelcome as unwelcome:
            self._state = State.CLOSED
            self.visitor.left(self)
            if unwelcome.code == CloseCode.RESTART:  # who is only told stays away; a lost connection comes again
                self.visitor.socket.close(unwelcome.code, unwelcome.message)
            else:
                why = ErrorCode.LIMIT_EXCEEDED if unwelcome.error is None else unwelcome.error.code
                self._say_no(unwelcome.message, self._advice(unwelcome.code, why))
            return
        self._timer = door.loop.call_later(door.connect_timeout, self._too_late)
        self._ref = door.clients.occupancy.take(lambda given: self._taken(given, auth))

    def _taken(self, given: bool, auth: Any) -> None:
        """The hub has decided about the seat."""
        self._ref = 0
        if self._state is not State.KNOCKING:
            if given:
                self.visitor.door.clients.occupancy.leave()
            return
        if not given:
            most = self.visitor.door.clients.occupancy.limit
            text = f"the server is full: it takes {most} clients"
            self._refuse(text, CloseCode.TRY_LATER, ErrorCode.LIMIT_EXCEEDED)
            return
        self._seated = True
        try:
            arriving = self.space.arrive(self, auth)
        except Exception as error:
            self._fail(error)
        else:
            if arriving is None:
                self._enter()
            else:
                self._spawn(arriving, self._arrived)

    def _arrived(self, task: asyncio.Task[Any]) -> None:
        if (error := failure(task)) is None:
            self._enter()
        else:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """The application does not let it in, or has a bug."""
        if self._state is not State.KNOCKING:
            return
        if isinstance(error, ConnectionRefused):
            self._end(CloseCode.NORMAL, "refused by the application")
            self._say_no(error.message, error.data)
        elif isinstance(error, RequestError):
            self._end(CloseCode.NORMAL, "refused by the application")
            self._say_no(error.message, {"code": error.code.value})
        else:
            _log.error("the application's on_connect failed", exc_info=error, extra={"namespace": self.namespace})
            self._refuse("a bug in the application; see the server's log", CloseCode.INTERNAL, ErrorCode.INTERNAL)

    def _enter(self) -> None:
        """The application lets it in; it may have gone meanwhile."""
        if self._early_bytes > EARLY_BYTES:
            self._too_much()
        if self._state is not State.KNOCKING:
            self.space.left(self, GONE)
            return
        self._state = State.OPEN
        self._stop_timer()
        early, self._early = self._early or [], None
        welcome = self.space.form.message({"op": "welcome", "session": self.session.id})
        self.visitor.socket.write(b"".join([welcome, *early]))
        self.rewire()

    @property
    def direct(self) -> Callable[[bytes], int | None]:
        """As of the socket, while :attr:`write` is the socket's; else :attr:`write`."""
        socket = self.visitor.socket
        return socket.direct if self.write == socket.write else self.write

    def rewire(self) -> None:
        """The socket's ``write`` is another one now."""
        if self._state is State.OPEN:
            self.write = self.visitor.socket.write
            self.session.rewire()

    def _keep(self, data: bytes) -> None:
        if self._early is None:  # a flush that began before holds on to this
            self.write(data)
            return
        self._early_bytes += len(data)
        if self._early_bytes > EARLY_BYTES:
            self._early.clear()
            self.visitor.door.loop.call_soon(self._too_much)
        else:
            self._early.append(data)

    def _too_late(self) -> None:
        self._refuse("it takes too long to be let in; try later", CloseCode.TRY_LATER, ErrorCode.UNAVAILABLE)

    def _too_much(self) -> None:
        self._refuse("too much waits for it", CloseCode.SLOW, ErrorCode.LIMIT_EXCEEDED)

    def _refuse(self, message: str, code: CloseCode, why: ErrorCode) -> None:
        if self._state is State.KNOCKING:
            self._end(code, message)
            self._say_no(message, self._advice(code, why))

    def _advice(self, code: CloseCode, why: ErrorCode) -> dict[str, Any]:
        """What a program can go by: the error, and when it may come back, if it may."""
        reconnect_in = self.visitor.door.clients.reconnect_in(code)
        return {"code": why.value} if reconnect_in is None else {"code": why.value, "reconnect_in": reconnect_in}

    def _say_no(self, message: str, data: Any) -> None:
        fields = {"message": message} if data is None else {"message": message, "data": data}
        try:
            frames = encode(Kind.CONNECT_ERROR, self.namespace, data=fields)
        except RequestError as error:
            _log.error("a refusal has data that cannot be sent: %s", error, extra={"namespace": self.namespace})
            frames = encode(Kind.CONNECT_ERROR, self.namespace, data={"message": message})
        self.visitor.refuse(frames)

    # while it is in --------------------------------------------------------------------------------------------------

    def event(self, packet: Packet) -> None:
        """The client has said something; nobody listens once it is to go."""
        if self.session.leaving:
            return
        work = self.space.event(self, packet)
        if work is not None:
            self._spawn(work, partial(self.space.done, self, packet))

    def counted(self) -> None:
        """Its subscriptions may be others now."""
        if self._state is State.CLOSED:
            return
        now = self.space.subscriptions(self)
        self.visitor.door.clients.occupancy.subscribed(now - self.subscriptions)
        self.subscriptions = now

    def _spawn(self, work: Coroutine[Any, Any, Any], then: Callable[[asyncio.Task[Any]], None]) -> None:
        task = self.visitor.door.loop.create_task(work)
        self._tasks = self._tasks or set()
        self._tasks.add(task)
        self.visitor.began()
        task.add_done_callback(partial(self._done, then))

    def _done(self, then: Callable[[asyncio.Task[Any]], None], task: asyncio.Task[Any]) -> None:
        if self._tasks is not None:
            self._tasks.discard(task)
        if self._state is not State.CLOSED or not task.cancelled():
            then(task)
        self.visitor.ended()

    # the way out -----------------------------------------------------------------------------------------------------

    def disconnect(self) -> None:
        """The application sends it away."""
        if self._state is State.OPEN:
            self.visitor.door.clients.dismiss(self.session, CloseCode.KICKED, ByeReason.KICKED)
        elif self._state is State.KNOCKING:
            self._refuse("refused by the application", CloseCode.KICKED, ErrorCode.FORBIDDEN)

    def close(self, code: int, reason: str = "") -> None:
        """The session ends it, from our side: who may come back loses its connection, which it then makes again; who
        shall not is told DISCONNECT."""
        if self._state is State.CLOSED:
            return
        if code not in UNWELCOME:
            self.visitor.socket.close(code, reason)
        elif self._state is State.KNOCKING:
            self._refuse("the server does not want this client", CloseCode(code), ErrorCode.FORBIDDEN)
        else:
            self.visitor.socket.write(encode(Kind.DISCONNECT, self.namespace))
            self._end(code, BY_SERVER)
            if not self.visitor.connections:
                self.visitor.socket.close(code, reason)

    def left(self) -> None:
        """The client has left the namespace."""
        self._end(CloseCode.NORMAL, BY_CLIENT)

    def lost(self, code: int) -> None:
        """The socket is gone."""
        self._end(code, _REASONS.get(code, GONE))

    def _end(self, code: int, reason: str) -> None:
        was, self._state = self._state, State.CLOSED
        if was is State.CLOSED:
            return
        self._stop_timer()
        self.write = _discard
        self._early = None
        tasks, self._tasks = self._tasks or (), None
        for task in tasks:
            task.cancel()
        occupancy = self.visitor.door.clients.occupancy
        if self._ref:
            occupancy.withdraw(self._ref)
        if self._seated:
            occupancy.leave()
            occupancy.subscribed(-self.subscriptions)
        self.session.rewire()  # what its topics still have for it is nobody's
        self.session.on_closed(code, reason)
        self.visitor.left(self)
        if was is State.OPEN:
            self.space.left(self, reason)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def failure(task: asyncio.Task[Any]) -> BaseException | None:
    """Why a task has no result; one may also be cancelled by what it waited for."""
    return asyncio.CancelledError("cancelled") if task.cancelled() else task.exception()


def _discard(data: bytes) -> None:
    """Nothing may follow."""
