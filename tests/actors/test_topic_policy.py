"""Which of several configured patterns counts for a topic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.topic_policy import DEFAULT_POLICY, Strategy, TopicPolicies, TopicPolicy
from transport.topics import matches

BY_RANK = ["a.b.c", "a.b.*", "a.b.>", "a.*.c", "a.*.*", "a.*.>", "a.>", "*.b.c", "*.>", ">"]


def policies(*patterns: str) -> TopicPolicies:
    """The window tells which pattern it was."""
    return TopicPolicies({pattern: TopicPolicy(window_s=n / 100) for n, pattern in enumerate(patterns)})


def test_without_a_matching_pattern_there_is_the_default() -> None:
    assert TopicPolicies({}).of("a") is DEFAULT_POLICY
    assert policies("a", "b.*").of("b") is DEFAULT_POLICY
    assert DEFAULT_POLICY.strategy is Strategy.CONTENT_BASED
    assert not (DEFAULT_POLICY.acks or DEFAULT_POLICY.presence or DEFAULT_POLICY.announce or DEFAULT_POLICY.window_s)


@pytest.mark.parametrize("place", range(len(BY_RANK)))
def test_the_most_specific_pattern_counts_whatever_the_order_of_the_tables(place: int) -> None:
    patterns = BY_RANK[place:]
    assert policies(*patterns).of("a.b.c").window_s == 0.0
    assert policies(*reversed(patterns)).of("a.b.c").window_s == (len(patterns) - 1) / 100


def test_tables_are_not_merged() -> None:
    both = TopicPolicies({"a.>": TopicPolicy(presence=True), "a.b": TopicPolicy(window_s=0.5)})
    assert both.of("a.b") == TopicPolicy(window_s=0.5)


def test_a_leading_wildcard_is_not_about_the_engines_own_topics() -> None:
    assert policies(">", "*.feeds").of("system.feeds") is DEFAULT_POLICY
    assert policies("system.>").of("system.feeds") is not DEFAULT_POLICY


def test_a_pattern_can_be_asked_for() -> None:
    some = TopicPolicies({"jobs.>": TopicPolicy(Strategy.LOAD_BALANCED), "jobs.*.now": TopicPolicy(window_s=0.1)})
    for pattern in ("jobs.>", "jobs.*", "jobs.*.later"):
        assert some.of(pattern).strategy is Strategy.LOAD_BALANCED
    assert some.of("jobs.*.now").window_s == 0.1
    assert some.of(">") is DEFAULT_POLICY and some.of("*.now") is DEFAULT_POLICY


tokens = st.sampled_from(["a", "b", "*"])
patterns = st.builds(
    lambda tokens, rest: ".".join([*tokens, ">"] if rest else tokens),
    st.lists(tokens, min_size=1, max_size=3),
    st.booleans(),
)


@given(st.lists(patterns, unique=True, max_size=8), st.lists(st.sampled_from("ab"), min_size=1, max_size=4))
def test_what_counts_matches_and_nothing_that_matches_is_more_specific(names: list[str], tokens: list[str]) -> None:
    topic = ".".join(tokens)
    found = policies(*names).of(topic)
    matching = [name for name in names if matches(name, topic)]
    if not matching:
        assert found is DEFAULT_POLICY
        return
    # Where two patterns differ first, the chosen one has the narrower token.
    chosen = names[round(found.window_s * 100)].split(".")
    assert ".".join(chosen) in matching
    for other in matching:
        first = next(((x, y) for x, y in zip(chosen, other.split("."), strict=False) if x != y), None)
        assert first is None or first[1] == ">" or (first[1] == "*" and first[0] != ">")
