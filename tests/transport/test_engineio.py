from typing import Any

import msgspec
import pytest
from engineio.packet import MESSAGE
from engineio.packet import Packet as LibraryPacket
from engineio.payload import Payload
from hypothesis import given
from hypothesis import strategies as st

from transport import engineio
from transport.engineio import (
    MAX_REQUEST_PACKETS,
    EngineIoError,
    EnginePacket,
    Kind,
    decode_packet,
    decode_payload,
    encode_payload,
    message_frame,
    open_packet,
)
from transport.frames import unframe

# The separator cannot be in a text, and the library reads a text of digits as no text.
_texts = st.text(st.characters(exclude_characters="\x1e", codec="utf-8")).map(lambda text: f"a{text}")
_messages = st.lists(_texts | st.binary(), min_size=1, max_size=20)


def _frames(messages: list[Any]) -> bytes:
    return b"".join(
        [message_frame(m, True) if isinstance(m, bytes) else message_frame(m.encode(), False) for m in messages]
    )


def test_the_answer_to_a_handshake_is_in_milliseconds() -> None:
    ((binary, packet),) = unframe(open_packet("s1", ["websocket"], 0.3, 20.0, 1_000_000))
    assert (binary, packet[:1]) == (False, b"0")
    assert msgspec.json.decode(packet[1:]) == {
        "sid": "s1",
        "upgrades": ["websocket"],
        "pingInterval": 300,
        "pingTimeout": 20000,
        "maxPayload": 1_000_000,
    }


def test_frames_of_the_heartbeat_and_the_upgrade() -> None:
    written = engineio.PING + engineio.PROBED + engineio.NOOP + engineio.CLOSE
    assert [payload for _, payload in unframe(written)] == [b"2", b"3probe", b"6", b"1"]


@given(_messages)
def test_a_payload_of_the_library_is_read_as_it_was_meant(messages: list[str | bytes]) -> None:
    body = Payload(packets=[LibraryPacket(MESSAGE, message) for message in messages]).encode()
    assert decode_payload(body.encode()) == [
        EnginePacket(Kind.MESSAGE, m if isinstance(m, bytes) else m.encode(), isinstance(m, bytes)) for m in messages
    ]


@given(_messages)
def test_responses_hold_all_packets_in_order_and_as_many_as_the_library_takes(messages: list[str | bytes]) -> None:
    waiting, got = _frames(messages), []
    while waiting:
        body, taken = encode_payload(waiting)
        assert taken
        waiting = waiting[taken:]
        packets = Payload(encoded_payload=body.decode()).packets  # refuses more than 16
        assert len(packets) == min(16, len(messages) - len(got))
        got += [packet.data for packet in packets]
    assert got == messages


def test_packets_of_a_websocket() -> None:
    assert decode_packet(b"2probe", False) == (Kind.PING, b"probe", False)
    assert decode_packet(b"5", False) == (Kind.UPGRADE, b"", False)
    assert decode_packet(b"2probe", True) == (Kind.MESSAGE, b"2probe", True)


@pytest.mark.parametrize("data", [b"", b"abc", b"7", b"-1", "²".encode(), b"b"])
def test_a_message_without_a_packet_type_is_refused(data: bytes) -> None:
    with pytest.raises(EngineIoError, match="a digit from 0 to 6"):
        decode_packet(data, False)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "digit"),
        (b"4a\x1e", "digit"),
        (b"4a\x1e\x1e4b", "digit"),
        (b"abc", "digit"),
        (b"bAQI", "base64"),
        (b"b****", "base64"),
        (b"4\xff", "UTF-8"),
        (b"\x1e".join([b"2"] * (MAX_REQUEST_PACKETS + 1)), "at most 4096"),
    ],
)
def test_a_payload_that_is_none_is_refused(body: bytes, text: str) -> None:
    with pytest.raises(EngineIoError, match=text):
        decode_payload(body)


@given(st.binary(max_size=60))
def test_any_body_is_packets_or_refused(body: bytes) -> None:
    try:
        packets = decode_payload(body)
    except EngineIoError:
        return
    assert len(packets) == body.count(b"\x1e") + 1


def test_a_body_with_as_many_packets_as_allowed_is_taken() -> None:
    assert len(decode_payload(b"\x1e".join([b"4"] * MAX_REQUEST_PACKETS))) == MAX_REQUEST_PACKETS
