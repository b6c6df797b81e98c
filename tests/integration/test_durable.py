"""Durable topics of a real engine: what was acknowledged is on disk before anybody sees it, and found there later.

What is killed under load, the whole engine too, is in :mod:`tests.integration.test_recovery`: ``chaos --durable``.
"""

from __future__ import annotations

import asyncio
import resource
import shutil
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from actors.sqlite_history import SqliteHistory
from actors.topic_policy import TopicPolicies, TopicPolicy
from tests.integration.harness import EngineProcess, RawClient
from tests.integration.test_recovery import accepted, numbers, publish
from transport.messages import Publish

Start = Callable[..., EngineProcess]
Eventually = Callable[..., Awaitable[None]]

DEADLINE = 30.0  # s
CONFIG = '[topics."d.>"]\ndurable = true\n'


def kill_all(engine: EngineProcess) -> None:
    """``kill -9`` of all processes at the same time."""
    for process in engine.processes():
        with suppress(psutil.NoSuchProcess):  # it went by itself as its daemon was gone
            process.kill()
    engine.wait()


async def reborn(start: Start, engine: EngineProcess, eventually: Eventually, *, lose: bool = False) -> EngineProcess:
    """All are killed, and started again in the same place; with ``lose`` what is not durable is deleted before."""
    await asyncio.to_thread(kill_all, engine)
    await eventually(lambda: not engine.processes(), DEADLINE)
    if lose:
        shutil.rmtree(Path(engine.runtime_dir) / "history")
    return await asyncio.to_thread(start, CONFIG, 1, engine.port, **place(Path(engine.runtime_dir)))


def place(runtime_dir: Path) -> dict[str, Any]:
    """Where an engine keeps what it keeps."""
    return {"server__runtime_dir": runtime_dir, "history__durable_file": runtime_dir.with_name("durable.db")}


@pytest.fixture
def durable(engine_process: Start, tmp_path_factory: pytest.TempPathFactory) -> EngineProcess:
    return engine_process(CONFIG, **place(tmp_path_factory.mktemp("d") / "run"))


def test_a_whole_engine_dies_and_all_places_hold(
    durable: EngineProcess, engine_process: Start, eventually: Eventually
) -> None:
    """By position, by offsets and to be read: as if nothing had been, though the log of recent events is gone."""

    async def scenario() -> None:
        engine = durable
        async with RawClient(engine.url) as writer:
            begun = await writer.subscribe("d.*", "memory")
            assert begun["position"].count(":") == 2  # LOG:MARK:ROW
            await publish(writer, "d.a", 3)
            middle = (await writer.subscribe("other"))["position"]
            await publish(writer, "memory", 2)
            last = await publish(writer, "d.a", 17, first=3)
            await publish(writer, "d.b", 5)
            once = {"topic": "d.c", "data": {"n": 0}, "idempotency_key": "once"}
            first = await accepted(writer, **once)
        for lose in (False, True):
            engine = await reborn(engine_process, engine, eventually, lose=lose)
            async with RawClient(engine.url) as client:
                again = await accepted(client, **once)
                assert (again["epoch"], again["offset"]) == (first["epoch"], 1)
            for since, expected in ((begun["position"], range(20)), (middle, range(3, 20))):
                async with RawClient(engine.url) as client:
                    answer = await client.subscribe("d.*", since=since)
                    assert answer["recovered"] is True
                    await eventually(lambda client=client: len(numbers(client, "d.b")) == 5)
                    assert numbers(client, "d.a") == list(expected)
                    assert numbers(client, "d.c") == [0]
                    assert not client.of("gap")
            async with RawClient(engine.url) as client:
                answer = await client.subscribe("d.a", since={"d.a": {"epoch": last["epoch"], "offset": 7}})
                assert answer["recovered"] is True
                assert answer["positions"]["d.a"] == {"epoch": last["epoch"], "offset": 20}
                await eventually(lambda client=client: client.offsets("d.a") == list(range(8, 21)))
                answer = await client.request("history", topic="d.a", limit=4)
                assert [event["data"]["n"] for event in answer["events"]] == [16, 17, 18, 19]
                asked = f"/api/history?topic=d.a&limit=2&epoch={last['epoch']}&offset=5"
                _, answer = await asyncio.to_thread(engine.admin, asked)
                assert [(event["offset"], event["data"]["n"]) for event in answer["events"]] == [(6, 5), (7, 6)]
            async with RawClient(engine.url) as client:  # with a topic that is not durable the position is that log's
                answer = await client.subscribe("d.*", "memory", since=begun["position"])
                assert answer["recovered"] is not lose
                await eventually(lambda client=client: len(numbers(client, "d.b")) == 5)
                assert numbers(client, "d.a") == list(range(20))
                assert numbers(client, "memory") == ([] if lose else [0, 1])
        async with RawClient(engine.url) as client:
            assert (await publish(client, "d.a", 1))["offset"] == 21
            assert (await publish(client, "memory", 1))["epoch"] != last["epoch"]

    asyncio.run(scenario())


