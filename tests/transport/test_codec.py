"""Messages survive the wire; anything else is a CodecError and nothing but that."""

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport import codec, messages
from transport.errors import CodecError
from transport.messages import Ask, Fence, Interest, Publication, Publish, Published, Refused, Reply, Tell

texts = st.text(max_size=20)
numbers = st.integers(-(2**63), 2**64 - 1)
floats = st.floats(allow_nan=False)
data = st.binary(max_size=50)
bodies = st.recursive(
    st.none() | st.booleans() | numbers | floats | texts | data,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
optional = st.none() | texts
publications = st.builds(
    Publication, texts, texts, numbers, floats, texts, data, optional, optional, st.none() | floats
)
missed = st.builds(messages.Missed, texts, texts, numbers, numbers, texts)
positions = st.dictionaries(texts, st.tuples(texts, numbers), max_size=3)
everything = st.one_of(
    publications,
    st.builds(Publish, numbers, texts, texts, data, optional, optional, st.none() | floats, optional),
    st.builds(Published, st.lists(st.tuples(numbers, texts, numbers), max_size=3)),
    st.builds(Refused, numbers, texts, texts, optional),
    missed,
    st.builds(Interest, numbers, *[st.lists(texts, max_size=3)] * 4, st.none() | texts | positions),
    st.builds(messages.Backlog, numbers, data),
    st.builds(messages.Ready, optional),
    st.builds(messages.Mark, texts),
    st.builds(messages.ReadHistory, numbers, texts, numbers, st.none() | st.tuples(texts, numbers)),
    st.builds(messages.HistoryPage, numbers, data, st.none() | missed),
    st.builds(
        Fence,
        numbers,
        texts,
        positions,
        st.lists(publications, max_size=3),
        st.none() | st.booleans(),
        st.lists(missed, max_size=3),
    ),
    st.builds(messages.Hello, texts, texts, numbers),
    st.builds(Tell, texts, texts, bodies),
    st.builds(Ask, numbers, texts, texts, bodies),
    st.builds(Reply, numbers, bodies),
)


@given(st.lists(everything, max_size=40))
def test_a_batch_comes_back_as_it_was(batch):
    back = codec.unpack_batch(codec.join([codec.pack(message) for message in batch]))

    assert back == batch
    assert [type(message) for message in back] == [type(message) for message in batch]


def test_every_message_type_is_registered():
    named = [kind for kind in vars(messages).values() if hasattr(kind, "_fields")]

    assert set(named) == set(codec._TYPES)


def test_nested_events_of_a_fence_are_publications():
    event = Publication("a", "e", 1, 1.0, "t", b"{}")

    (fence,) = codec.unpack_batch(codec.join([codec.pack(Fence(1, "p", {"a": ("e", 1)}, [event]))]))

    assert type(fence.events[0]) is Publication
    assert fence.positions == {"a": ("e", 1)}


@pytest.mark.parametrize("n", [0, 1, 15, 16, 65_535, 65_536])
def test_a_batch_of_any_length_has_its_header(n):
    assert codec.unpack(codec.join([b"\x01"] * n)) == [1] * n


@given(st.binary(max_size=200))
def test_garbage_is_a_codec_error(garbage):
    try:
        assert isinstance(codec.unpack_batch(garbage), list)
    except CodecError:
        pass


@given(st.recursive(numbers | texts | st.none(), lambda inner: st.lists(inner, max_size=11), max_leaves=20))
def test_well_formed_nonsense_is_a_codec_error(value):
    try:
        assert codec.unpack_batch(msgpack.packb(value)) == []
    except CodecError:
        pass


@given(st.lists(everything, min_size=1, max_size=3), st.data())
def test_a_damaged_batch_is_a_codec_error_or_a_batch(batch, damage):
    body = bytearray(codec.join([codec.pack(message) for message in batch]))
    place = damage.draw(st.integers(0, len(body) - 1))
    body[place] ^= damage.draw(st.integers(1, 255))
    try:
        codec.unpack_batch(bytes(body))
    except CodecError:
        pass


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ([[99, "a"]], "not a batch of known messages"),
        ([[-1, "a"]], "not a batch of known messages"),
        ([[]], "not a batch of known messages"),
        ([{}], "not a batch of known messages"),
        ([[[], 1]], "not a batch of known messages"),
        ({}, "not a batch"),
        (None, "not a batch"),
        ([[0, 1, "a", "t"]], "not a Publish: .*length"),
        ([[0, 1, "a", "t", b"{}", None, None, None, None, None, 1]], "not a Publish: .*length"),
        ([[0, 1, "a", "t", "text"]], "not a Publish: Expected `bytes`, got `str`"),
        ([[0, True, "a", "t", b"{}"]], "not a Publish: Expected `int`, got `bool`"),
        ([[0, 1, b"a", "t", b"{}"]], "not a Publish: Expected `str`, got `bytes`"),
        ([[3, "a", "e", 1, "now", "t", b"{}"]], "not a Publication: Expected `float`"),
        ([[5, 1, ["a", 2], [], [], []]], "not a Interest: Expected `str`"),
    ],
)
def test_what_is_wrong_is_said(value, why):
    with pytest.raises(CodecError, match=why):
        codec.unpack_batch(msgpack.packb(value))


def test_too_deep_and_too_long_are_codec_errors():
    for bad in (b"\x91" * 100_000, b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xc7\x01\x05x", b"\x81\x90\x01"):
        with pytest.raises(CodecError):
            codec.unpack_batch(bad)


def test_what_cannot_be_packed_is_refused_where_it_is_packed():
    deep: list = []
    for _ in range(2000):
        deep = [deep]
    for body in (object(), 2**64, "\ud800", deep, {1, 2}):
        with pytest.raises(CodecError, match="Tell cannot be packed"):
            codec.pack(Tell("a", "b", body))
    with pytest.raises(CodecError, match="tuple is not a bus message"):
        codec.pack(("a", "b"))
    with pytest.raises(CodecError, match="the bus takes"):
        codec.pack(Tell("a", "b", bytes(codec.MAX_ITEM_BYTES)))
    assert codec.unpack_batch(codec.join([codec.pack(Tell("a", "b", 1))])) == [Tell("a", "b", 1)]  # still whole
