from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from transport.codes import PRIORITY_RANK as RANKS
from transport.codes import GapReason
from transport.messages import Missed, Publication
from transport.outbox import DEAD, OVERTAKE_LOOKS, Outbox, Verdict
from transport.topics import matches

TOPICS = ["a.x", "a.y", "b"]
LIMIT_BYTES = 1_000


def _event(topic: str, offset: int, priority: str | None = None, key: str | None = None) -> Publication:
    return Publication(topic, "e", offset, float(offset), "message", b"1", key, priority)


class _Waiting(NamedTuple):
    number: int  # of the push; the frame says it
    size: int
    kind: str  # answer, barrier, event
    rank: int = 0
    after: int = 0  # events: the number of the last barrier that leaves before
    publication: Publication | None = None
    conflate: bool = False
    topics: tuple[str, ...] = ()


class Oracle:
    """The rules of the outbox over one list, without regard to cost."""

    def __init__(self, limit_events: int) -> None:
        self.limit = limit_events
        self.pushed = 0
        self.waiting: list[_Waiting] = []
        self.lost: list[tuple[Publication, GapReason, int]] = []  # and not told yet; behind which barrier
        self.skipped: dict[str, int] = {}

    def of(self, kind: str) -> list[_Waiting]:
        return [item for item in self.waiting if item.kind == kind]

    @property
    def size(self) -> int:
        return sum(item.size for item in self.waiting)

    def place(self, topic: str, rank: int) -> int:
        barriers = self.of("barrier")
        if rank <= RANKS["high"]:
            barriers = [b for b in barriers if any(matches(pattern, topic) for pattern in b.topics)]
        return max([0, *(b.number for b in barriers)])

    def push(self, kind: str, size: int, **fields: Any) -> int:
        self.pushed += 1
        item = _Waiting(self.pushed, size, kind, **fields)
        if item.publication is not None:
            item = item._replace(after=self.place(item.publication.topic, item.rank))
            if item.conflate:
                self._conflate(item.publication, item.rank)
        self.waiting.append(item)
        return self.bound()

    def _conflate(self, new: Publication, rank: int) -> None:
        for item in self.of("event"):
            old = item.publication
            assert old is not None
            if item.conflate and (old.topic, old.key, item.rank) == (new.topic, new.key, rank):
                self.waiting.remove(item)
                if new.topic in self.skipped or len(self.skipped) < self.limit:
                    self.skipped[new.topic] = self.skipped.get(new.topic, 0) + 1
                else:
                    self.lost.append((old, GapReason.SLOW, item.after))

    def bound(self) -> int:
        """Events dropped to be within the bounds; -1 if that does not help."""
        dropped = 0
        while self.size > LIMIT_BYTES or len(self.waiting) > self.limit:
            events = self.of("event")
            if not events:
                return -1
            victim = min(events, key=lambda item: (-item.rank, item.number))
            assert victim.publication is not None
            self.waiting.remove(victim)
            self.lost.append((victim.publication, GapReason.SLOW, victim.after))
            dropped += 1
        return dropped

    def next(self) -> _Waiting | None:
        barriers = self.of("barrier")
        head = barriers[0].number if barriers else self.pushed + 1
        firsts = {item.rank: item for item in reversed(self.of("event"))}
        free = [firsts[rank] for rank in sorted(firsts) if firsts[rank].after < head]
        return next(iter([*self.of("answer"), *free, *barriers]), None)


PRIORITY = st.sampled_from(["low", None, "medium", "high", "critical"])
KEY = st.sampled_from([None, "k", "l"])
SIZE = st.integers(10, 120)
STEP = st.one_of(
    st.tuples(st.just("event"), st.sampled_from(TOPICS), PRIORITY, KEY, st.booleans(), SIZE),
    st.tuples(st.just("event"), st.sampled_from(TOPICS), PRIORITY, KEY, st.booleans(), SIZE),
    st.tuples(st.just("limited"), st.sampled_from(TOPICS), PRIORITY),
    st.tuples(st.just("answer"), SIZE),
    st.tuples(st.just("barrier"), st.lists(st.sampled_from([*TOPICS, "a.*", ">", "c"]), max_size=2), SIZE),
    st.tuples(st.just("take"), st.integers(1, 200)),
    st.tuples(st.just("skips")),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(STEP, max_size=80), st.integers(1, 20))
