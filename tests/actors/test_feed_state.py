"""The states of a feed: the table itself, and a feed that walks along it and tells of each step."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.failure import Failure, FailureKind
from actors.feed import Feed, FeedSpec
from actors.feed_protocol import FeedProtocol, ProtocolSpec
from actors.feed_state import TRANSITIONS, FeedState, IllegalTransition, check_transition
from tests.actors.recording import Recorder

D, C, UP = FeedState.DISCONNECTED, FeedState.CONNECTING, FeedState.CONNECTED
R, ENDING, F = FeedState.RECONNECTING, FeedState.DISCONNECTING, FeedState.FAILED
LEGAL = {
    *((D, C), (D, R), (D, F)),
    *((C, UP), (C, R), (C, ENDING), (C, F)),
    *((UP, R), (UP, ENDING), (UP, F)),
    *((R, C), (R, D), (R, F)),
    *((ENDING, D),),
    *((F, C), (F, R), (F, D)),
}


def make() -> tuple[Feed, Recorder]:
    publisher = Recorder()
    return Feed(FeedSpec("a.b", ("ws://h/",), ProtocolSpec(FeedProtocol)), publisher), publisher


def standing(feed: Feed) -> tuple[object, ...]:
    return feed.state, feed.failure, feed.reason, feed.since, feed.next_attempt_at, feed.last_error


@pytest.mark.parametrize("to", FeedState)
@pytest.mark.parametrize("state", FeedState)
def test_a_transition_is_legal_exactly_where_the_table_says(state: FeedState, to: FeedState) -> None:
    if (state, to) in LEGAL:
        check_transition(state, to)
    else:
        with pytest.raises(IllegalTransition, match=f"{state} does not lead to {to}"):
            check_transition(state, to)


def test_every_state_is_reached_and_left() -> None:
    reached, new = set[FeedState](), {FeedState.DISCONNECTED}
    while new:
        reached |= new
        new = {to for state in new for to in TRANSITIONS[state]} - reached
    assert reached == set(FeedState) == set(TRANSITIONS)
    assert all(TRANSITIONS.values())


def test_connected_is_reached_by_connecting_only_and_disconnecting_ends_disconnected_only() -> None:
    assert [state for state in FeedState if UP in TRANSITIONS[state]] == [C]
    assert TRANSITIONS[ENDING] == {D}


@given(st.lists(st.sampled_from(FeedState), max_size=30), st.booleans())
def test_a_walk_along_the_table_is_told_step_by_step_and_a_step_beside_it_changes_nothing(
    steps: list[FeedState], failing: bool
) -> None:
    feed, publisher = make()
    failure = Failure(FailureKind.TIMEOUT, "none within 1 s") if failing else None
    expected = []
    for to in steps:
        old = feed.state
        if to is not old and (old, to) not in LEGAL:
            before = standing(feed)
            with pytest.raises(IllegalTransition):
                feed.enter(to, Failure(FailureKind.DNS, "x"), 7.0)
            assert standing(feed) == before
            continue
        feed.enter(to, failure, 0.5 if to is R else None)
        assert feed.state is to
        expected.append(
            {
                "from": old,
                "state": to,
                "reason": "timeout: none within 1 s" if failing else None,
                "kind": "timeout" if failing else None,
                "retry_in": 0.5 if to is R else None,
            }
        )
    assert [msgspec.json.decode(event.data) for event in publisher.events] == expected
    assert {(event.topic, event.type) for event in publisher.events} <= {("system.feeds.a%2Eb", "feed_state")}


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ((), []),
        ((C,), [ENDING, D]),
        ((C, UP), [ENDING, D]),
        ((R,), [D]),
        ((F,), [D]),
        ((C, ENDING), [D]),
    ],
)
def test_an_end_leads_to_disconnected_from_any_state(path: tuple[FeedState, ...], told: list[FeedState]) -> None:
    feed, publisher = make()
    for state in path:
        feed.enter(state)
    publisher.events.clear()
    feed.end("by an operator")
    assert feed.state is D
    events = [msgspec.json.decode(event.data) for event in publisher.events]
    assert [event["state"] for event in events] == told
    assert all(event["reason"] == "by an operator" for event in events)
