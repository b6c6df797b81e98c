"""What an upstream speaks: which messages to send, and what the received ones mean. Pure: no socket, no clock.

A connection (:mod:`actors.connection`) pumps; the protocol understands. One lives as long as its feed, across
reconnects, so that it can tell what was missed and ask for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgspec

from actors.failure import FailureKind, UpstreamRefused
from actors.feed_map import Filter, Wanted
from actors.mapping import FeedMap, Mapper, MappingError
from actors.sequence import FeedGap, Repeated, Sequences
from transport.codes import ErrorCode
from transport.errors import ConfigError, RequestError
from transport.event import Event, to_publish
from transport.messages import Publish
from transport.topics import is_system

__all__ = ["FeedGap", "FeedProtocol", "Item", "MappedProtocol", "ProtocolSpec", "Repeated", "UpstreamRefused"]

Item: TypeAlias = Event | Publish | FeedGap | Repeated | MappingError
"""What a received message contains: events, and what is to be said of those that are none.

An :class:`Event` is checked before it is published; a :class:`Publish` is one that the protocol has checked itself.
"""


def checked_publish(event: Event) -> Publish:
    """What a protocol of somebody's own wants published.

    Raises:
        RequestError: names the field; ``system.>`` is not for feeds.
    """
    if is_system(event.topic):
        raise RequestError(ErrorCode.FORBIDDEN, "system.> belongs to the engine", "topic")
    return to_publish(event)


REFUSAL_BYTES = 200
"""Of a message that refuses, for operators."""


class FeedProtocol:
    """Base of what a feed can be told to speak. A subclass of your own is named in ``[feeds.NAME] protocol``.

    All methods are called on the feeds' loop and must not block. What they raise, but :class:`UpstreamRefused`, is a
    bug that restarts the feed.

    Attributes:
        subprotocols: offered in the handshake.
        close_codes: what the upstream means by its own close codes, 4000 and above; ``closed`` where it says nothing.
        outgoing: what is to be sent, in order; the connection takes it after each call.
    """

    subprotocols: Sequence[str] = ()
    close_codes: Mapping[int, FailureKind] = {}

    def __init__(self) -> None:
        self.outgoing: list[str | bytes] = []

    def opened(self) -> None:
        """The handshake is complete: append what resumes and what subscribes."""

    def receive(self, raw: bytes) -> Sequence[Item]:
        """One message; its items in order, none if it is not for us.

        Raises:
            UpstreamRefused: this connection is of no use.
        """
        raise NotImplementedError

    def missed(self) -> FeedGap | None:
        """Asked after each reconnect: what may have been missed, unless numbers will tell."""
        return FeedGap("reconnected")

    def resync(self, gap: FeedGap) -> None:
        """A gap was found: append what asks for it, where an upstream can be asked."""

    def heartbeat(self) -> None:
        """Every ``heartbeat_interval``: append what tells the upstream that we are there."""


@dataclass(frozen=True, slots=True)
class ProtocolSpec:
    """Which protocol a feed speaks; equal specs speak alike, so that a reload knows what changed."""

    kind: type[FeedProtocol]
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def create(self) -> FeedProtocol:
        """A new one. Raises :class:`ConfigError` where the options cannot work."""
        try:
            protocol = self.kind(**self.options)
        except (TypeError, ValueError) as error:
            raise ConfigError(str(error).removeprefix(f"{self.kind.__name__}.__init__() ")) from None
        except (LookupError, AttributeError) as error:
            raise ConfigError(f"{self.kind.__name__} cannot be made: {type(error).__name__}: {error}") from None
        if not hasattr(protocol, "outgoing"):
            raise ConfigError(f"{self.kind.__name__}.__init__ must call super().__init__()")
        return protocol


class MappedProtocol(FeedProtocol):
    """A feed as configured: messages sent as they are, received ones mapped (:mod:`actors.mapping`).

    Args:
        maps: what to take from its messages.
        subscribe: JSON messages sent after each connect, in order.
        resume: JSON messages sent before those after a reconnect, once per counter, with the texts ``"{counter}"`` and
            ``"{number}"`` replaced by the counter and its last number.
        resync: JSON messages sent for a gap, with ``"{counter}"``, ``"{first}"`` and ``"{last}"`` of what is missing
            and ``"{number}"``, the last one before. What comes then is let through, late.
        heartbeat: JSON message, or a text sent as it is; ``None``: none.
        sequence: path of a number that every message of a connection has, beginning anew with each connection.
        ignore: whole messages that say nothing, e.g. the ``pong`` to a text heartbeat.
        refusal: path to the value, or values one of which, it has: such a message says that the upstream refuses what
            was asked; it ends the connection.

    Raises:
        ConfigError: a map or a path cannot work.
    """

    def __init__(
        self,
        maps: Sequence[FeedMap],
        subscribe: Sequence[Mapping[str, Any]] = (),
        resume: Sequence[Mapping[str, Any]] = (),
        resync: Sequence[Mapping[str, Any]] = (),
        heartbeat: Mapping[str, Any] | str | None = None,
        sequence: str | None = None,
        ignore: Sequence[str] = (),
        refusal: Mapping[str, Wanted] | None = None,
    ) -> None:
        super().__init__()
        self._ignore = frozenset(text.encode() for text in ignore)
        self._mapper = Mapper(maps, sequence)
        self._refusal = Filter(refusal, "refusal") if refusal else None
        self._subscribe = [_text(message) for message in subscribe]
        self._resume, self._resync = tuple(resume), tuple(resync)
        self._heartbeat = heartbeat if heartbeat is None or isinstance(heartbeat, str) else _text(heartbeat)
        self._numbered = all(feed_map.sequence for feed_map in maps)
        self._rows: dict[str, Sequences] = {
            feed_map.sequence: Sequences(late=bool(resync)) for feed_map in maps if feed_map.sequence
        }
        self._messages = Sequences()
        self._reconnected = False

    def opened(self) -> None:
        """First what resumes, so that live messages do not overtake the missed ones."""
        if self._reconnected:
            for sequences in self._rows.values():
                for counter, number in sequences.last().items():
                    self._fill(self._resume, {"counter": counter, "number": number})
        self.outgoing += self._subscribe
        for sequences in self._rows.values():
            sequences.reconnected()
        self._messages.clear()
        self._reconnected = True

    def receive(self, raw: bytes) -> Sequence[Item]:
        """Rows in order, each after the gap that it shows."""
        if self._ignore and raw in self._ignore:
            return ()
        number, rows = self._mapper.map(raw)
        if not rows and self._refusal is not None and self._refusal.is_met_by(raw):
            raise UpstreamRefused(FailureKind.REJECTED, raw[:REFUSAL_BYTES].decode("utf-8", "replace"))
        items: list[Item] = []
        if number is not None and (seen := self._messages.see("", number)) is not None:
            items.append(seen)
            if type(seen) is Repeated:
                return items
        for row in rows:
            if isinstance(row, MappingError):
                items.append(row)
                continue
            event, counter, number, sequence = row
            if number is not None and (seen := self._rows[sequence].see(counter, number, event.source_ts)) is not None:
                items.append(seen)
                if type(seen) is Repeated:
                    continue
            items.append(event)
        return items

    def missed(self) -> FeedGap | None:
        """Nothing to say where every map numbers its rows: their next numbers will."""
        return None if self._numbered else FeedGap("reconnected")

    def resync(self, gap: FeedGap) -> None:
        """Ask for the numbers that were skipped."""
        if gap.first is not None:
            values = {"counter": gap.counter, "number": gap.first - 1, "first": gap.first, "last": gap.last}
            self._fill(self._resync, values)

    def heartbeat(self) -> None:
        """The configured message."""
        if self._heartbeat is not None:
            self.outgoing.append(self._heartbeat)

    def _fill(self, templates: Sequence[Mapping[str, Any]], values: Mapping[str, Any]) -> None:
        named = {f"{{{name}}}": value for name, value in values.items()}
        self.outgoing += [_text(_filled(template, named)) for template in templates]


def _text(message: Mapping[str, Any]) -> str:
    return msgspec.json.encode(message).decode()


def _filled(template: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(template, str):
        return values.get(template, template)
    if isinstance(template, Mapping):
        return {name: _filled(value, values) for name, value in template.items()}
    if isinstance(template, (list, tuple)):
        return [_filled(item, values) for item in template]
    return template
