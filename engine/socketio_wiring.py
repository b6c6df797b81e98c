"""What a worker has for Socket.IO clients, from ``[socketio]``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from actors.application_space import ApplicationSpace
from actors.engine_handler import EngineHandler
from actors.namespace import Namespace, check_namespace
from actors.namespace_connection import Space
from actors.namespace_engine import NamespaceEngine
from actors.native_namespace import NativeSpace
from actors.socketio_door import SocketIoDoor
from engine.config import Config
from engine.wiring import imported
from transport.errors import ConfigError
from transport.socketio import MAIN

if TYPE_CHECKING:
    from actors.clients import Clients
    from transport.engine_socket import EngineSocket

Accept = Callable[["EngineSocket"], Any]
"""Makes the handler of a session that begins; ``None``: it is refused."""


class SocketIoDoors:
    """Who takes in the Engine.IO sessions of a worker, by path. On its loop.

    Attributes:
        accepts: by path.

    Raises:
        ConfigError: an application cannot be used.
    """

    def __init__(self, config: Config, clients: Clients, loop: asyncio.AbstractEventLoop) -> None:
        socketio = config.socketio
        self._engines: list[NamespaceEngine] = []
        spaces: dict[str, Space] = {MAIN: NativeSpace(clients)}
        for path, namespace in socketio.namespaces.items():
            kind = namespace_class(path, namespace.actor)
            engine = NamespaceEngine(clients)
            self._engines.append(engine)
            spaces[path] = _space(path, kind, namespace.options, engine)
        clients.occupancy.begin(socketio.clients)
        door = SocketIoDoor(loop, clients, spaces, socketio.connect_timeout, socketio.max_payload)
        self.accepts: dict[str, Accept] = {socketio.path: door.accept}
        for path, actor in socketio.engines.items():
            self.accepts[path] = _plain(engine_class(path, actor))

    def close(self) -> None:
        """Before the clients actor ends."""
        for engine in self._engines:
            engine.close()


def _space(path: str, kind: type[Namespace], options: dict[str, Any], engine: NamespaceEngine) -> ApplicationSpace:
    try:
        return ApplicationSpace(path, kind(options=options, engine=engine))
    except ConfigError as error:
        raise ConfigError(error.message, f"socketio.namespaces.{path}") from None
    except ValueError as error:
        raise ConfigError(str(error), f"socketio.namespaces.{path}.options") from error


def _plain(kind: type[EngineHandler]) -> Accept:
    def accept(socket: EngineSocket) -> EngineHandler:
        handler = kind(socket)
        handler.on_open()
        return handler

    return accept


def namespace_class(path: str, actor: str) -> type[Namespace]:
    """The class that ``[socketio.namespaces."PATH"]`` names; :class:`ConfigError` where it is none."""
    field = f"socketio.namespaces.{path}.actor"
    kind = imported(actor, field, "package.module:Class")
    if not (isinstance(kind, type) and issubclass(kind, Namespace)):
        raise ConfigError(f"{actor!r} is not a subclass of heliograph.Namespace", field)
    try:
        check_namespace(kind)
    except ConfigError as error:
        raise ConfigError(error.message, field) from None
    return kind


def engine_class(path: str, actor: str) -> type[EngineHandler]:
    """The class that ``[socketio.engines]`` names; :class:`ConfigError` where it is none."""
    field = f"socketio.engines.{path}"
    kind = imported(actor, field, "package.module:Class")
    if not (isinstance(kind, type) and issubclass(kind, EngineHandler)):
        raise ConfigError(f"{actor!r} is not a subclass of heliograph.EngineHandler", field)
    return kind


def check_socketio(config: Config) -> None:
    """Raise :class:`ConfigError` where an application that ``[socketio]`` names cannot be used."""
    for path, namespace in config.socketio.namespaces.items():
        namespace_class(path, namespace.actor)
    for path, actor in config.socketio.engines.items():
        engine_class(path, actor)
