from __future__ import annotations

from engine.loadtest.reasons import CHARS, DIFFERENT, Reasons


def test_whatever_a_server_says_few_texts_are_kept_and_none_is_long() -> None:
    reasons = Reasons()
    for n in range(DIFFERENT + 5):
        reasons.say(f"{n:03}" * 1_000, 2)
    assert sum(reasons.values()) == 2 * (DIFFERENT + 5)
    assert reasons["others"] == 10
    assert max(map(len, reasons)) == CHARS + 1
