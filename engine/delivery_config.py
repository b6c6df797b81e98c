"""The part of the configuration that is about events' way to clients; see :mod:`engine.config`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from engine.tables import Positive, about


class Delivery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[delivery]``: how events reach clients, and what happens to a client that does not keep up."""

    pacing: Annotated[
        Literal["adaptive"] | Annotated[float, Meta(ge=0, le=1)],
        about(
            '"adaptive" rests half or twice as long as the last flush took; 0: no rest; a number is the interval', "s"
        ),
    ] = "adaptive"
    write_buffer: Annotated[
        int, about("bytes in a client's transport above which it goes to the slow lane", "bytes", ge=1_024)
    ] = 65_536
    outbox_bytes: Annotated[int, about("bytes that a slow client's outbox holds", "bytes", ge=1_024)] = 1_048_576
    outbox_events: Annotated[int, about("events that a slow client's outbox holds", "events", ge=1)] = 10_000
    slow_policy: Annotated[
        Literal["gap", "disconnect"], about("a full outbox: drop and say so with `gap`, or close with 4008")
    ] = "gap"
    user_rate: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | None,
        about(
            "events per user_window that a user gets over all its sessions; more is a gap", "events", none="no limit"
        ),
    ] = None
    user_window: Annotated[Positive, about("sliding window of user_rate", "s")] = 1.0
    ping_interval: Annotated[Positive, about("between pings to a client", "s")] = 25.0
    ping_timeout: Annotated[Positive, about("longest wait for the pong", "s")] = 20.0
    bus_window: Annotated[
        int, about("bytes sent to a worker and not acknowledged; beyond it the worker gets gaps", "bytes", ge=65_536)
    ] = 8 * 2**20
