"""What the layers on an event's way count about themselves: by batch and flush, never by client."""

from __future__ import annotations

import asyncio
import time
from itertools import count
from typing import Any

import uvloop

from actors.broadcaster import Broadcaster
from actors.consumer_group import Handed
from actors.groups import GroupCounts, Groups
from actors.messages import Arrived, Hold, Operations
from actors.route import Route
from actors.router import Router
from actors.subscription import Delivery
from actors.topic_log import TopicLog
from actors.topic_policy import Strategy, TopicPolicy
from tests.actors.test_fanout import FakeSocket, Spine, run, until
from tests.actors.test_router import FakePeer, publish
from transport.messages import Ack, Delist, Enlist, Interest, Publication
from transport.meter import Meter
from transport.pacing import Pacer


async def subscribe(spine: Spine, **fields: Any) -> FakeSocket:
    socket = spine.connect()
    answer = await spine.answer(socket, spine.request(socket, op="subscribe", **fields))
    assert answer["op"] == "ok", answer
    return socket


def events(socket: FakeSocket) -> int:
    return sum(message["op"] == "event" for message in socket.messages)


def test_the_router_times_each_batch_once_and_counts_its_events() -> None:
    ticks = count()
    meter = Meter()
    router = Router(
        log=TopicLog(10, lambda: "e"), wake=lambda: None, meter=meter, monotonic=lambda: next(ticks) * 0.001
    )
    router.on_arrived(Arrived(FakePeer(), [Interest(0, [">"], [], [], [])]))
    assert meter.route.count == 0, "no event"
    router.on_arrived(Arrived(FakePeer(), [publish("a"), publish("b"), publish("a")]))
    assert meter.route.count == 3
    assert meter.route.counts[:6] == [0] * 6, "the batch took a look at the clock, which costs 1 ms here"
    assert (meter.router_hits, meter.router_misses) == (1, 2)
    assert (meter.route_hits, meter.route_misses) == (0, 0), "those are the workers'"


def test_a_flush_is_one_observation_from_the_arrival_of_the_oldest_batch() -> None:
    async def main() -> None:
        meter, done = Meter(), asyncio.Queue[int]()
        ref = Broadcaster.start(pacer=Pacer(0.0), meter=meter, processed=done.put_nowait)
        route = Route()
        events = [((route,), Publication("a", "e", n, time.time(), "t", b"1")) for n in range(1, 11)]
        now = time.perf_counter()
        ref.tell(Operations(events[:2], 1, now - 1_000.0))
        ref.tell(Operations(events[2:5], 2, now - 4_000.0))
        ref.tell(Operations(events[5:], 3, now - 2_000.0))
        assert await done.get() == 1, "the first is written at once"
        assert await done.get() == 3, "what came meanwhile together"
        assert meter.broadcast.count == 2
        assert 5_000.0 <= meter.broadcast.sum < 6_000.0
        ref.tell(Operations([], 4, now - 2_000.0))
        assert await done.get() == 4
        ref.tell(Operations(events[:1], 5, time.perf_counter()))
        assert await done.get() == 5
        assert meter.broadcast.count == 3, "what has nothing to send is no flush"
        assert meter.broadcast.sum < 6_000.0, "and counts for no other one"
        await ref.stop_async(timeout=5)

    uvloop.run(main())


def test_a_flush_of_what_was_held_counts_from_its_own_beginning() -> None:
    async def main() -> None:
        meter = Meter()
        ref = Broadcaster.start(pacer=Pacer(0.0), meter=meter, processed=lambda sequence: None)
        event = Publication("a", "e", 1, time.time(), "t", b"1")
        ref.tell(Operations([Hold(Route(Delivery(window=0.01)), event)], 1, time.perf_counter() - 1000.0))
        await until(lambda: meter.broadcast.count)
        assert meter.broadcast.sum < 100.0
        await ref.stop_async(timeout=5)

    uvloop.run(main())


def test_one_batch_is_one_flush_whoever_gets_it() -> None:
    async def scenario(spine: Spine) -> None:
        clients = [await subscribe(spine, topics=["t"]) for _ in range(5)]
        meter = spine.worker.meter
        before, began = meter.broadcast.count, time.perf_counter() - meter.broadcast.sum
        spine.request(clients[0], op="publish", topic="t", data=1)
        await until(lambda: all(events(client) == 1 for client in clients))
        await until(lambda: meter.broadcast.count == before + 1)
        assert 0.0 < meter.broadcast.sum <= time.perf_counter() - began, "not before the event"
        assert spine.hub.meter.route.count == 1
        assert (meter.delivery.count, meter.deliveries) == (5, 5)

    run(scenario)


