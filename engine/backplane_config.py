"""The part of the configuration that is about several engines as one; see :mod:`engine.config`."""

from __future__ import annotations

from typing import Annotated, Literal

from engine.tables import Masked, Name, about


class Backplane(Masked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[backplane]``: several engines that share their events over a Redis."""

    url: Annotated[
        Name | None,
        about("redis://, rediss:// or unix:// address of the Redis that all nodes share", none="this engine is alone"),
    ] = None
    password: Annotated[Name | None, about("of the Redis", none="none, or in the URL", secret=True)] = None
    prefix: Annotated[Name, about("of the keys; engines with the same one are nodes of one whole")] = "heliograph"
    on_outage: Annotated[
        Literal["refuse", "local"],
        about(
            "without Redis publishes are refused as `unavailable`, or delivered on this node, kept on disk, "
            "acknowledged as pending and sent on when Redis is back"
        ),
    ] = "refuse"
    spool_events: Annotated[
        int, about("events that wait on disk for Redis; more are refused", "events", ge=1, le=10_000_000)
    ] = 100_000
