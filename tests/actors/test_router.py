"""The router by itself: peers, clock and bus are the test's; what it says to a peer is read back from packed bytes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from actors import catch_up
from actors import router as module
from actors.groups import Groups
from actors.messages import Advance, Arrived, PeerGone, Staged, Sweep, WindowOpened
from actors.router import Router
from actors.stages import Stages
from actors.topic_log import TopicLog
from actors.topic_policy import Strategy, TopicPolicies, TopicPolicy
from transport.codec import join, unpack_batch
from transport.messages import (
    Ack,
    Assigned,
    Delist,
    Enlist,
    Fence,
    HistoryPage,
    Interest,
    Mark,
    Missed,
    Publication,
    Publish,
    Published,
    ReadHistory,
    Ready,
    Refused,
)
from transport.meter import Meter

NOW = 1_700_000_000.0
TTL = 300.0


class FakePeer:
    """A worker, or whoever publishes."""

    def __init__(self) -> None:
        self.out: list[bytes] = []
        self.marks: list[str] = []
        self.window_open = True

    def said(self) -> list[Any]:
        """What the router has said since the last time, but for its marks."""
        said, self.out[:] = unpack_batch(join(self.out)), []
        self.marks += [item.position for item in said if type(item) is Mark]
        return [item for item in said if type(item) is not Mark]


class FakeStage:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Staged] = []

    def tell(self, message: Staged) -> None:
        self.told.append(message)


class Hub:
    """A router that is not started (its handlers are called), with its surroundings."""

    def __init__(self, topics: int = 100, stages: int = 0, policies: TopicPolicies | None = None) -> None:
        self.now, self.wakes, epochs = NOW, 0, iter(range(100))
        self.log = TopicLog(topics, lambda: f"e{next(epochs)}")
        self.meter = Meter()
        self.stages, self.behind = [FakeStage() for _ in range(stages)], FakeStage()
        self.way = Stages(self.behind)  # type: ignore[arg-type]
        for stage in self.stages:
            self.way.add(stage, ["a"])  # type: ignore[arg-type]
        self.groups, self.policies = Groups(100, self.meter.dropped), policies
        self.router = self.make()

    def make(self) -> Router:
        return Router(
            log=self.log,
            wake=self.wake,
            meter=self.meter,
            stages=self.way,
            policies=self.policies,
            groups=self.groups,
            topic_idle=60.0,
            routes=8,
            route_ttl=TTL,
            clock=lambda: self.now,
            monotonic=lambda: self.now,
        )

    def wake(self) -> None:
        self.wakes += 1

    def say(self, peer: FakePeer, *items: Any) -> list[Any]:
        """A batch of a peer arrives; what the router answers."""
        self.router.on_arrived(Arrived(peer, list(items)))
        return peer.said()

    def worker(self, *patterns: str) -> FakePeer:
        peer = FakePeer()
        assert self.say(peer, Interest(0, list(patterns), [], [], []), Ready(None)) == []
        return peer


def publish(topic: str, data: bytes = b"1", ref: int = 0) -> Publish:
    return Publish(ref, topic, "message", data)


def interest(ref: int, *add: str, snapshot: bool = False) -> Interest:
    exact = [pattern for pattern in add if "*" not in pattern and ">" not in pattern]
    return Interest(ref, list(add), [], exact, list(add) if snapshot else [])


def offsets(said: list[Any]) -> list[tuple[str, int]]:
    return [(item.topic, item.offset) for item in said if type(item) is Publication]


# events ---------------------------------------------------------------------------------------------------------------


def test_an_event_gets_its_offset_and_goes_to_each_who_wants_it_once() -> None:
    hub = Hub()
    both, exact, other = hub.worker("a.*", "a.b"), hub.worker("a.b"), hub.worker("c")
    feed = FakePeer()
    event = Publish(7, "a.b", "tick", b'{"p":1.120}', "k", "high", 12.5)
    assert hub.say(feed, event, publish("a.c"), publish("a.b", ref=8)) == [Published([(7, "e0", 1), (8, "e0", 2)])]
    said = both.said()
    assert said[0] == Publication("a.b", "e0", 1, NOW, "tick", b'{"p":1.120}', "k", "high", 12.5)
    assert offsets(said) == [("a.b", 1), ("a.c", 1), ("a.b", 2)]
    assert offsets(exact.said()) == [("a.b", 1), ("a.b", 2)]
    assert other.said() == []
    assert hub.meter.events_published == 3


def test_the_bus_is_woken_once_per_batch() -> None:
    hub = Hub()
    worker = hub.worker(">")
    before = hub.wakes
    hub.say(FakePeer(), *(publish(f"t.{n}") for n in range(10)))
    assert hub.wakes == before + 1
    assert len(worker.said()) == 10


def test_a_publisher_that_wants_its_own_events_gets_them_before_the_answer() -> None:
    hub = Hub()
    peer = hub.worker("a")
    said = hub.say(peer, publish("a", ref=1))
    assert [type(item) for item in said] == [Publication, Published]


def test_a_topic_too_many_is_refused_and_the_rest_goes_on() -> None:
    hub = Hub(topics=2)
    worker, feed = hub.worker(">"), FakePeer()
    said = hub.say(feed, publish("a", ref=1), publish("b", ref=2), publish("c", ref=3), publish("a", ref=4))
    refused, published = said
    assert type(refused) is Refused and (refused.ref, refused.code, refused.field) == (3, "limit_exceeded", "topic")
    assert [ref for ref, _, _ in published.results] == [1, 2, 4]
    assert offsets(worker.said()) == [("a", 1), ("b", 1), ("a", 2)]
    assert hub.say(feed, publish("d")) == [], "who asks for no answer gets none"
    assert hub.meter.dropped == {"refused": 1}


# interest and its fence -----------------------------------------------------------------------------------------------


def test_the_fence_stands_between_the_events_before_and_after_the_interest() -> None:
    hub = Hub()
    worker, feed = hub.worker("b"), FakePeer()
    hub.say(feed, publish("a", b"1"), publish("b"))
    worker.said()
    # One batch: its own publishes before and after the interest are on their sides of the fence.
    said = hub.say(worker, publish("a", b"2"), interest(5, "a", "c", snapshot=True), publish("a", b"3"))
    fence, after = said
    assert fence == Fence(5, hub.log.position.split(":")[0] + ":3", {"a": ("e0", 2), "c": ("e0", 0)}, fence.events)
    assert offsets(fence.events) == [("a", 2)] and fence.events[0].data == b"2"
    assert offsets([after]) == [("a", 3)]


def test_a_snapshot_of_overlapping_patterns_has_each_topic_once() -> None:
    hub = Hub()
    hub.say(FakePeer(), publish("a.b"), publish("a.c"), publish("d"), publish("system.x"))
    (fence,) = hub.say(hub.worker(), interest(1, ">", "a.*", "a.b", snapshot=True))
    assert sorted(offsets(fence.events)) == [("a.b", 1), ("a.c", 1), ("d", 1)]
    assert set(fence.positions) == {"a.b"}, "of exact topics"


def test_a_snapshot_too_large_is_refused_and_the_interest_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SNAPSHOT_EVENTS", 2)
    hub = Hub()
    feed, worker = FakePeer(), hub.worker()
    hub.say(feed, *(publish(f"t.{n}") for n in range(3)))
    (refused,) = hub.say(worker, interest(9, "t.*", snapshot=True))
    assert (refused.ref, refused.code, refused.field) == (-9, "limit_exceeded", "topics"), "negative: not a publish's"
    hub.say(feed, publish("t.1"))
    assert offsets(worker.said()) == [("t.1", 2)], "the worker withdraws what it refuses"


def test_what_is_withdrawn_comes_no_more() -> None:
    hub = Hub()
    worker, feed = hub.worker("a", "b", "a.>"), FakePeer()
    hub.say(feed, publish("a"), publish("b"))
    worker.said()
    assert hub.say(worker, Interest(0, [], ["a", "never.had"], [], [])) == []
    hub.say(feed, publish("a"), publish("b"), publish("a.b"))
    assert offsets(worker.said()) == [("b", 2), ("a.b", 1)]


def test_a_peer_that_is_gone_is_forgotten() -> None:
    hub = Hub()
    gone, stays, feed = hub.worker("a", ">"), hub.worker("a"), FakePeer()
    gone.window_open = False
    hub.say(feed, publish("a"))
    hub.router.on_peer_gone(PeerGone(gone))
    hub.router.on_peer_gone(PeerGone(gone))
    hub.router.on_peer_gone(PeerGone(FakePeer()))
    hub.say(feed, publish("a"))
    hub.router.on_window_opened(WindowOpened(gone))
    assert gone.said() == []
    assert offsets(stays.said()) == [("a", 1), ("a", 2)]


def test_what_is_known_of_a_topic_is_looked_up_anew_when_it_changes_or_is_old() -> None:
    hub = Hub()
    hub.worker("a.*")
    feed, meter = FakePeer(), hub.meter

    def misses(*topics: str) -> int:
        before = meter.router_misses
        hub.say(feed, *map(publish, topics))
        return meter.router_misses - before

    assert misses("a.x", "b.x", "a.x") == 2
    assert meter.router_hits == 1
    late = hub.worker("b.x")
    assert misses("a.x", "b.x") == 1, "only that of the topic whose receivers have changed"
    hub.say(late, Interest(0, ["a.>"], [], [], []))
    assert misses("a.x", "b.x") == 1
    hub.router.on_peer_gone(PeerGone(late))
    assert misses("a.x", "b.x") == 2
    hub.now += TTL - 1
    assert misses("a.x", "b.x", "c.x") == 1
    hub.now += 1
    assert misses("a.x", "b.x", "c.x") == 2
    assert misses(*(f"t.{n}" for n in range(8)), "a.x") == 9, "no more topics than limits.routes"


def test_a_batch_of_publishes_and_other_messages_is_taken_in_its_order() -> None:
    hub = Hub()
    worker = hub.worker()
    said = hub.say(worker, publish("a"), interest(1, "a"), publish("a"), Published([]), publish("a"), interest(2, "b"))
    assert [type(item) for item in said] == [Fence, Publication, Publication, Fence], "what it does not know is nothing"
    assert said[0].positions == {"a": ("e0", 1)} and offsets(said[1:]) == [("a", 2), ("a", 3)]


def test_the_engine_publishes_events_of_its_own() -> None:
    hub = Hub()
    worker = hub.worker("a")
    before = hub.wakes
    hub.router.publish(publish("a"))
    assert offsets(worker.said()) == [("a", 1)]
    assert hub.wakes == before + 1


# peers that fall behind -----------------------------------------------------------------------------------------------


def test_a_lagging_peer_is_given_what_it_lacks_and_goes_on_where_the_others_are() -> None:
    hub = Hub()
    slow, fast, feed = hub.worker(">"), hub.worker(">"), FakePeer()
    hub.say(feed, publish("a"))
    slow.window_open = False
    hub.say(feed, publish("a"), publish("b"), publish("a"), publish("a"))
    assert offsets(slow.said()) == [("a", 1)]
    slow.window_open = True  # and the bus has not said so yet
    hub.say(feed, publish("b"), publish("a"))
    assert slow.said() == [], "what it lacks is first"
    hub.router.on_window_opened(WindowOpened(slow))
    hub.say(feed, publish("b"))
    assert offsets(slow.said()) == [("a", 2), ("b", 1), ("a", 3), ("a", 4), ("b", 2), ("a", 5), ("b", 3)]
    assert len(offsets(fast.said())) == 8
    assert slow.marks[-1] == fast.marks[-1] == hub.log.position


def test_a_lagging_peer_is_not_given_what_it_does_not_want() -> None:
    hub = Hub()
    slow, feed = hub.worker("a"), FakePeer()
    slow.window_open = False
    hub.say(feed, publish("a"), publish("other"), publish("a"))
    slow.window_open = True
    before = hub.wakes
    hub.router.on_window_opened(WindowOpened(slow))
    assert offsets(slow.said()) == [("a", 1), ("a", 2)]
    assert hub.wakes == before + 1


def test_who_is_too_far_behind_is_told_what_it_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catch_up, "FAR_BEHIND", 200)
    hub = Hub()
    slow, feed = hub.worker("a"), FakePeer()
    slow.window_open = False
    hub.say(feed, *[publish(topic) for topic in ("a", "b") * 10])
    slow.window_open = True
    hub.router.on_window_opened(WindowOpened(slow))
    assert slow.said() == [Missed("a", "e0", 1, 10, "overflow")]
    hub.say(feed, publish("a"))
    assert offsets(slow.said()) == [("a", 11)]


def test_who_is_too_far_behind_hears_of_topics_that_began_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were forgotten meanwhile, and come back or not."""
    monkeypatch.setattr(catch_up, "FAR_BEHIND", 100)
    hub = Hub()
    slow, feed = hub.worker("a", "b"), FakePeer()
    slow.window_open = False
    hub.say(feed, *[publish(topic) for topic in ("a", "b") * 10])
    hub.log.forget_idle(float("inf"))
    hub.say(feed, publish("b"))
    slow.window_open = True
    hub.router.on_window_opened(WindowOpened(slow))
    assert slow.said() == [Missed("a", "e1", 1, 0, "epoch_changed"), Missed("b", "e1", 1, 1, "epoch_changed")]


