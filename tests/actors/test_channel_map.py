from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from actors.channel_map import ChannelMap
from actors.upstream_values import BadMessage, MappingError
from transport.errors import ConfigError


def is_match(glob: bytes, text: bytes) -> bool:
    """The specification: Redis's ``stringmatchlen``, one element at a time, trying all that a star may be."""
    if not glob:
        return not text
    if glob[:1] == b"*":
        return any(is_match(glob[1:], text[n:]) for n in range(len(text) + 1))
    if not text:
        return False
    if glob[:1] == b"?":
        return is_match(glob[1:], text[1:])
    if glob[:1] == b"\\":
        return glob[1:2] == text[:1] and is_match(glob[2:], text[1:])
    if glob[:1] != b"[":
        return glob[:1] == text[:1] and is_match(glob[1:], text[1:])
    at, found, negated = 1, False, glob[1:2] == b"^"
    at += negated
    while glob[at : at + 1] != b"]":
        if glob[at : at + 1] == b"\\":
            found |= glob[at + 1 : at + 2] == text[:1]
            at += 2
        elif glob[at + 1 : at + 2] == b"-":
            low, high = sorted((glob[at], glob[at + 2]))
            found |= low <= text[0] <= high
            at += 3
        else:
            found |= glob[at : at + 1] == text[:1]
            at += 1
    return found is not negated and is_match(glob[at + 1 :], text[1:])


@pytest.mark.parametrize(
    ("name", "template", "channel", "topic"),
    [
        ("alerts", "alert.all", "alerts", "alert.all"),
        ("prices.*", "price.{1}", "prices.EUR_USD", "price.EUR_USD"),
        ("prices.*", "price.{1}", "prices.a.b *", "price.a%2Eb%20%2A"),  # one token, whatever it is
        ("prices.*", "price.{1}", "prices.é", "price.%C3%A9"),
        ("*:*:*", "{3}.{1}-{2}", "fx:spot:EUR:USD", "EUR:USD.fx-spot"),  # all but the last as little as they can
        ("*.*", "x.{2}", "a.b.c", "x.b%2Ec"),
        ("*", "all.{{{1}}}", "x", "all.{x}"),
        ("a?[b-d][^x]\\*", "t", "azcy*", "t"),
        ("*_[0-9]", "n.{1}", "a_1_2", "n.a_1"),
        ("prices.*", "price.all", "prices.", "price.all"),
        ("*.*", "{2}", "\udcff.b", "b"),  # a star that is not in the topic may stand for anything
        ("a\nb*", "t.{1}", "a\nb\n", "t.%0A"),
    ],
)
def test_a_channel_becomes_a_topic(name: str, template: str, channel: str, topic: str) -> None:
    assert ChannelMap(name, template).topic(channel.encode("utf-8", "surrogateescape")) == topic


@pytest.mark.parametrize(
    ("name", "is_glob"), [("a", False), ("a.b {c}]", False), ("a*", True), ("a?", True), ("[a]", True), ("a\\*", True)]
)
def test_what_is_no_plain_name_is_a_glob(name: str, is_glob: bool) -> None:
    assert ChannelMap(name, "t").is_glob is is_glob


@pytest.mark.parametrize(
    ("name", "template", "channel"),
    [
        ("prices.*", "price.{1}", b"prices."),  # an empty token
        ("prices.*", "price.{1}", b"prices.\xff"),
        ("prices.*", "price.{1}", b"prices." + b"x" * 300),
        ("prices.*", "price.{1}", b"alerts"),
        ("*", "{1}", b"system"),
        ("*", "{1}.x", b"system"),
    ],
)
def test_a_channel_without_topic_is_bad(name: str, template: str, channel: bytes) -> None:
    with pytest.raises(MappingError) as caught:
        ChannelMap(name, template).topic(channel)
    assert caught.value.reason is BadMessage.BAD_TOPIC
    assert caught.value.path == channel.decode("utf-8", "replace")


