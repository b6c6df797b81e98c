import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.codes import CloseCode
from transport.reassembly import BadMessage, Reassembly, check_text


def _cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(st.binary(max_size=40), st.lists(st.integers(0, 40), max_size=6), st.booleans())
def test_what_was_cut_anywhere_is_joined_or_refused_as_the_whole_would_be(
    data: bytes, cuts: list[int], binary: bool
) -> None:
    *first, last = _cut(data, cuts)
    message = Reassembly(binary, limit=40)
    try:
        for fragment in first:
            assert message.add(fragment, False) is None
        joined = message.add(last, True)
    except BadMessage as error:
        assert error.code is CloseCode.INVALID_DATA
        with pytest.raises(UnicodeDecodeError):
            data.decode()
        assert not binary
    else:
        assert joined == data
        if not binary:
            data.decode()


@given(st.text(max_size=20), st.lists(st.integers(0, 80), max_size=6))
def test_text_may_be_cut_within_a_character(text: str, cuts: list[int]) -> None:
    *first, last = _cut(text.encode(), cuts)
    message = Reassembly(False, limit=80)
    for fragment in first:
        assert message.add(fragment, False) is None
    assert message.add(last, True) == text.encode()


@pytest.mark.parametrize(
    ("fragments", "position"),
    [
        ([b"ab\xff"], 2),
        ([b"ab", b"c\xc0\xaf"], 3),  # overlong
        ([b"\xed\xa0"], 0),  # the first two bytes of a surrogate
        ([b"\xf4", b"\x90"], 0),  # beyond U+10FFFF, known at the second byte
        ([b"ok\xe2\x82", b"x"], 2),
    ],
)
def test_text_fails_at_the_fragment_that_cannot_become_utf8(fragments: list[bytes], position: int) -> None:
    message = Reassembly(False, limit=80)
    *good, bad = fragments
    for fragment in good:
        assert message.add(fragment, False) is None
    with pytest.raises(BadMessage, match=f"at byte {position} ") as caught:
        message.add(bad, False)
    assert caught.value.code is CloseCode.INVALID_DATA


def test_text_must_not_end_within_a_character() -> None:
    with pytest.raises(BadMessage, match="UTF-8"):
        Reassembly(False, limit=80).add(b"\xe2\x82", True)


def test_the_limit_is_for_the_whole() -> None:
    message = Reassembly(True, limit=10)
    assert message.add(b"x" * 6, False) is None
    assert message.add(b"x" * 4, False) is None
    for _ in range(1000):
        assert message.add(b"", False) is None
    with pytest.raises(BadMessage, match="at most 10 bytes") as caught:
        message.add(b"x", True)
    assert caught.value.code is CloseCode.TOO_BIG


@given(st.binary(max_size=20))
def test_text_in_one_frame_is_checked_too(data: bytes) -> None:
    try:
        data.decode()
    except UnicodeDecodeError:
        with pytest.raises(BadMessage) as caught:
            check_text(data)
        assert caught.value.code is CloseCode.INVALID_DATA
    else:
        check_text(data)
