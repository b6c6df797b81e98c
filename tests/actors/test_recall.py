"""What a subscription has missed: whatever was published, forgotten, let go or restarted, it is there or named."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors import recall as module
from actors.history import Accepted
from actors.recall import Older, page, recall
from actors.topic_log import TopicLog
from actors.topic_policy import TopicPolicies, TopicPolicy
from transport.codec import join, pack, unpack_batch
from transport.messages import Missed, Publication, Publish
from transport.topics import matches

NOW = 1000.0
PATTERNS = ["a.x", "a.y", "b", "a.*", ">", "c"]
POLICIES = TopicPolicies({"b": TopicPolicy(history_size=2), "a.y": TopicPolicy(history_age_s=3.0)})
Event = tuple[str, str, int]


class Hub:
    """A log and, as the oracle, everything that was ever accepted, with the clock of the moment."""

    def __init__(self, directory: Path | None = None, size: int = 32 * 300) -> None:
        self.directory, self.size, self.now = directory, size, NOW
        self.names = count()
        self.everything: list[tuple[str, Publication]] = []  # with the position behind it
        self.log = self.open()

    def open(self) -> TopicLog:
        return TopicLog(
            50,
            lambda: f"e{next(self.names)}",
            directory=self.directory,
            max_bytes=self.size,
            policies=POLICIES,
            now=self.now,
        )

    def say(self, topic: str, data: bytes = b"1") -> Publication:
        [outcome] = self.log.append([Publish(0, topic, "message", data)], self.now)
        assert isinstance(outcome, Accepted)
        self.everything.append((self.log.position, outcome.publication))
        return outcome.publication


def unpacked(packed: list[bytes]) -> list[Publication]:
    return unpack_batch(join(packed)) if packed else []


def place(event: Publication) -> Event:
    return event.topic, event.epoch, event.offset


SAY = st.tuples(st.just("say"), st.sampled_from(["a.x", "a.y", "b"]), st.integers(0, 120), st.integers(1, 6))
RESTART, LATER = st.just(("restart",)), st.just(("later",))
STEPS = st.lists(st.one_of(SAY, SAY, SAY, SAY, RESTART, LATER), max_size=15)
LOSS = st.sampled_from([(), (), (), (), ("forget",), ("lose",)])


@settings(max_examples=120, deadline=None)
@given(
    before=STEPS,
    loss=LOSS,
    after=STEPS,
    patterns=st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=3, unique=True),
    by_offset=st.booleans(),
    small=st.booleans(),
)
def test_what_is_not_recalled_is_named(
    tmp_path_factory: pytest.TempPathFactory,
    before: list[tuple[Any, ...]],
    loss: tuple[str, ...],
    after: list[tuple[Any, ...]],
    patterns: list[str],
    by_offset: bool,
    small: bool,
) -> None:
    hub = Hub(tmp_path_factory.mktemp("log"), 32 * 300 if small else 1 << 20)
    since: Any = None
    known = 0
    middle = len(after) // 2
    losses = [loss] if loss else []
    for step, *args in [*before, ("leave",), *after[:middle], *losses, *after[middle:]]:
        if step == "say":
            for _ in range(args[2]):
                hub.say(args[0], b"x" * args[1])
        elif step == "restart":
            hub.log.close()
            hub.log = hub.open()
        elif step == "forget":
            hub.log.forget_idle(hub.now)
        elif step == "later":
            hub.now += 2.0
            hub.log.trim(hub.now)
        elif step == "lose":
            hub.log.close()
            assert hub.directory is not None
            for file in hub.directory.glob("*.log"):
                file.write_bytes(b"")
            hub.log = hub.open()
        elif step == "leave":
            known = len(hub.everything)
            exact = [pattern for pattern in patterns if pattern in ("a.x", "a.y", "b", "c")]
            since = {topic: hub.log.where(topic) for topic in exact} if by_offset else hub.log.position
    hub.log.trim(hub.now)
    recalled = recall(hub.log, patterns, since)
    wanted = list(since) if by_offset else patterns
    missed = [event for _, event in hub.everything[known:] if any(matches(pattern, event.topic) for pattern in wanted)]
    _check(hub.log, missed, recalled, by_offset)
    hub.log.close()


def _check(log: TopicLog, missed: list[Publication], recalled: module.Recalled, by_offset: bool) -> None:
    got = unpacked(recalled.events)
    assert len({place(event) for event in got}) == len(got), "once"
    gaps: dict[str, Missed] = {}
    for gap in recalled.gaps:
        assert gap.topic not in gaps
        gaps[gap.topic] = gap
    for topic in {event.topic for event in [*missed, *got]}:
        mine = [event for event in missed if event.topic == topic]
        theirs = [event for event in got if event.topic == topic]
        if topic not in gaps:
            if recalled.complete:
                assert theirs == mine
            else:
                assert theirs == mine or not theirs
            continue
        epoch, head = log.where(topic)
        gap = gaps[topic]
        assert gap.epoch == epoch and gap.last <= head
        assert [event.offset for event in theirs] == list(range(gap.last + 1, gap.last + 1 + len(theirs)))
        present = [event for event in mine if event.epoch == epoch]
        if gap.reason == "epoch_changed":
            assert gap.first == 1
        if theirs:
            assert theirs[-1].offset == head
        lost = {event.offset for event in present} - {event.offset for event in theirs}
        assert lost <= set(range(gap.first, gap.last + 1)), "what is lost is in the gap"
        if gap.reason == "history_expired" and by_offset:
            assert lost == set(range(gap.first, gap.last + 1)), "and nothing else"
    if recalled.complete:
        assert not recalled.gaps
        assert sorted(map(place, got)) == sorted(map(place, missed))


def test_of_what_is_too_much_the_oldest_are_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(size=1 << 20)
    begin = hub.log.position
    for n in range(20):
        hub.say("a.x", b"x" * 100)
        hub.say("d", b"%d" % n)
    monkeypatch.setattr(module, "RECALL_EVENTS", 12)
    for since in (begin, {"a.x": ("e0", 0)}):
        recalled = recall(hub.log, ["a.x"], since)
        assert [event.offset for event in unpacked(recalled.events)] == list(range(9, 21))
        assert recalled.gaps == [Missed("a.x", "e0", 1, 8, "overflow")] and not recalled.complete
    recalled = recall(hub.log, ["a.x", "d"], begin)
    assert len(recalled.events) == 12 and len(recalled.gaps) == 2
    monkeypatch.setattr(module, "RECALL_BYTES", 500)
    few = recall(hub.log, ["a.x"], begin)
    assert 0 < len(few.events) < 5 and few.gaps[0].last == 20 - len(few.events)
    monkeypatch.setattr(module, "RECALL_TOPICS", 0)
    none = recall(hub.log, ["a.x"], begin)
    assert none.events == [] and none.gaps == [Missed("a.x", "e0", 1, 20, "overflow")]


def test_nothing_is_read_that_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(size=1 << 20)
    begin = hub.log.position
    for n in range(200):
        hub.say(f"t.{n % 20}")
    read: list[int] = []
    kept = hub.log.read

    def counting(topic: str, after: int, limit: int) -> list[bytes]:
        found = kept(topic, after, limit)
        read.append(len(found))
        return found

    monkeypatch.setattr(hub.log, "read", counting)
    monkeypatch.setattr(module, "RECALL_EVENTS", 15)
    recalled = recall(hub.log, [">"], begin)
    assert sum(read) == len(recalled.events) == 15
    assert sum(gap.last - gap.first + 1 for gap in recalled.gaps) == 185


def test_a_place_of_which_nobody_knows_is_not_recovered() -> None:
    hub = Hub(size=1 << 20)
    for since in ("other:7", f"{hub.log.id}:1", "rubbish"):
        assert recall(hub.log, ["never"], since) == ([], [], False)


@given(st.integers(0, 25), st.integers(1, 30), st.one_of(st.none(), st.integers(0, 30)), st.integers(0, 25))
def test_a_page_is_the_first_behind_an_offset_or_the_last(said: int, limit: int, after: int | None, held: int) -> None:
    """``held`` is the last one that another history has; the log has what is above 5."""
    hub = Hub(size=1 << 20)
    events = [hub.say("t", b"x" * 10) for _ in range(said)]
    first = min(6, said + 1)
    packed = hub.log.read("t", 0, 100)
    real = hub.log.first
    hub.log.first = lambda topic, after=0: max(real(topic, after), first)  # type: ignore[method-assign]
    older = Older({"t": packed[: min(held, said)]}, False)
    found, gap = page(hub.log, "t", limit, None if after is None else ("e0", after), older)
    got = [event.offset for event in unpacked(found)]
    begin = 1 if held >= first - 1 else first
    if after is None:
        assert got == list(range(max(begin, said - limit + 1), said + 1)) and gap is None
        return
    if after > said:
        assert gap is not None and gap.reason == "epoch_changed"
        after = 0
    elif min(held, first - 1) - after >= limit:
        assert (got, gap) == ([*range(after + 1, after + limit + 1)], None)  # a page of what only the other one has
        return
    elif max(begin, after + 1) > after + 1:
        assert gap == Missed("t", "e0", after + 1, begin - 1, "history_expired")
    else:
        assert gap is None
    assert got == list(range(max(begin, after + 1), said + 1))[:limit]
    assert len(events) == said


def test_a_page_has_a_bound_in_bytes_and_one_event_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(size=1 << 20)
    for _ in range(9):
        hub.say("t", b"x" * 1000)
    for room, expected in ((10, 1), (3500, 3)):
        monkeypatch.setattr(module, "PAGE_BYTES", room)
        first, gap = page(hub.log, "t", 100, ("e0", 2))
        assert ([event.offset for event in unpacked(first)], gap) == ([*range(3, 3 + expected)], None)
        last, _ = page(hub.log, "t", 100, None)
        assert [event.offset for event in unpacked(last)] == [*range(10 - expected, 10)]


@pytest.mark.parametrize("hole", range(1, 9))
def test_a_hole_in_what_another_history_has_is_a_gap(hole: int) -> None:
    """A topic was not durable for a while."""
    hub = Hub()
    said = [hub.say("t") for _ in range(12)]
    packed = {event.offset: pack(event) for event in said}
    first = hub.log.first
    hub.log.first = lambda topic, after=0: max(9, first(topic, after))  # type: ignore[method-assign]
    older = Older({"t": [packed[n] for n in range(1, 9) if n != hole]}, False)
    found = recall(hub.log, ["t"], {"t": ("e0", 0)}, older)
    assert [event.offset for event in unpacked(found.events)] == list(range(hole + 1, 13))
    assert found.gaps == [Missed("t", "e0", 1, hole, "history_expired")] and not found.complete
    assert [event.offset for event in unpacked(page(hub.log, "t", 20, None, older)[0])] == list(range(hole + 1, 13))
