"""The kernel shares clients out among the workers, and the workers serve them alike."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from tests.integration.harness import EngineProcess, RawClient

CLIENTS = 200
SHARE = 0.25  # each worker's least; the benchmark asks for 0.30 of 500


def test_two_workers_share_the_clients(
    engine_process: Callable[..., EngineProcess], eventually: Callable[..., Awaitable[None]]
) -> None:
    engine = engine_process(workers=2)
    assert sorted(engine.children()) == ["hub", "worker-0", "worker-1"]

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(RawClient(engine.url)) for _ in range(CLIENTS)]
            answers = await asyncio.gather(*(client.request("stats") for client in clients))
            share = Counter(answer["stats"]["worker"] for answer in answers)
            assert sorted(share) == ["worker-0", "worker-1"]
            assert min(share.values()) > CLIENTS * SHARE, share
            await asyncio.gather(*(client.subscribe("t") for client in clients))
            published = await clients[0].request("publish", topic="t", data=1)
            assert published["offset"] == 1
            await eventually(lambda: all(client.offsets("t") == [1] for client in clients))

    asyncio.run(scenario())
