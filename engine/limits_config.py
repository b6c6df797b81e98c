"""The part of the configuration that is about limits; see :mod:`engine.config`."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from engine.tables import Positive, about

Rate = Annotated[float, Meta(gt=0, le=1_000_000)]


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[limits]``: what one client, worker or engine may use."""

    connections: Annotated[int, about("open client connections per worker", ge=1)] = 50_000
    connections_per_ip: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        about("those from one IPv4 address or IPv6 /64, per worker", none="any number"),
    ] = None
    sessions_per_user: Annotated[
        Annotated[int, Meta(ge=1)] | None, about("sessions of one user, per worker", none="any number")
    ] = None
    connect_rate: Annotated[
        Rate | None,
        about(
            "connections from one IPv4 address or IPv6 /64, per worker, a second's worth at once; others get HTTP 429",
            "1/s",
            none="any number",
        ),
    ] = None
    message_rate: Annotated[
        Rate | None,
        about(
            "messages from one client, a second's worth at once; who sends more is read as fast as that",
            "1/s",
            none="any number",
        ),
    ] = None
    message_bytes: Annotated[int, about("largest message from a client", "bytes", ge=128, le=2**22)] = 262_144
    topics_per_request: Annotated[int, about("topics named in one request", ge=1)] = 1_000
    subscriptions: Annotated[int, about("subscriptions per session", ge=1)] = 10_000
    unacknowledged_publishes: Annotated[
        int, about("publishes per session not answered yet; beyond it the socket is not read", ge=1)
    ] = 1_000
    handshake_timeout: Annotated[Positive, about("from connect to a complete WebSocket handshake", "s")] = 10.0
    request_timeout: Annotated[Positive, about("longest wait for an answer from the hub", "s")] = 10.0
    topics: Annotated[int, about("topics that the hub knows at once", ge=1)] = 100_000
    routes: Annotated[int, about("topics whose receivers are remembered; the least recently used go", ge=1)] = 65_536
    route_ttl: Annotated[Positive, about("after it a topic's receivers are looked up anew", "s")] = 300.0
    group_events: Annotated[
        int, about("events per consumer group that wait for a member or an acknowledgement; the oldest go", ge=1)
    ] = 10_000
