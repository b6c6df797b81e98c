"""Clients that were away, and hubs that died: what comes back, in which order, and what is told of the rest."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from bench import chaos
from tests.integration.harness import EngineProcess, RawClient

Start = Callable[..., EngineProcess]
Eventually = Callable[..., Awaitable[None]]

DEADLINE = 30.0  # s


async def publish(client: RawClient, topic: str, count: int, first: int = 0, **fields: Any) -> dict[str, Any]:
    """So many events with consecutive numbers; the last answer."""
    sent = [client.send("publish", topic=topic, data={"n": first + n}, **fields) for n in range(count)]
    answers = await asyncio.wait_for(asyncio.gather(*sent), DEADLINE)
    assert {answer["op"] for answer in answers} == {"ok"}, answers
    return answers[-1]


async def accepted(client: RawClient, **fields: Any) -> dict[str, Any]:
    """A publish that is repeated while there is no hub."""
    async with asyncio.timeout(DEADLINE):
        while (answer := await client.request("publish", **fields))["op"] != "ok":
            assert answer["code"] == "unavailable", answer
            await asyncio.sleep(0.02)
    return answer


async def replaced(engine: EngineProcess, name: str, eventually: Eventually) -> None:
    """``kill -9``, until there is another."""
    killed = engine.kill(name)
    await eventually(lambda: engine.children().get(name) not in (killed, None), DEADLINE)


async def on(engine: EngineProcess, worker: str) -> RawClient:
    """A client of a worker, to be closed by the test."""
    while True:
        client = RawClient(engine.url)
        await client.__aenter__()
        if (await client.request("stats"))["stats"]["worker"] == worker:
            return client
        await client.__aexit__(None, None, None)


def numbers(client: RawClient, topic: str | None = None) -> list[int]:
    """The publisher's numbers of what came."""
    return [event["data"]["n"] for event in client.of("event") if topic in (None, event["topic"])]


@pytest.mark.parametrize("kind", [[], ["--wildcards"], ["--durable"]], ids=["exact", "wildcards", "all killed"])
def test_nothing_is_lost_while_processes_are_killed(kind: list[str]) -> None:
    """``python -m bench.chaos``, shorter."""
    assert chaos.main(["--seconds", "3", "--kill-every", "0.7", "--clients", "40", "--rate", "400", *kind]) == 0


def test_by_offsets_there_is_no_hole_and_nothing_twice(engine_process: Start, eventually: Eventually) -> None:
    engine = engine_process(workers=2)

    async def scenario() -> None:
        async with RawClient(engine.url) as writer:
            async with RawClient(engine.url) as before:
                answer = await before.subscribe("a", "b")
                start = answer["positions"]
                assert {place["offset"] for place in start.values()} == {0}
                await publish(writer, "a", 3)
                await eventually(lambda: len(numbers(before)) == 3)
            last = before.of("event")[-1]
            await publish(writer, "a", 5, first=3)
            await publish(writer, "b", 2)
            await replaced(engine, "hub", eventually)
            async with RawClient(engine.url) as after:
                since = {"a": {"epoch": last["epoch"], "offset": last["offset"]}, "b": start["b"]}
                answer = await after.subscribe("a", "b", since=since)
                assert answer["recovered"] is True
                assert answer["positions"]["a"] == {"epoch": last["epoch"], "offset": 8}
                await accepted(writer, topic="a", data={"n": 8})
                await eventually(lambda: 8 in numbers(after))
                assert numbers(after, "a") == [3, 4, 5, 6, 7, 8]
                assert after.offsets("a") == [4, 5, 6, 7, 8, 9]
                assert numbers(after, "b") == [0, 1]
                assert not after.of("gap")

    asyncio.run(scenario())


def test_by_position_wildcards_filters_and_priorities_recover(engine_process: Start, eventually: Eventually) -> None:
    """Also what only waits for its time (held routes), and nothing else than what the filter wants."""
    engine = engine_process('[topics."late.*"]\nwindow = 0.05\n', workers=2)
    where = {"n": {"gte": 2}}
    mixed = ["low", "critical", "medium", "high"]

    async def scenario() -> None:
        async with RawClient(engine.url) as writer:
            async with RawClient(engine.url) as before:
                await before.subscribe("p.*", "late.*", where=where)
                await publish(writer, "p.a", 4)
                await eventually(lambda: numbers(before) == [2, 3])
                count = len(before.of("position"))
                await eventually(lambda: len(before.of("position")) > count, DEADLINE)
            position = before.of("position")[-1]["position"]
            for n, priority in enumerate(mixed, 1):
                await publish(writer, "p.b", 1, first=n, priority=priority)
            await publish(writer, "p.a", 2, first=4)
            await publish(writer, "late.x", 3)
            await publish(writer, "q.a", 1, first=9)
            await replaced(engine, "hub", eventually)
            await replaced(engine, "worker-0", eventually)
            async with RawClient(engine.url) as after, RawClient(engine.url) as other:
                answer = await after.subscribe("p.*", "late.*", where=where, since=position)
                assert answer["recovered"] is True
                await accepted(other, topic="p.a", data={"n": 6})
                await accepted(other, topic="late.x", data={"n": 3})
                await eventually(lambda: 6 in numbers(after, "p.a") and 3 in numbers(after, "late.x"))
                assert numbers(after, "p.a") in ([4, 5, 6], [2, 3, 4, 5, 6])
                assert numbers(after, "p.b") == [2, 3, 4]  # by offset, whatever their priority
                assert [e.get("priority") for e in after.of("event") if e["topic"] == "p.b"] == [
                    "critical",
                    "medium",
                    "high",
                ]
                assert numbers(after, "late.x") == [2, 3]
                assert not numbers(after, "q.a")
                assert not after.of("gap")

    asyncio.run(scenario())


