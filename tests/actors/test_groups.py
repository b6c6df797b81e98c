"""Who of a consumer group gets an event, and what becomes of those that nobody acknowledges; on a clock of its own."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors import consumer_group, group_members, groups
from actors.consumer_group import VACANT_S, Handed, Key
from actors.groups import Groups
from actors.topic_policy import Strategy, TopicPolicy
from transport.errors import RequestError
from transport.messages import Ack, Delist, Enlist, Publication
from transport.topics import matches

ACKS = TopicPolicy(Strategy.LOAD_BALANCED, acks=True, ack_timeout_s=10.0)
LONG = ACKS._replace(ack_timeout_s=25.0)
NO_ACKS = TopicPolicy(Strategy.LOAD_BALANCED)


class FakePeer:
    def __init__(self) -> None:
        self.out: list[bytes] = []
        self.window_open = True


class Hub:
    """Groups as the router uses them; what is handed out is sent at the end of each step."""

    def __init__(self, limit: int = 100) -> None:
        self.now, self.dropped, self.offset = 1_000.0, dict[str, int](), 0
        self.groups = Groups(limit, self.dropped)
        self.peer = FakePeer()

    def enlist(self, member: str, *patterns: str, group: str = "g", peer: FakePeer | None = None) -> list[str]:
        self.groups.enlist(peer or self.peer, Enlist(1, member, group, list(patterns)), self.now)
        return self.flow()

    def delist(self, member: str, *patterns: str) -> list[str]:
        self.groups.delist(self.peer, Delist(member, list(patterns)), self.now)
        return self.flow()

    def publish(self, topic: str = "j.a", policy: TopicPolicy = ACKS) -> list[str]:
        """An event; ``member:offset`` of each member that gets it."""
        self.offset += 1
        publication = Publication(topic, "e", self.offset, self.now, "message", b"1")
        lanes = self.groups.lanes(topic)
        return [named(handed) for group, lane in lanes if (handed := group.take(lane, publication, policy, self.now))]

    def ack(self, member: str, offset: int, topic: str = "j.a") -> list[str]:
        self.groups.acknowledge(Ack(member, topic, "e", offset))
        return self.flow()

    def sweep(self, seconds: float) -> list[str]:
        self.now += seconds
        self.groups.sweep(self.now)
        return self.flow()

    def flow(self) -> list[str]:
        return [named(handed) for handed in self.groups.flow(self.now)]


def named(handed: Handed) -> str:
    return f"{handed.assigned.member}:{handed.assigned.publication.offset}"


# who gets it ----------------------------------------------------------------------------------------------------------


def test_without_acknowledgements_members_take_turns() -> None:
    hub = Hub()
    for member in "abc":
        hub.enlist(member, "j.*")
    got = [hub.publish(policy=NO_ACKS) for _ in range(6)]
    assert got == [["a:1"], ["b:2"], ["c:3"], ["a:4"], ["b:5"], ["c:6"]]
    assert hub.dropped == {}


def test_with_acknowledgements_the_one_with_the_fewest_open_events_is_next() -> None:
    hub = Hub()
    hub.enlist("a", "j.*")
    hub.enlist("b", "j.*")
    for _ in range(6):
        hub.publish()
    for offset in (2, 4):
        hub.ack("b", offset)
    assert [hub.publish()[0] for _ in range(3)] == ["b:7", "b:8", "a:9"], "of equals who has waited longer"


def test_each_group_gets_an_event_once_whatever_the_patterns_of_its_members() -> None:
    hub = Hub()
    hub.enlist("a", "j.*", "j.a")
    hub.enlist("b", "j.>")
    hub.enlist("x", "j.a", group="h")
    hub.enlist("y", "k", group="h")
    got = [hub.publish(policy=NO_ACKS) for _ in range(2)]
    assert got == [["a:1", "x:1"], ["b:2", "x:2"]]
    assert hub.publish("k", NO_ACKS) == ["y:3"]


def test_a_member_gets_only_what_its_own_patterns_match() -> None:
    hub = Hub()
    hub.enlist("a", "j.a")
    hub.enlist("b", "j.b")
    assert [hub.publish("j.b")[0] for _ in range(3)] == ["b:1", "b:2", "b:3"], "whatever its load"


def test_a_member_whose_worker_is_behind_is_passed_over_until_it_keeps_up() -> None:
    hub, slow = Hub(), FakePeer()
    hub.enlist("a", "j.*", peer=slow)
    hub.enlist("b", "j.*")
    slow.window_open = False
    assert [hub.publish()[0] for _ in range(3)] == ["b:1", "b:2", "b:3"]
    slow.window_open = True
    hub.groups.opened(slow)
    assert hub.publish() == ["a:4"]


@pytest.mark.parametrize("policy", [ACKS, NO_ACKS])
def test_where_every_worker_is_behind_events_wait_and_go_in_their_order(policy: TopicPolicy) -> None:
    hub = Hub()
    hub.enlist("a", "j.*")
    hub.peer.window_open = False
    assert [hub.publish(policy=policy) for _ in range(3)] == [[], [], []]
    hub.peer.window_open = True
    assert hub.publish(policy=policy) == [], "behind those that wait"
    hub.groups.opened(hub.peer)
    assert hub.flow() == ["a:1", "a:2", "a:3", "a:4"]
    assert hub.dropped == {}


def test_a_new_event_waits_behind_those_for_which_there_is_a_member_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_members, "UNACKNOWLEDGED", 1)
    hub = Hub()
    hub.enlist("a", "j.*")
    assert hub.publish() + hub.publish() == ["a:1"]
    hub.groups.acknowledge(Ack("a", "j.a", "e", 1))
    assert hub.publish() == [], "in the batch of the acknowledgement"
    assert hub.flow() == ["a:2"]


def test_a_new_pattern_takes_over_what_waits_for_it() -> None:
    hub = Hub()
    hub.enlist("a", "j.*")
    hub.peer.window_open = False
    for topic in ("j.a", "j.b", "j.a"):
        hub.publish(topic)
    assert hub.enlist("b", "j.a", peer=FakePeer()) == ["b:1", "b:3"]
    hub.peer.window_open = True
    hub.groups.opened(hub.peer)
    assert hub.flow() == ["a:2"]


def test_a_new_pattern_leaves_the_lanes_of_other_topics_as_they_are() -> None:
    hub = Hub()
    hub.enlist("a", "j.*")
    ((group, lane),) = hub.groups.lanes("j.b")
    hub.peer.window_open = False
    hub.enlist("a", "j.a")
    assert group.take(lane, Publication("j.b", "e", 1, 0.0, "message", b"1"), ACKS, hub.now) is None
    hub.peer.window_open = True
    hub.groups.opened(hub.peer)
    assert hub.flow() == ["a:1"]


def test_a_member_holds_at_most_so_many_and_an_acknowledgement_lets_the_next_one_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(group_members, "UNACKNOWLEDGED", 2)
    hub = Hub()
    hub.enlist("a", "j.*")
    assert [hub.publish() for _ in range(4)] == [["a:1"], ["a:2"], [], []]
    assert hub.ack("a", 1) == ["a:3"]
    assert hub.ack("a", 1) == [], "a second time"
    assert hub.ack("a", 4) == [], "of one that it never had"
    assert hub.ack("nobody", 2) == []
    assert hub.ack("a", 2) == ["a:4"]


# what becomes of the rest ---------------------------------------------------------------------------------------------


def test_the_share_of_a_member_that_leaves_goes_to_the_others_oldest_first() -> None:
    hub = Hub()
    hub.enlist("a", "j.*")
    hub.enlist("b", "j.*")
    for _ in range(6):
        hub.publish()
    hub.ack("a", 3)
    assert hub.delist("a", "other") == []
    assert hub.delist("a", "j.*") == ["b:1", "b:5"]
    assert hub.delist("b", "j.*") == []
    assert hub.publish() == [], "events wait for a member"
    assert hub.enlist("c", "j.*") == [f"c:{n}" for n in (1, 2, 4, 5, 6, 7)]
    assert hub.dropped == {}


def test_what_waits_in_several_lanes_goes_oldest_first() -> None:
    hub = Hub()
    hub.enlist("a", "j.*", "j.a")
    for topic in ("j.b", "j.a", "j.a", "j.b", "j.a"):
        hub.publish(topic)
    hub.enlist("b", "j.*")
    assert hub.delist("a", "j.*", "j.a") == [f"b:{n}" for n in range(1, 6)]


def test_giving_up_one_of_two_patterns_gives_up_what_came_for_it_alone() -> None:
    hub = Hub()
    hub.enlist("a", "j.a", "j.b", "j.>")
    hub.publish("j.a")
    hub.publish("j.c")
    hub.enlist("b", "j.>")
    assert hub.delist("a", "j.a") == [], "it has j.a under j.>, too"
    assert hub.delist("a", "j.>") == ["b:1", "b:2"]
    assert hub.publish("j.b") == ["a:3"]


def test_a_worker_takes_all_of_its_members_with_it() -> None:
    hub, other = Hub(), FakePeer()
    for n in range(3):
        hub.enlist(f"a{n}", "j.*", peer=other)
    for _ in range(6):
        hub.publish()
    hub.groups.gone(other, hub.now)
    assert hub.flow() == [], "nobody is left"
    assert hub.enlist("b", "j.*") == [f"b:{n}" for n in range(1, 7)]
    hub.groups.gone(other, hub.now)
    hub.groups.delist(other, Delist("b", ["j.*"]), hub.now)
    assert hub.publish() == ["b:7"], "what a worker says of another's members is nothing"


def test_a_worker_with_a_new_link_brings_its_members_again() -> None:
    hub, again = Hub(), FakePeer()
    hub.enlist("a", "j.*")
    hub.publish()
    assert hub.enlist("a", "j.*", peer=again) == ["a:1"]
    hub.groups.gone(hub.peer, hub.now)
    assert hub.flow() == [] and hub.publish() == ["a:2"]


def test_what_is_not_acknowledged_in_time_goes_to_another_who_is_not_silent() -> None:
    hub = Hub()
    hub.enlist("a", "j.*")
    hub.enlist("b", "j.*")
    assert [hub.publish()[0] for _ in range(4)] == ["a:1", "b:2", "a:3", "b:4"]
    hub.ack("b", 2)
    hub.now += 5
    assert hub.publish() == ["b:5"]
    assert hub.sweep(4.9) == []
    hub.ack("b", 4)
    assert hub.sweep(0.1) == ["b:1", "b:3"]
    assert [hub.publish()[0] for _ in range(3)] == ["b:6", "b:7", "b:8"], "a is silent"
    assert hub.ack("a", 6) == [], "which it never had"
    assert hub.publish() == ["b:9"]
    hub.ack("a", 3)  # late, and done
    assert hub.publish() == ["a:10"], "it is back"
    assert hub.delist("b", "j.*") == ["a:1", "a:5", "a:6", "a:7", "a:8", "a:9"]


def test_the_only_member_gets_again_what_it_did_not_acknowledge() -> None:
    hub = Hub()
    hub.enlist("a", "j.*")
    hub.publish()
    hub.publish(policy=LONG)
    assert hub.sweep(10.0) == ["a:1"]
    assert hub.sweep(15.0) == ["a:1", "a:2"]


def test_a_full_group_drops_the_oldest_that_waits_and_what_is_assigned_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(group_members, "UNACKNOWLEDGED", 2)
    hub = Hub(limit=4)
    hub.enlist("a", "j.*")
    for _ in range(6):
        hub.publish()
    assert hub.dropped == {"group_full": 2}
    assert hub.ack("a", 1) == ["a:5"]
    assert hub.ack("a", 2) == ["a:6"]


def test_the_oldest_of_a_full_group_is_so_over_all_topics() -> None:
    hub = Hub(limit=3)
    hub.enlist("a", "j.*", "j.a")
    hub.peer.window_open = False
    for topic in ("j.a", "j.b", "j.b", "j.a", "j.a"):
        hub.publish(topic)
    hub.peer.window_open = True
    hub.groups.opened(hub.peer)
    assert hub.flow() == ["a:3", "a:4", "a:5"]


def test_a_group_full_of_assigned_events_takes_no_more() -> None:
    hub = Hub(limit=2)
    hub.enlist("a", "j.*")
    assert [hub.publish() for _ in range(3)] == [["a:1"], ["a:2"], []]
    assert hub.dropped == {"group_full": 1}
    hub.ack("a", 1)
    assert hub.publish() == ["a:4"]


def test_without_members_only_what_is_to_be_acknowledged_waits() -> None:
    hub = Hub()
    assert hub.publish() == [] and hub.dropped == {}, "there was never a group"
    hub.enlist("a", "j.*")
    hub.peer.window_open = False
    hub.publish(policy=NO_ACKS)
    hub.publish()
    hub.delist("a", "j.*")
    assert hub.dropped == {"group_empty": 1}
    hub.publish(policy=NO_ACKS)
    assert hub.dropped == {"group_empty": 2}
    assert hub.enlist("b", "j.*", peer=FakePeer()) == ["b:3"]


def test_what_nobody_comes_back_for_is_forgotten_with_its_group() -> None:
    hub = Hub()
    hub.enlist("a", "j.a", "j.b")
    hub.publish()
    hub.publish("j.b")
    hub.delist("a", "j.b")
    hub.sweep(1.0)
    hub.enlist("a", "j.b")
    hub.ack("a", 2, "j.b")
    hub.publish("j.b")
    hub.delist("a", "j.a")
    assert hub.sweep(VACANT_S - 1) == ["a:3"] and len(hub.groups.lanes("j.a")) == 1
    hub.sweep(1.0)
    assert hub.dropped == {"group_empty": 1}
    assert hub.groups.lanes("j.a") == () and len(hub.groups.lanes("j.b")) == 1
    hub.delist("a", "j.b")
    hub.sweep(VACANT_S)
    assert len(hub.groups) == 0 and hub.dropped == {"group_empty": 2}
    assert hub.enlist("a", "j.>") == [], "a group that begins anew"


def test_a_pattern_is_in_one_group_of_a_session_at_a_time() -> None:
    hub = Hub()
    hub.enlist("a", "j.a", "j.b")
    hub.enlist("a", "j.a", group="h")
    hub.enlist("z", "j.a", group="h")
    assert [hub.publish(policy=NO_ACKS) for _ in range(2)] == [["a:1"], ["z:2"]]
    assert hub.dropped == {"group_empty": 2}, "nobody is left of g for j.a"
    assert hub.publish("j.b", NO_ACKS) == ["a:3"]


def test_one_group_too_many_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "GROUPS", 1)
    hub = Hub()
    hub.enlist("a", "j.a")
    with pytest.raises(RequestError) as caught:
        hub.enlist("a", "j.a", group="h")
    assert (caught.value.code, caught.value.field) == ("limit_exceeded", "group")
    assert hub.publish() == ["a:1"]


def test_one_pattern_too_many_is_refused_those_without_members_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "PATTERNS", 3)
    hub = Hub()
    hub.enlist("a", "j.a", "j.b")
    hub.enlist("a", "j.a", group="h")
    hub.delist("a", "j.b")
    for patterns in (["j.c"], ["j.a", "j.c"]):
        with pytest.raises(RequestError) as caught:
            hub.enlist("b", *patterns)
        assert (caught.value.code, caught.value.field) == ("limit_exceeded", "group")
    with pytest.raises(RequestError):
        hub.enlist("b", "j.a", group="i")
    assert len(hub.groups) == 2
    hub.enlist("b", "j.a", "j.b")
    hub.delist("b", "j.a", "j.b")
    hub.sweep(VACANT_S)
    assert hub.enlist("b", "j.c", "j.d") == []


def test_only_new_patterns_of_a_group_change_where_events_go() -> None:
    hub = Hub()
    assert hub.groups.enlist(hub.peer, Enlist(1, "a", "g", ["j.a", "j.*"]), 0.0) == ["j.a", "j.*"]
    assert hub.groups.enlist(hub.peer, Enlist(1, "b", "g", ["j.a", "k"]), 0.0) == ["k"]
    assert hub.groups.enlist(hub.peer, Enlist(1, "b", "h", ["k"]), 0.0) == ["k"]


def counted(monkeypatch: pytest.MonkeyPatch, of: Any, name: str) -> list[None]:
    """An item for each call of this function from here on."""
    calls: list[None] = []
    function = getattr(of, name)

    def counting(*args: Any) -> Any:
        calls.append(None)
        return function(*args)

    monkeypatch.setattr(of, name, counting)
    return calls


def test_what_waits_is_looked_through_once_however_many_patterns_a_member_brings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub = Hub(limit=50)
    hub.enlist("a", "j.>")
    for n in range(50):
        hub.publish(f"j.{n % 10}")
    calls = counted(monkeypatch, consumer_group.Group, "lane")
    hub.enlist("b", *(f"j.n{n}" for n in range(100)))
    assert len(calls) == 10, "one per topic"


def test_lanes_for_which_there_is_no_member_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hub, behind = Hub(limit=1_000), FakePeer()
    hub.enlist("a", *(f"j.{n}" for n in range(100)), peer=behind)
    behind.window_open = False
    for n in range(200):
        assert hub.publish(f"j.{n % 100}") == []
    calls = counted(monkeypatch, consumer_group, "_age")
    assert hub.enlist("b", "k") == []
    assert len(calls) == 100
    assert hub.enlist("b", "j.7") == ["b:8", "b:108"]


# all of it ------------------------------------------------------------------------------------------------------------

PATTERNS = ["j.*", "j.a", "j.>"]
POLICIES = {"j.a": ACKS, "j.b": NO_ACKS, "j.c.d": LONG}
LIMIT, BOUND = 6, 3
SESSIONS = range(6)
STEPS = st.one_of(
    st.tuples(st.just("enlist"), st.sampled_from(SESSIONS), st.sampled_from(PATTERNS)),
    st.tuples(st.just("delist"), st.sampled_from(SESSIONS), st.sampled_from(PATTERNS)),
    st.tuples(st.just("publish"), st.sampled_from([*POLICIES]), st.none()),
    st.tuples(st.just("publish"), st.sampled_from([*POLICIES]), st.none()),
    st.tuples(st.just("ack"), st.sampled_from(SESSIONS), st.integers(0, BOUND)),
    st.tuples(st.just("window"), st.integers(0, 1), st.booleans()),
    st.tuples(st.just("gone"), st.integers(0, 1), st.none()),
    st.tuples(st.just("sweep"), st.sampled_from([1.0, 5.0, 12.0, VACANT_S]), st.none()),
)


class World:
    """Six sessions at two workers, three in each of two groups; what these say is checked against what is known.

    Lanes are kept as the router keeps them, until a pattern changes that matches the topic.
    """

    def __init__(self) -> None:
        self.now, self.offset, self.dropped = 1_000.0, 0, dict[str, int]()
        self.groups = Groups(LIMIT, self.dropped)
        self.peers = [FakePeer(), FakePeer()]
        self.patterns: list[set[str]] = [set() for _ in SESSIONS]
        self.shares: list[dict[Key, float]] = [{} for _ in SESSIONS]  # when it was assigned
        self.silent = [False for _ in SESSIONS]
        self.late: set[tuple[int, Key]] = set()  # who had what
        self.taken = self.done = 0
        self.routes: dict[str, Any] = {}

    def change(self, changed: list[str]) -> None:
        for pattern in changed:
            self.routes = {topic: route for topic, route in self.routes.items() if not matches(pattern, topic)}

    def peer(self, n: int) -> FakePeer:
        return self.peers[n % 4 // 2]

    def may(self, n: int, topic: str) -> bool:
        return (
            any(matches(pattern, topic) for pattern in self.patterns[n])
            and self.peer(n).window_open
            and len(self.shares[n]) < BOUND
        )

    def load(self, n: int) -> tuple[bool, int]:
        return self.silent[n], len(self.shares[n])

    def on_handed(self, handed: list[Handed], fresh: Key | None = None) -> None:
        for peer, (name, publication) in handed:
            n, key = int(name), publication[:3]
            topic, team = publication.topic, [m for m in SESSIONS if m % 2 == n % 2]
            assert peer is self.peer(n) and self.may(n, topic), "it can have it"
            assert not any(key in self.shares[m] for m in team), "nobody else has it"
            assert self.load(n) == min(self.load(m) for m in team if self.may(m, topic)), "it has the least to do"
            group = self.groups._groups[f"g{n % 2}"]
            if key != fresh:
                waits = [entry.key for entry in group.unfinished.values() if entry.member is None]
                assert not any(k[0] == topic and k[2] < key[2] for k in waits), "oldest first"
            if POLICIES[topic].acks:
                self.shares[n][key] = self.now
            else:
                self.done += 1

    def flow(self) -> None:
        """One at a time, so that what is known is right at each."""
        stirred, self.groups._stirred = self.groups._stirred, {}
        for group in stirred:
            for handed in group.flow(self.now):
                self.on_handed([handed])

    def publish(self, topic: str) -> None:
        self.offset += 1
        publication = Publication(topic, "e", self.offset, self.now, "message", b"1")
        if topic not in self.routes:
            self.routes[topic] = self.groups.lanes(topic)
        for group, lane in self.routes[topic]:
            self.taken += 1
            if handed := group.take(lane, publication, POLICIES[topic], self.now):
                assert not any(
                    entry.member is None and entry.publication.topic == topic for entry in group.unfinished.values()
                ), "what waits goes first"
                self.on_handed([handed], publication[:3])

    def leave(self, n: int, patterns: set[str]) -> None:
        self.patterns[n] -= patterns
        for key in list(self.shares[n]):
            if not any(matches(pattern, key[0]) for pattern in self.patterns[n]):
                del self.shares[n][key]
        if not self.patterns[n]:
            self.silent[n] = False
            self.late = {(m, key) for m, key in self.late if m != n}

    def step(self, kind: str, what: Any, more: Any) -> None:
        if kind == "enlist":
            enlist = Enlist(1, str(what), f"g{what % 2}", [more])
            self.change(self.groups.enlist(self.peer(what), enlist, self.now))
            self.patterns[what].add(more)
        elif kind == "delist":
            self.groups.delist(self.peer(what), Delist(str(what), [more]), self.now)
            self.leave(what, {more})
        elif kind == "publish":
            self.publish(what)
        elif kind == "ack":
            self.ack(what, more)
        elif kind == "window":
            peer = self.peers[what]
            if more and not peer.window_open:
                peer.window_open = True
                self.groups.opened(peer)
            peer.window_open = more
        elif kind == "gone":
            self.groups.gone(self.peers[what], self.now)
            for n in SESSIONS:
                if self.peer(n) is self.peers[what]:
                    self.leave(n, set(PATTERNS))
        else:
            self.sweep(what)
        self.flow()
        self.check()

    def ack(self, n: int, place: int) -> None:
        late = [key for m, key in sorted(self.late) if m == n]
        keys = [*self.shares[n], *late]
        if place < len(keys):
            key = keys[place]
            team = [m for m in SESSIONS if m % 2 == n % 2]
            unfinished = self.groups._groups[f"g{n % 2}"].unfinished
            if key in unfinished and self.patterns[n]:
                self.done += 1
                self.silent[n] = False
                for m in team:
                    self.shares[m].pop(key, None)
                self.late = {(m, k) for m, k in self.late if k != key or m % 2 != n % 2}
            self.groups.acknowledge(Ack(str(n), *key))
            assert key not in unfinished

    def sweep(self, seconds: float) -> None:
        self.now += seconds
        for n in SESSIONS:
            for key, since in list(self.shares[n].items()):
                if since + POLICIES[key[0]].ack_timeout_s <= self.now:
                    del self.shares[n][key]
                    self.silent[n] = True
                    self.late.add((n, key))
        self.change(self.groups.sweep(self.now))

    def check(self) -> None:
        unfinished = 0
        for name, group in self.groups._groups.items():
            team = [n for n in SESSIONS if n % 2 == int(name[1])]
            unfinished += len(group.unfinished)
            assert len(group.unfinished) <= LIMIT
            ready = {member for rank in group._ready._by_rank.values() for member in rank}
            assert ready <= set(group.members.values()), "who has left is not remembered"
            held = {key: n for n in team for key in self.shares[n]}
            assert {key: int(e.member.id) for key, e in group.unfinished.items() if e.member} == held
            for key, entry in group.unfinished.items():
                if entry.member is None:
                    assert not any(self.may(n, key[0]) for n in team), "nothing waits for whom it could have"
        assert self.taken == self.done + unfinished + sum(self.dropped.values()), "nothing is lost uncounted"


@settings(max_examples=500, deadline=None)
@given(st.lists(STEPS, max_size=60))
def test_every_event_is_done_or_waits_or_is_counted_whatever_happens(steps: list[tuple[str, Any, Any]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group_members, "UNACKNOWLEDGED", BOUND)
        world = World()
        for n in SESSIONS[:4]:
            world.step("enlist", n, "j.*")
        for step in steps:
            world.step(*step)


@given(st.integers(1, 8), st.integers(0, 60))
def test_the_loads_of_equal_members_differ_by_one_at_most(members: int, events: int) -> None:
    hub = Hub()
    for n in range(members):
        hub.enlist(str(n), "j.*")
    got = [hub.publish()[0].split(":")[0] for _ in range(events)]
    loads = [got.count(str(n)) for n in range(members)]
    assert max(loads) - min(loads) <= 1
