"""Requests that wait for the hub."""

from __future__ import annotations

from typing import Any

from actors.outstanding import SHARED, Asked, Outstanding
from transport.messages import Interest, Publication
from transport.requests import Subscribe


class Session:
    closed = False
    unacknowledged = 0


def asked(outstanding: Outstanding, session: Any, *topics: str, by_server: bool = False, deadline: float = 10.0) -> int:
    ref = outstanding.next_ref()
    request = Subscribe(id=ref, topics=list(topics))
    outstanding.put(Asked(session, request, by_server, Interest(ref, list(topics), [], [], []), deadline))
    return ref


def event(offset: int) -> Publication:
    return Publication("a", "e", offset, 0.0, "t", b"1")


def test_a_pattern_is_wanted_until_the_last_request_that_adds_it_is_over() -> None:
    outstanding, session = Outstanding(), Session()
    first, second = asked(outstanding, session, "a", "b"), asked(outstanding, session, "a")
    assert len(outstanding.take(first)[0]) == 1
    assert outstanding.wants("a") and outstanding.wants("b"), "until it is released"
    assert outstanding.release(["a", "b"]) == ["b"]
    assert len(outstanding.take(second)[0]) == 1
    assert outstanding.release(["a"]) == ["a"]
    assert not outstanding.wants("a") and not len(outstanding)


def test_a_session_waits_until_all_its_requests_are_answered() -> None:
    outstanding, session, other = Outstanding(), Session(), Session()
    refs = [asked(outstanding, session, "a") for _ in range(2)]
    asked(outstanding, other, "a")
    assert outstanding.of(session) == 2  # type: ignore[arg-type]
    for ref in refs:
        outstanding.take(ref)
    assert (outstanding.of(session), outstanding.of(other)) == (0, 1)  # type: ignore[arg-type]


def test_what_was_missed_is_collected_for_those_who_still_wait_and_anew_for_another_hub() -> None:
    outstanding = Outstanding()
    ref = asked(outstanding, Session(), "a")
    outstanding.collect(ref, [event(1)])
    outstanding.begin_anew()
    outstanding.collect(ref, [event(1)])
    outstanding.collect(ref, [event(2), event(3)])
    outstanding.collect(ref + 1, [event(9)])
    group, backlog = outstanding.take(ref)
    assert len(group) == 1 and [e.offset for e in backlog] == [1, 2, 3]
    assert outstanding.take(ref) == ([], []) and outstanding.take(ref + 1) == ([], [])


def test_late_is_what_somebody_waits_for() -> None:
    outstanding, session, gone = Outstanding(), Session(), Session()
    late = asked(outstanding, session, "a", deadline=1.0)
    asked(outstanding, session, "a", deadline=2.0)
    asked(outstanding, session, "a", by_server=True, deadline=1.0)
    orphan = asked(outstanding, gone, "a", by_server=True, deadline=1.0)
    gone.closed = True
    assert outstanding.late(1.5) == [late, orphan]


def test_an_equal_request_of_another_session_shares_the_answer() -> None:
    outstanding: Any = Outstanding()
    first, second = Session(), Session()
    message = Interest(outstanding.next_ref(), ["a"], [], ["a"], [])
    outstanding.put(Asked(first, Subscribe(id=1, topics=["a"]), False, message, 10.0))
    own = Interest(outstanding.next_ref(), ["a"], [], ["a"], [])
    assert outstanding.alike(second, own, 10.0 + SHARED / 2) is message
    outstanding.put(Asked(second, Subscribe(id=7, topics=["a"]), False, message, 10.0 + SHARED / 2))
    assert [*outstanding.messages] == [message] and len(outstanding) == 2
    assert outstanding.late(10.01) == [message.ref], "who shares an answer shares its lateness"
    group, _ = outstanding.take(message.ref)
    assert [(asked.session, asked.request.id) for asked in group] == [(first, 1), (second, 7)]
    assert not outstanding.of(first) and not outstanding.of(second)
    assert outstanding.release(["a"]) == [] and outstanding.release(["a"]) == ["a"], "each of them wanted it"
    assert outstanding.alike(second, own, 10.0) is own, "it is answered"


def test_what_must_not_be_shared() -> None:
    outstanding: Any = Outstanding()
    ref = asked(outstanding, Session(), "a")
    session, own = Session(), Interest(ref + 1, ["a"], [], [], [])
    assert outstanding.alike(session, own, 10.0) is not own
    assert outstanding.alike(session, own, 10.0 + 2 * SHARED) is own, "long ago"
    for other in (own._replace(add=["b"]), own._replace(snapshot=["a"]), own._replace(since="LOG:1")):
        assert outstanding.alike(session, other, 10.0) is other
    session.unacknowledged = 1
    assert outstanding.alike(session, own, 10.0) is own, "it would get what it has published before"
    large = outstanding.next_ref()
    for snapshot in (["a.>"], []):
        message = Interest(large, ["a.>"], [], [], snapshot)
        outstanding.put(Asked(Session(), Subscribe(id=1, topics=["a.>"]), False, message, 10.0))
        also = message._replace(ref=outstanding.next_ref())
        assert (outstanding.alike(Session(), also, 10.0) is also) is bool(snapshot), "it may be of many topics"
        outstanding.take(large)
    busy = Session()
    asked(outstanding, busy, "b")
    assert outstanding.alike(busy, own, 10.0) is own, "its answers would come in another order"
    for by_server, since in ((True, None), (False, "LOG:1")):
        outstanding = Outstanding()
        message = Interest(outstanding.next_ref(), ["a"], [], [], [], since)
        outstanding.put(Asked(busy, Subscribe(id=1, topics=["a"]), by_server, message, 10.0))
        assert outstanding.alike(Session(), own, 10.0) is own