def test_who_is_slow_or_conflates_recovers_from_what_it_has(engine_process: Start, eventually: Eventually) -> None:
    """A position is told only of what was sent: a client that hangs gets none for what waits for it."""
    engine = engine_process(delivery__outbox_bytes=64_000_000, delivery__outbox_events=100_000)
    filler = "x" * 2_000

    async def scenario() -> None:
        async with RawClient(engine.url) as writer, RawClient(engine.url) as slow, RawClient(engine.url) as calm:
            await slow.subscribe("s.*")
            begun = await calm.subscribe("s.*", max_rate=2)
            await publish(writer, "s.a", 1)
            await eventually(lambda: slow.of("position"), DEADLINE)
            slow.stop_reading()
            for n in range(1, 3_001):
                answer = writer.send("publish", topic="s.a", data={"n": n, "filler": filler}, key="k")
                if n % 500 == 0:
                    assert (await answer)["op"] == "ok"
            async with RawClient(engine.url) as prompt:  # positions have been told to those who may have them
                await prompt.subscribe("s.*")
                await publish(writer, "s.b", 1)
                await eventually(lambda: prompt.of("position"), DEADLINE)
            slow._connection.transport.abort()
            calm._connection.transport.abort()
            slow.read_on()
            await eventually(lambda: slow.closed and calm.closed, DEADLINE)
            for client in (slow, calm):
                had = set(numbers(client, "s.a"))
                async with RawClient(engine.url) as after:
                    answer = await after.subscribe("s.*", since=[begun, *client.of("position")][-1]["position"])
                    assert answer["recovered"] is True
                    await publish(writer, "s.c", 1)
                    await eventually(lambda after=after: numbers(after, "s.c"), DEADLINE)
                    again = numbers(after, "s.a")
                    assert again == list(range(again[0], 3_001))
                    if client is slow:
                        assert len(had) < 3_000
                        assert had | set(again) == set(range(3_001))

    asyncio.run(scenario())


def test_history_of_a_topic_survives_the_hub(engine_process: Start, eventually: Eventually) -> None:
    engine = engine_process()

    async def scenario() -> None:
        async with RawClient(engine.url) as client:
            last = await publish(client, "h", 10)
            await replaced(engine, "hub", eventually)
            await accepted(client, topic="other", data=0)

            async def history(**fields: Any) -> list[int]:
                answer = await client.request("history", topic="h", **fields)
                assert answer["op"] == "ok", answer
                return [event["data"]["n"] for event in answer["events"]]

            assert await history(limit=3) == [7, 8, 9]
            assert await history(limit=3, since={"epoch": last["epoch"], "offset": 4}) == [4, 5, 6]
            assert await history(limit=100, since={"epoch": last["epoch"], "offset": last["offset"]}) == []

    asyncio.run(scenario())


def test_a_repeated_publish_is_known_to_the_hubs_successor(engine_process: Start, eventually: Eventually) -> None:
    """Worker and hub die before the client has its answer: the same key gets the same place, nobody gets two events."""
    engine = engine_process(workers=2)
    event = {"topic": "k", "data": {"n": 1}, "idempotency_key": "once"}

    async def scenario() -> None:
        writer, reader = await on(engine, "worker-0"), await on(engine, "worker-1")
        await reader.subscribe("k")
        writer.stop_reading()
        writer.send("publish", **event)
        await eventually(lambda: numbers(reader) == [1], DEADLINE)
        hub, worker = engine.kill("hub"), engine.kill("worker-0")
        await eventually(lambda: engine.children().get("hub") not in (hub, None), DEADLINE)
        # Until it is gone, its socket may yet be given a connection that goes with it.
        await eventually(lambda: engine.children().get("worker-0") != worker, DEADLINE)
        async with RawClient(engine.url) as again:
            answer = await accepted(again, **event)
            first = reader.of("event")[0]
            assert (answer["epoch"], answer["offset"]) == (first["epoch"], first["offset"])
            await accepted(again, topic="k", data={"n": 2})
            await eventually(lambda: 2 in numbers(reader))
            assert numbers(reader) == [1, 2]
            assert not reader.of("gap")
        for client in (writer, reader):
            await client.__aexit__(None, None, None)

    asyncio.run(scenario())


