"""Numbers against a model that writes every number down: nothing comes twice, nothing is lost without being named."""

from __future__ import annotations

from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.sequence import HOLES, NEWER_RUN, RUN, FeedGap, Repeated, Sequences

RESTART, RECONNECT = "restart", "reconnect"
Step: TypeAlias = tuple[str, int] | str

steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["", "a"]), st.just(1)),  # the next one
        st.tuples(st.sampled_from(["", "a"]), st.integers(-6, 5)),  # repeats 0 to 6 back, or skips up to 4
        st.just(RECONNECT),
        st.tuples(st.just(RESTART), st.integers(0, 1)),
    ),
    max_size=60,
)


class Counter:
    """The model of one counter: what was let through and what was named, since it was new or began anew."""

    def __init__(self, first: int) -> None:
        self.first = self.top = first
        self.passed = {first}
        self.named = set[int]()
        self.fresh = False  # nothing came on this connection yet


@given(steps, st.booleans(), st.sampled_from([100, 2**63 - 3, 2**200]))
def test_each_number_passes_once_and_each_hole_is_named_exactly(history: list[Step], late: bool, base: int) -> None:
    sequences = Sequences(late=late)
    model: dict[str, Counter] = {}
    for step in history:
        if step == RECONNECT:
            sequences.reconnected()
            for counter in model.values():
                counter.fresh = True
            continue
        assert isinstance(step, tuple)
        name, delta = step
        if name == RESTART:
            name, number = "a", delta
        else:
            number = model[name].top + delta if name in model else base
        known, seen = model.get(name), sequences.see(name, number)
        if known is None:
            assert seen is None, "a new counter begins anywhere"
            model[name] = Counter(number)
        elif number > known.top:
            skipped = range(known.top + 1, number)
            assert seen == (FeedGap("sequence", name or None, skipped[0], skipped[-1]) if skipped else None)
            known.named.update(skipped)
            known.passed.add(number)
            known.top, known.fresh = number, False
        elif known.fresh and number <= 1:
            assert seen == FeedGap("restarted", name or None)
            model[name] = Counter(number)
        else:
            fills = late and number in known.named and number not in known.passed
            assert seen == (None if fills else Repeated(name, number))
            known.passed |= {number} if fills else set()
            known.fresh = False
    for name, counter in model.items():
        assert counter.passed | counter.named == set(range(counter.first, counter.top + 1))
        assert sequences.last()[name] == counter.top
    assert len(sequences) == len(model)


@pytest.mark.parametrize("first", [0, 1])
def test_a_counter_that_begins_anew_after_a_reconnect_is_no_repetition(first: int) -> None:
    sequences = Sequences()
    assert sequences.see("a", 500) is None
    sequences.reconnected()
    assert sequences.see("a", first) == FeedGap("restarted", "a")
    assert sequences.see("a", first + 1) is None
    assert sequences.see("a", first) == Repeated("a", first), "once per connection"


def test_only_the_first_number_of_a_connection_says_that_a_counter_begins_anew() -> None:
    sequences = Sequences()
    for number in (0, 1, 2, 3):
        sequences.see("a", number)
    sequences.reconnected()
    assert [sequences.see("a", number) for number in (2, 1, 0)] == [
        Repeated("a", 2),
        Repeated("a", 1),
        Repeated("a", 0),
    ]


def test_a_counter_that_goes_on_after_a_reconnect_is_not_one_that_begins_anew() -> None:
    sequences = Sequences()
    assert sequences.see("a", 0) is None
    sequences.reconnected()
    assert sequences.see("a", 1) is None
    sequences.reconnected()
    assert sequences.see("a", 2) is None


def test_the_overlap_of_a_resumed_stream_is_left_out_and_what_was_missed_is_named() -> None:
    sequences = Sequences()
    for number in (10, 11, 12):
        sequences.see("a", number)
    sequences.reconnected()
    assert [sequences.see("a", number) for number in (11, 12, 13)] == [Repeated("a", 11), Repeated("a", 12), None]
    sequences.reconnected()
    assert sequences.see("a", 17) == FeedGap("sequence", "a", 14, 16)


def test_counters_know_nothing_of_each_other() -> None:
    sequences = Sequences()
    assert [sequences.see(name, number) for name, number in (("a", 5), ("b", 9), ("a", 6), ("b", 10))] == [None] * 4


def test_what_fills_a_hole_passes_once_and_only_for_those_who_ask_for_it() -> None:
    for late, expected in ((True, [None, None, Repeated("a", 3)]), (False, [Repeated("a", n) for n in (3, 2, 3)])):
        sequences = Sequences(late=late)
        sequences.see("a", 1)
        assert sequences.see("a", 5) == FeedGap("sequence", "a", 2, 4)
        assert [sequences.see("a", number) for number in (3, 2, 3)] == expected


