"""Whole messages are read past the library: clients must not be able to tell, whatever they send, however it is cut."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from typing import Any, cast
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN

from tests.transport.test_websocket import HANDSHAKE, Lobby
from transport import incoming, websocket
from transport.gate import Gate, GatePolicy
from transport.http import Heads
from transport.keepalive import Keepalive
from transport.websocket import ConnectionLimits, WebSocketConnection

LIMIT = 200
KEY = b"\x11\x22\x33\x44"


def frame(first: int, payload: bytes, mask: bytes | None = KEY, length: int = 0) -> bytes:
    """A frame; ``length``: of the field of its size, 2 or 8 where that is not as short as it could be."""
    size = len(payload)
    length = length or (0 if size < 126 else 2)
    short = size if length == 0 else 126 if length == 2 else 127
    head = bytes((first, short | (0x80 if mask else 0))) + (size.to_bytes(length, "big") if length else b"")
    return head + payload if mask is None else head + mask + incoming.apply_mask(payload, mask)


def test_what_is_whole_and_what_is_not() -> None:
    hello, bytes_ = frame(0x81, b"hello"), frame(0x82, b"\xff" * 126)
    assert incoming.whole_frame(hello + bytes_, 0, LIMIT) == (0x81, b"hello", len(hello))
    assert incoming.whole_frame(hello + bytes_, len(hello), LIMIT) == (0x82, b"\xff" * 126, len(hello + bytes_))
    assert incoming.whole_frame(frame(0x81, b"a", length=8), 0, LIMIT) == (0x81, b"a", 15)
    for first in (0x89, 0x8A):
        assert incoming.whole_frame(frame(first, b"p" * 125), 0, LIMIT) == (first, b"p" * 125, 131)
    for cut in range(len(bytes_)):
        assert incoming.whole_frame(bytes_[:cut], 0, LIMIT) is None
    for other in (
        frame(0x01, b"begins"),
        frame(0x80, b"ends"),
        frame(0x89, b"p" * 126),
        frame(0x8A, b"p", length=2)[:-1],
        frame(0x88, b""),
        frame(0xC1, b"compressed"),
        frame(0x81, b"bare", mask=None),
        frame(0x81, b"long" * 51),
        b"\x81\xff" + b"\xff" * 200,
    ):
        assert incoming.whole_frame(other, 0, LIMIT) is None


def test_the_library_says_whether_a_message_may_begin() -> None:
    core = incoming.Protocol(state=OPEN, max_size=LIMIT)
    for first, payload in ((0x81, b"hello"), (0x89, b""), (0x82, bytes(126))):
        data = frame(first, payload)
        for at in range(len(data)):
            core.receive_data(data[at : at + 1])
            assert core.waits is (at == len(data) - 1)
    core.receive_data(frame(0x01, b"a part"))
    assert not core.waits
    core.receive_data(frame(0x89, b""))
    assert not core.waits, "that was amid the message"
    core.receive_data(frame(0x80, b"the rest"))
    assert core.waits
    assert [cast(Frame, event).opcode for event in core.events_received()][-1] is Opcode.CONT


class Loop:
    """Calls back when :meth:`turn` says so."""

    def __init__(self) -> None:
        self.soon: deque[Callable[[], object]] = deque()

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        self.soon.append(lambda: callback(*args))

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> None: ...

    def time(self) -> float:
        return 0.0

    def turn(self) -> None:
        while self.soon:
            self.soon.popleft()()


class Transport(asyncio.Transport):
    """Takes everything."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[object] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.done.append(bytes(data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.done.append("eof")

    def close(self) -> None:
        self.done.append("close")

    def is_closing(self) -> bool:
        return "close" in self.done

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...


class Owner:
    """Of one connection."""

    def __init__(self) -> None:
        self.mounts: dict[str, Any] = {}
        self.gate, self.heads = Gate(GatePolicy(), lambda: 0.0), Heads()

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: None


def conversation(chunks: list[bytes], closes: bool) -> tuple[list[Any], list[object], object]:
    """What the session heard of these reads, what was written, and where the connection is then."""
    loop, lobby, transport = Loop(), Lobby(), Transport()
    limits = ConnectionLimits(message_bytes=LIMIT)
    keepalive = Keepalive(cast(Any, loop), 1.0)
    connection = WebSocketConnection(lobby, limits, keepalive, cast(Any, Owner()))
    connection.connection_made(transport)
    connection.data_received(HANDSHAKE)
    [session] = lobby.sessions
    if closes:
        session.on = lambda data: connection.close(4000) if data == b"go" else None
    for chunk in chunks:
        connection.data_received(chunk)
        loop.turn()
    heard, state = session.heard, (connection.open, connection.closing)
    connection.connection_lost(None)
    return heard, transport.done[1:], state


