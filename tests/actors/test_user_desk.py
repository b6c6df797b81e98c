from typing import Any

import pytest

from actors.topic_policy import TopicPolicies, TopicPolicy
from actors.user_desk import UserDesk
from actors.user_shares import UserShares
from transport import codec
from transport.codec import join, unpack_batch
from transport.messages import Present, Publish, Refused, Seated, Share, ShareTaken, Users, WhoIsPresent

POLICIES = TopicPolicies(
    {"room.*": TopicPolicy(presence=True, announce=True), "quiet.*": TopicPolicy(presence=True)},
)


class FakePeer:
    def __init__(self) -> None:
        self.out: list[bytes] = []

    def read(self) -> list[Any]:
        messages = unpack_batch(join(self.out)) if self.out else []
        self.out.clear()
        return messages


class Desk:
    def __init__(self, shares: UserShares | None = None) -> None:
        self.published: list[Publish] = []
        self.timers: list[float] = []
        self.now = 0.0
        self.desk = UserDesk(
            policies=POLICIES,
            publish=self.published.append,
            later=self.timers.append,
            shares=shares,
            clock=lambda: self.now,
        )

    def hear(self, peer: FakePeer, item: Any) -> None:
        self.desk.handlers[type(item)](peer, item)

    def announced(self) -> list[tuple[str, str, bytes]]:
        events = [(publish.type, publish.topic, publish.data) for publish in self.published]
        self.published.clear()
        return events


def test_coming_and_going_is_an_event_where_it_is_wanted() -> None:
    here, worker, other = Desk(), FakePeer(), FakePeer()
    here.hear(worker, Present([("room.a", "alice"), ("quiet.a", "alice")], []))
    assert here.published[0].key == "alice"
    assert here.announced() == [("join", "room.a", b'{"user":"alice"}')]
    here.hear(other, Present([("room.a", "alice"), ("room.a", "bob")], [], again=True))
    assert here.announced() == []
    here.hear(worker, Present([], [("room.a", "alice")]))
    assert here.announced() == []
    here.desk.gone(other)
    assert here.announced() == [("leave", "room.a", b'{"user":"alice"}'), ("leave", "room.a", b'{"user":"bob"}')]


def test_who_is_present() -> None:
    here, worker, daemon = Desk(), FakePeer(), FakePeer()
    here.hear(worker, Present([("quiet.a", "bob"), ("quiet.a", "alice")], []))
    here.hear(daemon, WhoIsPresent(7, "quiet.a"))
    here.hear(daemon, WhoIsPresent(8, "quiet.b"))
    here.hear(daemon, WhoIsPresent(9, "loud"))
    users, nobody, refused = daemon.read()
    assert users == Users(7, ["alice", "bob"])
    assert nobody == Users(8, [])
    assert isinstance(refused, Refused)
    assert (refused.ref, refused.code, refused.field) == (9, "bad_request", "topic")


def test_more_users_than_the_bus_can_carry_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "MAX_ITEM_BYTES", 1_000)
    here, worker = Desk(), FakePeer()
    here.hear(worker, Present([("quiet.a", f"user-{n}") for n in range(200)], []))
    here.hear(worker, WhoIsPresent(8, "quiet.a"))
    [refused] = worker.read()
    assert (refused.ref, refused.code, refused.field) == (8, "limit_exceeded", "topic")


def test_shares_go_to_the_workers_when_their_time_has_come() -> None:
    here, first, second = Desk(UserShares(10, 4.0)), FakePeer(), FakePeer()
    here.hear(first, Seated(["alice"], []))
    assert first.read() == [Share("alice", 10, 1)]
    here.hear(first, ShareTaken("alice", 1))
    assert here.timers == []
    here.hear(second, Seated(["alice"], []))
    assert first.read() == [Share("alice", 5, 2)]
    assert second.read() == [Share("alice", 0, 3)]
    here.hear(second, ShareTaken("alice", 3))
    here.now = 1.0
    here.hear(first, ShareTaken("alice", 2))
    here.hear(first, ShareTaken("alice", 2))
    assert here.timers == [4.0]
    here.now = 5.0
    here.desk.tick()
    assert second.read() == [Share("alice", 5, 4)]
    here.desk.gone(first)
    assert here.timers == [4.0, 4.0]
    here.now = 9.0
    here.desk.tick()
    assert second.read() == [Share("alice", 10, 5)]


def test_without_a_rate_seats_are_nothing() -> None:
    here, worker = Desk(), FakePeer()
    here.hear(worker, Seated(["alice"], []))
    here.hear(worker, ShareTaken("alice", 1))
    here.desk.gone(worker)
    assert worker.read() == [] and here.timers == []