def test_what_leaves_when_is_what_the_rules_say(steps: list[tuple[Any, ...]], limit: int) -> None:
    outbox, oracle = Outbox(LIMIT_BYTES, limit), Oracle(limit)
    offsets = dict.fromkeys(TOPICS, 0)
    left: list[_Waiting | Missed] = []
    pushed: list[_Waiting] = []

    def frame(size: int) -> bytes:
        return b"%d" % (oracle.pushed + 1) + b" " * (size - len(str(oracle.pushed + 1)))

    def take(at_most: int) -> None:
        for gap in outbox.gaps():
            _tell(oracle, gap)
            left.append(gap)
        taken = outbox.take(at_most)
        assert taken or not oracle.waiting
        assert sum(map(len, taken[:-1])) < at_most
        for data in taken:
            expected = oracle.next()
            assert expected is not None and int(data) == expected.number
            oracle.waiting.remove(expected)
            left.append(expected)
            if expected.publication is not None:  # what was lost before it has been told
                for lost, _, _ in oracle.lost:
                    same = (lost.topic, RANKS[lost.priority]) == (expected.publication.topic, expected.rank)
                    assert not same or lost.offset > expected.publication.offset

    for step, *args in steps:
        dropped = 0
        verdict = Verdict.QUEUED
        if step == "event":
            topic, priority, key, conflate, size = args
            offsets[topic] += 1
            event = _event(topic, offsets[topic], priority, key)
            verdict = outbox.push(frame(size), event, conflate=conflate)
            dropped = oracle.push("event", size, publication=event, rank=RANKS[priority], conflate=conflate)
        elif step == "limited":
            topic, priority = args
            offsets[topic] += 1
            event = _event(topic, offsets[topic], priority)
            verdict = outbox.rate_limited(event)
            oracle.lost.append((event, GapReason.RATE_LIMITED, oracle.place(topic, RANKS[priority])))
        elif step == "answer":
            verdict = outbox.push(frame(*args))
            dropped = oracle.push("answer", *args)
        elif step == "barrier":
            verdict = outbox.push_barrier(frame(args[1]), args[0])
            dropped = oracle.push("barrier", args[1], topics=tuple(args[0]))
        elif step == "take":
            take(*args)
        else:
            assert outbox.skips() == oracle.skipped
            oracle.skipped = {}
        if verdict is Verdict.FULL:
            assert dropped < 0 or len(oracle.lost) > limit
            return  # the session is closed: nothing more is promised
        if oracle.pushed > len(pushed):
            pushed.append(
                next((item for item in oracle.waiting if item.number == oracle.pushed), _Waiting(oracle.pushed, 0, ""))
            )
        assert dropped >= 0 and (verdict is Verdict.DROPPED) is (dropped > 0)
        assert len(outbox) == len(oracle.waiting) <= limit
        assert outbox.size == oracle.size <= LIMIT_BYTES
        assert outbox.oldest == _oldest(oracle)
    while outbox:
        take(200)
    assert not oracle.waiting and not oracle.lost
    assert outbox.size == 0 and len(outbox) == 0 and outbox.oldest is None
    assert outbox.skips() == oracle.skipped
    _check_promises(left, pushed)


def _oldest(oracle: Oracle) -> float | None:
    firsts: dict[int, float] = {}  # of each priority: offsets of different topics say nothing of each other
    for item in oracle.of("event"):
        assert item.publication is not None
        firsts.setdefault(item.rank, item.publication.ts)
    return min(firsts.values(), default=None)


