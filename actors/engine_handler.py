"""Plain Engine.IO for an application: messages as they are, without namespaces, events and the engine's sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transport.codes import CloseCode
from transport.engineio import message_frame

if TYPE_CHECKING:
    from transport.engine_socket import EngineSocket


class EngineHandler:
    """The base of what is behind one Engine.IO session: ``[socketio.engines] "/path/" = "package.module:Class"``.

    One object per session, on its worker's loop: nothing in it may block. An exception closes the session. Nobody asks
    these clients for a token: see ``socket.token``.

    Attributes:
        socket: the session; ``address``, ``user`` and ``token`` are the client's.
    """

    def __init__(self, socket: EngineSocket) -> None:
        self.socket = socket

    def send(self, message: str | bytes) -> None:
        """To the client: text, or ``bytes`` as binary."""
        if isinstance(message, str):
            self.socket.write(message_frame(message.encode(), False))
        else:
            self.socket.write(message_frame(message, True))

    def close(self) -> None:
        """End the session, behind what was sent."""
        self.socket.close(CloseCode.NORMAL)

    def on_open(self) -> None:
        """The session has begun."""

    def on_message(self, data: bytes, binary: bool) -> None:
        """A message of the client; text is UTF-8."""

    def on_paused(self) -> None:
        """The client reads too slowly. It is not read either, until it has: whoever sends without being asked has to
        stop here itself."""
        self.socket.pause_reading()

    def on_resumed(self) -> None:
        """It has read."""
        self.socket.resume_reading()

    def on_rewired(self) -> None:
        """``socket.write`` is another one now."""

    def on_closed(self, code: int, reason: str) -> None:
        """The session is over."""