@pytest.mark.parametrize(
    ("message", "topic"),
    [
        ({"instrument": "EUR_USD", "data": {"rank": 1}}, "price.EUR_USD.1.live"),
        ({"instrument": "EUR/USD a.b", "data": {"rank": "x"}}, "price.EUR/USD%20a%2Eb.x.live"),
    ],
)
def test_a_message_s_fields_are_in_its_topic(message: Any, topic: str) -> None:
    channel_map = ChannelMap("prices:*", "price.{instrument}.{data.rank}.{1}")
    assert [channel_map.topic(b"prices:live", message) for _ in range(2)] == [topic] * 2
    assert channel_map.topic(b"prices:old", message) == topic.replace("live", "old")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"pair": "EUR_USD"}, BadMessage.MISSING),
        ("EUR_USD", BadMessage.MISSING),
        ({"instrument": None}, BadMessage.NOT_TEXT),
        ({"instrument": ""}, BadMessage.BAD_TOPIC),
        ({"instrument": "x" * 2_000}, BadMessage.BAD_TOPIC),
    ],
)
def test_a_message_without_such_a_field_is_bad(message: Any, reason: BadMessage) -> None:
    with pytest.raises(MappingError) as caught:
        ChannelMap("prices", "price.{instrument}").topic(b"prices", message)
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    ("name", "template", "says"),
    [
        ("a", "price.{1}", "the channel has no *"),
        ("a*", "price.{2}", "the channel has 1 *"),
        ("a*", "price.{0}", "stands for nothing"),
        ("a*", "price.{}", "write {1}"),
        ("a", "price.{data..symbol}", "is not a path"),
        ("a", "price.{rows.*}", "only `each`"),
        ("a*", "price.{1:x}", "write {1}"),
        ("a*", "price.{1", "is not a template"),
        ("a*", "price..{1}", "is not a topic"),
        ("a*", "price.*", "is not a topic"),
        ("a*", "system.{1}", "belongs to the engine"),
        ("[ab", "t", "without members or ]"),
        ("[]", "t", "without members or ]"),
        ("[^]", "t", "without members"),
        ("[-a]", "t", "part of a range"),
        ("[a-z-9]", "t", "part of a range"),
        ("a\\", "t", "at the end"),
    ],
)
def test_what_cannot_work_is_refused(name: str, template: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says.replace("*", r"\*")):
        ChannelMap(name, template)


elements = st.sampled_from(
    ["*", "?", "a", "b", "-", "[a]", "[^a]", "[a-b]", "[b-a]", "[^b-a]", "\\*", "\\a", "[\\]a]", "é"]
)


@given(st.lists(elements, max_size=8).map("".join), st.text("ab-*]é", max_size=8))
@example("*ab*ab*b", "abaabb")
@example("[^a]*", "é")
def test_globs_are_redis_s(glob: str, channel: str) -> None:
    try:
        ChannelMap(glob, "t").topic(channel.encode())
        found = True
    except MappingError as error:
        assert error.detail == "is not what its pattern says"
        found = False
    assert found is is_match(glob.encode(), channel.encode())


@given(st.lists(st.text("ab.:", max_size=3), min_size=2, max_size=5), st.text("ab.:", max_size=12))
def test_what_stars_stand_for_put_together_is_the_channel(texts: list[str], channel: str) -> None:
    stars = len(texts) - 1
    channel_map = ChannelMap("*".join(texts), "-".join(f"{{{n}}}" for n in range(1, stars + 1)))
    try:
        found = channel_map.topic(channel.encode())
    except MappingError:
        return  # no match, or an empty star
    tokens = [token.replace("%2E", ".") for token in found.split("-")]
    assert channel == "".join(text + token for text, token in zip(texts, [*tokens, ""], strict=True))


def test_no_channel_takes_long() -> None:
    """Without atomic groups this one takes years: the test's timeout tells."""
    with pytest.raises(MappingError):
        ChannelMap("*a" * 12 + "*b", "t").topic(b"a" * 20_000)
