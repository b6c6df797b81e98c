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
from engine.socketio_config import SocketIo
from engine.user_code import subclass
from engine.wiring import WorkerActors, connection_limits
from transport.engine_server import EngineOptions, EngineServer, Handoff
from transport.errors import ConfigError
from transport.socketio import MAIN

if TYPE_CHECKING:
    from transport.engine_socket import EngineSocket

Accept = Callable[["EngineSocket"], Any]
"""Makes the handler of an Engine.IO session that begins."""


class SocketIoDoors:
    """What answers the Engine.IO clients of a worker, by path. On its loop.

    Args:
        actors: of the worker.
        handoff: to the other workers, where there are some.

    Attributes:
        accepts: who takes in the sessions of a path.
        mounts: for the listener.

    Raises:
        ConfigError: an application cannot be used.
    """

    def __init__(
        self, config: Config, actors: WorkerActors, loop: asyncio.AbstractEventLoop, handoff: Handoff | None = None
    ) -> None:
        socketio, clients = config.socketio, actors.door
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
            self.accepts[path] = self._plain(engine_class(path, actor))
        limits = connection_limits(config)
        self._most = config.limits.connections
        self._servers = [
            EngineServer(loop, _options(socketio, path), accept, limits, handoff)
            for path, accept in self.accepts.items()
        ]
        self.mounts = {path: server for server in self._servers for path in server.paths}

    def configure(self, config: Config) -> None:
        """Take new limits, at a reload."""
        self._most = config.limits.connections
        for server in self._servers:
            server.limits = connection_limits(config)

    @property
    def sessions(self) -> int:
        """Of Engine.IO, those included that are about to end."""
        return sum(len(server.sessions) for server in self._servers)

    def close(self) -> None:
        """Before the clients actor ends."""
        for engine in self._engines:
            engine.close()

    def _plain(self, kind: type[EngineHandler]) -> Accept:
        """Bounded here: their clients are no sessions of :class:`Clients`, and a polling one need not hold a socket."""

        def accept(socket: EngineSocket) -> EngineHandler | None:
            if self.sessions > self._most:
                return None
            handler = kind(socket)
            handler.on_open()
            return handler

        return accept


def _options(socketio: SocketIo, path: str) -> EngineOptions:
    return EngineOptions(
        path=path,
        ping_interval=socketio.ping_interval,
        ping_timeout=socketio.ping_timeout,
        upgrade_timeout=socketio.upgrade_timeout,
        max_payload=socketio.max_payload,
    )


def _space(path: str, kind: type[Namespace], options: dict[str, Any], engine: NamespaceEngine) -> ApplicationSpace:
    try:
        return ApplicationSpace(path, kind(options=options, engine=engine))
    except ConfigError as error:
        raise ConfigError(error.message, f"socketio.namespaces.{path}") from None
    except ValueError as error:
        raise ConfigError(str(error), f"socketio.namespaces.{path}.options") from error


def namespace_class(path: str, actor: str) -> type[Namespace]:
    """The class that ``[socketio.namespaces."PATH"]`` names; :class:`ConfigError` where it is none."""
    field = f"socketio.namespaces.{path}.actor"
    kind = subclass(actor, Namespace, field)
    try:
        check_namespace(kind)
    except ConfigError as error:
        raise ConfigError(error.message, field) from None
    return kind


def engine_class(path: str, actor: str) -> type[EngineHandler]:
    """The class that ``[socketio.engines]`` names; :class:`ConfigError` where it is none."""
    return subclass(actor, EngineHandler, f"socketio.engines.{path}")


def check_socketio(config: Config) -> None:
    """Raise :class:`ConfigError` where an application that ``[socketio]`` names cannot be used."""
    for path, namespace in config.socketio.namespaces.items():
        namespace_class(path, namespace.actor)
    for path, actor in config.socketio.engines.items():
        engine_class(path, actor)
