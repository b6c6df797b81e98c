"""The engine inside a program: it comes and goes without a trace, on both loops, with stages of one's own."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import threading
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import uvloop

from heliograph import Client, ConfigError, Engine, Event, HeliographError, Pipeline, Position, RequestError, Stage
from tests.integration.harness import RawClient
from tests.integration.stages import Counter, Enricher, NoStage

ROUNDS = 50
LOCAL: dict[str, Any] = {"workers": 0, "port": 0, "admin_port": 0}
Runner = Callable[[Coroutine[Any, Any, None]], None]
on_both_loops = pytest.mark.parametrize("run", [uvloop.run, asyncio.run], ids=["uvloop", "asyncio"])


class Belongings(NamedTuple):
    """What this process has at an instant."""

    files: list[str]
    threads: set[threading.Thread]
    tasks: set[asyncio.Task[Any]]
    children: list[psutil.Process]


def belongings() -> Belongings:
    gc.collect()
    files = []
    for name in os.listdir("/proc/self/fd"):
        try:
            files.append(os.readlink(f"/proc/self/fd/{name}").split("[")[0])  # numbers of sockets and pipes differ
        except FileNotFoundError:  # the directory's own
            continue
    children = psutil.Process().children(recursive=True)
    return Belongings(sorted(files), set(threading.enumerate()), asyncio.all_tasks(), children)


async def take(client: Client, pattern: str, count: int, then: Callable[[], Coroutine[Any, Any, Any]]) -> list[Event]:
    """Subscribe, do ``then``, and return the first ``count`` events."""
    async with asyncio.timeout(10), client.subscribe(pattern) as events:
        await then()
        return [event async for _, event in _counted(events, count)]


async def _counted(events: Any, count: int) -> Any:
    n = 0
    async for event in events:
        yield n, event
        n += 1
        if n == count:
            return


@on_both_loops
def test_50_times_and_nothing_is_left(run: Runner) -> None:
    async def once(n: int) -> None:
        async with AsyncExitStack() as stack:
            async with Engine(**LOCAL) as engine:
                # One client that leaves first, one that is there until the end.
                stayer = await stack.enter_async_context(RawClient(engine.url))
                await stayer.subscribe("a.*")
                async with engine.client() as client:
                    (event,) = await take(client, "a.b", 1, lambda: engine.publish("a.b", n))
                    assert (event.offset, event.data) == (1, n)
            assert stayer.of("bye")[0]["reason"] == "drain"
            assert [event["data"] for event in stayer.of("event")] == [n]
        assert stayer.closed == 1012

    async def scenario() -> None:
        await once(-1)  # what is made once per process, e.g. by an import, is no leak
        before = belongings()
        for n in range(ROUNDS):
            await once(n)
        assert belongings() == before

    run(scenario())


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("taken", ["port", "admin_port"])
def test_a_start_that_fails_leaves_nothing_and_names_the_port(tmp_path: Path, workers: int, taken: str) -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            number = other.getsockname()[1]
            settings = {**LOCAL, "workers": workers, "runtime_dir": str(tmp_path / "run"), taken: number}
            before = belongings()
            for _ in range(3):
                with pytest.raises(HeliographError, match=f":{number}: the port is taken"):
                    async with Engine(**settings):
                        pytest.fail("it started")
            assert belongings() == before
        async with Engine(**settings) as engine:
            assert (await engine.publish("t", 1)).offset == 1

    asyncio.run(scenario())


@on_both_loops
def test_with_processes(run: Runner, tmp_path: Path) -> None:
    stages = Pipeline().stage("mine", Enricher, topics=["a.>"], options={"name": "process"})

    async def once() -> int:
        async with Engine(
            pipeline=stages, workers=2, port=0, admin_port=0, runtime_dir=str(tmp_path / "run")
        ) as engine:
            names = sorted(process.name() for process in psutil.Process().children(recursive=True))
            assert {"helio-hub", "helio-worker-0", "helio-worker-1"} <= set(names)
            async with engine.client() as client:
                (event,) = await take(client, "a.*", 1, lambda: engine.publish("a.b", {"do": "change"}))
                assert event.data == {"do": "change", "by": "process"}
                place = await client.publish("a.b", {})
                assert place is not None
                assert place.offset == event.offset + 1
                return event.offset

    async def scenario() -> None:
        assert await once() == 1  # libuv opens a descriptor of its own with a loop's first stream
        before = belongings()
        assert await once() == 3, "the next one knows what the first one had"
        assert belongings() == before
        assert [left.name for left in (tmp_path / "run").iterdir()] == ["history"]

    run(scenario())


def test_durable_topics(tmp_path: Path) -> None:
    """Given as keyword arguments; the next engine has what the first one had, and leaves no thread and no file."""
    settings: dict[str, Any] = {
        **LOCAL,
        "topics": {"order.>": {"durable": True}, "order.memory.*": {}},
        "history": {"durable_file": str(tmp_path / "history.db")},
    }

    async def once(first: int) -> str:
        async with Engine(**settings) as engine, engine.client() as client:
            for n in range(first, first + 3):
                place = await engine.publish("order.7", n, idempotency_key=f"k{n}")
                assert (place.offset, place) == (n, await engine.publish("order.7", n, idempotency_key=f"k{n}"))
            assert await engine.publish("order.7", 3, idempotency_key="k3") == Position(place.epoch, 3)
            assert [event.data for event in await client.history("order.7")] == list(range(1, first + 3))
            assert (await engine.publish("order.memory.x", 0)).offset == 1
            return place.epoch

    async def scenario() -> None:
        epoch = await once(1)
        before = belongings()
        assert await once(4) == epoch
        assert belongings() == before
        del settings["history"]
        with pytest.raises(ConfigError, match=r"history\.durable_file"):
            async with Engine(**settings):
                pytest.fail("it started")
        assert belongings() == before

    asyncio.run(scenario())


def test_two_on_one_loop_and_one_on_another_thread() -> None:
    async def scenario() -> None:
        async with Engine(**LOCAL) as one, Engine(**LOCAL) as two, one.client() as first, two.client() as second:
            assert one.url != two.url
            got = await asyncio.gather(
                take(first, "t", 1, lambda: one.publish("t", "one")),
                take(second, "t", 1, lambda: two.publish("t", "two")),
            )
            assert [events[0].data for events in got] == ["one", "two"]

    failures: list[BaseException] = []

    def elsewhere() -> None:
        try:
            uvloop.run(scenario())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    asyncio.run(scenario())
    thread.join(10)
    assert not thread.is_alive() and not failures


def test_publish_and_its_refusals() -> None:
    async def scenario() -> None:
        async with Engine(**LOCAL, limits={"topics": 2}) as engine, engine.client() as client:

            async def publish() -> None:
                position = await engine.publish("a", {"p": Decimal("1.12000")}, type="tick", key="k", priority="high")
                assert position.offset == 1
                assert (await engine.publish("a", None)).offset == 2
                assert (await engine.publish("a", [])).epoch == position.epoch

            first, second, third = await take(client, "a", 3, publish)
            assert (first.type, first.key, first.priority, first.payload) == ("tick", "k", "high", b'{"p":1.12000}')
            assert (second.data, third.data, third.offset) == (None, [], 3)

            for arguments, code, field in [
                (("a.*", 1), "invalid_topic", "topic"),
                (("", 1), "invalid_topic", "topic"),
                (("a", float("nan")), "bad_request", "data"),
                (("a", {"x": object()}), "bad_request", "data"),
            ]:
                with pytest.raises(RequestError) as caught:
                    await engine.publish(*arguments)
                assert (caught.value.code, caught.value.field) == (code, field)
            with pytest.raises(RequestError, match="priority is one of low, medium, high, critical"):
                await engine.publish("a", 1, priority="urgent")
            for key in ("", "x" * 129, 7, "\ud800"):
                with pytest.raises(RequestError, match="idempotency_key is"):
                    await engine.publish("a", 1, idempotency_key=key)  # type: ignore[arg-type]
            await engine.publish("b", 1)
            with pytest.raises(RequestError) as caught:
                await engine.publish("c", 1)
            assert caught.value.code == "limit_exceeded"
            assert (await engine.publish("a", 1)).offset == 4

    asyncio.run(scenario())


def test_wrong_settings_name_the_field() -> None:
    async def scenario() -> None:
        for settings, field in [
            ({"colour": 1}, "colour"),
            ({"workers": -1}, "server.workers"),
            ({"delivery": {"pacing": 7}}, "delivery.pacing"),
            ({"delivery": {"pace": 0}}, "delivery.pace"),
            ({"admin_host": "0.0.0.0"}, "admin.api_key"),
        ]:
            with pytest.raises(ConfigError) as caught:
                Engine(**settings)  # type: ignore[arg-type]
            assert caught.value.field == field, settings
        with pytest.raises(ConfigError, match="topics"):
            Pipeline().stage("x", Enricher, topics=["a..b"])
        with pytest.raises(ConfigError, match="not a subclass of"):
            async with Engine(**LOCAL, pipeline=Pipeline().stage("x", NoStage)):  # type: ignore[arg-type]
                pytest.fail("it started")

    asyncio.run(scenario())


def test_health_and_metrics_of_the_embedded_engine() -> None:
    async def scenario() -> None:
        async with Engine(**LOCAL) as engine, engine.client() as client:
            await client.publish("t", 1)
            status, health = await _get(engine.admin_url + "/health")
            assert (status, health["status"]) == (200, "ok")
            assert (await _get(engine.admin_url + "/ready"))[0] == 200
            _, stats = await _get(engine.admin_url + "/stats")
            assert (stats["connections"], stats["events_published"]) == (1, 1)

    asyncio.run(scenario())


async def _get(url: str) -> tuple[int, Any]:
    authority, _, path = url.removeprefix("http://").partition("/")
    host, _, port = authority.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET /{path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return int(head.split()[1]), json.loads(body)


# stages ---------------------------------------------------------------------------------------------------------------


def test_a_stage_changes_drops_and_multiplies() -> None:
    stages = Pipeline().stage("first", Enricher, topics=["a.*"], options={"name": "first"})

    async def scenario() -> None:
        async with Engine(**LOCAL, pipeline=stages) as engine, engine.client() as client:

            async def publish() -> None:
                await client.publish("a.b", {"do": "change", "p": Decimal("1.12000")})
                with pytest.raises(RequestError) as caught:
                    await client.publish("a.b", {"do": "drop"})
                assert caught.value.code == "forbidden"
                await client.publish("a.b", {"do": "multiply"}, key="k")
                await client.publish("b", {"do": "drop"})  # not its topic

            events = await take(client, ">", 5, publish)
            changed, *copies, other = events
            assert (changed.topic, changed.offset, changed.type) == ("a.b", 1, "changed")
            assert changed.payload == b'{"do":"change","p":1.12000,"by":"first"}'
            assert [(event.topic, event.offset, event.key) for event in copies] == [
                ("a.b.0", 1, "k"),
                ("a.b.1", 1, "k"),
                ("a.b.2", 1, "k"),
            ]
            assert (other.topic, other.data) == ("b", {"do": "drop"})

    asyncio.run(scenario())


def test_stages_stand_in_order() -> None:
    stages = (
        Pipeline().stage("one", Counter).stage("two", Enricher, ["x"], {"name": "two"}).stage("three", Counter, ["y"])
    )

    async def scenario() -> None:
        async with Engine(**LOCAL, pipeline=stages) as engine, engine.client() as client:

            async def publish() -> None:
                for topic in ("x", "y", "y"):
                    await engine.publish(topic, {"do": "change"})

            events = await take(client, ">", 3, publish)
            assert [event.data for event in events] == [
                {"do": "change", "count": 1, "by": "two"},
                {"do": "change", "count": 1},
                {"do": "change", "count": 2},
            ]

    asyncio.run(scenario())


def test_a_stage_that_fails_costs_no_event_and_is_restarted() -> None:
    stages = Pipeline().stage("count", Counter)

    async def scenario() -> None:
        async with Engine(**LOCAL, pipeline=stages) as engine, engine.client() as client:

            async def publish() -> None:
                for n in range(6):
                    assert (await engine.publish("t", {"n": n, "fail": 3})).offset == n + 1

            events = await take(client, "t", 6, publish)
            assert [event.data["n"] for event in events] == list(range(6))
            # The third went on as it came; the successor counts from one again.
            assert [event.data.get("count") for event in events] == [1, 2, None, 1, 2, None]

    asyncio.run(scenario())


def test_a_stage_that_fails_for_ever_is_left_alone_and_seen() -> None:
    async def scenario() -> None:
        async with Engine(**LOCAL, pipeline=Pipeline().stage("moody", Enricher)) as engine:
            ended = asyncio.create_task(engine.wait())
            for n in range(20):
                assert (await engine.publish("t", {"do": "raise"})).offset == n + 1
            _, stats = await _get(engine.admin_url + "/stats")
            assert stats["stage_failures"] == {"moody:raised": 5, "moody:bypassed": 15}
            _, health = await _get(engine.admin_url + "/health")
            assert health["components"]["stage:moody"]["status"] == health["status"] == "degraded"
            assert not ended.done()
            ended.cancel()

    asyncio.run(scenario())


def test_a_stage_is_an_actor_of_the_public_name() -> None:
    assert issubclass(Enricher, Stage)