def test_the_fence_of_a_lagging_peer_comes_behind_what_it_lacks() -> None:
    hub = Hub()
    slow, feed = hub.worker("a"), FakePeer()
    slow.window_open = False
    hub.say(feed, publish("a"), publish("b"))
    assert hub.say(slow, interest(3, "b")) == []
    hub.say(feed, publish("a"))
    slow.window_open = True
    hub.router.on_window_opened(WindowOpened(slow))
    said = slow.said()
    assert [type(item) for item in said] == [Publication, Publication, Publication, Fence]
    assert said[-1].positions == {"b": ("e0", 1)}


# recovery -------------------------------------------------------------------------------------------------------------


def test_a_peer_gets_nothing_before_it_has_said_where_it_is() -> None:
    hub = Hub()
    worker, feed = FakePeer(), FakePeer()
    before = hub.log.position
    hub.say(feed, publish("a"), publish("b"))
    assert hub.say(worker, Interest(0, ["a"], [], [], []), interest(1, "c")) == []
    hub.say(feed, publish("a"))
    assert worker.said() == []
    said = hub.say(worker, Ready(before))
    assert offsets(said) == [("a", 1), ("a", 2)]
    assert type(said[-1]) is Fence
    hub.say(feed, publish("a"))
    assert offsets(worker.said()) == [("a", 3)]


