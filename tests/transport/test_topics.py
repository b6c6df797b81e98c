import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.codes import ErrorCode
from transport.errors import RequestError
from transport.topics import (
    check_pattern,
    check_readable,
    check_topic,
    check_user,
    matcher,
    matches,
    topic,
    user_topic,
)


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


@pytest.mark.parametrize("pattern", [">", "*", "*.alice", "*.*", "*.>"])
def test_a_leading_wildcard_does_not_match_users(pattern: str) -> None:
    assert not matches(pattern, "user.alice")
    assert not matches(pattern, "user")
    assert matches("user.*", "user.alice")


@pytest.mark.parametrize("user", ["alice", "a@b", "42", "x" * 250])
def test_users_are_taken_and_have_a_topic(user: str) -> None:
    assert check_topic(user_topic(check_user(user))) == f"user.{user}"


@pytest.mark.parametrize("user", ["", "a.b", "*", ">", "a b", "ä", "x" * 251, "a'"])
def test_what_is_no_user_is_refused(user: str) -> None:
    with pytest.raises(RequestError) as caught:
        check_user(user)
    assert (caught.value.code, caught.value.field) == (ErrorCode.BAD_REQUEST, "user")


@pytest.mark.parametrize("pattern", ["user.alice", "user.alice.orders", "user.alice.>", "user.alice.*", "users.b", ">"])
def test_what_a_user_may_read(pattern: str) -> None:
    check_readable(pattern, "alice")


@pytest.mark.parametrize("user", ["alice", None])
@pytest.mark.parametrize("pattern", ["user", "user.bob", "user.*", "user.>", "user.alicea", "user.*.b", "user.bob.>"])
def test_what_is_another_user_s_is_refused(pattern: str, user: str | None) -> None:
    with pytest.raises(RequestError) as caught:
        check_readable(pattern, user, "topics[1]")
    assert (caught.value.code, caught.value.field) == (ErrorCode.FORBIDDEN, "topics[1]")


tokens = st.lists(st.sampled_from(["a", "b", "a+", "system", "user"]), min_size=1, max_size=3)
wild = st.lists(st.sampled_from(["a", "b", "a+", "system", "user", "*"]), max_size=3)


@given(tokens, wild, st.booleans())
def test_the_matcher_says_what_matches_says(name: list[str], pattern: list[str], rest: bool) -> None:
    text = ".".join([*pattern, ">"] if rest or not pattern else pattern)
    assert bool(matcher(text)(".".join(name))) == matches(text, ".".join(name))