texts = [b"", b"go", b"\xc3\xa9", b"\xff", b"\x03\xe8", b"\x03\xe8bye", b"\x00\x00", b"x" * 126, b"y" * 201]
payloads = st.one_of(st.sampled_from(texts), st.binary(max_size=130))
firsts = st.one_of(st.sampled_from([0x81, 0x82, 0x01, 0x02, 0x00, 0x80, 0x88, 0x89, 0x8A]), st.integers(0, 255))
pieces = st.one_of(
    st.builds(frame, st.sampled_from([0x81, 0x82]), payloads, st.binary(min_size=4, max_size=4)),
    st.builds(frame, firsts, payloads, st.sampled_from([KEY, bytes(4), None]), st.sampled_from([0, 0, 2, 8])),
    st.binary(max_size=6),  # not enough for one and the beginning of another
)


def only_library(chunks: list[bytes], closes: bool) -> tuple[list[Any], list[object], object]:
    """As :func:`conversation` would be without all this."""
    with patch.object(websocket, "whole_frame", lambda data, start, limit: None):
        return conversation(chunks, closes)


@given(st.lists(st.tuples(pieces, st.integers(0, 200)), max_size=8), st.booleans())
def test_nobody_can_tell_who_has_read_a_message(cut_pieces: list[tuple[bytes, int]], closes: bool) -> None:
    chunks = [part for piece, cut in cut_pieces for part in (piece[:cut], piece[cut:]) if part]
    assert conversation(chunks, closes) == only_library(chunks, closes)


whole = st.one_of(
    st.builds(frame, st.sampled_from([0x81, 0x82, 0x89, 0x8A]), st.sampled_from([b"", b"a", b"\xc3\xa9"])),
    st.binary(max_size=200).map(lambda payload: frame(0x82, payload)),
    st.just(frame(0x01, b"a") + frame(0x89, b"amid") + frame(0x80, b"b")),
)


@given(st.lists(whole, max_size=8), st.lists(st.integers(0, 400), max_size=5))
def test_many_in_one_read_come_in_their_order(frames: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(frames)
    edges = [0, *sorted(cuts), len(stream)]
    chunks = [chunk for a, b in pairwise(edges) if (chunk := stream[a:b])]
    heard, written, state = conversation(chunks, False)
    assert (heard, written, state) == only_library(frames, False)


def test_the_first_of_two_errors_in_one_read_is_blamed() -> None:
    heard, written, _ = conversation([frame(0x81, b"go") + frame(0x81, b"\xff") + frame(0x88, b"") + b"\xff"], False)
    assert heard == [("text", b"go"), ("closed", 1007, "text is not UTF-8 at byte 0")]
    assert b"not UTF-8" in b"".join(each for each in written if isinstance(each, bytes))


def test_nothing_is_heard_behind_a_close() -> None:
    heard, written, _ = conversation([frame(0x81, b"go") + frame(0x81, b"late") + frame(0x88, b"\x03\xe8")], True)
    assert heard == [("text", b"go"), ("closed", 4000, "")]
    assert written[0] == b"\x88\x02" + (4000).to_bytes(2, "big")


@pytest.mark.parametrize("size", [0, 1, 125, 126, 199, 200])
def test_a_message_at_every_cut(size: int) -> None:
    stream = frame(0x82, bytes(range(256))[:size]) * 2
    for cut in range(len(stream) + 1):
        heard, written, _ = conversation([chunk for chunk in (stream[:cut], stream[cut:]) if chunk], False)
        assert heard[:-1] == [("binary", bytes(range(256))[:size])] * 2
        assert not written


def opened(lobby: Any, transport: Transport) -> WebSocketConnection:
    keepalive = Keepalive(cast(Any, Loop()), 1.0)
    connection = WebSocketConnection(lobby, ConnectionLimits(message_bytes=LIMIT), keepalive, cast(Any, Owner()))
    connection.connection_made(transport)
    connection.data_received(HANDSHAKE)
    return connection


def test_for_who_sends_only_whole_frames_nothing_of_the_library_is_made() -> None:
    transport = Transport()
    connection = opened(Lobby(), transport)
    connection.data_received(frame(0x81, b"hello") + frame(0x89, b"ping") + frame(0x8A, b""))
    assert connection._core is None and transport.done[1:] == [b"\x8a\x04ping"]
    connection.data_received(frame(0x81, b"in two parts")[:9])
    assert connection._core is not None


def test_what_the_door_writes_first_goes_along_with_the_answer() -> None:
    class Greeting(Lobby):
        def open(self, connection: WebSocketConnection) -> Any:
            connection.write(b"\x81\x05hello")
            connection.write(b"\x81\x03you")
            return super().open(connection)

    class Refusing(Lobby):
        def open(self, connection: WebSocketConnection) -> Any:
            connection.close(4001)
            return None

    answers = []
    for lobby in (Lobby(), Greeting(), Refusing()):
        transport = Transport()
        opened(lobby, transport)
        answers.append(transport.done)
    [answer] = answers[0]
    assert cast(bytes, answer).startswith(b"HTTP/1.1 101 ") and cast(bytes, answer).endswith(b"\r\n\r\n")
    assert answers[1] == [cast(bytes, answer) + b"\x81\x05hello", b"\x81\x03you"]
    assert answers[2] == [cast(bytes, answer) + b"\x88\x02\x0f\xa1"]
