import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.codes import ErrorCode
from transport.errors import RequestError
from transport.topics import check_pattern, check_topic, matches, topic


@pytest.mark.parametrize("name", ["a", "price.EUR_USD", "price.BTC/USD", "a-b.c:d", "x" * 255])
def test_topics_are_taken(name: str) -> None:
    assert check_topic(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "a.", ".a", "a..b", "a b", "a.*", "a.>", 'a"b', "a'b", "a\\b", "ä", "a\n", "x" * 256]
)
def test_what_is_no_topic_is_refused_by_name(name: str) -> None:
    with pytest.raises(RequestError) as caught:
        check_topic(name, "topics[3]")
    assert caught.value.code is ErrorCode.INVALID_TOPIC
    assert caught.value.field == "topics[3]"


@pytest.mark.parametrize("pattern", [">", "*", "a.*", "a.*.c", "*.b", "a.>", "*.>", "a"])
def test_patterns_are_taken(pattern: str) -> None:
    assert check_pattern(pattern) == pattern


@pytest.mark.parametrize("pattern", ["a>", "a*", ">.a", "a.>.b", "**", "a.*b", "", "a..>"])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(RequestError):
        check_pattern(pattern)


@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=3))
def test_topic_escapes_any_text_into_as_many_tokens(tokens: list[str]) -> None:
    assert len(topic(*tokens).split(".")) == len(tokens)


def test_matching() -> None:
    assert matches("price.*", "price.EUR_USD")
    assert not matches("price.*", "price.a.b")
    assert matches("price.>", "price.a.b")
    assert not matches("price.>", "price")
    assert matches(">", "a")
    assert not matches(">", "system.metrics")
    assert not matches("*.metrics", "system.metrics")
    assert matches("system.*", "system.metrics")
