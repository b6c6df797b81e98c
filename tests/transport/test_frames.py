import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame as LibraryFrame
from websockets.frames import Opcode

from transport.frames import PING, binary_frame, fit_reason, text_frame, unframe


def test_frames_are_the_bytes_of_the_rfc() -> None:
    # RFC 6455 section 5.7.
    assert text_frame(b"Hello") == bytes.fromhex("810548656c6c6f")
    assert binary_frame(b"x" * 256) == bytes.fromhex("827e0100") + b"x" * 256
    assert binary_frame(b"x" * 65536) == bytes.fromhex("827f0000000000010000") + b"x" * 65536
    assert bytes.fromhex("8900") == PING


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536])
def test_the_library_frames_the_same(size: int) -> None:
    payload = b"a" * size
    assert text_frame(payload) == LibraryFrame(Opcode.TEXT, payload).serialize(mask=False)
    assert binary_frame(payload) == LibraryFrame(Opcode.BINARY, payload).serialize(mask=False)


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0, 1, 125, 126, 127, 65535, 65536]))))
def test_frames_in_a_row_are_taken_apart_again(sizes: list[tuple[bool, int]]) -> None:
    messages = [(binary, bytes([i % 256]) * size) for i, (binary, size) in enumerate(sizes)]
    row = b"".join(binary_frame(payload) if binary else text_frame(payload) for binary, payload in messages)
    assert list(unframe(row)) == messages


@given(st.text(max_size=200))
def test_a_reason_of_any_length_is_cut_at_a_character(reason: str) -> None:
    said = fit_reason(reason)
    assert len(said.encode()) <= 123
    assert reason.encode("utf-8", "replace").decode().startswith(said)
    assert len(said.encode()) >= min(120, len(reason.encode("utf-8", "replace")))
