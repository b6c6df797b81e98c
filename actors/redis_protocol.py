"""Redis pub/sub as a feed: which channels to ask for, and what their messages become. Pure.

:mod:`actors.redis_socket` reads the pushes. A payload that is JSON becomes the event's data as it is, digit for digit;
any other text becomes a JSON string. Order holds within a channel. What was published while we were away is lost:
Redis keeps nothing for those who do not listen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from actors.channel_map import ChannelMap
from actors.feed_protocol import FeedProtocol, Item
from actors.upstream_values import BadMessage, MappingError, decode
from transport.errors import ConfigError
from transport.messages import Publish

_WHITE = b" \t\r\n"


class RedisMessage(bytes):
    """A payload, and where it comes from.

    Attributes:
        subscription: the channel or glob that we asked for; ``None``: this is no message, but Redis's answer to that.
        channel: where it was published; empty for an answer.
    """

    subscription: bytes | None
    channel: bytes

    @classmethod
    def of(cls, push: Sequence[Any]) -> RedisMessage:
        """From what Redis pushes: ``message, channel, payload``, ``pmessage, glob, channel, payload``, or an answer.

        Raises:
            ValueError: no Redis pushes such a thing.
        """
        subscription: bytes | None
        match push:
            case (b"message", bytes(channel), bytes(payload)):
                subscription = channel
            case (b"pmessage", bytes(subscription), bytes(channel), bytes(payload)):
                pass
            case (bytes(kind), bytes() | None, int()) if kind.endswith(b"subscribe"):
                subscription, channel, payload = None, b"", b""
            case _:
                raise ValueError(f"{push!r:.100} is nothing that Redis pushes")
        message = cls(payload)
        message.subscription, message.channel = subscription, channel
        return message


def command(*words: str) -> bytes:
    """A command as Redis wants it."""
    encoded = [word.encode() for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded)


class RedisProtocol(FeedProtocol):
    """What ``[redis]`` says.

    Args:
        channels: channel or glob (:mod:`actors.channel_map`) to topic.
        type: of all events.
        message_bytes: a message whose payload is longer is counted and left out.

    Raises:
        ConfigError: a channel or topic cannot work; the field is ``channels.NAME``.
    """

    def __init__(self, channels: Mapping[str, str], type: str = "message", message_bytes: int = 1 << 20) -> None:
        super().__init__()
        if not channels:
            raise ConfigError("at least one is needed", "channels")
        self._maps: dict[bytes | None, ChannelMap] = {}
        self._names: dict[bool, list[str]] = {False: [], True: []}
        for name, template in channels.items():
            if not name:
                raise ConfigError("a channel needs a name", "channels")
            try:
                channel_map = ChannelMap(name, template)
            except ConfigError as error:
                raise ConfigError(error.message, f"channels.{name}") from None
            self._maps[name.encode()] = channel_map
            self._names[channel_map.is_glob].append(name)
        self._type, self._limit = type, message_bytes

    def opened(self) -> None:
        """Subscribe."""
        for is_glob, names in self._names.items():
            if names:
                self.outgoing.append(command("PSUBSCRIBE" if is_glob else "SUBSCRIBE", *names))

    def receive(self, raw: bytes) -> Sequence[Item]:
        """One event, or what is wrong with it; none for Redis's answer to a subscription."""
        assert isinstance(raw, RedisMessage), raw
        channel_map = self._maps.get(raw.subscription)
        if channel_map is None:
            return ()
        try:
            payload, message = self._payload(raw)
            return (Publish(0, channel_map.topic(raw.channel, message), self._type, payload),)
        except MappingError as error:
            return (error,)

    def _payload(self, raw: RedisMessage) -> tuple[bytes, Any]:
        """The event's data as JSON, and decoded."""
        if len(raw) > self._limit:
            raise _bad(BadMessage.TOO_BIG, raw, f"{len(raw)} bytes, at most {self._limit}")
        json = raw.strip(_WHITE)
        try:
            return json, decode(json)
        except MappingError as error:
            if error.reason is not BadMessage.NOT_JSON:
                raise _bad(error.reason, raw, error.detail) from None
        try:
            text = raw.decode()
            return msgspec.json.encode(text), text
        except UnicodeDecodeError:
            raise _bad(BadMessage.NOT_JSON, raw, "neither JSON nor UTF-8") from None


def _bad(reason: BadMessage, raw: RedisMessage, detail: str) -> MappingError:
    return MappingError(reason, raw.channel.decode("utf-8", "replace"), detail)