def test_a_restart_forgets_the_holes_of_the_life_before() -> None:
    sequences = Sequences(late=True)
    sequences.see("a", 1)
    sequences.see("a", 9)
    sequences.reconnected()
    assert sequences.see("a", 0) == FeedGap("restarted", "a")
    assert sequences.see("a", 12) == FeedGap("sequence", "a", 1, 11)
    assert sequences.see("a", 5) is None
    assert sequences.see("a", 5) == Repeated("a", 5)


def test_holes_are_bounded_and_the_oldest_are_forgotten_first() -> None:
    sequences = Sequences(late=True)
    for number in range(0, 2 * (HOLES + 10) + 1, 2):  # each odd number is a hole
        sequences.see("a", number)
    assert sequences.see("a", 2 * 10 - 1) == Repeated("a", 19), "forgotten"
    assert sequences.see("a", 2 * 10 + 1) is None
    assert sequences.see("a", 2 * (HOLES + 10) - 1) is None


def test_one_great_hole_that_is_filled_here_and_there_is_bounded_too() -> None:
    sequences = Sequences(late=True)
    sequences.see("a", 0)
    sequences.see("a", 10_000)
    passed = sum(sequences.see("a", number) is None for number in range(2, 10_000, 2))
    assert passed == (10_000 - 2) // 2, "rising, they all land in the youngest part"
    again = sum(sequences.see("a", number) is None for number in range(9_999, 0, -2))
    assert again == HOLES


def test_numbers_that_mean_nothing_beyond_a_connection_are_forgotten() -> None:
    sequences = Sequences()
    sequences.see("", 500)
    sequences.clear()
    assert (len(sequences), sequences.last()) == (0, {})
    assert sequences.see("", 3) is None


@given(st.lists(st.integers(0, 12), max_size=80), st.integers(1, 4))
def test_memory_is_bounded_and_who_was_seen_last_is_remembered(names: list[int], capacity: int) -> None:
    sequences = Sequences(capacity=capacity)
    number = dict.fromkeys(names, 0)
    latest: list[int] = []
    for name in names:
        number[name] += 10
        seen = sequences.see(str(name), number[name])
        gap = FeedGap("sequence", str(name), number[name] - 9, number[name] - 1)
        if name in latest[-capacity:]:
            assert seen == gap
        else:
            assert seen in (None, gap), "forgotten, it is new"
        latest = [other for other in latest if other != name] + [name]
        assert len(sequences) <= 2 * capacity


def test_a_forgotten_counter_is_new() -> None:
    sequences = Sequences(capacity=1)
    for name in "abc":
        assert sequences.see(name, 10) is None
    assert sequences.see("a", 5) is None
    assert set(sequences.last()) == {"c", "a"}


def test_old_numbers_in_a_run_longer_than_any_repetition_are_a_new_count() -> None:
    sequences = Sequences()
    for number in range(10_000, 10_003):
        sequences.see("A", number)
    seen = [sequences.see("A", number) for number in range(5, 5 + RUN + 3)]
    assert seen[:RUN] == [Repeated("A", number) for number in range(5, 5 + RUN)]
    assert seen[RUN:] == [FeedGap("restarted", "A"), None, None]


def test_one_old_number_over_and_over_is_no_new_count() -> None:
    sequences = Sequences()
    sequences.see("A", 50)
    assert all(sequences.see("A", 7) == Repeated("A", 7) for _ in range(3 * RUN))
    assert sequences.see("A", 51) is None


def test_a_short_run_of_old_numbers_with_newer_times_is_a_new_count() -> None:
    sequences = Sequences()
    sequences.see("A", 500, 100.0)
    seen = [sequences.see("A", number, 100.0 + number) for number in range(5, 5 + NEWER_RUN + 2)]
    assert seen == [*(Repeated("A", n) for n in range(5, 5 + NEWER_RUN)), FeedGap("restarted", "A"), None]


@pytest.mark.parametrize("times", [[99.0] * 50, [100.0] * 50, [None] * 50, [101.0, 99.0] * 25])
def test_old_numbers_that_are_no_newer_are_repetitions(times: list[float | None]) -> None:
    sequences = Sequences()
    sequences.see("A", 500, 100.0)
    assert all(sequences.see("A", 5 + i, at) == Repeated("A", 5 + i) for i, at in enumerate(times))
    assert sequences.see("A", 501, 102.0) is None


def test_messages_that_an_upstream_sends_twice_are_no_new_count() -> None:
    sequences = Sequences()
    for number in range(3 * RUN):
        assert sequences.see("A", number, number) is None
        assert sequences.see("A", number, number + 0.5) == Repeated("A", number)
