"""The figures of every layer on their way from two workers and a hub to operators."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

from tests.integration.harness import EngineProcess, RawClient

Eventually = Callable[..., Awaitable[None]]

CLIENTS = 24  # over two workers; each connection is a coin's throw
EVENTS = 40
CONFIG = """
[topics."jobs.*"]
strategy = "load_balanced"
acks = true
[delivery]
write_buffer = 4_096
"""


def test_an_events_way_in_figures(engine_process: Callable[..., EngineProcess], eventually: Eventually) -> None:
    engine = engine_process(CONFIG, workers=2)

    def stats() -> dict[str, Any]:
        found: dict[str, Any] = engine.admin("/stats")[1]
        return found

    def index() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = engine.admin("/api/index?check=1")[1]["workers"]
        return found

    def total(found: list[dict[str, Any]], name: str) -> int:
        return sum(worker[name] for worker in found)

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(RawClient(engine.url)) for _ in range(CLIENTS)]
            for n, client in enumerate(clients):
                await client.subscribe("a.*", where={"n": {"gte": n % 2}})
            member = clients[0]
            await member.subscribe("jobs.x", group="g")
            for n in range(EVENTS):
                assert (await clients[-1].request("publish", topic="a.b", data={"n": n % 2}))["op"] == "ok"
            assert (await clients[-1].request("publish", topic="jobs.x", data=1))["op"] == "ok"
            await eventually(lambda: sum(len(c.offsets("a.b")) for c in clients) == CLIENTS * EVENTS * 3 // 4)
            reported = {"deliveries": CLIENTS * EVENTS * 3 // 4 + 1, "events_published": EVENTS + 1}
            await eventually(lambda: all(stats()[name] == count for name, count in reported.items()))
            found = stats()
            layers = found["layers"]
            assert list(layers) == ["router", "index", "broadcaster", "delivery"]
            assert all(0 < layer["p50"] <= layer["p99"] for layer in layers.values()), layers
            assert layers["router"]["hit_rate"] == (EVENTS - 1) / (EVENTS + 1), "two topics"
            assert layers["index"]["hit_rate"] == (EVENTS * 2 - 4) / (EVENTS * 2), "two classes, at each worker"
            assert (found["subscriptions"], found["filtered_subscriptions"]) == (CLIENTS + 1, CLIENTS)
            assert (found["group_members"], found["group_events_unacknowledged"]) == (1, 1)
            assert found["cached_selections"] == 4
            metrics = engine.admin("/metrics")[1].decode()
            assert f"heliograph_route_seconds_count {EVENTS + 1}.0" in metrics
            assert f"heliograph_delivery_seconds_count {found['deliveries']}.0" in metrics

            workers = index()
            assert {worker["worker"] for worker in workers} == {"worker-0", "worker-1"}
            assert [(worker["problems"], worker["complete"]) for worker in workers] == [([], True)] * 2
            assert (total(workers, "members"), total(workers, "filtered")) == (CLIENTS, CLIENTS)
            assert (total(workers, "thresholds"), total(workers, "selections")) == (CLIENTS, 4)
        gauges = ("subscriptions", "filtered_subscriptions", "cached_selections", "held_events", "group_members")
        await eventually(lambda: not any(map(stats().__getitem__, gauges)))
        assert stats()["group_events_returned"] == 1, "its member has left without a word"
        assert [total(index(), name) for name in ("patterns", "members", "audiences", "selections")] == [0] * 4

    asyncio.run(scenario())


def test_a_worker_whose_clients_do_not_read_is_degraded_until_they_do(
    engine_process: Callable[..., EngineProcess], eventually: Eventually
) -> None:
    engine = engine_process(CONFIG)

    def health() -> tuple[str, dict[str, Any]]:
        _, found = engine.admin("/health")
        return found["status"], found["components"]["worker-0"]

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(RawClient(engine.url)) for _ in range(12)]
            publisher = await stack.enter_async_context(RawClient(engine.url))
            for client in clients:
                await client.subscribe("t")
            assert health()[0] == "ok"
            for client in clients:
                client.stop_reading()
            published = 0
            while health()[0] == "ok" and published < 1_000:
                for _ in range(20):
                    await publisher.request("publish", topic="t", data="x" * 20_000)
                    published += 1
            await eventually(lambda: health()[1]["reason"] == "12 of 13 clients do not keep up", 10)
            assert health()[1]["status"] == health()[0] == "degraded"
            assert engine.admin("/ready")[0] == 200
            for client in clients:
                client.read_on()
            await eventually(lambda: health()[0] == "ok", 10)

    asyncio.run(scenario())
