"""The sampler's thread and who directs it: what happens to samples when something is wrong."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from engine import sampling
from engine.config import loads
from engine.machine import Machine
from engine.metrics import Figures
from engine.sampling import COMPONENT, Sampling
from transport.errors import ConfigError, RequestError
from transport.messages import Publish
from transport.meter import Meter

Eventually = Callable[..., Awaitable[None]]
INTERVAL = 0.1
TIMEOUT = 20.0


class Bench:
    """A sampling without an engine."""

    def __init__(self, path: Path | None = None, interval: float = INTERVAL) -> None:
        self.figures, self.meter = Figures("0"), Meter()
        self.published: list[Publish] = []
        self.sampling = Sampling(interval, path, self.figures, dict, self._publish, self.meter)

    async def _publish(self, batch: list[Publish]) -> list[None]:
        self.published += batch
        return [None] * len(batch)

    def watch(self, watched: int) -> None:
        self.figures.update("hub", "a", Meter(metrics_watched=watched).snapshot(), 1.0)

    @property
    def reason(self) -> str | None:
        return self.meter.conditions[COMPONENT].reason if COMPONENT in self.meter.conditions else "nothing said"

    async def points(self) -> int:
        found, _ = await self.sampling.read(["machine.load"], 0.0, 1e10, 1_000)
        return len(found["machine.load"])

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(TIMEOUT):
            while not true():
                await asyncio.sleep(0.01)


def run(test: Callable[[Bench], Awaitable[None]], bench: Callable[[], Bench] = Bench) -> None:
    async def scenario() -> None:
        it = bench()
        it.sampling.start()
        try:
            await test(it)
        finally:
            await it.sampling.stop()

    before = threading.active_count()
    asyncio.run(scenario())
    assert threading.active_count() == before, "the thread ends with it"


def test_it_publishes_only_while_somebody_watches() -> None:
    async def test(it: Bench) -> None:
        it.watch(0)
        await it.until(lambda: bool(it.figures.sampled))
        assert it.published == []
        it.watch(1)
        await it.until(lambda: bool(it.published))
        [event, *_] = it.published
        assert (event.topic, event.type, event.ref) == ("system.metrics", "metrics", 0)
        assert b'"machine.memory":' in event.data
        assert "machine.memory" in it.figures.sampled
        assert await it.sampling.names() >= ["engine.connections"]

    run(test)


def test_nothing_is_sampled_with_interval_0() -> None:
    async def test(it: Bench) -> None:
        assert await it.sampling.names() == []
        with pytest.raises(RequestError, match="interval is 0"):
            await it.points()
        assert it.meter.conditions == {}

    run(test, lambda: Bench(interval=0))


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "metrics.db"
    path.write_text("dear diary, " * 100)

    async def test(it: Bench) -> None:
        await it.until(lambda: bool(it.figures.sampled))
        assert "file is not a database" in str(it.reason)
        assert str(it.reason).endswith("; until the next start the series are in memory")
        assert await it.points() > 0
        assert path.read_text() == "dear diary, " * 100

    run(test, lambda: Bench(path))


def test_a_disk_that_is_full_for_a_while(tmp_path: Path) -> None:
    path = tmp_path / "metrics.db"

    async def test(it: Bench) -> None:
        await it.until(lambda: bool(it.figures.sampled))
        db = sqlite3.connect(path, isolation_level=None)
        try:
            db.execute("CREATE TRIGGER full BEFORE INSERT ON rows BEGIN SELECT RAISE(FAIL, 'disk is full'); END")
            await it.until(lambda: "disk is full" in str(it.reason))
            it.watch(1)
            await it.until(lambda: bool(it.published))  # it goes on
            assert await it.points() > 0, "what was kept before can be read"
            db.execute("DROP TRIGGER full")
            await it.until(lambda: it.reason is None)
        finally:
            db.close()

    run(test, lambda: Bench(path))


def test_a_file_system_that_hangs_is_said_and_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(sampling, "STALLED_AFTER_S", 0.05)
    monkeypatch.setattr(Machine, "_disk", lambda self, at: {"machine.disk": float(go_on.wait(TIMEOUT))})

    async def test(it: Bench) -> None:
        it.figures.sampled = {"machine.disk": 0.5}
        await it.until(lambda: "does not answer" in str(it.reason))
        assert it.figures.sampled == {}, "nothing old is shown as new"
        go_on.set()
        await it.until(lambda: it.reason is None)
        assert it.figures.sampled["machine.disk"] == 1.0

    run(test)


def test_whoever_asks_at_the_end_begins_no_thread() -> None:
    async def test(it: Bench) -> None:
        await it.sampling.stop()
        with pytest.raises(RequestError, match="stops"):
            await it.points()

    run(test)


@pytest.mark.parametrize("interval", ["0.05", "-1", "nan", "3601"])
def test_an_interval_that_cannot_be_is_refused(interval: str) -> None:
    with pytest.raises(ConfigError, match=r"metrics\.interval"):
        loads(f"[metrics]\ninterval = {interval}")
