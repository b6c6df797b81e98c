"""Two engines that share a Redis: one order, clients that go from one to the other, and Redis as it dies."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.feeds.redis_server import RedisServer
from tests.integration.harness import EngineProcess, RawClient

Start = Callable[..., EngineProcess]
StartRedis = Callable[..., RedisServer]
Eventually = Callable[..., Awaitable[None]]

DEADLINE = 30.0  # s
DURABLE = {"appendonly": "yes", "appendfsync": "always"}


@pytest.fixture
def node(engine_process: Start) -> Callable[..., EngineProcess]:
    """``node(redis, workers=0, …)`` starts an engine that shares this Redis."""
    return lambda redis, workers=0, **fields: engine_process("", workers, backplane__url=redis.url, **fields)


async def publish(client: RawClient, topic: str, *data: Any, **fields: Any) -> list[dict[str, Any]]:
    """Events; the answers."""
    return list(
        await asyncio.wait_for(
            asyncio.gather(*(client.send("publish", topic=topic, data=each, **fields) for each in data)), DEADLINE
        )
    )


async def accepted(client: RawClient, topic: str, data: Any, **fields: Any) -> dict[str, Any]:
    """A publish that is repeated until it is taken."""
    async with asyncio.timeout(DEADLINE):
        while (answer := await client.request("publish", topic=topic, data=data, **fields))["op"] != "ok":
            assert answer["code"] == "unavailable", answer
            await asyncio.sleep(0.02)
    return answer


def events(client: RawClient, topic: str | None = None) -> list[tuple[str, str, int, Any]]:
    """What came with a place: topic, epoch, offset, data."""
    return [
        (event["topic"], event["epoch"], event["offset"], event["data"])
        for event in client.of("event")
        if "offset" in event and topic in (None, event["topic"])
    ]


async def health(engine: EngineProcess) -> dict[str, Any]:
    """What ``/health`` says of the backplane."""
    _, answer = await asyncio.to_thread(engine.admin, "/health")
    found: dict[str, Any] = answer["components"].get("backplane", {})
    return found


async def is_healthy(engine: EngineProcess, status: str) -> dict[str, Any]:
    async with asyncio.timeout(DEADLINE):
        while (found := await health(engine)).get("status") != status:
            await asyncio.sleep(0.05)
    return found


def test_what_one_accepts_clients_of_both_get_in_one_order(
    node: Start, redis_server: StartRedis, eventually: Eventually
) -> None:
    redis = redis_server()
    one, other = node(redis), node(redis)

    async def main() -> None:
        async with RawClient(one.url) as here, RawClient(other.url) as there:
            await here.subscribe("a.*", "b", "system.x")
            await there.subscribe("a.*", "b", "system.x")
            answers = await asyncio.gather(publish(here, "a.1", *range(100)), publish(there, "a.1", *range(100, 200)))
            await publish(there, "b", 1)
            assert {answer["op"] for some in answers for answer in some} == {"ok"}
            await eventually(lambda: len(events(here)) == len(events(there)) == 201, DEADLINE)
            assert events(here, "a.1") == events(there, "a.1")
            assert [offset for _, _, offset, _ in events(here, "a.1")] == list(range(1, 201))
            places = {data: offset for _, _, offset, data in events(here, "a.1")}
            assert [answer["offset"] for some in answers for answer in some] == [places[n] for n in range(200)]

            first = await publish(here, "c", 1, idempotency_key="once")
            again = await publish(there, "c", 1, idempotency_key="once")
            assert first[0]["offset"] == again[0]["offset"] == 1
            assert first[0]["epoch"] == again[0]["epoch"]
            await is_healthy(one, "ok")
            await is_healthy(other, "ok")

    asyncio.run(main())


def test_a_client_goes_on_at_another_node(node: Start, redis_server: StartRedis, eventually: Eventually) -> None:
    redis = redis_server()
    one = node(redis)

    async def main() -> None:
        async with RawClient(one.url) as here:
            await here.subscribe("a.>")
            (last,) = (await publish(here, "a.1", *range(10)))[-1:]
            await eventually(lambda: len(events(here)) == 10 and here.of("position"), DEADLINE)
            position = here.of("position")[-1]["position"]
            await publish(here, "a.1", *range(10, 20))
        other = node(redis)  # it was not there when all this happened
        for since in (position, {"a.1": {"epoch": last["epoch"], "offset": last["offset"]}}):
            async with RawClient(other.url) as there:
                topic = "a.>" if since is position else "a.1"
                answer = await there.subscribe(topic, since=since)
                assert answer["recovered"] is True
                await publish(there, "a.1", "more")
                await eventually(lambda there=there: events(there)[-1:] and events(there)[-1][3] == "more", DEADLINE)
                offsets = [offset for _, _, offset, _ in events(there)]
                assert offsets == list(range(11, offsets[-1] + 1))
                assert not there.of("gap")

    asyncio.run(main())


def test_without_redis_publishes_are_refused_and_the_rest_goes_on(
    node: Start, redis_server: StartRedis, eventually: Eventually
) -> None:
    redis = redis_server(**DURABLE)
    one, other = node(redis), node(redis)

    async def main() -> None:
        async with RawClient(one.url) as here, RawClient(other.url) as there:
            await here.subscribe("a")
            await there.subscribe("a")
            answers = await publish(here, "a", *range(5))
            await eventually(lambda: len(events(there)) == 5, DEADLINE)
            redis.stop(signal.SIGKILL)
            refused = (await publish(here, "a", "lost"))[0]
            assert (refused["op"], refused["code"]) == ("error", "unavailable")
            away = await is_healthy(one, "degraded")
            assert away["reason"]
            assert 0 <= away["retry_in"] <= 2.0
            since = {"a": {"epoch": answers[1]["epoch"], "offset": answers[1]["offset"]}}
            async with RawClient(one.url) as late:
                assert (await late.subscribe("a", since=since))["recovered"] is True
                assert [offset for _, _, offset, _ in events(late)] == [3, 4, 5]
            page = await here.request("history", topic="a", limit=2)
            assert [event["offset"] for event in page["events"]] == [4, 5]
            await is_healthy(other, "degraded")

            redis.start()
            await accepted(here, "a", "back")
            await accepted(there, "a", "too")
            await eventually(lambda: len(events(here)) == len(events(there)) == 7, DEADLINE)
            assert events(here) == events(there)
            assert [offset for _, _, offset, _ in events(here)] == list(range(1, 8))
            assert not here.of("gap")
            assert (await is_healthy(one, "ok"))["reason"] is None

    asyncio.run(main())


async def flood(client: RawClient, topic: str, name: str, stop: asyncio.Event) -> dict[str, dict[str, Any]]:
    """Publish until told to stop, each event under a key of its own; the answers by key."""
    answers: dict[str, asyncio.Future[dict[str, Any]]] = {}
    while not stop.is_set():
        for _ in range(20):
            key = f"{name}-{len(answers)}"
            answers[key] = client.send("publish", topic=topic, data=key, idempotency_key=key)
        await asyncio.sleep(0.02)
    async with asyncio.timeout(DEADLINE):
        return {key: await answer for key, answer in answers.items()}


@pytest.mark.parametrize("on_outage", ["refuse", "local"])
def test_an_outage_under_load_loses_nothing_that_was_acknowledged(
    node: Start, redis_server: StartRedis, eventually: Eventually, tmp_path: Path, on_outage: str
) -> None:
    redis = redis_server(**DURABLE)
    one, other = (
        node(redis, workers, backplane__on_outage=on_outage, history__durable_file=tmp_path / f"{workers}.db")
        for workers in range(2)
    )

    async def main() -> None:
        async with RawClient(one.url) as here, RawClient(other.url) as there:
            await here.subscribe("a.*")
            await there.subscribe("a.*")
            stop = asyncio.Event()
            floods = asyncio.gather(flood(here, "a.x", "here", stop), flood(there, "a.x", "there", stop))
            await eventually(lambda: len(events(here)) > 100, DEADLINE)
            redis.stop(signal.SIGKILL)
            await is_healthy(one, "degraded")
            await is_healthy(other, "degraded")
            local = len(here.of("event")) + 200
            if on_outage == "local":
                await eventually(lambda: len(here.of("event")) > local, DEADLINE)
                await publish(here, "a.new", "never seen before")
            redis.start()
            await is_healthy(one, "ok")
            await is_healthy(other, "ok")
            stop.set()
            answers = {key: answer for each in await floods for key, answer in each.items()}
            (last,) = await publish(here, "a.x", "last")
            await eventually(lambda: events(here)[-1][3] == events(there)[-1][3] == "last", DEADLINE)

            assert events(here) == events(there)
            offsets = [offset for _, _, offset, _ in events(here, "a.x")]
            assert offsets == list(range(1, last["offset"] + 1))
            new = [event.get("offset") for event in here.of("event") if event["topic"] == "a.new"]
            assert new == ([None, 1] if on_outage == "local" else [])
            got = [data for *_, data in events(here, "a.x")]
            assert len(got) == len(set(got)), "each once"
            taken = {key for key, answer in answers.items() if answer["op"] == "ok"}
            pending = {key for key, answer in answers.items() if answer.get("pending")}
            assert taken <= set(got)
            refused = [answer for answer in answers.values() if answer["op"] != "ok"]
            assert {answer["code"] for answer in refused} <= {"unavailable"}
            assert (bool(refused), bool(pending)) == (on_outage == "refuse", on_outage == "local")
            for client, name in ((here, "here"), (there, "there")):
                placeless = [e["data"] for e in client.of("event") if "offset" not in e and e["topic"] == "a.x"]
                assert all("epoch" not in event for event in client.of("event") if "offset" not in event)
                assert sorted(placeless) == sorted(key for key in pending if key.startswith(f"{name}-"))
                assert [data for data in got if data in set(placeless)] == placeless, "in the order of publishing"
            assert not here.of("gap")
            assert not there.of("gap")

    asyncio.run(main())


def test_what_waits_on_disk_survives_the_death_of_the_engine(
    node: Start, redis_server: StartRedis, eventually: Eventually, tmp_path: Path
) -> None:
    redis = redis_server(**DURABLE)
    local = {"backplane__on_outage": "local", "backplane__spool_events": 50}
    place = {"history__durable_file": tmp_path / "one.db", "server__runtime_dir": tmp_path / "run"}
    one, other = node(redis, 1, **local, **place), node(redis)

    async def dies() -> None:
        async with RawClient(one.url) as here:
            await publish(here, "a", "before")
            redis.stop(signal.SIGKILL)
            await is_healthy(one, "degraded")
            answers = await publish(here, "a", *range(60))
            assert all(answer.get("pending") for answer in answers[:50]), answers
            assert {answer.get("code") for answer in answers[50:]} == {"unavailable"}
            hub = one.kill("hub")
            await eventually(lambda: one.children().get("hub") not in (hub, None), DEADLINE)
            (full,) = await publish(here, "a", "no room")
            assert full["code"] == "unavailable"
        for process in one.processes():
            process.kill()
        one.wait()

    async def comes_back(again: EngineProcess) -> None:
        async with RawClient(again.url) as here, RawClient(other.url) as there:
            await there.subscribe("a")
            await here.subscribe("a")
            redis.start()
            await accepted(there, "b", 1)
            await eventually(lambda: len(events(there)) == len(events(here)) == 50, DEADLINE)
            assert events(here) == events(there)
            assert [(offset, data) for _, _, offset, data in events(here)] == [(n + 2, n) for n in range(50)]
            await is_healthy(again, "ok")
            (after,) = await publish(here, "a", "after")
            assert after["offset"] == 52

    asyncio.run(dies())
    asyncio.run(comes_back(node(redis, 1, **local, **place)))


def test_a_redis_that_forgot_everything_is_another_epoch(
    node: Start, redis_server: StartRedis, eventually: Eventually
) -> None:
    redis = redis_server()  # keeps nothing
    one, other = node(redis), node(redis)

    async def main() -> None:
        async with RawClient(one.url) as here, RawClient(other.url) as there:
            await here.subscribe("a", "b")
            await there.subscribe("a", "b")
            before = (await publish(here, "a", *range(10)))[-1]
            await publish(here, "b", 1)
            await eventually(lambda: len(events(there)) == len(events(here)) == 11, DEADLINE)
            redis.stop(signal.SIGKILL)
            redis.start()
            after = await accepted(here, "a", "new")
            assert after["offset"] == 1
            assert after["epoch"] != before["epoch"]
            for client in (here, there):
                await eventually(lambda client=client: len(events(client)) == 12, DEADLINE)
                gaps = [gap for gap in client.of("gap") if gap["topic"] == "a"]
                assert {(gap["reason"], gap["epoch"]) for gap in gaps} == {("epoch_changed", after["epoch"])}
            since = {"a": {"epoch": before["epoch"], "offset": before["offset"]}}
            async with RawClient(other.url) as late:
                answer = await late.subscribe("a", since=since)
                assert answer["recovered"] is False
                assert [event["data"] for event in late.of("event")] == ["new"]
                assert late.of("gap")[0]["reason"] == "epoch_changed"

    asyncio.run(main())


def test_a_redis_that_hangs_is_away_and_comes_back(
    node: Start, redis_server: StartRedis, eventually: Eventually
) -> None:
    redis = redis_server(**DURABLE)
    one = node(redis)

    async def main() -> None:
        async with RawClient(one.url) as here:
            await here.subscribe("a")
            await publish(here, "a", 1)
            os.kill(redis.pid, signal.SIGSTOP)
            try:
                hung = here.send("publish", topic="a", data=2, idempotency_key="two")
                await is_healthy(one, "degraded")
                assert (await asyncio.wait_for(hung, DEADLINE))["code"] == "unavailable"
                assert (await publish(here, "a", *range(100)))[-1]["code"] == "unavailable"
            finally:
                os.kill(redis.pid, signal.SIGCONT)
            await accepted(here, "a", 2, idempotency_key="two")
            await eventually(lambda: len(events(here)) == 2, DEADLINE)
            assert [(offset, data) for _, _, offset, data in events(here)] == [(1, 1), (2, 2)]

    asyncio.run(main())
