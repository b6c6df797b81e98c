"""What a connection to the client port needs of others: who decides, who serves, who lists it. The listener has one
:class:`Door`, and a :class:`Mount` for each path whose clients speak something else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Protocol

from transport.codes import RefusalReason
from transport.gate import Gate
from transport.http import Heads, Request
from transport.static_file import StaticFile

if TYPE_CHECKING:
    from transport.websocket import ConnectionLimits, WebSocketConnection


class Handler(Protocol):
    """What sits behind an open connection: a session. None of its methods is called after :meth:`on_closed`."""

    def on_message(self, data: bytes, binary: bool) -> None:
        """A whole message; text is valid UTF-8. Raising closes this connection with 1011."""

    def on_paused(self) -> None:
        """``write_buffer`` bytes wait: write no more until :meth:`on_resumed`. Nothing is refused, it just grows.

        Called within the very ``write`` that filled the buffer.
        """

    def on_resumed(self) -> None:
        """A quarter of ``write_buffer`` is left."""

    def last_words(self, code: int) -> bytes:
        """Whole frames to write before the close frame, as the connection ends by itself: the client broke the
        protocol, sent too much (1009) or is silent (1001), or a bug here (1011). Not called for
        :meth:`WebSocketConnection.close`."""

    def on_closed(self, code: int, reason: str) -> None:
        """Exactly once, when the connection stops being open; never within a call of the session's own.

        From here on a kept ``write`` may raise RuntimeError: leave every route. ``code`` is that of the side that
        closed first, 1005 where the peer gave none, 1006 for a connection that was lost.
        """


class Door(Protocol):
    """Decides who comes in. One for all connections of a listener."""

    @property
    def path(self) -> str | None:
        """Where WebSocket clients knock, ``/ws``; None: anywhere."""

    @property
    def subprotocols(self) -> Collection[str]:
        """Those spoken here. A client that offers none of them is let in without one."""

    def open(self, connection: WebSocketConnection) -> Handler | None:
        """A client completed the handshake; nothing was read from it yet, writing is allowed.

        None refuses it: closed with 1013 unless ``connection.close`` said otherwise.
        """

    def http(self, method: str, path: str) -> tuple[int, str, bytes] | StaticFile | None:
        """Answer what is no WebSocket: status, content type, body, or a file. None is 404. Only GET arrives."""


class Connected(Protocol):
    """A TCP connection of a client, whatever it speaks."""

    @property
    def open(self) -> bool:
        """Whether it is known what the client wants: nothing that it has begun to say is incomplete."""

    @property
    def closing(self) -> bool:
        """Whether it is on its way out."""

    def abort(self) -> None:
        """Drop it and what was not sent yet."""


class Owner(Protocol):
    """Where connections belong: the listener."""

    @property
    def gate(self) -> Gate:
        """Who may knock."""

    @property
    def heads(self) -> Heads:
        """Reads requests."""

    @property
    def mounts(self) -> Mapping[str, Mount]:
        """Who answers in place of the door, by path."""

    def joined(self, connection: Connected) -> None:
        """TCP is there; the handshake is not."""

    def opened(self, connection: Connected) -> None:
        """The handshake is done."""

    def refused(self, reason: RefusalReason) -> None:
        """The handshake will not be done; before :meth:`left`, at most once."""

    def left(self, connection: Connected) -> None:
        """TCP is gone or somebody else's; the last that is heard of it."""

    def resume(self, transport: asyncio.Transport, peer: tuple[str, int], received: bytes) -> None:
        """What a mount has taken begins anew, with a request that is not for it to answer."""


class Mount(Protocol):
    """Answers the requests to its paths in place of the :class:`Door`."""

    @property
    def socket_limits(self) -> ConnectionLimits:
        """What its WebSockets may take."""

    def start(self) -> None:
        """The listener begins."""

    def take(
        self,
        owner: Owner,
        transport: asyncio.Transport,
        peer: tuple[str, int],
        request: Request,
        received: bytes,
    ) -> bool:
        """A request is there, with what else was read; nothing was answered.

        Args:
            peer: host and port of whom the connection is from, as it is: nothing of the request was looked at.

        Returns:
            True: the connection belongs to somebody else now. False: it becomes a WebSocket, see :meth:`open`.

        Raises:
            HttpError: the answer instead.
        """

    def open(self, connection: WebSocketConnection, request: Request) -> Handler | None:
        """As :meth:`Door.open`, for a WebSocket at one of its paths."""

    def shut(self) -> None:
        """No connection is accepted any more: who would begin anew is to do so elsewhere. Idempotent."""

    def drain(self) -> None:
        """Send everybody away who is still there."""

    def stop(self) -> None:
        """Forget everybody."""