def _tell(oracle: Oracle, gap: Missed) -> None:
    """A gap begins and ends with what was lost for its reason, and is not told too early."""
    barriers = oracle.of("barrier")
    head = barriers[0].number if barriers else oracle.pushed + 1
    told = [
        lost
        for lost in oracle.lost
        if (lost[0].topic, lost[1]) == (gap.topic, gap.reason) and gap.first <= lost[0].offset <= gap.last
    ]
    due = [lost for lost in told if lost[2] < head]
    assert {gap.first, gap.last} <= {lost[0].offset for lost in due}
    for lost in due:
        oracle.lost.remove(lost)


def _check_promises(left: list[_Waiting | Missed], pushed: list[_Waiting]) -> None:
    """What a client relies on, said again without the oracle's means."""
    order = {item.number: place for place, item in enumerate(left) if isinstance(item, _Waiting)}
    assert len(order) == sum(isinstance(item, _Waiting) for item in left)
    gone = [item for item in pushed if item.number in order]
    for i, first in enumerate(gone):
        for then in gone[i + 1 :]:
            in_order = order[first.number] < order[then.number]
            if first.kind == then.kind:
                assert in_order or first.rank != then.rank
            elif first.kind == "event" and then.kind == "barrier":
                assert in_order
            elif first.kind == "barrier" and then.kind == "event":
                assert then.publication is not None
                topic = then.publication.topic
                concerns = any(matches(pattern, topic) for pattern in first.topics)
                assert in_order or (not concerns and then.rank <= RANKS["high"])


def test_a_critical_event_overtakes_twenty_megabytes_of_low_ones() -> None:
    outbox = Outbox(32 << 20, 100_000)
    for n in range(1, 20_001):
        outbox.push(b"l" * 1_100, _event("t", n, "low"))
    assert outbox.size > 20 << 20
    outbox.push(b"critical", _event("t", 20_001, "critical"))
    outbox.push(b"high", _event("t", 20_002, "high"))
    outbox.push(b"answer")
    assert outbox.take(1) == [b"answer"]
    assert outbox.take(10) == [b"critical", b"high"]
    assert outbox.take(1) == [b"l" * 1_100]


def test_an_ok_keeps_its_place_in_its_topics() -> None:
    outbox = Outbox(10_000, 100)
    outbox.push(b"low before", _event("a.x", 1, "low"))
    outbox.push_barrier(b"ok", ["a.*"])
    outbox.push(b"a medium", _event("a.x", 2))
    outbox.push(b"b critical", _event("b", 1, "critical"))
    outbox.push(b"a critical", _event("a.x", 3, "critical"))
    outbox.push(b"b medium", _event("b", 2))
    assert outbox.take(1_000) == [b"b critical", b"low before", b"ok", b"a critical", b"a medium", b"b medium"]


def test_what_overtakes_is_never_before_one_of_its_own_priority() -> None:
    outbox = Outbox(10_000, 100)
    outbox.push_barrier(b"ok", ["a"])
    outbox.push(b"a", _event("a", 1, "critical"))
    outbox.push(b"b", _event("b", 1, "critical"))
    assert outbox.take(1_000) == [b"ok", b"a", b"b"]


def test_thousands_of_barriers_cost_an_urgent_event_only_so_many_looks() -> None:
    outbox = Outbox(1_000_000, 10_000)
    for _ in range(OVERTAKE_LOOKS + 1):
        outbox.push_barrier(b"ok", ["other"])
    outbox.push(b"event", _event("b", 1, "critical"))
    assert outbox.take(1_000_000).index(b"event") == 1


def test_a_gap_is_told_behind_the_ok_that_its_event_was_behind() -> None:
    outbox = Outbox(10_000, 3)
    outbox.push(b"1", _event("a", 1))
    outbox.push_barrier(b"ok", ["a"])
    for n in (2, 3, 4):
        outbox.push(b"%d" % n, _event("a", n))
    assert outbox.gaps() == [Missed("a", "e", 1, 1, "slow")]
    assert outbox.take(1_000) == [b"ok"]
    assert outbox.gaps() == [Missed("a", "e", 2, 2, "slow")]
    assert outbox.take(1_000) == [b"3", b"4"]


