"""The namespace without an application: the native requests as Socket.IO events, each answered by its acknowledgement.

``emit("subscribe", {"topics": ["price.*"]}, ack)``: the map is the native request's without ``op`` and ``id``, the
acknowledgement the native answer without ``id``. Who asks for no acknowledgement gets an event ``error`` where a
request is refused.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from actors.clients import Clients
from transport.codes import ErrorCode
from transport.errors import RequestError
from transport.requests import NamedDecoder
from transport.socketio import MAIN, Packet
from transport.socketio_form import SocketIoForm

if TYPE_CHECKING:
    from actors.namespace_connection import NamespaceConnection

NOBODY = ""
"""The id of a request without acknowledgement."""


class NativeSpace:
    """Implements :class:`actors.namespace_connection.Space`."""

    def __init__(self, clients: Clients, path: str = MAIN) -> None:
        self._clients = clients
        self._decoder = NamedDecoder()
        self.form = SocketIoForm(path)

    def arrive(self, connection: NamespaceConnection, auth: Any) -> None:
        """Everybody who has a session."""

    def event(self, connection: NamespaceConnection, packet: Packet) -> None:
        session = connection.session
        request_id = NOBODY if packet.id is None else packet.id
        try:
            if packet.attachments:
                raise RequestError(ErrorCode.BAD_REQUEST, "bytes have no JSON form: send text")
            if len(packet.data) > 1:
                raise RequestError(ErrorCode.BAD_REQUEST, f"one map, not {len(packet.data)} arguments")
            request = self._decoder.decode(packet.name, packet.data[0] if packet.data else b"{}", request_id)
            self._clients.handle(session, request)
        except RequestError as error:
            session.error(request_id, error)

    def done(self, connection: NamespaceConnection, packet: Packet, task: asyncio.Task[Any]) -> None:
        raise AssertionError("no request is a task")

    def left(self, connection: NamespaceConnection, reason: str) -> None:
        """Its session knows all there is."""

    def subscriptions(self, connection: NamespaceConnection) -> int:
        return len(connection.session.subscriptions or ())