def test_a_place_in_another_log_is_answered_with_where_the_topics_end() -> None:
    hub = Hub()
    worker, feed = FakePeer(), FakePeer()
    hub.say(feed, publish("a"), publish("a"), publish("b"))
    said = hub.say(worker, Interest(0, ["a"], [], [], []), Ready("other:7"))
    assert said == [Missed("a", "e0", 0, 2, "overflow")]


def test_what_was_missed_comes_before_the_fence() -> None:
    hub = Hub()
    worker, feed = hub.worker(), FakePeer()
    hub.say(feed, publish("a"), publish("b"))
    position = hub.log.position
    hub.say(feed, publish("a"), publish("b"), publish("a"))
    by_position = hub.say(worker, interest(1, "a")._replace(since=position))
    by_offset = hub.say(worker, interest(1, "a")._replace(since={"a": ("e0", 1)}))
    assert by_position == by_offset
    backlog, fence = by_position
    assert [event.offset for event in unpack_batch(backlog.body)] == [2, 3]
    assert (fence.recovered, fence.gaps, fence.positions) == (True, [], {"a": ("e0", 3)})


def test_a_page_of_history_is_the_last_events_or_those_after_an_offset() -> None:
    hub = Hub()
    feed = FakePeer()
    hub.say(feed, *[publish("a") for _ in range(5)])

    def page(limit: int, since: tuple[str, int] | None) -> tuple[list[int], Missed | None]:
        [answer] = hub.say(feed, ReadHistory(9, "a", limit, since))
        assert type(answer) is HistoryPage
        return [event.offset for event in unpack_batch(answer.body)], answer.gap

    assert page(2, None) == ([4, 5], None)
    assert page(2, ("e0", 1)) == ([2, 3], None)
    assert page(9, ("e0", 5)) == ([], None)
    assert page(9, ("other", 1)) == ([1, 2, 3, 4, 5], Missed("a", "e0", 1, 0, "epoch_changed"))
    [nothing] = hub.say(feed, ReadHistory(9, "unknown", 1))
    assert unpack_batch(nothing.body) == []


