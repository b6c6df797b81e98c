"""Duplicates and holes, one topic at a time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from transport.client_messages import Gap
from transport.client_positions import Positions
from transport.codes import Priority


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
    positions.skip(Gap("a", "e", 2, 7, "history_expired"))
    assert positions.admit("a", "e", 8) == (True, None)
    filtered = Positions(holes=False)
    filtered.admit("a", "e", 1)
    filtered.reconnected()
    assert filtered.admit("a", "e", 8) == (True, None)


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
