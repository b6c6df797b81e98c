"""Duplicates and holes, one topic at a time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from transport.client_messages import Gap
from transport.client_positions import Positions
from transport.codes import Priority
from transport.position import Position


def test_offsets_at_or_below_the_last_one_are_duplicates() -> None:
    positions = Positions()
    assert [positions.admit("a", "e", offset)[0] for offset in (5, 5, 4, 6, 6)] == [True, False, False, True, False]
    assert positions.admit("b", "e", 1) == (True, None)


def test_an_overtaken_event_is_no_duplicate() -> None:
    positions = Positions()
    order = [(2, Priority.CRITICAL), (1, Priority.LOW), (3, None), (3, Priority.MEDIUM), (1, Priority.LOW)]
    assert [positions.admit("a", "e", offset, priority)[0] for offset, priority in order] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_a_hole_counts_only_after_a_reconnect_and_once() -> None:
    positions = Positions()
    positions.admit("a", "e", 1)
    assert positions.admit("a", "e", 5) == (True, None)  # the engine tells its gaps itself
    positions.reconnected()
    assert positions.admit("a", "e", 5) == (False, None)
    assert positions.admit("a", "e", 8) == (True, Gap("a", "e", 6, 7, "disconnected"))
    assert positions.admit("a", "e", 10) == (True, None)


def test_no_hole_where_the_engine_has_told_of_it_or_where_not_everything_is_wanted() -> None:
    positions = Positions()
    positions.admit("a", "e", 1)
    positions.reconnected()
    told = Gap("a", "e", 2, 7, "history_expired")
    assert positions.skip(told) == [told]
    assert positions.admit("a", "e", 8) == (True, None)
    filtered = Positions(holes=False)
    filtered.admit("a", "e", 1)
    filtered.reconnected()
    assert filtered.admit("a", "e", 8) == (True, None)


def test_a_gap_that_the_engine_tells_shows_the_hole_before_it() -> None:
    positions = Positions()
    for topic in "abcd":
        positions.admit(topic, "e", 1)
    told = {topic: Gap(topic, "e", 4, 5, "overflow") for topic in "ab"}
    assert positions.skip(told["a"]) == [told["a"]]  # the engine tells its gaps itself
    positions.reconnected()
    assert positions.skip(told["b"]) == [Gap("b", "e", 2, 3, "disconnected"), told["b"]]
    later, changed = Gap("c", "f", 3, 4, "overflow"), Gap("d", "f", 1, 4, "epoch_changed")
    assert positions.skip(later) == [Gap("c", "f", 1, 2, "epoch_changed"), later]
    assert positions.skip(changed) == [changed]
    assert [positions.settled(topic) for topic in "abcd"] == [
        None,  # 2 and 3 may still come
        Position("e", 5),
        Position("f", 4),
        Position("f", 4),
    ]


def test_a_gap_that_was_told_is_not_told_again() -> None:
    positions = Positions()
    positions.start("a", "e", 2)
    positions.admit("a", "e", 3)
    assert positions.skip(Gap("a", "e", 1, 3, "history_expired")) == []
    assert positions.skip(Gap("a", "e", 2, 6, "history_expired")) == [Gap("a", "e", 4, 6, "history_expired")]
    assert positions.skip(Gap("a", "e", 4, 8, "history_expired")) == [Gap("a", "e", 7, 8, "history_expired")]
    unknown = Gap("a", "e", 9, 8, "history_expired")
    assert positions.skip(unknown) == [unknown]


def test_everything_up_to_an_event_is_there_once_what_it_overtook_has_come() -> None:
    positions = Positions()
    positions.start("a", "e", 4)
    order = [(6, Priority.CRITICAL), (5, None), (7, None), (9, Priority.HIGH)]
    found = []
    for offset, priority in order:
        positions.admit("a", "e", offset, priority)
        found.append(positions.settled("a"))
    assert found == [None, Position("e", 6), Position("e", 7), None]
    positions.skip(Gap("a", "e", 8, 8, "slow"))
    assert positions.settled("a") is None, "a span below the last event may hold some that came"
    positions.admit("b", "e", 4, Priority.CRITICAL)
    assert positions.settled("b") is None, "nobody knows what came before"
    assert positions.settled("c") is None


def test_what_a_topic_born_meanwhile_has_lost_is_known_where_all_topics_were_seen() -> None:
    for whole in (False, True):
        positions = Positions(whole=whole)
        assert positions.admit("a", "e", 5) == (True, None)
        positions.reconnected()
        lost = Gap("b", "e", 1, 2, "disconnected") if whole else None
        assert positions.admit("b", "e", 3) == (True, lost)
        assert positions.admit("c", "e", 1) == (True, None)


def test_once_a_topic_was_forgotten_nothing_is_said_of_new_ones() -> None:
    positions = Positions(whole=True, capacity=1)
    for offset, topic in enumerate("ababab", 1):
        positions.admit(topic, "e", offset)
    assert not positions.forgot
    positions.admit("c", "e", 5)
    assert positions.forgot and positions.settled("a") is None
    positions.reconnected()
    assert positions.admit("a", "e", 9) == (True, None)


def test_a_new_epoch_begins_anew() -> None:
    positions = Positions()
    positions.admit("a", "e1", 9)
    positions.reconnected()
    assert positions.admit("a", "e2", 3) == (True, Gap("a", "e2", 1, 2, "epoch_changed"))
    assert positions.admit("a", "e2", 3) == (False, None)


def test_where_a_subscription_starts() -> None:
    positions = Positions()
    assert positions.start("a", "e", 4) is None
    assert positions.admit("a", "e", 4) == (False, None)
    positions.reconnected()
    assert positions.start("a", "e", 6) == Gap("a", "e", 5, 6, "disconnected")
    assert positions.admit("a", "e", 7) == (True, None)


def test_a_topic_in_use_is_remembered_beyond_the_capacity() -> None:
    positions = Positions(capacity=10)
    for i in range(100):
        positions.admit(f"t{i}", "e", 1)
        assert positions.admit("used", "e", 1)[0] is (i == 0)
    assert len(positions._young) + len(positions._old) <= 20


@given(st.lists(st.integers(min_value=1, max_value=30)), st.integers(min_value=0, max_value=30))
def test_whatever_is_replayed_each_event_comes_once_and_the_rest_is_a_gap(seen: list[int], lost: int) -> None:
    positions = Positions()
    top = 0
    for offset in seen:
        new, _ = positions.admit("a", "e", offset)
        assert new is (offset > top)
        top = max(top, offset)
    positions.reconnected()
    new, gap = positions.admit("a", "e", top + lost + 1)
    assert new
    assert gap == (Gap("a", "e", top + 1, top + lost, "disconnected") if lost and seen else None)
