"""How each kind of server is spoken to: what to say, and what that which comes means. Pure.

What a message means depends on nothing but its bytes, so that it is read once for all connections that get it.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from engine.loadtest.frames import PING, frame
from engine.loadtest.target import ANYTHING, Target
from transport.position import Position

STAMP: Final = re.compile(rb'\\?"t\\?":\s*(\d{1,18}),\s*\\?"s\\?":\s*(\d{1,9})(?!\d)')
"""In published data, however a server wraps or escapes it: when it was due (µs), its sequence."""
SUBSCRIBED: Final = 1
"""The id of a subscription."""
FIRST_REQUEST: Final = 2
"""Ids of pings and publishes begin here."""
REASON_CHARS: Final = 200
"""Of a server's words."""


class Means(Enum):
    """What a message can mean to us."""

    SAY = auto()  # `text` is to be sent
    READY = auto()  # now it hears requests
    JOINED = auto()  # the subscription stands, from `place` on where that is told
    REFUSED = auto()  # it does not: `text`
    ANSWERED = auto()  # request `id`
    FAILED = auto()  # request `id`: `text`
    GAP = auto()  # `messages` messages will not come: `text`
    BYE = auto()  # the connection will be closed: `text`


class Heard(NamedTuple):
    """One meaning."""

    means: Means
    text: str = ""
    id: int = 0
    messages: int = 0
    place: Position | None = None


class Dialect(Protocol):
    """One kind of server.

    Attributes:
        headers: of the handshake.
        ready_at_once: whether :meth:`hello` is said right after the handshake, else when :attr:`Means.READY` is heard.
        joins_at_once: whether a connection has joined with :meth:`hello`, since nobody will answer it.
        acknowledged: whether publishes are answered.
    """

    headers: dict[str, str]
    ready_at_once: bool
    joins_at_once: bool
    acknowledged: bool

    def hello(self, place: Position | None) -> list[bytes]:
        """Messages that subscribe; ``place``: this client was here before, and has seen so much."""
        ...

    def hear(self, message: bytes) -> Heard | None:
        """What a message without a stamp means."""
        ...

    def place(self, message: bytes) -> Position | None:
        """Of a message with a stamp."""
        ...

    def ping(self, number: int) -> bytes:
        """A whole frame that asks for an answer with this number, which is :data:`FIRST_REQUEST` or above."""
        ...

    def publication(self, number: int, data: bytes) -> bytes:
        """A message that publishes; it is answered with this number, if at all."""
        ...


def dialect_of(target: Target, *, publisher: bool = False) -> Dialect:
    """The one for this server; a ``publisher`` subscribes to nothing."""
    kinds: dict[str, type[Native | SocketIo | Plain]] = {"native": Native, "socketio": SocketIo, "plain": Plain}
    return kinds[target.kind](target, publisher)


class _Told(msgspec.Struct):
    """Whatever an engine says; see :mod:`transport.client_messages`."""

    op: str = ""
    id: int | str | None = None
    positions: dict[str, Position] = {}
    code: str | int = ""
    message: str = ""
    reason: str = ""
    first: int = msgspec.field(name="from", default=0)
    last: int = msgspec.field(name="to", default=-1)


class _Place(msgspec.Struct):
    epoch: str = ""
    offset: int = 0


