"""What does the router cost an event? One iteration of `router` is a batch of 100 publishes of 100 of 500 topics, from
the bus's batch to packed publications in the workers' queues: offset, last event, receivers, packing.

`groups` is the same where each event goes to one member of a consumer group of 100 at one worker, and is acknowledged.

One iteration of `hub` is 2,000 events in 20 batches from a publisher through a hub to a worker, over inproc sockets and
until the worker has unpacked the last one. All three share a loop: the figure is their sum.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
import zmq

from actors.messages import Arrived
from actors.router import Router
from actors.topic_log import TopicLog
from actors.topic_policy import Strategy, TopicPolicies, TopicPolicy
from bench import fakes
from bench.conftest import DATA
from engine.config import Config
from engine.hub import Hub
from transport.bus_client import BusClient
from transport.codec import join, pack, unpack_batch
from transport.messages import Ack, Enlist, Interest, Publish, Ready
from transport.meter import Meter

TOPICS, BATCH, MEMBERS = 500, 100, 100
EVENTS, BATCHES = 2_000, 20


class _Peer:
    """A worker whose window never closes."""

    window_open = True

    def __init__(self) -> None:
        self.out: list[bytes] = []


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_router(measure: Callable[..., Any], workers: int) -> None:
    log = TopicLog(TOPICS, lambda: "0a1b2c3d")
    router = Router(log=log, wake=lambda: None, meter=Meter())
    peers = [_Peer() for _ in range(workers)]
    for peer in peers:
        router.on_arrived(Arrived(peer, [Interest(0, ["price.*"], [], [], []), Ready(None)]))
    publishes = [Publish(0, f"price.EUR_{n}", "message", DATA) for n in range(TOPICS)]
    feed, batches = _Peer(), [publishes[n : n + BATCH] for n in range(0, TOPICS, BATCH)]
    turn = 0

    def batch() -> tuple[tuple[Arrived], dict[str, Any]]:
        nonlocal turn
        turn += 1
        for peer in peers:
            peer.out.clear()
        return (Arrived(feed, list(batches[turn % len(batches)])),), {}

    measure(router.on_arrived, BATCH, setup=batch)
    assert [len(peer.out) for peer in peers] == [BATCH + 1] * workers, "events and a mark"


@pytest.mark.parametrize("acks", [False, True])
def test_groups(measure: Callable[..., Any], acks: bool) -> None:
    policies = TopicPolicies({"price.*": TopicPolicy(Strategy.LOAD_BALANCED, acks=acks)})
    router = Router(log=TopicLog(TOPICS, lambda: "0a1b2c3d"), wake=lambda: None, meter=Meter(), policies=policies)
    worker, feed = _Peer(), _Peer()
    router.on_arrived(Arrived(worker, [Enlist(0, f"member-{n}", "g", ["price.*"]) for n in range(MEMBERS)]))
    publishes = [Publish(0, f"price.EUR_{n}", "message", DATA) for n in range(BATCH)]

    def setup() -> tuple[tuple[Any], dict[str, Any]]:
        assigned = unpack_batch(join(worker.out))
        worker.out.clear()
        events = [(item.member, item.publication) for item in assigned]
        done = [Ack(member, event.topic, event.epoch, event.offset) for member, event in events] if acks else []
        return ([Arrived(worker, cast(list[Any], done)), Arrived(feed, list(publishes))],), {}

    def batch(arrived: list[Arrived]) -> None:
        for message in arrived:
            router.on_arrived(message)

    measure(batch, BATCH, setup=setup)
    assert len(worker.out) == BATCH


def test_hub(measure: Callable[..., Any], loop: asyncio.AbstractEventLoop) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    events = [pack(Publish(0, f"price.EUR_{n % TOPICS}", "message", DATA)) for n in range(EVENTS)]
    size = EVENTS // BATCHES

    async def start() -> tuple[Hub, BusClient, BusClient, fakes.BusEnd]:
        hub = Hub(Config(), context, "inproc://hub", print)
        await hub.start()
        end = fakes.BusEnd(EVENTS)
        publisher = BusClient(context, "inproc://hub", fakes.BusEnd(EVENTS), name="feeds", auto_ack=True)
        worker = BusClient(context, "inproc://hub", end, name="worker", auto_ack=True)
        for client in (publisher, worker):
            client.start()
            await asyncio.wait_for(client.writable(), 5)
        worker.send(pack(Interest(0, ["price.>"], [], [], [])))
        worker.send(pack(Ready(None)))
        worker.send(pack(Interest(1, [], [], [], [])))
        await asyncio.wait_for(end.answered.wait(), 5)
        return hub, publisher, worker, end

    hub, publisher, worker, end = loop.run_until_complete(start())

    async def iteration() -> None:
        end.received = 0
        end.complete.clear()
        for first in range(0, EVENTS, size):
            for event in events[first : first + size]:
                publisher.send(event)
            await asyncio.sleep(0)
        await end.complete.wait()

    async def stop() -> None:
        publisher.stop()
        worker.stop()
        await hub.stop()

    try:
        measure(lambda: loop.run_until_complete(iteration()), EVENTS)
        assert end.received == EVENTS
    finally:
        loop.run_until_complete(stop())
        context.term()
