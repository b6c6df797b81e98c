from hypothesis import given
from hypothesis import strategies as st

from transport.codes import GapReason
from transport.gap_log import SPLITS, GapLog
from transport.messages import Missed, Publication


def _event(topic: str, offset: int, epoch: str = "e") -> Publication:
    return Publication(topic, epoch, offset, 0.0, "message", b"1")


def test_what_follows_each_other_is_one_span() -> None:
    log = GapLog()
    for offset in (3, 4, 5, 9, 10):
        log.remember(_event("a", offset), GapReason.SLOW)
    log.remember(_event("a", 11), GapReason.RATE_LIMITED)
    log.remember(_event("a", 1, "f"), GapReason.SLOW)
    assert log.take(0) == [
        Missed("a", "e", 3, 5, "slow"),
        Missed("a", "e", 9, 10, "slow"),
        Missed("a", "e", 11, 11, "rate_limited"),
        Missed("a", "f", 1, 1, "slow"),
    ]
    assert log.take(0) == [] and not log.spans


def test_later_segments_wait() -> None:
    log = GapLog()
    for offset in (1, 2):
        log.remember(_event("a", offset), GapReason.SLOW, segment=offset)
    assert log.take(1) == [Missed("a", "e", 1, 1, "slow")]
    assert log.take(2) == [Missed("a", "e", 2, 2, "slow")]


@given(st.lists(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 400)), max_size=150), max_size=3))
def test_all_that_is_lost_is_in_a_span_and_spans_are_bounded(rounds: list[list[tuple[str, int]]]) -> None:
    log = GapLog()
    for lost in rounds:
        for topic, offset in lost:
            log.remember(_event(topic, offset), GapReason.SLOW)
        gaps = log.take(0)
        assert len(gaps) <= SPLITS + 2
        for topic, offset in lost:
            assert any(gap.topic == topic and gap.first <= offset <= gap.last for gap in gaps)
        for gap in gaps:
            assert {(gap.topic, gap.first), (gap.topic, gap.last)} <= set(lost)
        if len(lost) <= SPLITS:
            assert sum(gap.last - gap.first + 1 for gap in gaps) <= len(lost)


def test_a_full_log_stretches_the_last_span_both_ways() -> None:
    log = GapLog()
    for n in range(SPLITS + 1):
        log.remember(_event("a", 1_000 + 2 * n), GapReason.SLOW)
    log.remember(_event("a", 5_000), GapReason.SLOW)
    log.remember(_event("a", 10), GapReason.SLOW)
    gaps = log.take(0)
    assert len(gaps) == SPLITS + 1
    assert gaps[-1] == Missed("a", "e", 10, 5_000, "slow")
    log.remember(_event("a", 1), GapReason.SLOW)
    log.remember(_event("a", 3), GapReason.SLOW)
    assert len(log.take(0)) == 2  # there is room again
