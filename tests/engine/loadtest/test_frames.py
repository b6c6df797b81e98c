"""Literal bytes of RFC 6455, section 5.7, and what no server may send."""

from __future__ import annotations

import pytest

from engine.loadtest.frames import CLOSE, PING, BadFrame, close_reason, frame, scan

HELLO = b"\x81\x05Hello"
PINGED = b"\x89\x02hi"
FRAGMENTS = b"\x01\x03Hel" + PINGED + b"\x80\x02lo"
LONG = b"\x82\x7e\x01\x00" + b"x" * 256
LONGER = b"\x82\x7f" + (1 << 16).to_bytes(8) + b"y" * (1 << 16)


def test_messages_and_control_frames() -> None:
    found = scan(HELLO + PINGED + LONG + LONGER + b"\x88\x02\x03\xe8")
    assert found.messages == [b"Hello", b"x" * 256, b"y" * (1 << 16)]
    assert found.controls == [(PING, b"hi"), (CLOSE, b"\x03\xe8")]
    assert found.end == len(HELLO + PINGED + LONG + LONGER) + 4


def test_a_ping_among_fragments() -> None:
    assert scan(FRAGMENTS + HELLO) == ([b"Hello", b"Hello"], [(PING, b"hi")], len(FRAGMENTS + HELLO))


@pytest.mark.parametrize("stream", [HELLO + FRAGMENTS + LONG, PINGED + HELLO])
def test_cut_at_every_position(stream) -> None:
    whole = scan(stream)
    for cut in range(len(stream)):
        first = scan(stream[:cut])
        second = scan(stream[:cut][first.end :] + stream[cut:])
        assert first.messages + second.messages == whole.messages
        assert first.controls + second.controls == whole.controls
        assert first.end + second.end == len(stream)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x81\x85\0\0\0\0Hello", "masked"),
        (b"\xc1\x05Hello", "reserved bits"),
        (b"\x83\x00", "opcode 3"),
        (b"\x80\x00", "continuation of nothing"),
        (b"\x01\x01a\x81\x01b", "before the last one has ended"),
        (b"\x09\x00", "control frame"),
        (b"\x89\x7e\x00\x80", "control frame"),
        (b"\x82\x7f" + (1 << 40).to_bytes(8), "1099511627776 bytes"),
    ],
)
def test_what_no_server_may_send(data, words) -> None:
    with pytest.raises(BadFrame, match=words):
        scan(data)


def test_a_message_without_end_is_not_waited_for(monkeypatch) -> None:
    monkeypatch.setattr("engine.loadtest.frames.MESSAGE_BYTES", 100)
    with pytest.raises(BadFrame, match="more than 100"):
        scan(b"\x01\x40" + bytes(64) + b"\x00\x40" + bytes(64))


@pytest.mark.parametrize("length", [0, 5, 125, 126, 65_535, 65_536])
def test_ours_are_masked(length) -> None:
    payload = b"z" * length
    ours = frame(payload)
    masked = bytearray(ours)
    masked[1] &= 0x7F
    head = len(ours) - length - 4
    assert ours[1] & 0x80
    assert ours[head : head + 4] == bytes(4)
    assert scan(bytes(masked[:head]) + payload).messages == [payload]


def test_why_it_was_closed() -> None:
    assert close_reason(b"\x03\xf4restart") == "closed by the server with 1012 restart"
    assert close_reason(b"\x03\xe8") == "closed by the server with 1000"
    assert close_reason(b"") == "closed by the server without a code"
