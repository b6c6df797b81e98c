"""The part of the configuration that is about sampled metrics; see :mod:`engine.config`."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from engine.tables import Name, about
from transport.errors import ConfigError

INTERVAL_LEAST = 0.1  # s; a sample costs about a millisecond


class Metrics(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[metrics]``: what is sampled of machine, processes and engine, and kept to be drawn."""

    interval: Annotated[
        Annotated[float, Meta(ge=0, le=3_600)], about("between two samples, at least 0.1; 0 samples nothing", "s")
    ] = 1.0
    file: Annotated[
        Name | None,
        about(
            "SQLite database of the samples, some megabytes",
            none="$STATE_DIRECTORY/metrics.db, else heliograph/metrics-PORT.db in $XDG_STATE_HOME or ~/.local/state; "
            "in memory with server.port = 0 or server.workers = 0",
        ),
    ] = None

    def __post_init__(self) -> None:
        if 0 < self.interval < INTERVAL_LEAST:
            raise ConfigError(f"must be 0 or at least {INTERVAL_LEAST:g} s, not {self.interval:g}", "interval")
