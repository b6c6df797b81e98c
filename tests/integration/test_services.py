"""Services in a whole engine: they get every event, whatever dies, and cost nobody else anything."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from heliograph import Engine
from tests.integration.harness import ROOT, EngineProcess, RawClient
from tests.integration.services import Calls

DEADLINE = 30.0
OTHERS = 1_000  # an event that another test publishes
Eventually = Callable[..., Awaitable[None]]
CONFIG = """
[server]
heartbeat_interval = 0.2
heartbeat_timeout = 2.0

[delivery]
outbox_bytes = 65_536

[services.audit]
actor = "price_audit:Audit"  # beside this file
topics = ["price.>"]
options = {{ file = "{place}/prices.db" }}

[services.moody]
actor = "tests.integration.services:Diary"
topics = ["moody.>"]
options = {{ place = "{place}" }}

[services.slow]
actor = "tests.integration.services:Diary"
topics = ["slow.>"]
options = {{ place = "{place}" }}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("services")
    shutil.copy(ROOT / "examples/services/price_audit.py", directory)
    (directory / "heliograph.toml").write_text(CONFIG.format(place=directory))
    return directory


@pytest.fixture(scope="module")
def engine(place: Path) -> Iterator[EngineProcess]:
    engine = EngineProcess(place / "heliograph.toml")
    yield engine
    stopped = len(Calls(place, "slow").of("on_stop"))
    code, left = engine.stop(), engine.destroy()
    print(engine.tail)
    assert (code, left) == (0, [])
    assert len(Calls(place, "slow").of("on_stop")) == stopped + 1


def component(engine: EngineProcess, name: str) -> dict[str, Any]:
    found: dict[str, Any] = engine.admin("/health")[1]["components"][name]
    return found


def kept(place: Path) -> list[int]:
    """Offsets of prices, by the example's database."""
    if not (place / "prices.db").exists():
        return []
    database = sqlite3.connect(place / "prices.db")
    try:
        return [number for (number,) in database.execute("SELECT number FROM event ORDER BY number")]
    except sqlite3.OperationalError:
        return []
    finally:
        database.close()


async def publish(client: RawClient, topic: str, n: int, **data: Any) -> None:
    """Until the engine has accepted it."""
    async with asyncio.timeout(DEADLINE):
        while True:
            answer = await client.request("publish", topic=topic, data={"n": n, **data}, idempotency_key=f"{topic}{n}")
            if answer["op"] == "ok":
                return
            assert answer["code"] == "unavailable", answer
            await asyncio.sleep(0.05)


def test_each_price_is_kept_once_whatever_is_killed(engine: EngineProcess, place: Path, eventually: Eventually) -> None:
    async def scenario() -> None:
        await eventually(lambda: component(engine, "services.audit")["status"] == "ok", DEADLINE)
        worker = engine.children()["worker-0"]
        async with RawClient(engine.url) as client:
            for n in range(20):
                await publish(client, "price.A", n)
            await eventually(lambda: len(kept(place)) == 20, DEADLINE)
            killed = engine.kill("services")
            for n in range(20, 40):
                await publish(client, "price.A", n)
            assert engine.children().get("services") != killed
            engine.kill("hub")
            for n in range(40, 60):
                await publish(client, "price.A", n)
            await eventually(lambda: len(kept(place)) >= 60, DEADLINE)
        assert kept(place) == list(range(1, 61))
        assert engine.children()["worker-0"] == worker
        await eventually(lambda: component(engine, "services.audit")["status"] == "ok", DEADLINE)
        assert engine.admin("/stats")[1]["process_restarts"]["services"] == 1

    asyncio.run(scenario())


def test_after_an_error_it_gets_the_same_events_again(
    engine: EngineProcess, place: Path, eventually: Eventually
) -> None:
    calls = Calls(place, "moody")

    async def scenario() -> None:
        await eventually(lambda: calls.begun, DEADLINE)
        pid = engine.children()["services"]
        async with RawClient(engine.url) as client:
            await client.subscribe("answer.moody")
            await publish(client, "moody.x", 1)
            await publish(client, "moody.x", 2, do="raise")
            trouble = ("degraded", "OSError: as it was asked to")
            await eventually(lambda: (*component(engine, "services.moody").values(),)[:2] == trouble, DEADLINE)
            assert engine.admin("/health")[1]["status"] == "degraded"
            await publish(client, "moody.x", 3, do="answer")
            calls.mend()
            await eventually(lambda: 3 in calls.taken, DEADLINE)
            assert [n for n in dict.fromkeys(calls.taken) if n < OTHERS] == [1, 2, 3]
            assert not calls.of("on_gap")
            await eventually(lambda: client.of("event"), DEADLINE)
            assert client.of("event")[0]["data"] == {"to": 3}
        await eventually(lambda: engine.admin("/stats")[1]["services"]["moody"]["events"] >= 3, DEADLINE)
        assert engine.admin("/stats")[1]["services"]["moody"]["failures"] >= 1
        await eventually(lambda: component(engine, "services.moody")["status"] == "ok", DEADLINE)
        assert engine.children()["services"] == pid, "it was nobody else's error"

    asyncio.run(scenario())


def test_one_that_does_not_keep_up_costs_nobody_anything_and_misses_nothing(
    engine: EngineProcess, place: Path, eventually: Eventually
) -> None:
    calls = Calls(place, "slow")
    filler, number = "x" * 10_000, 300  # three times what the engine holds for it

    async def scenario() -> None:
        await eventually(lambda: calls.begun, DEADLINE)
        async with RawClient(engine.url) as client:
            await client.subscribe("slow.>", "moody.>")
            await publish(client, "slow.x", 0, do="wait")
            for n in range(1, number):
                await publish(client, "slow.x", n, filler=filler)
            await publish(client, "moody.x", OTHERS)
            await eventually(lambda: len(client.offsets("slow.x")) == number, DEADLINE)
            assert not client.of("gap")
            await eventually(lambda: OTHERS in Calls(place, "moody").taken, DEADLINE)
        assert calls.taken == []
        calls.mend()
        await eventually(lambda: number - 1 in calls.taken, DEADLINE)
        assert calls.taken == list(range(number))
        assert not calls.of("on_gap")

    asyncio.run(scenario())


def test_an_embedded_engine_has_services_too(tmp_path: Path, eventually: Eventually) -> None:
    table = {"actor": "tests.integration.services:Diary", "topics": ["a"], "options": {"place": str(tmp_path)}}
    calls = Calls(tmp_path, "diary")

    async def scenario() -> None:
        async with Engine(workers=0, port=0, admin_port=0, services={"diary": table}) as engine:
            await eventually(lambda: calls.begun, DEADLINE)
            await engine.publish("a", {"n": 7, "do": "answer"})
            await eventually(lambda: calls.taken, DEADLINE)
            async with engine.client() as client:
                [answer] = await client.snapshot("answer.*")
                assert answer.data == {"to": 7}
        assert calls.taken == [7]
        assert calls.of("on_stop") == [[]]

    asyncio.run(scenario())
