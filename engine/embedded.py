"""The engine inside a Python program: ``async with Engine(...) as engine``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import msgspec

from engine.client import Client
from engine.config import Config, load
from engine.daemon import Daemon
from engine.local import LocalEngine
from engine.pipeline import Pipeline
from transport.errors import ConfigError
from transport.event import Event, to_json, to_publish
from transport.position import Position

_SERVER = frozenset({"host", "port", "workers", "node", "runtime_dir", "drain_timeout"})
_ADMIN = {"admin_host": "host", "admin_port": "port", "api_key": "api_key"}


class Engine:
    """Starts with ``async with``, stops at its end; afterwards no thread, task, socket or file is left.

    Args:
        config: a TOML file, or a :class:`engine.config.Config`; ``None`` takes the defaults. Unlike the daemon an
            embedded engine heeds neither ``$HELIOGRAPH_CONFIG`` nor the other variables.
        pipeline: stages of one's own, behind those of the configuration.
        settings: ``workers``, ``host``, ``port``, ``admin_host``, ``admin_port``, ``api_key`` and whole tables as maps:
            ``delivery={"pacing": 0}``. ``workers=0`` runs everything on the present loop, port 0 picks a free one.

    Raises:
        ConfigError: naming the field; at construction.
    """

    def __init__(
        self,
        config: str | os.PathLike[str] | Config | None = None,
        *,
        pipeline: Pipeline | None = None,
        **settings: Any,
    ) -> None:
        overrides = dict(_overrides(settings))
        if isinstance(config, Config):
            if overrides:
                raise ConfigError("settings go into the Config that is given", next(iter(overrides)))
            loaded = config
        else:
            loaded = load(None if config is None else Path(config), overrides, {})
        if pipeline is not None:
            loaded = msgspec.structs.replace(loaded, stages={**loaded.stages, **pipeline.stages})
        self.config = loaded
        self._engine: LocalEngine | Daemon = (
            LocalEngine(loaded) if loaded.server.worker_count() == 0 else Daemon(loaded)
        )

    async def __aenter__(self) -> Self:
        try:
            await self._engine.start()
        except BaseException:
            await self._engine.stop()  # what has started; a failed `async with` is never left
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._engine.stop()

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"{self.config.server.scheme}://{_shown(self.config.server.host)}:{self._engine.port}/ws"

    @property
    def admin_url(self) -> str:
        """The admin API."""
        return f"{self.config.admin.scheme}://{_shown(self.config.admin.host)}:{self._engine.admin_port}"

    def client(self, **options: Any) -> Client:
        """A client of this engine; use it with ``async with``."""
        return Client(self.url, **options)

    async def publish(
        self,
        topic: str,
        data: Any,
        *,
        type: str = "message",
        key: str | None = None,
        priority: str | None = None,
        idempotency_key: str | None = None,
    ) -> Position:
        """Publish one event; its position once the hub has accepted it, of a durable topic once it is on disk.

        With an ``idempotency_key``, up to 128 characters, the caller may repeat it: within 5 minutes the topic has the
        event once.

        Raises:
            RequestError: ``invalid_topic``; ``bad_request``: data without a JSON form, a field of the wrong type;
                ``limit_exceeded``: too large, or a topic too many; ``unavailable``: no hub.
        """
        event = Event(topic=topic, payload=to_json(data), type=type, key=key, priority=priority)  # type: ignore[arg-type]
        return (await self._engine.publish([to_publish(event, idempotency_key=idempotency_key)]))[0]

    async def wait(self) -> None:
        """Until the engine fails for good, which raises."""
        await self._engine.wait()


def _overrides(settings: Mapping[str, Any]) -> Any:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            for field, inner in value.items():
                yield f"{name}.{field}", inner
        elif name in _SERVER:
            yield f"server.{name}", value
        elif name in _ADMIN:
            yield f"admin.{_ADMIN[name]}", value
        else:
            raise ConfigError("no such setting; tables are given as maps, e.g. delivery={...}", name)


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