def test_the_newest_of_a_key_takes_the_last_place() -> None:
    outbox = Outbox(10_000, 100)
    for offset, key in enumerate("aabab", 1):
        outbox.push(b"%d" % offset, _event("t", offset, None, key), conflate=True)
    outbox.push(b"6", _event("t", 6, "high", "a"), conflate=True)  # another priority
    outbox.push(b"7", _event("t", 7, None, "a"))  # not asked for
    assert outbox.take(1_000) == [b"6", b"4", b"5", b"7"]
    assert outbox.skips() == {"t": 3}
    assert outbox.skips() == {}
    assert not outbox.gaps() and outbox.dropped == 0


def test_conflated_events_do_not_pile_up_while_nobody_takes() -> None:
    outbox = Outbox(10_000, 100)
    outbox.push(b"first", _event("t", 1, "low"))
    for n in range(2, 5_000):
        outbox.push(b"x" * 10, _event("t", n), conflate=True)
        assert sum(map(len, outbox._lanes)) <= 2 * len(outbox) + DEAD + 2
    assert outbox.size == 15
    assert outbox.take(1_000) == [b"first", b"x" * 10][::-1]
    assert not outbox._newest


def test_skips_are_bounded_like_events_and_become_gaps() -> None:
    outbox = Outbox(10_000, 10)
    for n in range(1, 10):
        for offset in (1, 2):
            outbox.push(b"x", _event(f"t.{n}", offset), conflate=True)
        outbox.take(1)
    for n in range(10, 13):
        for offset in (1, 2):
            outbox.push(b"x", _event(f"t.{n}", offset), conflate=True)
        outbox.take(1)
    assert len(outbox.skips()) == 10
    assert [gap.topic for gap in outbox.gaps()] == ["t.11", "t.12"]


def test_the_least_urgent_are_dropped_first_even_if_the_new_one_is() -> None:
    outbox = Outbox(10_000, 2)
    outbox.push(b"critical", _event("t", 1, "critical"))
    outbox.push(b"low", _event("t", 2, "low"))
    assert outbox.push(b"medium", _event("t", 3)) is Verdict.DROPPED
    assert outbox.push(b"low", _event("t", 4, "low")) is Verdict.DROPPED
    assert outbox.gaps() == [Missed("t", "e", 2, 2, "slow"), Missed("t", "e", 4, 4, "slow")]
    assert outbox.take(1_000) == [b"critical", b"medium"]


def test_bytes_are_bounded_and_half_is_told_once_until_it_has_drained() -> None:
    outbox = Outbox(limit_bytes=100, limit_events=1_000)
    verdicts = [outbox.push(b"x" * 10, _event("a", i)) for i in range(1, 13)]
    assert verdicts.count(Verdict.HALF) == 1
    assert verdicts[-1] is Verdict.DROPPED
    assert outbox.size == 100
    assert outbox.dropped == 2
    outbox.take(50)
    assert outbox.push(b"x" * 10, _event("a", 13)) is Verdict.QUEUED
    outbox.take(50)
    assert [outbox.push(b"x" * 30, _event("a", i)) for i in (14, 15)] == [Verdict.QUEUED, Verdict.HALF]


def test_answers_alone_can_fill_it_and_the_verdict_says_so() -> None:
    for push in (Outbox.push, lambda outbox, frame: outbox.push_barrier(frame, ["t"])):
        outbox = Outbox(limit_bytes=100, limit_events=1_000)
        assert push(outbox, b"x" * 100) is not Verdict.FULL
        assert push(outbox, b"x") is Verdict.FULL


def test_gaps_are_bounded_like_events() -> None:
    outbox = Outbox(limit_bytes=10_000, limit_events=10)
    verdicts = [outbox.push(b"x", _event(f"t.{i}", 1)) for i in range(40)]
    assert verdicts[-1] is Verdict.FULL
    assert len(outbox.gaps()) <= 11
    outbox = Outbox(limit_bytes=10_000, limit_events=10)
    limited = [outbox.rate_limited(_event(f"t.{i}", 1)) for i in range(11)]
    assert limited == [Verdict.QUEUED] * 10 + [Verdict.FULL]
