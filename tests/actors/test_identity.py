"""What a token allows: containment of patterns against all topics of a small world, and claims."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.identity import Identity, Patterns, check_presence, check_publish, check_subscribe, grants
from transport.codes import ErrorCode
from transport.errors import RequestError
from transport.topics import check_pattern, matches

NAMES = ("a", "b", "user", "system")
STRANGER = "z"  # a token that no pattern of this world names
DEPTH = 3
TOPICS = [".".join(tokens) for n in range(1, DEPTH + 2) for tokens in product((*NAMES, STRANGER), repeat=n)]

tokens = st.sampled_from([*NAMES, "*"])
patterns = st.builds(
    lambda first, rest: check_pattern(".".join([*first, *([">"] if rest else [])]) or ">"),
    st.lists(tokens, min_size=0, max_size=DEPTH - 1),
    st.booleans(),
)


@given(st.lists(patterns, max_size=4), patterns)
def test_a_pattern_is_allowed_if_every_topic_that_it_matches_is(allowed: list[str], asked: str) -> None:
    wanted = [topic for topic in TOPICS if matches(asked, topic)]
    every = all(any(matches(pattern, topic) for pattern in allowed) for topic in wanted)
    assert Patterns(allowed).allow(asked) is every


@pytest.mark.parametrize(
    ("allowed", "asked", "may"),
    [
        (["price.EUR_USD"], "price.EUR_USD", True),
        (["price.EUR_USD"], "price.*", False),
        (["price.EUR_USD"], "price.>", False),
        (["price.EUR_USD"], ">", False),
        (["price.EUR_USD"], "*.EUR_USD", False),
        (["price.EUR_USD"], "price.eur_usd", False),
        (["price.EUR_USD"], "price.EUR%5FUSD", False),
        (["price.*"], "price.EUR_USD", True),
        (["price.*"], "price.EUR.USD", False),
        (["price.*"], "price.>", False),
        (["price.*", "price.*.>"], "price.>", True),
        (["price.>"], "price", False),
        (["price.>"], "price.*.a.>", True),
        (["*", "*.>"], ">", True),
        ([">"], "*.a.>", True),
        ([">"], "system.metrics", False),
        ([">"], "user.alice", False),
        (["*.alice"], "user.alice", False),
        (["system.>"], "system.feeds.*", True),
        (["system.>"], ">", False),
        ([], "a", False),
        ([], ">", False),
    ],
)
def test_what_is_allowed(allowed: list[str], asked: str, may: bool) -> None:
    assert Patterns(allowed).allow(asked) is may


def identity(**claim: Any) -> Identity:
    return Identity("alice", 1.0, 1.0, grants(claim))


def refused(check: Callable[..., None], *arguments: Any) -> bool:
    try:
        check(*arguments, "topics[3]")
    except RequestError as error:
        assert (error.code, error.field) == (ErrorCode.FORBIDDEN, "topics[3]")
        return True
    return False


def test_each_permission_is_its_own() -> None:
    alice = identity(subscribe=["s.*"], publish=["p.*"])
    assert not refused(check_subscribe, alice, "alice", "s.a")
    assert refused(check_subscribe, alice, "alice", "p.a")
    assert not refused(check_publish, alice, "p.a")
    assert refused(check_publish, alice, "s.a")
    # Who may read a topic may ask who else does, unless the token says otherwise.
    assert not refused(check_presence, alice, "alice", "s.a")
    assert refused(check_presence, alice, "alice", "p.a")
    assert refused(check_presence, identity(subscribe=["s.*"], presence=[]), "alice", "s.a")
    assert not refused(check_presence, identity(presence=["s.*"]), "alice", "s.a")


def test_a_user_s_own_topics_need_no_permission_and_no_permission_opens_another_s() -> None:
    nothing, everything = identity(), identity(subscribe=[">", "user.>", "system.>"], publish=[">", "system.>"])
    for own in ("user.alice", "user.alice.orders", "user.alice.>"):
        assert not refused(check_subscribe, nothing, "alice", own)
        assert refused(check_publish, nothing, own)
        assert refused(check_publish, everything, own)  # a leading wildcard does not match it
    for foreign in ("user.bob", "user.*", "user.>", "user", "user.alicea"):
        assert refused(check_subscribe, everything, "alice", foreign)
        assert refused(check_presence, everything, "alice", foreign)
    assert not refused(check_subscribe, everything, "alice", "system.>")
    assert refused(check_publish, everything, "system.metrics")
    assert refused(check_publish, None, "system")
    assert not refused(check_publish, None, "a")
    assert not refused(check_subscribe, None, None, ">")


@pytest.mark.parametrize(
    ("claim", "named"),
    [
        ([], "object"),
        ("price.*", "object"),
        ({"subscribe": "price.*"}, "$.subscribe"),
        ({"publish": ["a", 1]}, "$.publish[1]"),
        ({"subscribe": ["a", "a..b"]}, "heliograph.subscribe[1]"),
        ({"presence": ["a.>.b"]}, "heliograph.presence[0]"),
        ({"call": ["x" * 256]}, "heliograph.call[0]"),
    ],
)
def test_a_malformed_claim_is_refused_by_name(claim: Any, named: str) -> None:
    with pytest.raises(RequestError) as caught:
        grants(claim)
    assert (caught.value.code, caught.value.field) == (ErrorCode.UNAUTHORIZED, "token")
    assert named in caught.value.message


def test_what_a_later_version_adds_is_not_read_and_equal_claims_share_what_they_allow() -> None:
    assert grants({"subscribe": ["a"], "teleport": ["b"]}) is grants({"subscribe": ["a"]})
    assert grants(None) is grants({})


def test_a_pattern_of_many_wildcards_costs_no_more_than_its_tokens() -> None:
    most = ".".join("*" * 128)
    allowed = Patterns([most, "*.>"])
    assert allowed.allow(most)  # and not 2 to the power of 128 ways to match it
    assert not allowed.allow(">")