def test_a_hub_that_dies_between_commit_and_telling(durable: EngineProcess, eventually: Eventually) -> None:
    """Its successor tells: who is there gets the event once, in its place; who repeats the publish gets its place."""

    async def scenario() -> None:
        async with RawClient(durable.url) as writer, RawClient(durable.url) as there:
            await there.subscribe("d.a")
            await publish(writer, "d.a", 3)
            await eventually(lambda: len(numbers(there)) == 3)
            hub = durable.kill("hub", signal.SIGSTOP)
            history = SqliteHistory(  # does what the keeper of that hub would have done last
                Path(durable.runtime_dir).with_name("durable.db"),
                TopicPolicies({}, TopicPolicy(durable=True)),
                100,
                lambda: "none",
            )
            kept = [Publish(n + 1, "d.a", "message", b'{"n":%d}' % n, idempotency_key=f"k{n}") for n in (3, 4)]
            history.append(kept, time.time())
            history.close()
            durable.kill("hub")
            await eventually(lambda: durable.children().get("hub") not in (hub, None), DEADLINE)
            again = await accepted(writer, topic="d.a", data={"n": 4}, idempotency_key="k4")
            assert again["offset"] == 5
            assert (await accepted(writer, topic="d.a", data={"n": 5}))["offset"] == 6
            await eventually(lambda: 5 in numbers(there), DEADLINE)
            assert numbers(there) == [0, 1, 2, 3, 4, 5]
            assert there.offsets("d.a") == [1, 2, 3, 4, 5, 6]
            assert not there.of("gap")

    asyncio.run(scenario())


def test_order_of_each_publisher_and_topic(durable: EngineProcess, eventually: Eventually) -> None:
    """Many publish at the same time, on durable topics and others: nobody's events overtake each other."""

    async def scenario() -> None:
        async with (
            RawClient(durable.url) as reader,
            RawClient(durable.url) as one,
            RawClient(durable.url) as two,
        ):
            await reader.subscribe("d.>", "memory.*")
            for start in range(0, 2_000, 200):
                parts = [
                    publish(writer, f"{kind}.{name}", 100, first=start + n * 100)
                    for writer, name in ((one, "one"), (two, "two"))
                    for kind in ("d", "memory")
                    for n in range(2)
                ]
                await asyncio.gather(*parts)
            await eventually(lambda: len(numbers(reader)) == 8_000, DEADLINE)
            for topic in ("d.one", "d.two", "memory.one", "memory.two"):
                assert numbers(reader, topic) == list(range(2_000))
                assert reader.offsets(topic) == list(range(1, 2_001))
            assert not reader.of("gap")

    asyncio.run(scenario())


# without room ---------------------------------------------------------------------------------------------------------


def limit(engine: EngineProcess, nbytes: int) -> None:
    """No file of the hub and its successors may get longer; -1: no limit. To them it is a disk without room."""
    hub = engine.children()["hub"]
    for pid in (hub, psutil.Process(hub).ppid()):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (nbytes, -1))


async def health(engine: EngineProcess, status: str, eventually: Eventually) -> str:
    """Wait until the history's is ``status``; its reason."""
    found: dict[str, Any] = {}

    def asked() -> bool:
        found.update(engine.admin("/health")[1]["components"].get("history", {}))
        return found.get("status") == status

    await eventually(asked, DEADLINE)
    return found["reason"] or ""


def complaints(engine: EngineProcess) -> list[dict[str, Any]]:
    """What the log says of the history."""
    return [line for line in engine.log() if line["event"] in ("history_fails", "history_works")]


