"""What the route cache remembers, and for how long; against a plain list of what was said to it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.route_cache import WILDCARDS_AT_ONCE, RouteCache
from transport.topics import matches

TTL = 10.0


def filled(limit: int, count: int) -> RouteCache[int]:
    cache: RouteCache[int] = RouteCache(limit, TTL)
    for n in range(count):
        cache.put(f"t.{n}", n, 0.0)
    return cache


def test_what_is_used_stays_and_what_is_not_goes() -> None:
    cache = filled(100, 30)
    for n in range(30, 1_000):
        assert cache.find("t.7") == 7
        cache.put(f"t.{n}", n, 0.0)
        assert len(cache) <= 100
    assert cache.find("t.8") is None
    assert cache.find("t.999") == 999


def test_a_route_used_again_is_recent_again() -> None:
    cache = filled(10, 6)
    assert "t.0" in cache and "t.0" not in cache.recent
    assert cache.find("t.0") == 0
    assert cache.recent["t.0"] == 0


def test_the_dict_of_recent_routes_is_always_the_same() -> None:
    cache = filled(4, 0)
    recent = cache.recent
    for n in range(20):
        cache.put(f"t.{n}", n, 0.0)
    cache.clear()
    assert recent is cache.recent and len(cache) == 0 and cache.find("t.19") is None


def test_a_route_is_never_found_beyond_its_time_and_is_found_before() -> None:
    cache = filled(10, 2)
    cache.put("late", 5, 4.0)
    cache.expire(9.99)
    assert cache.find("t.0") == 0
    cache.expire(TTL)
    assert "t.0" not in cache and "t.1" not in cache and cache.find("late") == 5
    cache.put("late", 6, 13.0)
    cache.expire(14.0)
    assert cache.find("late") == 6, "found anew, it lives anew"
    cache.expire(23.0)
    assert len(cache) == 0


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("a.b", {"a", "a.c", "a.b.c", "system.b"}),
        ("a.*", {"a", "a.b.c", "system.b"}),
        ("a.>", {"a", "system.b"}),
        ("*.b", {"a", "a.c", "a.b.c", "system.b"}),
        (">", {"system.b"}),
        ("x", {"a", "a.b", "a.c", "a.b.c", "system.b"}),
    ],
)
def test_a_changed_pattern_takes_the_topics_that_it_matches_and_no_others(pattern: str, left: set[str]) -> None:
    topics = {"a", "a.b", "a.c", "a.b.c", "system.b"}
    cache: RouteCache[int] = RouteCache(8, TTL)  # four of them are older ones
    for topic in topics:
        cache.put(topic, 1, 0.0)
    assert cache.drop(pattern) == len(topics - left)
    assert {topic for topic in topics if topic in cache} == left
    assert {topic for topic in topics if cache.find(topic)} == left


def test_of_many_changes_each_counts_and_too_many_wildcards_empty_the_cache() -> None:
    cache = filled(100, 20)
    cache.drop_all([*(f"t.{n}" for n in range(12)), "x.*", "t.*.y"])
    assert len(cache) == 8, "exact topics are no wildcards, however many"
    cache.drop_all(["t.12", *(f"x{n}.*" for n in range(WILDCARDS_AT_ONCE))])
    assert len(cache) == 7
    cache.drop_all([f"x{n}.*" for n in range(WILDCARDS_AT_ONCE + 1)])
    assert len(cache) == 0


TOPICS = [f"{a}.{b}" for a in "ab" for b in "xyz"]
STEPS = st.one_of(
    st.tuples(st.just("put"), st.sampled_from(TOPICS)),
    st.tuples(st.just("find"), st.sampled_from(TOPICS)),
    st.tuples(st.just("drop"), st.sampled_from([*TOPICS[:3], "a.*", "*.x", ">"])),
    st.tuples(st.just("expire"), st.floats(0.0, TTL)),
    st.tuples(st.just("clear"), st.none()),
)


@given(st.integers(1, 8), st.lists(STEPS, max_size=50))
def test_found_is_what_was_put_last_if_it_is_fresh_unchanged_and_used(limit: int, steps: list[tuple[str, Any]]) -> None:
    cache: RouteCache[int] = RouteCache(limit, TTL)
    now, number = 0.0, 0
    known: dict[str, tuple[int, float]] = {}  # what may be found; of those the first ones used last
    for step, what in steps:
        if step == "put":
            number += 1
            cache.put(what, number, now)
            known.pop(what, None)
            known[what] = (number, now)
        elif step == "find":
            found = cache.find(what)
            assert found is None or found == known[what][0]
            if found is not None:
                known[what] = known.pop(what)
            else:
                assert what not in list(known)[-max(1, limit // 2) :], "it was used just now"
                known.pop(what, None)
        elif step == "drop":
            cache.drop(what)
            known = {topic: value for topic, value in known.items() if not matches(what, topic)}
        elif step == "expire":
            now += what
            cache.expire(now)
            known = {topic: value for topic, value in known.items() if value[1] + TTL > now}
        else:
            cache.clear()
            known.clear()
        assert len(cache) <= max(2, limit)
        assert all(topic in known for topic in TOPICS if topic in cache)