def test_large_answers_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub()
    worker, feed = hub.worker(), FakePeer()
    begin = hub.log.position
    hub.say(feed, *[publish("a", b"x" * 1_000_000) for _ in range(20)])
    monkeypatch.setattr(hub.router, "later", lambda delay, message: None)
    since = interest(1, "a")._replace(since=begin)
    asked = [ReadHistory(ref, "a", 1000, ("e0", 0)) for ref in (2, 3, 4)]
    first = hub.say(worker, since, *asked)
    assert [type(item) for item in first[-1:]] == [Fence], "and no page of 20 MB, which the bus does not take"
    pages: list[HistoryPage] = []
    for _ in range(4):
        hub.router.on_advance(Advance(worker))
        pages += worker.said()
    assert [page.ref for page in pages] == [2, 3, 4]
    assert {len(unpack_batch(page.body)) for page in pages} == {8}


def test_requests_that_look_at_many_topics_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKLOG_TOPICS", 2)
    hub = Hub()
    worker, feed = hub.worker(), FakePeer()
    begin = hub.log.position
    hub.say(feed, *[publish(topic) for topic in "abc"])
    monkeypatch.setattr(hub.router, "later", lambda delay, message: None)
    dear = [interest(1, "x.*")._replace(since=begin), interest(2, "x.*", snapshot=True), interest(3, "x")]
    assert [item.ref for item in hub.say(worker, *dear)] == [1]
    for expected in ([2], [3]):
        hub.router.on_advance(Advance(worker))
        assert [item.ref for item in worker.said()] == expected


