"""The part of the configuration that is about history; see :mod:`engine.config`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from msgspec import Struct

from engine.state_path import state_path
from engine.tables import Name, Positive, about
from transport.errors import ConfigError


class History(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[history]``: what the hub keeps, so that clients that were away can have it."""

    dir: Annotated[
        Name | None,
        about(
            "directory of the recent events of all topics; on a file system in memory nothing waits for a disk",
            none="history in server.runtime_dir",
        ),
    ] = None
    bytes: Annotated[
        int, about("room for recent events of all topics together; the oldest go", "bytes", ge=2**20, le=2**36)
    ] = 256 * 2**20
    size: Annotated[int, about("recent events that are kept of a topic; 0 keeps none", "events", ge=0, le=2**31)] = (
        10_000
    )
    age: Annotated[Positive, about("events that are older are not kept, but of durable topics", "s")] = 300.0
    durable_file: Annotated[
        Name | None,
        about(
            "SQLite database of durable topics",
            none="$STATE_DIRECTORY/history.db, else heliograph/history-PORT.db in $XDG_STATE_HOME or ~/.local/state",
        ),
    ] = None
    topic_idle: Annotated[Positive, about("a topic without event for so long is forgotten", "s")] = 3_600.0

    def durable_path(self, port: int, environ: Mapping[str, str] = os.environ) -> Path:
        """``durable_file``, or its default for an engine on this client port. Creates nothing."""
        path = state_path(self.durable_file, "history", port, environ)
        if path is None:
            raise ConfigError("is needed, as events are kept on disk and the port is picked", "history.durable_file")
        return path