def test_a_log_that_was_deleted_is_a_new_epoch_and_told(engine_process: Start, eventually: Eventually) -> None:
    """Never silence: who was there and who comes back hear of it, and get all there is of the new epoch."""
    engine = engine_process()

    async def scenario() -> None:
        async with RawClient(engine.url) as there, RawClient(engine.url) as writer:
            await there.subscribe("a")
            old = await publish(writer, "a", 3)
            await eventually(lambda: there.of("event") and there.of("position"), DEADLINE)
            position = there.of("position")[-1]["position"]
            hub = engine.kill("hub", signal.SIGSTOP)  # so that its successor comes after the files are gone
            shutil.rmtree(Path(engine.runtime_dir) / "history")
            engine.kill("hub")
            await eventually(lambda: engine.children().get("hub") not in (hub, None), DEADLINE)
            new = await accepted(writer, topic="a", data={"n": 10})
            assert (new["epoch"] != old["epoch"], new["offset"]) == (True, 1)
            await eventually(lambda: numbers(there) == [0, 1, 2, 10], DEADLINE)
            assert [gap["reason"] for gap in there.of("gap")] == ["epoch_changed"]
            for since in ({"a": {"epoch": old["epoch"], "offset": 3}}, position):
                async with RawClient(engine.url) as back:
                    answer = await back.subscribe("a", since=since)
                    assert answer["recovered"] is False
                    await publish(writer, "a", 1, first=11)
                    await eventually(lambda back=back: 11 in numbers(back))
                    [gap] = back.of("gap")
                    assert (gap["topic"], gap["epoch"]) == ("a", new["epoch"])
                    assert gap["reason"] == ("epoch_changed" if isinstance(since, dict) else "history_expired")

    asyncio.run(scenario())


@pytest.mark.parametrize("bound", ["size", "bytes"])
def test_what_the_history_does_not_hold_any_more_is_a_gap(
    engine_process: Start, eventually: Eventually, bound: str
) -> None:
    few = {"history__size": 5} if bound == "size" else {"history__bytes": 2**20}
    engine = engine_process(**few)
    filler = "x" * 10_000

    async def scenario() -> None:
        async with RawClient(engine.url) as writer:
            answer = await writer.subscribe("a")
            start = answer["positions"]["a"]
            for n in range(300):
                last = await writer.request("publish", topic="a", data={"n": n, "filler": filler})
            for since in ({"a": start}, answer["position"]):
                async with RawClient(engine.url) as back:
                    assert (await back.subscribe("a", since=since))["recovered"] is False
                    await eventually(lambda back=back: back.of("gap"))
                    [gap] = back.of("gap")
                    assert gap["reason"] == "history_expired" and gap["from"] == 1
                    if bound == "size":
                        assert gap["to"] == last["offset"] - 5
                    last = await publish(writer, "a", 1, first=999)
                    await eventually(lambda back=back, last=last: last["offset"] in back.offsets("a"))
                    there = back.offsets("a")
                    assert there == list(range(gap["to"] + 1, there[-1] + 1))

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("since", "outcome"),
    [
        ({"a": {"epoch": "?", "offset": 999}}, "epoch_changed"),  # "?": the topic's own
        ({"a": {"epoch": "elsewhere", "offset": 1}}, "epoch_changed"),
        ("?:999999", "history_expired"),  # "?": the log's own name
        ("?:99999999999999999999999999", "history_expired"),
        ("garbage", "history_expired"),
        ("", "bad_request"),
        ("a:b:-1", "history_expired"),
        ({"b": {"epoch": "e", "offset": 1}}, "bad_request"),
        ({"a": {"epoch": "e", "offset": -1}}, "bad_request"),
        ({"a": {"epoch": "e", "offset": 2**64}}, "bad_request"),
        ({"a": 3}, "bad_request"),
        (17, "bad_request"),
    ],
)
def test_since_that_no_engine_has_told(shared: EngineProcess, since: Any, outcome: str) -> None:
    """Refused, or taken for something that cannot be recovered; in both cases the client hears of it."""

    async def scenario() -> None:
        async with RawClient(shared.url) as client:
            place = await publish(client, "a", 1)
            log = (await client.subscribe("other"))["position"].rpartition(":")[0]
            asked = json.loads(json.dumps(since).replace('"?"', json.dumps(place["epoch"])).replace("?", log))
            answer = await client.request("subscribe", topics=["a"], since=asked)
            if outcome == "bad_request":
                assert (answer["op"], answer["code"]) == ("error", outcome)
                return
            assert (answer["op"], answer["recovered"]) == ("ok", False)
            assert (await client.request("ping"))["op"] == "ok"
            assert [gap["reason"] for gap in client.of("gap")] == [outcome]

    asyncio.run(scenario())


@pytest.fixture(scope="module")
def shared() -> Any:
    """An engine that several tests use."""
    engine = EngineProcess()
    yield engine
    engine.stop()
    assert not engine.destroy()
