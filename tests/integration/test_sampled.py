"""What is sampled, on its way from a real engine to who watches, and over a restart; ``docs/metrics.md`` says how."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from engine.client import Client
from tests.integration.harness import EngineProcess

Eventually = Callable[..., Awaitable[None]]
GUIDE = (Path(__file__).parents[2] / "docs/metrics.md").read_text(encoding="utf-8")
DEADLINE = 30.0


def snippet() -> Callable[[str], Awaitable[float]]:
    """``watch`` of the guide."""
    [code] = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    found: dict[str, Any] = {}
    exec(compile(code, "docs/metrics.md", "exec"), found)
    watch: Callable[[str], Awaitable[float]] = found["watch"]
    return watch


def test_samples_are_published_while_watched_and_outlive_processes_and_engine(
    engine_process: Callable[..., EngineProcess], eventually: Eventually, tmp_path: Path
) -> None:
    def start() -> EngineProcess:
        return engine_process(
            metrics__file=tmp_path / "metrics.db", metrics__interval=0.1, server__heartbeat_interval=0.2
        )

    def points(engine: EngineProcess) -> list[float]:
        status, answer = engine.admin("/api/series?name=machine.load&points=1000")
        assert status == 200
        return [ts for ts, *_ in answer["series"]["machine.load"]]

    def offset(engine: EngineProcess) -> int:
        topics = engine.admin("/api/topics")[1]["topics"]
        return next((row["offset"] for row in topics if row["topic"] == "system.metrics"), 0)

    def count(engine: EngineProcess) -> int:
        return len(points(engine))

    async def scenario(engine: EngineProcess) -> None:
        await eventually(lambda: count(engine) >= 3, DEADLINE)
        assert offset(engine) == 0, "nobody has watched"
        async with asyncio.timeout(DEADLINE):
            assert 0 <= await snippet()(engine.url) <= 100

        async with Client(engine.url) as client, client.subscribe("system.metrics") as sub:
            old = engine.kill("worker-0")
            await eventually(lambda: engine.children().get("worker-0", old) != old, DEADLINE)
            async with asyncio.timeout(DEADLINE):
                async for event in sub:
                    if event.data.keys() >= {"process.worker-0.cpu", "engine.latency_p99"}:
                        break
            assert {"process.daemon.memory", "process.hub.fds", "engine.connections"} <= event.data.keys()

        async def stands_still() -> bool:
            before, seen = offset(engine), count(engine)
            await eventually(lambda: count(engine) >= seen + 3, DEADLINE)
            return offset(engine) == before

        async with asyncio.timeout(DEADLINE):
            while not await stands_still():
                pass

    engine = start()
    asyncio.run(scenario(engine))
    assert engine.admin("/health")[1]["components"]["metrics"]["status"] == "ok"
    assert b'heliograph_process_memory_bytes{process="worker-0"}' in engine.admin("/metrics")[1]
    names = engine.admin("/api/series")[1]
    assert names["interval"] == 0.1
    assert {"machine.cpu", "engine.latency_p99", "process.worker-0.threads"} <= set(names["series"])
    status, answer = engine.admin("/api/series?name=machine.load&points=0")
    assert (status, answer["error"]["field"]) == (400, "points")
    before = points(engine)
    engine.stop()

    engine = start()
    assert set(before[-20:]) <= set(points(engine))