def test_an_event_with_a_known_key_is_answered_with_its_place_and_goes_nowhere() -> None:
    hub = Hub()
    worker, feed = hub.worker("a"), FakePeer()
    event = publish("a", ref=1)._replace(idempotency_key="k")
    assert hub.say(feed, event, event._replace(ref=2)) == [Published([(1, "e0", 1), (2, "e0", 1)])]
    assert hub.say(feed, event._replace(ref=3)) == [Published([(3, "e0", 1)])]
    assert offsets(worker.said()) == [("a", 1)]


def test_answers_reach_a_lagging_peer() -> None:
    hub = Hub()
    slow = hub.worker("a")
    slow.window_open = False
    assert hub.say(slow, publish("a", ref=1)) == [Published([(1, "e0", 1)])]


# time -----------------------------------------------------------------------------------------------------------------


def test_ts_never_falls_and_idle_topics_are_forgotten() -> None:
    hub = Hub()
    worker, feed = hub.worker(">"), FakePeer()
    hub.say(feed, publish("a"))
    hub.now -= 10
    hub.say(feed, publish("a"))
    assert [item.ts for item in worker.said()] == [NOW, NOW]

    async def scenario() -> None:
        ref = Router.start(log=hub.log, wake=hub.wake, meter=hub.meter, clock=lambda: hub.now)
        hub.now = NOW + 7200
        ref.tell(Sweep())
        ref.tell(Arrived(feed, [publish("a", ref=1)]))
        async with asyncio.timeout(5):
            while not feed.out:
                await asyncio.sleep(0)
        await ref.stop_async(timeout=5)

    asyncio.run(scenario())
    ((ref, epoch, offset),) = feed.said()[0].results
    assert (ref, offset) == (1, 1) and epoch != "e0", "a topic that returns begins anew"