def test_finding_receivers_is_timed_and_counted_for_topics_and_for_classes_of_events() -> None:
    async def scenario(spine: Spine) -> None:
        client = await subscribe(spine, topics=["t"], where={"s": "A"})
        meter = spine.worker.meter

        async def after(s: str, got: int) -> tuple[int, int, int]:
            spine.request(client, op="publish", topic="t", data={"s": s})
            spine.request(client, op="publish", topic="t", data={"s": "A"})
            await until(lambda: events(client) == got)
            return meter.match.count, meter.route_misses, meter.route_hits

        assert await after("A", 2) == (2, 1, 1), "the topic's audience, and in it who gets this class"
        assert await after("B", 3) == (3, 2, 2), "another class"
        assert await after("C", 4) == (3, 2, 4), "no filter names either of them"
        await spine.worker.refresh()
        assert (meter.filtered, meter.selections) == (1, 2)
        await spine.answer(client, spine.request(client, op="unsubscribe", topics=["t"]))
        await spine.worker.refresh()
        assert (meter.filtered, meter.selections, meter.subscriptions) == (0, 0, 0)

    run(scenario)


def test_what_is_conflated_away_is_counted_once_per_client_when_it_is_told() -> None:
    async def scenario(spine: Spine) -> None:
        clients = [await subscribe(spine, topics=["t"], window=0.05, conflate=True) for _ in range(3)]
        meter = spine.worker.meter
        for n in range(10):
            spine.request(clients[0], op="publish", topic="t", data=n)
        await until(lambda: all(any(m["op"] == "skipped" for m in client.messages) for client in clients))
        told = [sum(m["count"] for m in client.messages if m["op"] == "skipped") for client in clients]
        assert meter.skipped == sum(told)
        assert [events(client) + skipped for client, skipped in zip(clients, told, strict=True)] == [10] * 3

    run(scenario)


def test_what_an_outbox_conflates_away_is_counted_too() -> None:
    async def scenario(spine: Spine) -> None:
        client, publisher = await subscribe(spine, topics=["t"], max_rate=1000.0), spine.connect()
        meter = spine.worker.meter
        client.stall()
        for n in range(5):
            spine.request(publisher, op="publish", topic="t", data=n)
            await until(lambda n=n: meter.deliveries == n + 1)  # queued, where the next one replaces it
        client.flow()
        await until(lambda: any(m["op"] == "skipped" for m in client.messages))
        assert [m["data"] for m in client.messages if m["op"] == "event"] == [4]
        assert meter.skipped == sum(m["count"] for m in client.messages if m["op"] == "skipped") == 4

    run(scenario)


def test_what_waits_for_its_window_is_seen() -> None:
    async def scenario(spine: Spine) -> None:
        for _ in range(2):
            client = await subscribe(spine, topics=["t"], window=1.0)
        spine.request(client, op="publish", topic="t", data=1)
        spine.request(client, op="publish", topic="t", data=2)
        meter = spine.worker.meter

        async def held() -> int:
            await spine.worker.refresh()
            return meter.held_events

        await until(lambda: spine.worker._actors.broadcaster.held_events() == 2)
        assert await held() == 2, "once for a cohort, not for each client"
        await spine.answer(client, spine.request(client, op="unsubscribe", topics=["t"]))
        assert events(client) == 2, "who leaves gets what waits"
        assert await held() == 2, "the other one waits"

    run(scenario)


POLICY = TopicPolicy(strategy=Strategy.LOAD_BALANCED, acks=True, ack_timeout_s=10.0)


def test_groups_say_what_waits_with_whom() -> None:
    groups, peer = Groups(100, {}), FakePeer()

    def take(offset: int) -> list[Handed]:
        event = Publication("a", "e", offset, 0.0, "t", b"1")
        return [h for g, lane in groups.lanes("a") if (h := g.take(lane, event, POLICY, 0.0)) is not None]

    assert groups.counts() == GroupCounts(0, 0, 0, 0)
    groups.enlist(peer, Enlist(1, "s0", "g", ["a"]), 0.0)
    groups.enlist(peer, Enlist(2, "s1", "g", ["a"]), 0.0)
    (first,), (_,) = take(1), take(2)
    assert groups.counts() == GroupCounts(2, 0, 2, 0)
    groups.acknowledge(Ack(first.assigned.member, "a", "e", 1))
    assert groups.counts() == GroupCounts(2, 0, 1, 0)
    groups.sweep(10.0)
    assert groups.counts() == GroupCounts(2, 1, 0, 1), "it was late"
    assert len(groups.flow(10.0)) == 1
    assert groups.counts() == GroupCounts(2, 0, 1, 1)
    for member in ("s0", "s1"):
        groups.delist(peer, Delist(member, ["a"]), 11.0)
    assert groups.counts() == GroupCounts(0, 1, 0, 2), "nobody has it now"
    groups.sweep(10_000.0)
    assert len(groups) == 0
    assert groups.counts() == GroupCounts(0, 0, 0, 2), "what a forgotten group has counted stays"


def test_the_hub_reports_groups_and_closed_windows() -> None:
    async def scenario(spine: Spine) -> None:
        hub = spine.hub
        await hub.refresh()
        assert (hub.meter.group_members, hub.meter.bus_closed) == (0, {"worker-0": 0})
        hub._actors.groups.enlist(FakePeer(), Enlist(1, "s0", "g", ["a"]), 0.0)
        hub._bus.peers["worker-0"].window_open = False
        await hub.refresh()
        assert (hub.meter.group_members, hub.meter.bus_closed) == (1, {"worker-0": 1})
        hub._bus.peers["worker-0"].window_open = True

    run(scenario)
