"""Whom positions are told to, and when."""

from __future__ import annotations

from typing import Any

from actors.messages import Reached
from actors.positions import ROUNDS, Positions
from actors.session import Session
from bench import fakes
from transport.wire_forms import JsonForm


class Teller:
    """Positions of which one is reached a second, and what each session is told."""

    def __init__(self) -> None:
        self.sessions: list[Session] = []
        self.positions = Positions(lambda: self.sessions)
        self.now = 0

    def session(self) -> Session:
        session, _ = fakes.session(JsonForm())
        session.subscriptions = {"t": None}  # type: ignore[dict-item]
        self.sessions.append(session)
        self.positions.sent_to(session)
        return session

    def second(self) -> dict[Session, int]:
        self.now += 1
        self.positions.arrived(Reached(f"log:{self.now}"))
        self.positions.due(float(self.now))
        told: dict[Session, Any] = {}
        if self.positions.telling:
            for _, sessions in self.positions.tell():
                told.update((session, int(session.position.partition(":")[2])) for session in sessions)
        return told


def test_who_gets_events_late_is_told_nothing_older_than_its_subscription() -> None:
    teller = Teller()
    for _ in range(5):
        teller.second()
    at_once, late = teller.session(), teller.session()
    late.linger = 2.0  # the answer to its subscription said a place after log:5
    told = [teller.second() for _ in range(6)]
    assert told[0] == {at_once: 6}
    assert [seen[late] for seen in told if late in seen] == [6], "as soon as nothing before it can wait any more"


def test_what_late_sessions_are_told_never_falls() -> None:
    teller = Teller()
    late = teller.session()
    seen: list[int] = []
    for n in range(4 * ROUNDS):
        if n == ROUNDS:
            teller.positions.sent_to(late)
            late.linger = 2.0
        if n == 2 * ROUNDS:
            late.linger = 9.0  # another subscription, of which events come later still
        seen += teller.second().values()
    assert len(seen) > 3
    assert seen == sorted(set(seen))