# stages ---------------------------------------------------------------------------------------------------------------


def test_publishes_pass_all_stages_before_they_get_their_offsets() -> None:
    hub = Hub(stages=2)
    worker, feed = hub.worker("a"), FakePeer()
    first, second = hub.stages
    assert hub.say(feed, publish("a", ref=1), publish("a", ref=2)) == []
    assert worker.said() == [] and not second.told
    assert first.told == [Staged([(feed, publish("a", ref=1)), (feed, publish("a", ref=2))], [])]
    refused = Refused(2, "forbidden", "a stage dropped this event", None)
    hub.way.forward([(feed, publish("a", b"changed", ref=1))], [(feed, refused)], 1)
    assert second.told == [Staged([(feed, publish("a", b"changed", ref=1))], [])]
    hub.way.forward(second.told[0].batch, [], 2)
    assert worker.said() == [] and feed.said() == []
    for staged in hub.behind.told:
        hub.router.on_staged(staged)
    assert [(item.offset, item.data) for item in worker.said()] == [(1, b"changed")]
    assert feed.said() == [refused, Published([(1, "e0", 1)])]


def test_events_that_no_stage_wants_wait_for_none() -> None:
    hub = Hub(stages=1)
    worker, feed = hub.worker(">"), FakePeer()
    assert hub.say(feed, publish("a", ref=1), publish("b", ref=2)) == [Published([(2, "e0", 1)])]
    assert offsets(worker.said()) == [("b", 1)]
    assert [staged.batch for staged in hub.stages[0].told] == [[(feed, publish("a", ref=1))]]


def test_a_batch_behind_the_stages_may_be_of_several_publishers() -> None:
    hub = Hub(stages=1)
    one, other = FakePeer(), FakePeer()
    batch = [(peer, publish("a", ref=ref)) for ref, peer in enumerate([one, other, one], 1)]
    hub.router.on_staged(Staged(batch, []))
    assert one.said() == [Published([(1, "e0", 1)]), Published([(3, "e0", 3)])]
    assert other.said() == [Published([(2, "e0", 2)])]


# consumer groups ------------------------------------------------------------------------------------------------------

BALANCED = TopicPolicies(
    {
        "jobs.>": TopicPolicy(Strategy.LOAD_BALANCED, acks=True, ack_timeout_s=2.0),
        "dice.*": TopicPolicy(Strategy.LOAD_BALANCED),
        "jobs.news": TopicPolicy(Strategy.BROADCAST_ALL),
    }
)


def assigned(peer: FakePeer) -> list[tuple[str, int]]:
    return [(item.member, item.publication.offset) for item in peer.said() if type(item) is Assigned]


def ack(member: str, offset: int) -> Ack:
    return Ack(member, "jobs.x", "e0", offset)


def test_an_event_goes_to_one_member_of_each_group_and_to_every_other_subscriber() -> None:
    hub = Hub(policies=BALANCED)
    one, other, feed = FakePeer(), hub.worker("dice.*"), FakePeer()
    assert hub.say(one, Enlist(4, "a", "g", ["dice.*"])) == [Fence(4, hub.log.position, {}, [])]
    hub.say(other, Enlist(0, "b", "g", ["dice.x"]), Enlist(0, "c", "h", ["dice.*"]))
    hub.say(feed, *(publish("dice.x") for _ in range(4)), publish("dice"))
    said = other.said()
    assert offsets(said) == [("dice.x", n) for n in range(1, 5)]
    mine = [(item.member, item.publication.offset) for item in said if type(item) is Assigned]
    assert [offset for member, offset in mine if member == "c"] == [1, 2, 3, 4]
    assert [offset for member, offset in mine if member == "b"] == [2, 4] and assigned(one) == [("a", 1), ("a", 3)]


