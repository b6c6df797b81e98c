import time

from hypothesis import given
from hypothesis import strategies as st

from transport.messages import Publication
from transport.outbox import Outbox, Verdict


def _event(topic: str, offset: int) -> Publication:
    return Publication(topic, "e", offset, 0.0, "message", b"1")


@given(
    st.lists(st.one_of(st.sampled_from("ab"), st.just("answer"), st.just("take")), max_size=80),
    st.integers(1, 12),
)
def test_every_event_is_taken_in_order_or_named_in_a_gap_before_its_successor(steps: list[str], limit: int) -> None:
    outbox = Outbox(limit_bytes=10_000, limit_events=limit)
    offsets, seen, answers = {"a": 0, "b": 0}, {"a": 0, "b": 0}, [0, 0]

    def take() -> None:
        for gap in outbox.gaps():
            assert gap.first == seen[gap.topic] + 1
            seen[gap.topic] = gap.last
        for frame in outbox.take(10_000):
            topic, _, offset = frame.decode().partition(":")
            if topic == "answer":
                answers[1] += 1
                assert int(offset) == answers[1]
            else:
                assert int(offset) == seen[topic] + 1
                seen[topic] += 1

    for step in steps:
        if step == "take":
            take()
        elif step == "answer":
            answers[0] += 1
            if outbox.push(f"answer:{answers[0]}".encode()) is Verdict.FULL:
                return  # the session is closed: nothing more is promised
        else:
            offsets[step] += 1
            if outbox.push(f"{step}:{offsets[step]}".encode(), _event(step, offsets[step])) is Verdict.FULL:
                return
        assert len(outbox) <= limit
    take()
    assert seen == offsets
    assert answers[0] == answers[1]
    assert not outbox and outbox.size == 0


def test_bytes_are_bounded_and_half_is_told_once() -> None:
    outbox = Outbox(limit_bytes=100, limit_events=1_000)
    verdicts = [outbox.push(b"x" * 10, _event("a", i)) for i in range(1, 13)]
    assert verdicts.count(Verdict.HALF) == 1
    assert verdicts[-1] is Verdict.DROPPED
    assert outbox.size == 100
    assert outbox.dropped == 2


def test_answers_alone_can_fill_it_and_the_verdict_says_so() -> None:
    outbox = Outbox(limit_bytes=100, limit_events=1_000)
    assert outbox.push(b"x" * 100) is not Verdict.FULL
    assert outbox.push(b"x") is Verdict.FULL


def test_gaps_are_bounded_like_events() -> None:
    outbox = Outbox(limit_bytes=10_000, limit_events=10)
    verdicts = [outbox.push(b"x", _event(f"t.{i}", 1)) for i in range(40)]
    assert verdicts[-1] is Verdict.FULL
    assert len(outbox.gaps()) <= 11


def test_answers_do_not_make_events_dear() -> None:
    outbox = Outbox(limit_bytes=10_000_000, limit_events=20_000)
    for _ in range(19_999):
        outbox.push(b"x")
    began = time.process_time()
    for i in range(1, 20_001):
        outbox.push(b"x", _event("a", i))
    assert time.process_time() - began < 2.0  # 20 ms; looked for behind the answers it would take a minute
