"""What the engine sends to a native client, as typed structs, and one decoder for it.

Source: the client protocol; its ends are in ``docs/closing.md``, requests in :mod:`transport.requests`. Unknown ops and
fields are ignored, so that an older client works with a newer engine.
"""

from __future__ import annotations

from typing import Any, get_args

import msgspec

from transport.codes import ErrorCode, Priority
from transport.errors import CodecError, RequestError
from transport.event import Event
from transport.position import Position

DISCONNECTED = "disconnected"  # a gap's reason besides GapReason's: published while this client was not connected


class Gap(msgspec.Struct, frozen=True):
    """Events ``first`` to ``last`` of a topic's epoch that this client will not get.

    ``reason`` is one of :class:`transport.codes.GapReason` or ``"disconnected"``. Where ``last < first`` nobody knows
    how many were lost.
    """

    topic: str
    epoch: str
    first: int
    last: int
    reason: str


class Welcome(msgspec.Struct, tag_field="op", tag="welcome"):
    """The first message of each connection; ``ping_interval`` in seconds.

    With a token that was accepted: its user, and when it ends, Unix seconds. ``auth_within``: none was, and the engine
    wants one within so many seconds.
    """

    protocol: int
    session: str = ""
    server: str = ""
    node: str = ""
    ping_interval: float = 25.0
    limits: dict[str, Any] = {}
    user: str | None = None
    expires: float | None = None
    auth_within: float | None = None


class EventMessage(msgspec.Struct, tag_field="op", tag="event", gc=False):
    """A publication as it is on the wire; without epoch and offset it has no place yet, and comes again with one."""

    topic: str
    ts: float
    data: msgspec.Raw
    epoch: str = ""
    offset: int = 0
    type: str = "message"
    key: str | None = None
    priority: Priority | None = None
    source_ts: float | None = None

    def event(self) -> Event:
        """The event that users see."""
        return Event(
            topic=self.topic,
            payload=bytes(self.data),  # a copy: the view would keep the whole frame alive
            type=self.type,
            key=self.key,
            priority=self.priority,
            source_ts=self.source_ts,
            epoch=self.epoch,
            offset=self.offset,
            ts=self.ts,
        )


class Events(msgspec.Struct, tag_field="op", tag="events"):
    """What was sent together, as one message; only where a subscription asked for ``batch``."""

    events: list[EventMessage]


class GapMessage(msgspec.Struct, tag_field="op", tag="gap"):
    """A :class:`Gap` as it is on the wire, at its place among the events."""

    topic: str
    epoch: str
    first: int = msgspec.field(name="from")
    last: int = msgspec.field(name="to")
    reason: str

    def gap(self) -> Gap:
        """The gap that users see."""
        return Gap(self.topic, self.epoch, self.first, self.last, self.reason)


class PositionMessage(msgspec.Struct, tag_field="op", tag="position"):
    """All that this session gets up to ``position`` was sent; what a later subscription may resume after."""

    position: str


class Skipped(msgspec.Struct, tag_field="op", tag="skipped"):
    """``count`` events of a topic were conflated away."""

    topic: str
    count: int


class ServerSubscribed(msgspec.Struct, tag_field="op", tag="subscribed"):
    """The engine has subscribed this session by itself: to its user's topic, or by an operator's order."""

    topics: list[str]
    positions: dict[str, Position] = {}
    position: str = ""


class ServerUnsubscribed(msgspec.Struct, tag_field="op", tag="unsubscribed"):
    """An operator has ended subscriptions of this session; ``topics`` are left."""

    topics: list[str]


class CallMessage(msgspec.Struct, tag_field="op", tag="call"):
    """Somebody calls a method of a topic that this session serves: it is answered by ``result``, with this ``call``.

    ``user``: whose session calls; ``None``: one of nobody's.
    """

    call: str
    topic: str
    method: str
    params: msgspec.Raw
    user: str | None = None


class Slow(msgspec.Struct, tag_field="op", tag="slow"):
    """Half of what the engine keeps for this session is used."""

    queued: int
    limit: int


class Bye(msgspec.Struct, tag_field="op", tag="bye"):
    """The engine is about to close; ``reconnect_in`` in seconds."""

    code: int
    reason: str = ""
    reconnect: bool = True
    reconnect_in: float | None = None


class Refusal(msgspec.Struct, tag_field="op", tag="error"):
    """A request was refused; without ``id`` it could not even be read."""

    code: str
    message: str
    id: int | str | None = None
    field: str | None = None

    def error(self) -> RequestError:
        """The exception for it."""
        code = self.code if self.code in set(ErrorCode) else ErrorCode.INTERNAL  # v1 may grow codes
        return RequestError(code, self.message, self.field)


class Ok(msgspec.Struct, tag_field="op", tag="ok"):
    """An answer; what else it holds depends on the request."""

    id: int | str


class Subscribed(Ok, tag="ok"):
    """``recovered``: whether everything since the place asked for follows; ``None``: no such place was asked for."""

    topics: list[str] = []
    positions: dict[str, Position] = {}
    position: str = ""
    recovered: bool | None = None


class Unsubscribed(Ok, tag="ok"):
    topics: list[str] = []


class PublishedAt(Ok, tag="ok"):
    """``pending``: kept on the engine's disk, to get its place when its Redis is back."""

    epoch: str = ""
    offset: int = 0
    pending: bool = False

    def position(self) -> Position | None:
        """Its place; ``None`` while there is none yet."""
        return None if self.pending else Position(self.epoch, self.offset)


class SnapshotEvents(Ok, tag="ok"):
    events: list[EventMessage]


class HistoryEvents(Ok, tag="ok"):
    """Oldest first; ``gap`` is what of the place asked for cannot be had any more."""

    events: list[EventMessage]
    gap: GapMessage | None = None


class PresentUsers(Ok, tag="ok"):
    users: list[str]


class HeldSubscriptions(Ok, tag="ok"):
    subscriptions: list[str]
    options: dict[str, dict[str, Any]] = {}


class Called(Ok, tag="ok"):
    """``result``: JSON of what was called."""

    result: msgspec.Raw


class Authenticated(Ok, tag="ok"):
    user: str
    expires: float


class Figures(Ok, tag="ok"):
    """``stats``: the engine's public figures by name."""

    stats: dict[str, Any]


class Pong(Ok, tag="ok"):
    """``ts``: the engine's time, Unix seconds."""

    ts: float


Message = (
    Welcome
    | EventMessage
    | Events
    | GapMessage
    | PositionMessage
    | Skipped
    | ServerSubscribed
    | ServerUnsubscribed
    | CallMessage
    | Slow
    | Bye
    | Refusal
    | Ok
)


class Malformed(CodecError):
    """A message of a known op that lacks what it must have."""


class _Probe(msgspec.Struct):
    op: str


_messages = msgspec.json.Decoder(Message)
_probe = msgspec.json.Decoder(_Probe)
_KNOWN = frozenset(kind.__struct_config__.tag for kind in get_args(Message))


def decode(data: bytes) -> Message | None:
    """One message of the engine; ``None`` for an op that this client does not know.

    Raises:
        Malformed: it is a message of the protocol, with something wrong in it.
        CodecError: it is not a message of the protocol.
    """
    try:
        message: Message = _messages.decode(data)
        return message
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        try:
            op = _probe.decode(data).op
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise CodecError(f"not a message of the protocol: {error}") from None
        if op in _KNOWN:
            raise Malformed(f"malformed {op!r} message: {error}") from None
        return None
