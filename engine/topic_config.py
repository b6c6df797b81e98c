"""The part of the configuration that is about topics; see :mod:`engine.config`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from engine.tables import Positive, about
from transport.errors import ConfigError


class Topic(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[topics."PATTERN"]``: how events of these topics are routed. The most specific pattern wins."""

    strategy: Annotated[
        Literal["broadcast_all", "content_based", "priority_first", "load_balanced"],
        about(
            "broadcast_all ignores filters; content_based honours them; priority_first also sends what waits by "
            "priority; load_balanced gives each event to one member of each consumer group"
        ),
    ] = "content_based"
    window: Annotated[
        Annotated[float, Meta(ge=0, le=1)], about("events are collected for so long and sent together", "s")
    ] = 0.0
    acks: Annotated[bool, about("members of consumer groups acknowledge; what they do not goes to others")] = False
    ack_timeout: Annotated[Positive, about("after it an event not acknowledged goes to another member", "s")] = 30.0
    presence: Annotated[bool, about("the hub knows which users are subscribed to the exact topic")] = False
    durable: Annotated[
        bool, about("events are on disk before they are acknowledged and delivered; they outlive the machine")
    ] = False
    history_size: Annotated[
        Annotated[int, Meta(ge=0, le=2**31)] | None, about("events that are kept", "events", none="history.size")
    ] = None
    history_age: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        about("for how long they are kept", "s", none="history.age; of durable topics: no limit"),
    ] = None
    announce: Annotated[bool, about("a user's coming and going is an event, `join` or `leave`, on the topic")] = False

    def __post_init__(self) -> None:
        if self.announce and not self.presence:
            raise ConfigError("needs presence = true", "announce")
        if self.acks and self.strategy != "load_balanced":
            raise ConfigError('needs strategy = "load_balanced"', "acks")
