"""The part of the configuration that is about Socket.IO; see :mod:`engine.config`."""

from __future__ import annotations

import re
from typing import Annotated, Any

from msgspec import Meta

from engine.tables import Masked, Name, Positive, about, check_importable
from transport.errors import ConfigError
from transport.socketio import MAX_NAMESPACE

_PATH = re.compile(r"/(?:[A-Za-z0-9_.~-]+/)*")
_NAMESPACE = re.compile(r"/[!-+\--~]*")  # printable, without space and comma
_OURS = frozenset({"/", "/ws/", "/health/", "/ready/"})


class SocketIoNamespace(Masked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[socketio.namespaces."/NAME"]``: an application's events, in every worker."""

    actor: Annotated[Name, about('class of the namespace, "package.module:Class"')]
    options: Annotated[dict[str, Any], about("`self.options` of the class")] = {}

    def __post_init__(self) -> None:
        check_importable(self.actor, "Class", "actor")


class SocketIo(Masked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[socketio]``: Socket.IO clients on the client port. What is not here is as for native clients: limits, tokens,
    origins."""

    enabled: Annotated[bool, about("let in Socket.IO clients")] = False
    path: Annotated[Name, about("where they connect to")] = "/socket.io/"
    ping_interval: Annotated[Positive, about("between pings to a client", "s")] = 25.0
    ping_timeout: Annotated[Positive, about("longest wait for the pong", "s")] = 20.0
    upgrade_timeout: Annotated[Positive, about("longest wait for a client that changes to WebSocket", "s")] = 10.0
    connect_timeout: Annotated[
        Positive, about("longest that a client may be in no namespace, or on its way into one", "s")
    ] = 45.0
    max_payload: Annotated[
        int, about("largest packet of a client, and largest body of its POST", "bytes", ge=128, le=2**24)
    ] = 1_000_000
    clients: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        about("clients of the whole engine, one per namespace that it is in; others are refused", none="any number"),
    ] = None
    namespaces: Annotated[
        dict[str, SocketIoNamespace], about('applications by namespace; without one, "/" takes the native requests')
    ] = {}
    engines: Annotated[
        dict[str, Name], about('path to "package.module:Class" that speaks plain Engine.IO there, below Socket.IO')
    ] = {}

    def __post_init__(self) -> None:
        _check_path(self.path, "path")
        for namespace in self.namespaces:
            if _NAMESPACE.fullmatch(namespace) is None or len(namespace) > MAX_NAMESPACE - 1:
                raise ConfigError('a namespace begins with "/" and has no space or comma', f"namespaces.{namespace}")
        for path, actor in self.engines.items():
            _check_path(path, f"engines.{path}")
            if path == self.path:
                raise ConfigError("is socketio.path already", f"engines.{path}")
            check_importable(actor, "Class", f"engines.{path}")


def _check_path(path: str, field: str) -> None:
    if _PATH.fullmatch(path) is None or path in _OURS:
        raise ConfigError(f'{path!r} must be like "/socket.io/", and none of {", ".join(sorted(_OURS))}', field)
