"""What programs that are started by hand take from the engine's configuration: where it is, and a service's options."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from engine.config import Config, load
from heliograph import ConfigError

BESIDE: Final = Path(__file__).parents[1] / "engine.toml"
"""Taken where neither ``--config`` nor ``$HELIOGRAPH_CONFIG`` names another."""


class Settings(NamedTuple):
    """Of one service, and the engine that it belongs to."""

    file: Path
    options: Mapping[str, Any]
    url: str


def settings(actor: str, file: Path | None = None) -> Settings:
    """The options of the service whose ``actor`` is this class, ``"fx.analytics:AnalyticsService"``.

    Raises:
        ConfigError: no such file, service, or engine that can be reached; names the field.
    """
    file = file or Path(os.environ.get("HELIOGRAPH_CONFIG") or BESIDE)
    config = load(file)
    for service in config.services.values():
        if service.actor == actor:
            return Settings(file, service.options, os.environ.get("HELIOGRAPH_URL") or _url(config))
    raise ConfigError(f'has no service with actor = "{actor}"', str(file))


def _url(config: Config) -> str:
    server = config.server
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(server.host, server.host)
    return f"{'ws' if server.tls_cert_file is None else 'wss'}://{host}:{server.port}/ws"
