"""What becomes of what a stage returns: of anything at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.stage_batch import Nonsense, Outcome, StageBatch, StagedEvent, StageFailure
from transport.codes import Priority
from transport.event import Event
from transport.messages import Publish, Refused

PEER: Any = "peer"
Work = Callable[[list[Event]], Any]


def publish(ref: int, topic: str = "t.a", data: bytes = b"1") -> Publish:
    return Publish(ref, topic, "m", data)


def batch(*publishes: Publish, drop: bool = False, first: int = 1) -> StageBatch:
    return StageBatch("s", [(f"peer {p.ref}", p) for p in publishes], first, drop)


def run(work: Work, *publishes: Publish, drop: bool = False) -> Outcome:
    it = batch(*publishes, drop=drop)
    return it.returned(work(it.events()))


def refs(outcome: Outcome) -> list[int]:
    return [publish.ref for _, publish in outcome.passed]


def told(outcome: Outcome) -> list[tuple[int, str]]:
    return [(refused.ref, refused.code) for _, refused in outcome.refused]


def test_a_stage_sees_whole_events_and_they_come_back_whole() -> None:
    whole = Publish(7, "t.a", "tick", b'{"p":1.1200}', "k", "high", 12.5)
    plain = Publish(0, "t.b", "message", b"null")
    it = batch(whole, plain)
    events = it.events()
    assert events == [
        Event(topic="t.a", payload=b'{"p":1.1200}', type="tick", key="k", priority=Priority.HIGH, source_ts=12.5),
        Event(topic="t.b", payload=b"null"),
    ]
    assert it.returned(events) == Outcome([("peer 7", whole), ("peer 0", plain)], [], {})


def test_an_event_equals_another_one_of_the_same_fields_whatever_its_source() -> None:
    one, other = batch(publish(1), publish(2)).events()
    plain = Event(topic="t.a", payload=b"1", type="m")
    assert one == other and one == plain and plain == one and len({one, other, plain}) == 1
    assert one != one.replace(data=2) and one != Event(topic="t.b", payload=b"1", type="m") and one != 1
    changed = one.replace(data=2)
    assert isinstance(changed, StagedEvent) and isinstance(one, StagedEvent) and changed.source == one.source


def test_results_answer_the_publishers_of_the_events_that_they_were_made_of() -> None:
    def work(events: list[Event]) -> list[Event]:
        first, _, third = events
        return [Event.of("new", Decimal("1.50")), third.replace(data=3), first, third.replace(topic="again")]

    outcome = run(work, publish(1), publish(2), publish(3))
    assert [(peer, p.topic, p.data, p.ref) for peer, p in outcome.passed if p.ref] == [
        ("peer 3", "t.a", b"3", 3),
        ("peer 1", "t.a", b"1", 1),
    ]
    assert [(p.topic, p.ref) for _, p in outcome.passed] == [("new", 0), ("t.a", 3), ("t.a", 1), ("again", 0)]
    assert outcome.refused == [("peer 2", Refused(2, "forbidden", "a stage dropped this event", None))]
    assert (outcome.faults, outcome.failed) == ({}, False)


def test_what_a_stage_held_back_answers_nobody_later() -> None:
    (held,) = batch(publish(5), first=1).events()
    later = batch(publish(6), first=9)
    outcome = later.returned([held, *later.events()])
    assert refs(outcome) == [0, 6] and not outcome.refused


BAD: dict[str, Callable[[Event], Event]] = {
    "a topic that is none": lambda event: event.replace(topic="a..b"),
    "a pattern": lambda event: event.replace(topic="a.*"),
    "a topic that is no text": lambda event: event.replace(topic=7),
    "a payload that is text": lambda event: event.replace(payload="1"),
    "a payload that is no JSON": lambda event: event.replace(payload=b"{"),
    "a payload that is no UTF-8": lambda event: event.replace(payload=b'"\xff"'),
    "a payload that is too large": lambda event: event.replace(payload=b"1" * (17 << 20)),
    "a type that is no text": lambda event: event.replace(type=7),
    "a key that is no text": lambda event: event.replace(key=7),
    "a priority that is none": lambda event: event.replace(priority="urgent"),
    "a priority of a strange type": lambda event: event.replace(priority=[]),
    "a time that is none": lambda event: event.replace(source_ts=float("nan")),
    "a time beyond floats": lambda event: event.replace(source_ts=10**400),
}


@pytest.mark.parametrize("what", BAD)
def test_an_event_that_nobody_could_read_fails_only_its_source(what: str) -> None:
    def work(events: list[Event]) -> list[Event]:
        first, second, third = events
        return [first.replace(data="new"), BAD[what](second), third.replace(data="new")]

    sources = publish(1), publish(2, data=b"2"), publish(3)
    outcome = run(work, *sources)
    assert [(p.ref, p.data) for _, p in outcome.passed] == [(1, b'"new"'), (2, b"2"), (3, b'"new"')]
    assert (outcome.faults, outcome.failed, outcome.dropped) == ({StageFailure.NONSENSE: 1}, False, 0)
    assert outcome.error and not outcome.refused
    outcome = run(work, *sources, drop=True)
    assert (refs(outcome), told(outcome), outcome.dropped) == ([1, 3], [(2, "unavailable")], 1)


def test_a_good_result_beside_a_bad_one_of_the_same_event_is_enough() -> None:
    for drop in (False, True):
        outcome = run(lambda events: [events[0].replace(topic=".."), events[0]], publish(4), drop=drop)
        assert (refs(outcome), outcome.refused, outcome.dropped) == ([4], [], 0)
        assert (outcome.faults, outcome.failed) == ({StageFailure.NONSENSE: 1}, False)


def test_what_a_stage_has_dropped_it_has_done() -> None:
    outcome = run(lambda events: [events[0].replace(topic="..")], publish(1), publish(2))
    assert (refs(outcome), told(outcome), outcome.failed) == ([1], [(2, "forbidden")], False)


def test_twice_bad_goes_on_once() -> None:
    outcome = run(lambda events: [events[0].replace(topic="..")] * 2, publish(4))
    assert refs(outcome) == [4] and outcome.failed


async def _later(_: object) -> None: ...


NONSENSE: dict[str, Work] = {
    "nothing": lambda events: None,
    "other things": lambda events: [1, 2],
    "an event beside None": lambda events: [events[0], None],
    "one event": lambda events: events[0],
    "text": lambda events: "events",
    "a generator": lambda events: (event for event in events),
    "a coroutine": _later,
    "a bad event made of nothing": lambda events: [events[0], Event(topic="..", payload=b"1")],
}


@pytest.mark.parametrize("what", NONSENSE)
def test_nonsense_whose_culprit_is_unknown_fails_the_whole_batch(what: str) -> None:
    with pytest.raises(Nonsense, match=r"."):
        run(NONSENSE[what], publish(1), publish(2))


@pytest.mark.parametrize("reason", StageFailure)
def test_a_failed_batch_follows_the_policy(reason: StageFailure) -> None:
    sources = publish(1), publish(0), publish(2)
    outcome = batch(*sources).failed(reason, "why")
    assert [p for _, p in outcome.passed] == list(sources) and not outcome.refused
    assert (outcome.faults, outcome.failed, outcome.error) == ({reason: 3}, True, "why")
    outcome = batch(*sources, drop=True).failed(reason)
    assert (outcome.passed, outcome.dropped) == ([], 3)
    assert outcome.refused == [
        ("peer 1", Refused(1, "unavailable", "stage s failed", None)),
        ("peer 2", Refused(2, "unavailable", "stage s failed", None)),
    ]


def test_a_function_changes_drops_and_multiplies() -> None:
    def function(event: Event) -> Any:
        match event.data:
            case "drop":
                return None
            case "two":
                return [event.replace(topic="t.1"), Event.of("t.2", 2)]
            case "none":
                return []
        return event.replace(data="changed")

    words = b'"drop"', b'"two"', b'"none"', b'"x"'
    outcome = batch(*(publish(n, data=word) for n, word in enumerate(words, 1))).mapped(function)
    assert [(p.topic, p.ref) for _, p in outcome.passed] == [("t.1", 2), ("t.2", 0), ("t.a", 4)]
    assert told(outcome) == [(1, "forbidden"), (3, "forbidden")]
    assert (outcome.faults, outcome.failed) == ({}, False)


def test_a_function_that_fails_for_one_event_costs_no_other() -> None:
    def function(event: Event) -> Any:
        match event.data:
            case 1:
                raise KeyError("nothing of the sort")
            case 2:
                return 7
            case 3:
                return _later(event)
            case 4:
                return [event, 7]
        return event.replace(data="ok")

    sources = [publish(n, data=str(n).encode()) for n in range(1, 6)]
    outcome = batch(*sources).mapped(function)
    assert [p.data for _, p in outcome.passed] == [b"1", b"2", b"3", b"4", b'"ok"']
    assert refs(outcome) == [1, 2, 3, 4, 5]
    assert outcome.faults == {StageFailure.RAISED: 1, StageFailure.NONSENSE: 3} and not outcome.failed
    outcome = batch(*sources, drop=True).mapped(function)
    assert (refs(outcome), told(outcome)) == ([5], [(n, "unavailable") for n in range(1, 5)])
    assert batch(*sources[:4]).mapped(function).failed, "nothing at all was done"


ACTIONS = ("same", "change", "drop", "twice", "bad", "bad and good", "new")


def _perform(actions: list[str], events: list[Event]) -> list[Event]:
    out: list[Event] = []
    for action, event in zip(actions, events, strict=True):
        changed, bad = event.replace(data={"was": event.data}), event.replace(topic="..")
        new = Event.of("new", 1)
        out += {
            "same": [event],
            "change": [changed],
            "drop": [],
            "twice": [changed, event],
            "bad": [bad],
            "bad and good": [bad, changed],
            "new": [new, event],
        }[action]
    return out


@given(
    st.lists(st.tuples(st.sampled_from(ACTIONS), st.sampled_from(["a", "b", "c"]), st.booleans()), min_size=1),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_every_publisher_is_answered_once_and_order_per_topic_holds(
    plan: list[tuple[str, str, bool]], drop: bool, random: Any
) -> None:
    sources = [publish(asks and n, topic, str(n).encode()) for n, (_, topic, asks) in enumerate(plan, 1)]
    actions = [action for action, _, _ in plan]
    outcome = run(lambda events: _perform(actions, events), *sources, drop=drop)
    answered = Counter(ref for ref in [*refs(outcome), *(ref for ref, _ in told(outcome))] if ref)
    assert answered == Counter(source.ref for source in sources if source.ref)
    for topic in "abc":
        numbers = [_number(p.data) for _, p in outcome.passed if p.topic == topic]
        assert numbers == sorted(numbers)
    lost = 0 if not drop else actions.count("bad")
    there = {_number(p.data) for _, p in outcome.passed if p.topic != "new"}
    assert len(there) == len(plan) - actions.count("drop") - lost
    assert outcome.dropped == lost
    assert sum(outcome.faults.values()) == actions.count("bad") + actions.count("bad and good")
    assert outcome.failed == (actions.count("bad") == len(plan))
    # In whatever order a stage returns its results, each publisher still gets one answer.
    shuffled = run(lambda events: random.sample(r := _perform(actions, events), len(r)), *sources, drop=drop)
    again = Counter(ref for ref in [*refs(shuffled), *(ref for ref, _ in told(shuffled))] if ref)
    assert again == answered


def _number(data: bytes) -> int:
    return int(data.strip(b'{}"was:'))
