"""What is counted belongs to the phase in which it was published, and a latency keeps its size."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.loadtest.latency import Latency
from engine.loadtest.ledger import Ledger
from engine.loadtest.sequences import Sequences, Strays

MS = 1_000_000  # ns


def client(*sequences: int) -> Sequences:
    found = Sequences()
    found.start(sure=True)
    found.take(sequences)
    return found


def test_a_message_belongs_to_the_phase_in_which_it_was_published() -> None:
    ledger = Ledger()
    ledger.mark("one", 0, 0)
    ledger.received([(0, 0), (0, 1)], [5 * MS, 5 * MS])
    ledger.mark("two", 3, 10 * MS)
    ledger.received([(0, 2), (0, 3)], [20 * MS])  # one is of the first phase, late
    ledger.strays(Strays([3], [2]))
    ledger.answered(700)
    one, two = ledger.figures([client(0, 1, 2, 3), client(0, 1)], 4)
    assert (one.phase, one.delivered, one.expected, one.missing, one.lacking) == ("one", 5, 6, 1, 1)
    assert (two.phase, two.delivered, two.expected, two.missing, two.lacking) == ("two", 1, 4, 3, 2)
    assert (one.first_missing, two.first_missing) == (2, 3)
    assert (one.duplicates, one.out_of_order, two.duplicates, two.out_of_order) == (0, 1, 1, 0)
    assert [Latency.decode(phase.answers).count for phase in (one, two)] == [0, 1]


def test_chunks_that_are_remembered_apart_break_a_silence_together() -> None:
    ledger = Ledger()
    ledger.mark("one", 0, 1_000 * MS)
    ledger.received([(0, 0)], [1_100 * MS, 1_150 * MS])
    ledger.received([(0, 1)], [1_120 * MS, 1_140 * MS])
    ledger.received([(0, 2)], [1_450 * MS])
    ledger.hush(1_500 * MS)
    (one,) = ledger.figures([], 3)
    assert (one.silence, one.silence_at) == (0.3, 1.15)


def test_each_second_tells_what_is_new() -> None:
    ledger = Ledger()
    ledger.received([(0, 0)], [MS, 2 * MS])
    delivered, latency, _ = ledger.second()
    assert (delivered, Latency.decode(latency).count) == (2, 2)
    ledger.answered(5)
    delivered, latency, answers = ledger.second()
    assert (delivered, Latency.decode(latency).count, Latency.decode(answers).count) == (0, 0, 1)


def test_whether_anything_was_published() -> None:
    ledger = Ledger()
    ledger.received([], [5])
    assert not ledger.begun
    ledger.received([(0, 0)], [5])
    assert ledger.begun


@settings(max_examples=50)
@given(st.lists(st.integers(1, 20_000_000), min_size=1, max_size=5))
def test_latencies_are_exact_to_a_hundredth_or_8_us(latencies: list[int]) -> None:
    """Of reads of one message, so that rounding goes by the shortest."""
    ledger = Ledger()
    ledger.mark("one", 0, 0)
    ledger.received([(50, 0)], sorted((50 + us) * 1_000 for us in latencies))
    (figures,) = ledger.figures([], 0)
    found = Latency.decode(figures.latency)
    assert found.count == len(latencies)
    for n, us in enumerate(sorted(latencies)):
        measured = found.at(100 * (n + 0.5) / len(latencies)) * 1_000
        assert abs(measured - us) <= max(10, us * 0.007)
