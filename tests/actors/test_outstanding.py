"""Requests that wait for the hub."""

from __future__ import annotations

from typing import Any

from actors.outstanding import Asked, Outstanding
from transport.messages import Interest, Publication
from transport.requests import Subscribe


class Session:
    closed = False


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
    assert outstanding.take(first) is not None
    assert outstanding.wants("a") and outstanding.wants("b"), "until it is released"
    assert outstanding.release(["a", "b"]) == ["b"]
    assert outstanding.take(second) is not None
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
    taken = outstanding.take(ref)
    assert taken is not None and [e.offset for e in taken[1]] == [1, 2, 3]
    assert outstanding.take(ref) is None and outstanding.take(ref + 1) is None


def test_late_is_what_somebody_waits_for() -> None:
    outstanding, session, gone = Outstanding(), Session(), Session()
    late = asked(outstanding, session, "a", deadline=1.0)
    asked(outstanding, session, "a", deadline=2.0)
    asked(outstanding, session, "a", by_server=True, deadline=1.0)
    orphan = asked(outstanding, gone, "a", by_server=True, deadline=1.0)
    gone.closed = True
    assert outstanding.late(1.5) == [late, orphan]