_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What garbage makes of a decoder: it means nothing to us."""
_told: Final = msgspec.json.Decoder(_Told)
_place: Final = msgspec.json.Decoder(_Place)
_event: Final = msgspec.json.Decoder(tuple[str, _Place])
_PACKET: Final = re.compile(rb"4[23](?P<id>\d{0,18})(?P<arguments>\[.*)", re.DOTALL)


class Native:
    """An engine, in JSON."""

    ready_at_once = True
    acknowledged = True

    def __init__(self, target: Target, publisher: bool) -> None:
        self.headers = _bearer(target)
        self.joins_at_once = publisher
        self._topic, self._publisher = target.topic, publisher
        self._before = b',"topic":%b,"data":' % msgspec.json.encode(target.topic)

    def hello(self, place: Position | None) -> list[bytes]:
        if self._publisher:
            return []
        request = {"op": "subscribe", "id": SUBSCRIBED, **_subscription(self._topic, place)}
        return [msgspec.json.encode(request)]

    def hear(self, message: bytes) -> Heard | None:
        try:
            told = _told.decode(message)
        except _UNREADABLE:
            return None
        return _meaning(told, self._topic)

    def place(self, message: bytes) -> Position | None:
        try:
            return _position(_place.decode(message))
        except _UNREADABLE:
            return None

    def ping(self, number: int) -> bytes:
        return frame(b'{"op":"ping","id":%d}' % number)

    def publication(self, number: int, data: bytes) -> bytes:
        return b'{"op":"publish","id":%d%b%b}' % (number, self._before, data)


class SocketIo:
    """Socket.IO 5 over Engine.IO 4, the main namespace. Its pings are the server's, so ours are WebSocket's.

    With the events of an engine subscriptions and publishes are acknowledged, with others' nothing is.
    """

    ready_at_once = False

    def __init__(self, target: Target, publisher: bool) -> None:
        self.headers = _bearer(target)
        self.acknowledged = target.publish == ANYTHING
        self.joins_at_once = publisher or not target.recovers
        self._topic, self._publisher = target.topic, publisher
        self._subscribe = (target.subscribe or "").replace("{topic}", target.topic)
        self._before, self._after = _around(target)
        if self.acknowledged:
            self._before = b'["publish",{"topic":%b,"data":' % msgspec.json.encode(target.topic)
            self._after = b"}]"

    def hello(self, place: Position | None) -> list[bytes]:
        if self._publisher:
            return []
        if not self.joins_at_once:
            event = msgspec.json.encode(["subscribe", _subscription(self._topic, place)])
            return [b"42%d%b" % (SUBSCRIBED, event)]
        return [b"42" + self._subscribe.encode()] if self._subscribe else []

    def hear(self, message: bytes) -> Heard | None:
        kind = message[:2]
        if kind == b"2":
            return Heard(Means.SAY, "3")
        if message[:1] == b"0":
            return Heard(Means.SAY, "40")
        if kind == b"40":
            return Heard(Means.READY)
        if kind == b"44":
            return Heard(Means.REFUSED, _short(message[2:].decode(errors="replace")))
        if kind in (b"41", b"1"):
            return Heard(Means.BYE, "disconnected")
        if kind not in (b"42", b"43"):
            return None
        found = _PACKET.fullmatch(message)
        try:
            return None if found is None else self._event(kind == b"43", found["id"], found["arguments"])
        except _UNREADABLE:
            return None

    def _event(self, acknowledges: bool, number: bytes, arguments: bytes) -> Heard | None:
        if acknowledges:
            (told, *_) = msgspec.json.decode(arguments, type=list[_Told]) or [_Told(op="ok")]
            told.id = int(number or b"0")
            return _meaning(told, self._topic)
        name, told = msgspec.json.decode(arguments, type=tuple[str, _Told])
        told.op = name
        return _meaning(told, self._topic)

    def place(self, message: bytes) -> Position | None:
        try:
            return _position(_event.decode(message[2:])[1])
        except _UNREADABLE:
            return None

    def ping(self, number: int) -> bytes:
        return frame(b"%d" % number, PING)

    def publication(self, number: int, data: bytes) -> bytes:
        packet = b"42%d" % number if self.acknowledged else b"42"
        return packet + self._before + data + self._after


class Plain:
    """Messages that are what the target's templates say; nothing but a WebSocket's ping is answered."""

    ready_at_once = joins_at_once = True
    acknowledged = False

    def __init__(self, target: Target, publisher: bool) -> None:
        self.headers = _bearer(target)
        subscribe = (target.subscribe or "").replace("{topic}", target.topic)
        self._hello = [] if publisher or not subscribe else [subscribe.encode()]
        self._before, self._after = _around(target)

    def hello(self, place: Position | None) -> list[bytes]:
        return self._hello

    def hear(self, message: bytes) -> Heard | None:
        return None

    def place(self, message: bytes) -> Position | None:
        return None

    def ping(self, number: int) -> bytes:
        return frame(b"%d" % number, PING)

    def publication(self, number: int, data: bytes) -> bytes:
        return self._before + data + self._after


def _bearer(target: Target) -> dict[str, str]:
    return {} if target.token is None else {"Authorization": f"Bearer {target.token}"}


def _around(target: Target) -> tuple[bytes, bytes]:
    before, _, after = target.publish.replace("{topic}", target.topic).partition("{data}")
    return before.encode(), after.encode()


def _subscription(topic: str, place: Position | None) -> dict[str, Any]:
    return {"topics": [topic]} | ({} if place is None else {"since": {topic: place}})


def _position(place: _Place) -> Position | None:
    return Position(place.epoch, place.offset) if place.epoch else None


def _short(text: str) -> str:
    return text if len(text) <= REASON_CHARS else text[:REASON_CHARS] + "…"


def _meaning(told: _Told, topic: str) -> Heard | None:
    number = told.id if isinstance(told.id, int) else SUBSCRIBED
    match told.op:
        case "ok" if number == SUBSCRIBED:
            return Heard(Means.JOINED, place=told.positions.get(topic))
        case "ok":
            return Heard(Means.ANSWERED, id=number)
        case "error":
            text = _short(f"{told.code}: {told.message}")
            return Heard(Means.REFUSED if number == SUBSCRIBED else Means.FAILED, text, number)
        case "gap":
            return Heard(Means.GAP, told.reason or "no reason", messages=max(0, told.last - told.first + 1))
        case "bye":
            return Heard(Means.BYE, _short(f"{told.code} {told.reason}"))
        case _:
            return None