def test_a_group_is_refused_where_the_strategy_is_another_one_and_nothing_of_it_holds() -> None:
    hub = Hub(policies=BALANCED)
    worker, feed = FakePeer(), FakePeer()
    (refused,) = hub.say(worker, Enlist(3, "a", "g", ["jobs.x", "price.*"]))
    assert (refused.ref, refused.code, refused.field) == (-3, "conflict", "group")
    assert 'price.* is content_based: consumer groups need [topics."price.*"]' in refused.message
    assert hub.say(worker, Enlist(0, "a", "g", [">"])) == [], "nobody asks"
    hub.say(feed, publish("jobs.x"))
    assert worker.said() == []


def test_of_what_a_groups_pattern_matches_other_strategies_are_left_out() -> None:
    hub = Hub(policies=BALANCED)
    worker = FakePeer()
    hub.say(worker, Enlist(0, "a", "g", ["jobs.>"]))
    hub.say(FakePeer(), publish("jobs.news"), publish("jobs.x"))
    assert assigned(worker) == [("a", 1)]


def test_members_get_what_waits_behind_their_fence_and_in_its_order() -> None:
    hub = Hub(policies=BALANCED)
    one, other, feed = FakePeer(), FakePeer(), FakePeer()
    hub.say(one, Enlist(1, "a", "g", ["jobs.x"]))
    hub.say(feed, publish("jobs.x"), publish("jobs.x"), publish("jobs.x"))
    hub.say(one, ack("a", 2))
    hub.router.on_peer_gone(PeerGone(one))
    hub.say(feed, publish("jobs.x"))
    fence, *rest = hub.say(other, Enlist(2, "b", "g", ["jobs.x"]))
    assert type(fence) is Fence and [item.publication.offset for item in rest] == [1, 3, 4]
    assert hub.say(other, Delist("b", ["jobs.x"]), Enlist(0, "c", "g", ["jobs.x"]))[0].member == "c"


def test_what_is_not_acknowledged_in_time_is_assigned_again() -> None:
    hub = Hub(policies=BALANCED)
    worker = FakePeer()

    async def scenario() -> None:
        class Keeping(Router):
            def on_start(self) -> None:
                super().on_start()
                hub.router = self

        ref = Keeping.start(
            log=hub.log,
            wake=hub.wake,
            meter=hub.meter,
            policies=TopicPolicies({"jobs.x": TopicPolicy(Strategy.LOAD_BALANCED, acks=True, ack_timeout_s=0.04)}),
            monotonic=lambda: hub.now,
        )
        said = hub.say(worker, Enlist(0, "a", "g", ["jobs.x"]), publish("jobs.x"), publish("jobs.x"), ack("a", 1))
        assert [item.publication.offset for item in said] == [1, 2]
        hub.now += 0.04  # and the router looks by itself
        async with asyncio.timeout(5):
            while not worker.out:
                await asyncio.sleep(0)
        await ref.stop_async(timeout=5)

    asyncio.run(scenario())
    assert assigned(worker) == [("a", 2)]


def test_a_member_of_a_worker_that_is_behind_waits_for_it() -> None:
    hub = Hub(policies=BALANCED)
    worker, feed = FakePeer(), FakePeer()
    hub.say(worker, Enlist(0, "a", "g", ["jobs.x"]))
    worker.window_open = False
    hub.say(feed, publish("jobs.x"))
    assert worker.out == []
    worker.window_open = True
    before = hub.wakes
    hub.router.on_window_opened(WindowOpened(worker))
    assert assigned(worker) == [("a", 1)] and hub.wakes == before + 1


def test_groups_outlive_the_router() -> None:
    hub = Hub(policies=BALANCED)
    one, again = FakePeer(), FakePeer()
    hub.say(one, Enlist(0, "a", "g", ["jobs.x"]), publish("jobs.x"))
    hub.router = hub.make()
    hub.router.on_peer_gone(PeerGone(one))
    (item,) = hub.say(again, Enlist(0, "a", "g", ["jobs.x"]))
    assert (item.member, item.publication.offset) == ("a", 1)
