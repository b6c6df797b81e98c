"""Where there is no room: a worker's pipe is full, the log cannot be written. Nothing that was acknowledged is lost."""

from __future__ import annotations

import asyncio
import resource
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.integration.harness import EngineProcess, RawClient
from tests.integration.test_recovery import accepted, on, publish

Start = Callable[..., EngineProcess]
Eventually = Callable[..., Awaitable[None]]

DEADLINE = 30.0  # s
WINDOW = 65_536  # bytes on their way to a worker
EVENTS = 2_000
FILLER = "x" * 500
PATIENT = {"server__heartbeat_interval": 1, "server__heartbeat_timeout": 30, "delivery__bus_window": WINDOW}


@pytest.mark.parametrize("hub_dies", [False, True])
def test_a_worker_that_stops_reading_gets_everything_when_it_goes_on(
    engine_process: Start, eventually: Eventually, hub_dies: bool
) -> None:
    """Its window is closed after a fraction of the events; the rest comes from the log, also from another hub's."""
    engine = engine_process(workers=2, **PATIENT)

    async def scenario() -> None:
        writer, reader, wild = await on(engine, "worker-1"), await on(engine, "worker-0"), await on(engine, "worker-0")
        await reader.subscribe("a", "b")
        await wild.subscribe(">")
        await publish(writer, "a", 1)
        await eventually(lambda: reader.offsets("a") and wild.offsets("a"))
        engine.kill("worker-0", signal.SIGSTOP)
        for n in range(0, EVENTS, 500):  # a session may have 1,000 publishes unanswered
            await asyncio.gather(
                publish(writer, "a", 500, first=n, key=FILLER[:100]), publish(writer, "b", 500, first=n)
            )
        if hub_dies:
            hub = engine.kill("hub")
            await eventually(lambda: engine.children().get("hub") not in (hub, None), DEADLINE)
            await accepted(writer, topic="b", data={"n": EVENTS})
        assert len(reader.offsets("a")) == 1
        engine.kill("worker-0", signal.SIGCONT)
        await accepted(writer, topic="a", data={"n": EVENTS})
        for client in (reader, wild):
            for topic, count in (("a", EVENTS + 2), ("b", EVENTS + hub_dies)):
                await eventually(lambda client=client, t=topic, n=count: len(client.offsets(t)) >= n, DEADLINE)
                assert client.offsets(topic) == list(range(1, count + 1))
            assert not client.of("gap")
            assert client.closed is None
        for client in (writer, reader, wild):
            await client.__aexit__(None, None, None)

    asyncio.run(scenario())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits another process")
def test_publishes_are_refused_while_the_log_cannot_be_written_and_go_on_afterwards(
    engine_process: Start, eventually: Eventually
) -> None:
    """A full disk: `unavailable` says why, nothing else suffers, no offset is spent."""
    engine = engine_process(history__bytes=2**20)  # so that the file changes every 32 KiB

    async def scenario() -> None:
        async with RawClient(engine.url) as client:
            start = (await client.subscribe("a", "b"))["positions"]["a"]
            before = await publish(client, "a", 10)
            hub = engine.children()["hub"]
            free = resource.prlimit(hub, resource.RLIMIT_FSIZE)
            files = Path(engine.runtime_dir, "history").glob("*.log")
            # Also what is written to stderr fails now, as on a disk that is full.
            resource.prlimit(hub, resource.RLIMIT_FSIZE, (max(f.stat().st_size for f in files) + 700, free[1]))
            fields = {"topic": "a", "data": {"filler": FILLER * 2}, "idempotency_key": "k"}
            for _ in range(3):
                answer = await client.request("publish", **fields)
                assert (answer["op"], answer["code"]) == ("error", "unavailable")
                assert "cannot be written" in answer["message"], answer
            assert (await client.request("publish", topic="b", data={"n": 1}))["op"] == "ok"  # there is room for this
            assert (await client.request("snapshot", topics=["a"]))["events"][0]["offset"] == 10
            async with RawClient(engine.url) as late:
                assert (await late.subscribe("a", since={"a": start}))["recovered"] is True
                await eventually(lambda: late.offsets("a") == list(range(1, 11)))
            resource.prlimit(hub, resource.RLIMIT_FSIZE, free)
            after = await client.request("publish", **fields)
            assert (after["epoch"], after["offset"]) == (before["epoch"], 11)
            assert await client.request("publish", **fields) == {**after, "id": after["id"] + 1}
            for n in range(100):  # through several files
                await client.request("publish", topic="a", data={"n": n, "filler": FILLER * 2})
            await eventually(lambda: client.offsets("a") == list(range(1, 112)))
            assert not client.of("gap")
            assert engine.children()["hub"] == hub
            killed = engine.kill("hub")
            await eventually(lambda: engine.children().get("hub") not in (killed, None), DEADLINE)
            again = await accepted(client, topic="a", data={})
            assert (again["epoch"], again["offset"]) == (before["epoch"], 112)

    asyncio.run(scenario())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits another process")
def test_durable_topics_are_refused_while_their_file_cannot_be_written(
    engine_process: Start, eventually: Eventually, tmp_path: Path
) -> None:
    """Other topics go on; when there is room again, the next publish gets the next offset."""
    file = tmp_path / "durable.db"
    engine = engine_process('[topics."d.*"]\ndurable = true\n', history__durable_file=file)
    large = {"topic": "d.a", "data": {"filler": FILLER * 400}, "idempotency_key": "k"}

    async def scenario() -> None:
        async with RawClient(engine.url) as client:
            await client.subscribe("d.*", "a")
            before = await publish(client, "d.a", 3)
            await publish(client, "a", 1)
            hub = engine.children()["hub"]
            free = resource.prlimit(hub, resource.RLIMIT_FSIZE)
            sizes = [path.stat().st_size for path in tmp_path.iterdir()]
            resource.prlimit(hub, resource.RLIMIT_FSIZE, (max(sizes) + 100_000, free[1]))
            for _ in range(2):
                answer = await client.request("publish", **large)
                assert (answer["op"], answer.get("code")) == ("error", "unavailable"), answer
            await publish(client, "a", 3)
            resource.prlimit(hub, resource.RLIMIT_FSIZE, free)
            after = await accepted(client, **large)
            assert (after["epoch"], after["offset"]) == (before["epoch"], 4)
            await eventually(lambda: client.offsets("d.a") == [1, 2, 3, 4] and client.offsets("a") == [1, 2, 3, 4])
            assert not client.of("gap")
            assert engine.children()["hub"] == hub

    asyncio.run(scenario())
