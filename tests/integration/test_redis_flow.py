"""From another program over Redis and the engine to a client, for real, also after Redis was away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.feeds.redis_server import RedisServer
from tests.integration.harness import EngineProcess, RawClient

TIMEOUT = 10.0
CONFIG = """
[redis]
url = "{url}"
type = "price_update"
backoff_initial = 0.02
backoff_max = 0.1
max_retries = 1_000

[redis.channels]
"prices.*" = "price.{{1}}"
"""
HEARTBEATS = {"server__heartbeat_interval": 0.1, "server__heartbeat_timeout": 2.0}


async def reads(engine: EngineProcess, **wanted: Any) -> dict[str, Any]:
    """What ``/api/feeds`` says of Redis, once it says this."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            _, answer = await asyncio.to_thread(engine.admin, "/api/feeds")
            found: dict[str, Any] = answer["feeds"].get("redis", {})
            if wanted.items() <= found.items():
                return found


async def is_healthy(engine: EngineProcess, status: str, reason: str) -> None:
    """Redis's part of ``/health`` says so, sooner or later: between two attempts it is connecting."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            code, health = await asyncio.to_thread(engine.admin, "/health")
            found = health["components"]["feed:redis"]
            assert code == 200
            assert health["status"] == found["status"], "Redis is the only one that can be away"
            if found["status"] == status and reason in (found["reason"] or ""):
                return


async def comes(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(TIMEOUT):
        while not condition():
            await asyncio.sleep(0.002)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_redis_outage_is_survived_and_reported(
    engine_process: Callable[..., EngineProcess], redis_server: Callable[..., RedisServer], workers: int
) -> None:
    redis = redis_server()
    engine = engine_process(CONFIG.format(url=redis.url), workers, **HEARTBEATS)

    async def main() -> None:
        async with RawClient(engine.url) as client:
            await client.subscribe("price.*", "system.feeds.redis")
            await reads(engine, state="connected", ignored=1)
            redis.publish("prices.EUR_USD", '{"bid":1.121340}', '{"bid":1.121350}')
            await comes(lambda: client.offsets("price.EUR_USD") == [1, 2])
            await is_healthy(engine, "ok", "")

            redis.stop()
            away = await reads(engine, state="reconnecting", kind="refused")
            assert (away["published"], away["reconnects"]) == (2, 0)
            await is_healthy(engine, "degraded", "refused")

            redis.start()
            await reads(engine, state="connected", ignored=2)
            redis.publish("prices.EUR_USD", '{"bid":1.121360}')
            await comes(lambda: client.offsets("price.EUR_USD") == [1, 2, 3])
            events = [message for message in client.of("event") if message["topic"] == "price.EUR_USD"]
            assert {event["type"] for event in events} == {"price_update"}
            told = [message for message in client.of("event") if message["topic"] == "system.feeds.redis"]
            assert "reconnecting" in [message["data"].get("state") for message in told]
            assert [m["data"]["reason"] for m in told if m["type"] == "feed_gap"] == ["reconnected"]

            snapshot = await client.request("snapshot", topics=["price.EUR_USD"])
            assert snapshot["events"][0]["data"] == {"bid": 1.12136}, "the last value is kept"
            await reads(engine, published=3)
            _, stats = await asyncio.to_thread(engine.admin, "/stats")
            assert stats["feeds"]["redis"]["published"] == 3
            _, metrics = await asyncio.to_thread(engine.admin, "/metrics")
            assert b'feed="redis"' in metrics

    asyncio.run(main())


def test_redis_comes_changes_and_goes_with_a_reload(
    engine_process: Callable[..., EngineProcess], redis_server: Callable[..., RedisServer], tmp_path: Path
) -> None:
    redis = redis_server(requirepass="right")
    engine = engine_process("", 1, **HEARTBEATS)
    config = Path(engine.runtime_dir).parent / "heliograph.toml"

    async def reload(text: str) -> None:
        config.write_text(text)
        code, answer = await asyncio.to_thread(engine.admin, "/api/reload", "POST", {})
        assert code == 200, answer

    async def main() -> None:
        async with RawClient(engine.url) as client:
            await client.subscribe("price.*")
            wrong = CONFIG.format(url=redis.url.replace("//", "//:WRONG@"))
            await reload(wrong)
            failed = await reads(engine, state="failed", kind="unauthorized")
            assert "WRONG@" not in str(failed)
            await reload(wrong.replace("WRONG", "right"))
            await reads(engine, state="connected", ignored=1)
            redis.publish("prices.A", "1")
            await comes(lambda: client.offsets("price.A") == [1])
            await reads(engine, published=1)
            engine.kill("feeds")
            await reads(engine, state="connected", published=1, ignored=2)
            await reload("")
            _, answer = await asyncio.to_thread(engine.admin, "/api/feeds")
            assert answer == {"feeds": {}}
            await comes(lambda: not redis.subscribers())

    asyncio.run(main())
