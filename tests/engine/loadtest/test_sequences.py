"""What came, came twice, came late, and did not come: against the plain definition of each."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.loadtest.sequences import Sequences


def test_in_order_nothing_is_odd() -> None:
    client = Sequences()
    client.start(sure=True)
    assert client.take(range(10)) == ([], [])
    assert client.expected(0, 10) == 10
    assert client.missing(0, 10) == (0, None)


def test_a_hole_is_missing_until_it_is_filled() -> None:
    client = Sequences()
    client.start(sure=True)
    client.take([0, 1, 4])
    assert client.missing(0, 5) == (2, 2)
    assert client.missing(3, 5) == (1, 3)
    assert client.take([3, 3, 4]) == ([3, 4], [3])
    assert client.missing(0, 6) == (2, 2)  # 2, and 5 is still to come


def test_who_was_answered_lacks_what_came_before_its_first() -> None:
    client = Sequences()
    client.start(sure=True)
    client.take([2])
    assert client.missing(0, 3) == (2, 0)


def test_who_was_not_answered_begins_with_its_first() -> None:
    client = Sequences()
    client.start(sure=False)
    client.take([2, 3])
    assert client.expected(0, 4) == 2
    assert client.missing(0, 4) == (0, None)
    assert client.take([0]) == ([], [0])  # so its first was another
    assert client.missing(0, 4) == (1, 1)


def test_who_never_got_anything_lacks_everything() -> None:
    client = Sequences()
    client.start(sure=False)
    assert client.expected(5, 10) == 5
    assert client.missing(5, 10) == (5, 5)


def test_what_is_published_while_one_is_away_counts_only_where_it_is_recovered() -> None:
    client = Sequences()
    client.start(sure=True)
    client.take(range(5))
    client.interrupt()
    assert client.take([8, 9]) == ([], [])
    assert client.expected(0, 10) == 7
    assert client.missing(0, 10) == (0, None)
    assert client.take([4]) == ([4], [])
    assert client.take([7]) == ([], [7])


def test_who_stays_away_lacks_nothing_of_later() -> None:
    client = Sequences()
    client.start(sure=True)
    client.take([0, 2])
    client.interrupt()
    assert client.expected(0, 10) == 3
    assert client.missing(0, 10) == (1, 1)


@given(st.lists(st.integers(0, 30), max_size=60), st.integers(0, 31), st.integers(0, 31))
def test_whatever_comes(sequences, a, b) -> None:
    client = Sequences()
    client.start(sure=True)
    strays = client.take(sequences)
    first, end = min(a, b), max(a, b)
    lacking = set(range(first, end)) - set(sequences)
    assert client.expected(first, end) == end - first
    assert client.missing(first, end) == (len(lacking), min(lacking, default=None))
    assert len(strays.duplicates) == len(sequences) - len(set(sequences))


@given(st.lists(st.one_of(st.integers(0, 20), st.none()), max_size=60))
def test_what_was_counted_adds_up_over_all_connections(happens) -> None:
    """``None``: the connection breaks. What came and was no duplicate is what was expected, less what is missing."""
    client = Sequences()
    client.start(sure=True)
    came = duplicates = 0
    for what in happens:
        if what is None:
            client.interrupt()
        else:
            came += 1
            duplicates += len(client.take([what]).duplicates)
    end = 25
    assert client.expected(0, end) - client.missing(0, end)[0] == came - duplicates