def test_no_room_for_durable_topics(durable: EngineProcess, eventually: Eventually) -> None:
    """They are refused with what to do, everything else goes on; so do they when there is room again."""

    async def scenario() -> None:
        async with RawClient(durable.url) as reader, RawClient(durable.url) as writer:
            await reader.subscribe("d.a", "memory")
            for _ in range(20):
                last = await publish(writer, "d.a", 1)
            wal = Path(durable.runtime_dir).with_name("durable.db-wal")
            limit(durable, wal.stat().st_size)
            for n in range(30):
                answer = await writer.request("publish", topic="d.a", data={"n": n})
                assert (answer["op"], answer["code"]) == ("error", "unavailable")
                assert "see to the disk of history.durable_file" in answer["message"]
                await publish(writer, "memory", 1, first=n)
            await eventually(lambda: numbers(reader, "memory") == list(range(30)))
            reason = await health(durable, "degraded", eventually)
            assert reason.startswith("durable topics: ") and "history.durable_file" in reason
            answer = await writer.request("history", topic="d.a", limit=3)
            assert [event["offset"] for event in answer["events"]] == [18, 19, 20]
            limit(durable, -1)
            place = await publish(writer, "d.a", 1, first=99)
            assert (place["epoch"], place["offset"]) == (last["epoch"], 21)
            await eventually(lambda: 99 in numbers(reader, "d.a"))
            assert reader.offsets("d.a") == list(range(1, 22))
            await health(durable, "ok", eventually)
            assert len(complaints(durable)) == 2
            assert complaints(durable)[1]["refused"] == 30

    asyncio.run(scenario())


@pytest.mark.parametrize("dies", [False, True], ids=["hub lives", "hub dies"])
def test_no_room_for_recent_events(durable: EngineProcess, eventually: Eventually, dies: bool) -> None:
    """Nothing is accepted. What was kept on disk nevertheless is told later, by itself, once and in its place."""

    async def scenario() -> None:
        async with RawClient(durable.url) as reader, RawClient(durable.url) as writer:
            await reader.subscribe("d.a", "memory")
            await publish(writer, "d.a", 1)
            filler = "x" * 200_000
            for n in range(5):  # so that the log is longer than the write-ahead log of the other
                await accepted(writer, topic="memory", data={"n": n, "filler": filler})
            [segment] = (Path(durable.runtime_dir) / "history").glob("*.log")
            limit(durable, segment.stat().st_size)
            once: dict[str, Any] = {"topic": "d.a", "data": {"n": 1}, "idempotency_key": "once"}
            for _ in range(3):
                for event in (once, {"topic": "d.a", "data": 0}, {"topic": "memory", "data": {"n": 5}}):
                    answer = await writer.request("publish", **event)
                    assert (answer["op"], answer["code"]) == ("error", "unavailable")
                    assert "see to the disk of history.dir" in answer["message"]
            reason = await health(durable, "degraded", eventually)
            assert reason.startswith("recent events: ") and "history.dir" in reason
            if dies:
                hub = durable.kill("hub")
                await eventually(lambda: durable.children().get("hub") not in (hub, None), DEADLINE)
                await eventually(lambda: len(complaints(durable)) == 2, DEADLINE)
                answer = await writer.request("publish", **once)
                assert (answer["op"], answer["code"]) == ("error", "unavailable")
            assert reader.offsets("d.a") == [1]
            assert (await reader.request("history", topic="d.a"))["events"]
            limit(durable, -1)
            await eventually(lambda: numbers(reader, "d.a") == [0, 1], DEADLINE)  # nobody publishes
            assert (await publish(writer, "memory", 1, first=6))["offset"] == 6
            assert (await writer.request("publish", **once))["offset"] == 2
            assert (await publish(writer, "d.a", 1, first=2))["offset"] == 3
            await eventually(lambda: 2 in numbers(reader, "d.a") and 6 in numbers(reader, "memory"))
            assert reader.offsets("d.a") == [1, 2, 3]
            assert reader.offsets("memory") == [1, 2, 3, 4, 5, 6]
            assert not reader.of("gap")
            await health(durable, "ok", eventually)
            assert len(complaints(durable)) == 2 + dies

    asyncio.run(scenario())
