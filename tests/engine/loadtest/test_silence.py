from __future__ import annotations

from engine.loadtest.ledger import Ledger

S = 1_000_000_000  # ns


def silences(ledger: Ledger) -> dict[str, tuple[float, float]]:
    return {figures.phase: (figures.silence, figures.silence_at) for figures in ledger.figures([], -1) if figures.phase}


def test_the_longest_time_without_a_message_of_each_phase() -> None:
    ledger = Ledger()
    ledger.mark("broadcast", 0, 10 * S)
    for second in (11, 14, 15):
        ledger.received([(second * 1_000_000, second)], [second * S])
    ledger.mark("sustained", 100, 16 * S)
    ledger.hush(18 * S)
    ledger.received([(18 * 1_000_000, 101)], [30 * S])
    assert silences(ledger) == {"broadcast": (3.0, 11.0), "sustained": (3.0, 15.0)}


def test_a_silence_that_was_wanted_is_not_the_next_phase_s() -> None:
    ledger = Ledger()
    ledger.mark("recovery", 0, 10 * S)
    ledger.mark("sustained", 200, 14 * S, afresh=True)
    ledger.received([(10 * 1_000_000, 1)], [15 * S])
    ledger.hush(15 * S)
    assert silences(ledger) == {"recovery": (4.0, 10.0), "sustained": (1.0, 14.0)}


def test_a_silence_over_several_phases_is_whole_in_the_last_one() -> None:
    ledger = Ledger()
    ledger.mark("broadcast", 0, 10 * S)
    ledger.received([(10 * 1_000_000, 0)], [11 * S])
    ledger.mark("recovery", 100, 12 * S)
    ledger.mark("sustained", 200, 14 * S)
    ledger.received([(10 * 1_000_000, 1)], [17 * S])
    ledger.hush(17 * S)
    assert silences(ledger) == {"broadcast": (1.0, 10.0), "recovery": (3.0, 11.0), "sustained": (6.0, 11.0)}
