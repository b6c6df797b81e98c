"""A namespace that is an application's: its methods are called here, and what they do wrong costs nobody anything."""

from __future__ import annotations

import asyncio
import inspect
import logging
import operator
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from actors.namespace import ANY, EventMethod, Namespace, SocketClient, event_methods
from actors.namespace_connection import failure
from transport.codes import ErrorCode
from transport.errors import RequestError
from transport.messages import Publication
from transport.socketio import Kind, Packet, SocketIoError, encode
from transport.socketio_form import SocketIoForm

if TYPE_CHECKING:
    from actors.namespace_connection import NamespaceConnection

_log = logging.getLogger(__name__)


class ApplicationSpace:
    """Implements :class:`actors.namespace_connection.Space` for a :class:`Namespace`.

    Raises:
        ConfigError: its methods cannot be called.
    """

    def __init__(self, path: str, namespace: Namespace) -> None:
        self._path, self._namespace = path, namespace
        self._methods = event_methods(namespace)
        own = type(namespace).encode is not Namespace.encode
        self.form = SocketIoForm(path, self._encode if own else None, namespace.notices)

    def arrive(self, connection: NamespaceConnection, auth: Any) -> Coroutine[Any, Any, Any] | None:
        connection.guest = SocketClient(connection)
        answer = self._namespace.on_connect(connection.guest, auth)
        return answer if inspect.iscoroutine(answer) else None

    def event(self, connection: NamespaceConnection, packet: Packet) -> Coroutine[Any, Any, Any] | None:
        try:
            result = self._call(connection, packet)
        except Exception as error:
            self._failed(connection, packet, error)
            return None
        if inspect.iscoroutine(result):
            return result
        self._acknowledge(connection, packet, result)
        return None

    def done(self, connection: NamespaceConnection, packet: Packet, task: asyncio.Task[Any]) -> None:
        if (error := failure(task)) is None:
            self._acknowledge(connection, packet, task.result())
        else:
            self._failed(connection, packet, error)

    def _call(self, connection: NamespaceConnection, packet: Packet) -> Any:
        method = self._methods.get(packet.name) or self._methods.get(ANY)
        if method is None:
            raise RequestError(ErrorCode.NOT_FOUND, f"there is no event {packet.name[:100]!r}")
        arguments = _arguments(method, packet)
        if method.named:
            return method.call(connection.guest, packet.name, *arguments)
        return method.call(connection.guest, *arguments)

    def _acknowledge(self, connection: NamespaceConnection, packet: Packet, result: Any) -> None:
        if packet.id is None:
            return
        values = [] if result is None else list(result) if isinstance(result, tuple) else [result]
        try:
            frames = encode(Kind.ACK, self._path, packet.id, values)
        except Exception as error:
            self._failed(connection, packet, TypeError(f"what it returned cannot be sent: {error}"))
        else:
            connection.session.send(frames)

    def _failed(self, connection: NamespaceConnection, packet: Packet, error: BaseException) -> None:
        if not isinstance(error, RequestError):
            place = {"namespace": self._path, "event": packet.name[:100]}
            _log.error("the application failed at an event of a client", exc_info=error, extra=place)
            error = RequestError(ErrorCode.INTERNAL, "a bug in the application; see the server's log")
        if packet.id is not None:
            connection.session.error(packet.id, error)

    def left(self, connection: NamespaceConnection, reason: str) -> None:
        assert connection.guest is not None, "it was in"
        try:
            self._namespace.on_disconnect(connection.guest, reason)
        except Exception:
            _log.exception("the application's on_disconnect failed", extra={"namespace": self._path})

    def subscriptions(self, connection: NamespaceConnection) -> int:
        assert connection.guest is not None, "it has asked for something"
        try:
            return operator.index(self._namespace.subscriptions_of(connection.guest))
        except Exception:
            _log.exception("the application's subscriptions_of failed", extra={"namespace": self._path})
            return connection.subscriptions

    def _encode(self, event: Publication) -> bytes | None:
        try:
            packet = self._namespace.encode(event)
            if packet is None or isinstance(packet, bytes):
                return packet
            raise TypeError(f"encode returns bytes or None, not {packet!r:.100}")
        except Exception:
            # Called by the actors on the events' way.
            _log.exception("the application's encode failed", extra={"namespace": self._path, "topic": event.topic})
            return None


def _arguments(method: EventMethod, packet: Packet) -> list[Any]:
    try:
        arguments = packet.values()
    except SocketIoError as error:
        raise RequestError(ErrorCode.BAD_REQUEST, str(error)) from None
    if (problem := method.problem(len(arguments))) is not None:
        raise RequestError(ErrorCode.BAD_REQUEST, f"{packet.name}: {problem}")
    return arguments
