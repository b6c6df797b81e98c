"""Another engine as a feed: its native protocol, resuming by offset. Pure.

After a reconnect the engine is asked for what came after the last position (``since``). What its history has no more it
tells; one without history is asked for the last event of each topic, whose offset shows the hole before it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec

from actors.failure import FailureKind, UpstreamRefused
from actors.feed_protocol import FeedGap, FeedProtocol, Item, Repeated
from actors.mapping import BadMessage, MappingError
from transport.client_messages import (
    DISCONNECTED,
    EventMessage,
    Gap,
    GapMessage,
    Malformed,
    Ok,
    PositionMessage,
    Refusal,
    Subscribed,
    Welcome,
    decode,
)
from transport.client_positions import Positions
from transport.codes import CloseCode, ErrorCode
from transport.errors import CodecError, ConfigError, RequestError
from transport.messages import Publish
from transport.requests import Ping, Subscribe
from transport.topics import check_pattern, check_topic, is_pattern, is_system, matches

PROTOCOL = 1  # of `welcome`
TOPICS_CACHED = 4_096  # checked topics kept per feed
_KINDS = {
    ErrorCode.UNAUTHORIZED: FailureKind.UNAUTHORIZED,
    ErrorCode.FORBIDDEN: FailureKind.UNAUTHORIZED,
    ErrorCode.RATE_LIMITED: FailureKind.THROTTLED,
    ErrorCode.UNAVAILABLE: FailureKind.UNAVAILABLE,  # its hub is away
}
_subscribed = msgspec.json.Decoder(Subscribed)


class HeliographProtocol(FeedProtocol):
    """``[feeds.NAME] protocol = "heliograph"``: what ``topics`` of the upstream match is published here.

    Topic, type, key, priority and every digit of the data stay; ``source_ts`` is the upstream's ``ts`` where the event
    has none; epoch and offset are given anew. Per topic and priority events come in order, each once.

    What was published while there was no connection comes afterwards, as far as the upstream's history reaches; what
    was lost is told. Of a topic that was never seen it cannot be told without ``snapshot``.

    Args:
        topics: topics and patterns of the upstream. ``system.>`` of the upstream needs a ``prefix``.
        prefix: tokens put before each topic, e.g. ``"tokyo"``: ``price.EUR_USD`` becomes ``tokyo.price.EUR_USD``.
        snapshot: whether to begin with the last event of each topic. Without anything to resume after they are asked
            for after a reconnect in any case.

    Raises:
        ConfigError: naming the argument at fault.
    """

    subprotocols = ("heliograph.v1.json",)

    close_codes = {CloseCode.UNAUTHORIZED: FailureKind.UNAUTHORIZED, CloseCode.KICKED: FailureKind.POLICY}

    def __init__(self, topics: Sequence[str], prefix: str | None = None, snapshot: bool = True) -> None:
        super().__init__()
        if not isinstance(snapshot, bool):
            raise ConfigError("is true or false", "snapshot")
        self._prefix = _prefix(prefix)
        self._topics = _topics(topics, self._prefix)
        self._exact = not any(is_pattern(pattern) for pattern in self._topics)
        self._snapshot = snapshot
        self._positions = Positions(whole=snapshot)
        self._position = ""  # in the upstream's whole log; for patterns
        self._known = False  # whether a subscription was ever accepted, so that there is something to resume
        self._ids = itertools.count(1)
        self._asked = 0  # id of the connection's subscribe request
        self._resuming = self._last_events = False  # whether it has `since`, `snapshot`
        self._local = lru_cache(TOPICS_CACHED)(self._to_local)

    def opened(self) -> None:
        """Subscribe, after what was received last if there is something."""
        self._subscribe(self._since())

    def receive(self, raw: bytes) -> Sequence[Item]:
        """One message of the upstream.

        Raises:
            UpstreamRefused: it will not have us, or speaks another protocol.
        """
        try:
            message = decode(raw)
            if type(message) is EventMessage:
                return self._event(message)
            if type(message) is GapMessage:
                return self._gap(message.gap())
            if isinstance(message, Ok):
                return self._accepted(raw) if message.id == self._asked else ()
        except MappingError as error:
            return (error,)
        except CodecError as error:
            reason = BadMessage.WRONG_TYPE if isinstance(error, Malformed) else BadMessage.NOT_JSON
            return (MappingError(reason, "", str(error)),)
        if type(message) is PositionMessage:
            self._position = message.position
        elif type(message) is Refusal:
            self._refused(message)
        elif type(message) is Welcome and message.protocol != PROTOCOL:
            raise UpstreamRefused(
                FailureKind.REJECTED, f"the upstream speaks protocol {message.protocol}, this engine speaks {PROTOCOL}"
            )
        return ()  # `bye` too: the close that follows says the same

    def missed(self) -> FeedGap | None:
        """Nothing, for offsets will tell; unless there are so many topics that some were forgotten."""
        return FeedGap("reconnected") if self._positions.forgot else None

    def heartbeat(self) -> None:
        """A ping, whose answer shows that a quiet upstream lives."""
        self._send(Ping(id=next(self._ids)))

    def _since(self) -> Any:
        if not self._known:
            return None
        if self._exact:  # offsets hold longer than a position; see engine.client_subscription
            found = {topic: at for topic in self._topics if (at := self._positions.settled(topic)) is not None}
            if len(found) == len(self._topics):
                return found
        return self._position or None

    def _subscribe(self, since: Any) -> None:
        self._asked, self._resuming = next(self._ids), since is not None
        self._last_events = since is None and (self._snapshot or self._known)
        request = Subscribe(id=self._asked, topics=self._topics, snapshot=self._last_events)
        if since is not None:
            request.since = since
        self._send(request)

    def _send(self, request: Subscribe | Ping) -> None:
        self.outgoing.append(msgspec.json.encode(request).decode())

    def _accepted(self, raw: bytes) -> Sequence[Item]:
        try:
            answer = _subscribed.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Malformed(f"malformed answer to `subscribe`: {error}") from None
        if self._known and not answer.recovered:
            self._positions.reconnected()
        self._known = True
        if self._resuming:
            return ()  # what was missed follows, or a gap; until then we are where we were
        # Last events are still to come: only a later position has them behind it.
        self._position = "" if self._last_events else answer.position
        items = []
        for topic, at in answer.positions.items():
            if topic in self._topics:
                last = max(0, at.offset - 1) if self._last_events else at.offset
                if (gap := self._positions.start(topic, at.epoch, last)) is not None:
                    items.append(_told(gap))
        return items

    def _refused(self, refusal: Refusal) -> None:
        if refusal.id is not None and refusal.id != self._asked:
            return  # a ping was: nothing hangs on it
        if self._resuming and (refusal.code == ErrorCode.UNSUPPORTED or (refusal.field or "").startswith("since")):
            self._subscribe(None)
            return
        kind = _KINDS.get(refusal.error().code, FailureKind.REJECTED)
        raise UpstreamRefused(kind, f"the upstream refused the subscription: {refusal.error()}")

    def _event(self, message: EventMessage) -> Sequence[Item]:
        if not message.epoch:
            if message.offset:
                raise MappingError(BadMessage.WRONG_TYPE, "epoch", "an offset says nothing without its epoch")
            return ()  # it comes again, when it has its place
        topic = self._local(message.topic)
        data = bytes(message.data)
        if not data.isascii():
            _check_utf8(data)
        new, gap = self._positions.admit(message.topic, message.epoch, message.offset, message.priority)
        if not new:
            return (Repeated(message.topic, message.offset),)
        event = Publish(
            0,
            topic,
            message.type,
            data,
            message.key,
            None if message.priority is None else message.priority.value,
            message.ts if message.source_ts is None else message.source_ts,
        )
        return (event,) if gap is None else (_told(gap), event)

    def _gap(self, gap: Gap) -> Sequence[Item]:
        self._local(gap.topic)
        return [_told(lost) for lost in self._positions.skip(gap)]

    def _to_local(self, topic: str) -> str:
        """The topic here, of one that was subscribed to: an upstream publishes nowhere else."""
        try:
            check_topic(topic)
            if not any(matches(pattern, topic) for pattern in self._topics):
                raise MappingError(BadMessage.BAD_TOPIC, "topic", f"{topic!r} was not subscribed to")
            return check_topic(self._prefix + topic)
        except RequestError as error:
            raise MappingError(BadMessage.BAD_TOPIC, "topic", error.message) from None


def _topics(topics: Sequence[str], prefix: str) -> list[str]:
    if not isinstance(topics, (list, tuple)) or not all(isinstance(pattern, str) for pattern in topics):
        raise ConfigError("is a list of topics", "topics")
    if not topics:
        raise ConfigError("name at least one topic", "topics")
    for i, pattern in enumerate(topics):
        try:
            check_pattern(pattern)
        except RequestError as error:
            raise ConfigError(error.message, f"topics[{i}]") from None
        if is_system(pattern) and not prefix:
            raise ConfigError("system.> belongs to this engine: give a prefix", f"topics[{i}]")
    return list(dict.fromkeys(topics))


def _prefix(prefix: str | None) -> str:
    if prefix is None:
        return ""
    if not isinstance(prefix, str):
        raise ConfigError("is a topic", "prefix")
    try:
        check_topic(prefix)
    except RequestError as error:
        raise ConfigError(error.message, "prefix") from None
    if is_system(prefix):
        raise ConfigError("system.> belongs to this engine", "prefix")
    return f"{prefix}."


def _told(gap: Gap) -> FeedGap:
    reason = "sequence" if gap.reason == DISCONNECTED else str(gap.reason)
    if gap.last < gap.first:
        return FeedGap(reason, gap.topic)
    return FeedGap(reason, gap.topic, gap.first, gap.last)


def _check_utf8(data: bytes) -> None:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise MappingError(BadMessage.NOT_JSON, "data", str(error)) from None
