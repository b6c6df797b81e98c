"""Stages of one's own in a whole engine: what they do, and what happens to nobody else when they fail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from actors import stage_runner
from heliograph import ConfigError, Engine, Pipeline, RequestError
from tests.integration import stages
from tests.integration.harness import EngineProcess, RawClient

LOCAL: dict[str, Any] = {"workers": 0, "port": 0, "admin_port": 0}
Start = Callable[..., EngineProcess]
HERE = "tests.integration.stages"
CONFIG = f"""
[server]
heartbeat_interval = 0.2
heartbeat_timeout = 2.0

[stages.moody]
actor = "{HERE}:Enricher"
topics = ["a.>"]
timeout = 0.3
options = {{ name = "moody" }}

[stages.strict]
actor = "{HERE}:Enricher"
topics = ["strict.>"]
timeout = 0.3
on_error = "drop"

[stages.mark]
function = "{HERE}:mark"
topics = ["f.>"]
"""


@pytest.fixture
def hanging() -> Iterator[None]:
    """Stages may hang in this process; they end with the test."""
    stages.NEVER.clear()
    yield
    stages.NEVER.set()


@pytest.mark.parametrize("what", ["hang", "raise", "spoil"])
def test_a_stage_that_fails_in_a_daemon_costs_nobody_else_anything(engine_process: Start, what: str) -> None:
    engine = engine_process(CONFIG)
    hub = engine.children()["hub"]

    async def scenario() -> None:
        async with RawClient(engine.url) as client:
            await client.subscribe(">")

            async def publish(topic: str, do: str, **data: Any) -> dict[str, Any]:
                return await client.request("publish", topic=topic, data={"do": do, **data})

            assert (await publish("a.x", "change"))["offset"] == 1
            first = client.send("publish", topic="a.x", data={"do": what})
            assert [(await publish("f.x", "mark"))["offset"], (await publish("b", "any"))["offset"]] == [1, 1]
            second = client.send("publish", topic="a.x", data={"do": "change"})
            async with asyncio.timeout(10):
                assert [(await answer)["offset"] for answer in (first, second)] == [2, 3]
            for n in range(4, 16):
                assert (await publish("a.x", what))["offset"] == n
            assert (await publish("strict.x", "change"))["offset"] == 1
            refused = await publish("strict.x", what)
            assert (refused["op"], refused["code"]) == ("error", "unavailable")
            assert (await publish("strict.x", "drop"))["code"] == "forbidden"
            assert (await publish("strict.x", "change"))["offset"] == 2
            assert (await publish("f.y", "mark"))["offset"] == 1
            assert client.offsets("a.x") == list(range(1, 16))
            by = [event["data"].get("by") for event in client.of("event") if event["topic"] == "a.x"]
            assert by == ["moody", None, "moody", *[None] * 12]
            assert [e["data"] for e in client.of("event") if e["topic"] == "f.x"] == [{"do": "mark", "marked": True}]

    asyncio.run(scenario())
    look(engine, what)
    assert engine.children()["hub"] == hub, "it is the same process"


def look(engine: EngineProcess, what: str) -> None:
    """What operators see of it."""

    def seen() -> bool:
        components = engine.admin("/health")[1]["components"]
        stats = engine.admin("/stats")[1]
        counted = {k: v for k, v in stats["stage_failures"].items() if k.startswith("moody:")}
        return (
            components.get("stage:moody", {}).get("status") == "degraded"
            and components["stage:mark"]["status"] == "ok"
            and sum(counted.values()) == 13
            and stats["events_dropped"].get("stage") == 1
        )

    _eventually(seen)
    reason = {"hang": "timeout", "raise": "raised", "spoil": "nonsense"}[what]
    counted = engine.admin("/stats")[1]["stage_failures"]
    assert counted[f"strict:{reason}"] == 1 and counted[f"moody:{reason}"] >= 3 and counted["moody:bypassed"] >= 5
    metrics = engine.admin("/metrics")[1].decode()
    assert f'heliograph_stage_failures_total{{reason="{reason}",stage="strict"}} 1.0' in metrics
    assert 'heliograph_stage_bypassed{stage="moody"} 1.0' in metrics


def _eventually(condition: Callable[[], bool]) -> None:
    async def until() -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.02)

    asyncio.run(until())


@pytest.mark.usefixtures("hanging")
def test_other_topics_do_not_wait_for_a_stage_that_hangs() -> None:
    pipeline = Pipeline().stage("moody", stages.Enricher, ["a"], timeout=30).stage("mark", stages.mark, ["a", "b"])

    async def scenario() -> None:
        async with (
            asyncio.timeout(10),
            Engine(**LOCAL, pipeline=pipeline) as engine,
            engine.client() as client,
            client.subscribe(">") as events,
        ):
            waiting = [asyncio.create_task(engine.publish("a", {"do": "hang"})) for _ in range(2)]
            await asyncio.sleep(0)
            assert (await engine.publish("b", {"n": 1})).offset == 1
            assert (await engine.publish("c", {})).offset == 1
            assert not any(task.done() for task in waiting)
            stages.NEVER.set()  # it was only slow
            for task in waiting:
                with pytest.raises(RequestError, match="a stage dropped"):
                    await task
            assert (await engine.publish("a", {"do": "change"})).offset == 1
            assert [(await anext(events)).topic for _ in range(3)] == ["b", "c", "a"]

    asyncio.run(scenario())


@pytest.mark.usefixtures("hanging")
def test_an_engine_ends_while_a_stage_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_runner, "STOP_TIMEOUT_S", 0.05)
    pipeline = Pipeline().stage("given_up", stages.Enricher, ["a"], timeout=0.05)
    pipeline = pipeline.stage("awaited", stages.Enricher, ["b"], timeout=30)

    async def scenario() -> None:
        async with asyncio.timeout(10):
            async with Engine(**LOCAL, pipeline=pipeline) as engine:
                assert (await engine.publish("a", {"do": "hang"})).offset == 1
                assert (await engine.publish("a", {"do": "change"})).offset == 2, "in another thread"
                hanging = asyncio.create_task(engine.publish("b", {"do": "hang"}))
                await asyncio.sleep(0)
            with pytest.raises(RequestError) as caught:
                await hanging
            assert caught.value.code == "unavailable"

    asyncio.run(scenario())


def test_functions_from_python_and_by_name() -> None:
    pipeline = Pipeline().stage("mark", stages.mark, topics=["a"])
    settings = {"stages": {"object": {"function": f"{HERE}:marker", "topics": ["o"]}}}

    async def scenario() -> None:
        async with Engine(**LOCAL, **settings, pipeline=pipeline) as engine, engine.client() as client:
            async with asyncio.timeout(10), client.subscribe(">") as events:
                await engine.publish("a", {"do": "multiply"})
                with pytest.raises(RequestError) as caught:
                    await engine.publish("a", {"do": "drop"})
                assert caught.value.code == "forbidden"
                assert (await engine.publish("a", {"do": "raise"})).offset == 2
                await engine.publish("a", {})
                await engine.publish("o", {})
                got = [await anext(events) for _ in range(5)]
            assert [(event.topic, event.data, event.type) for event in got] == [
                ("a", {"do": "multiply"}, "message"),
                ("a.copy", {"do": "multiply"}, "message"),
                ("a", {"do": "raise"}, "message"),
                ("a", {"marked": True}, "message"),
                ("o", {}, "marked"),
            ]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("table", "field", "message"),
    [
        ({"actor": f"{HERE}:Async"}, "stages.x.actor", "must not be async"),
        ({"actor": f"{HERE}:Mute"}, "stages.x.actor", "must define on_events"),
        ({"actor": f"{HERE}:NoStage"}, "stages.x.actor", "not a subclass"),
        ({"actor": f"{HERE}:mark"}, "stages.x.actor", "not a subclass"),
        ({"actor": f"{HERE}:Nobody"}, "stages.x.actor", "cannot import"),
        ({"function": f"{HERE}:mark_later"}, "stages.x.function", "must not be async"),
        ({"function": f"{HERE}:async_marker"}, "stages.x.function", "must not be async"),
        ({"function": f"{HERE}:Enricher"}, "stages.x.function", "no function"),
        ({"function": f"{HERE}:HERE"}, "stages.x.function", "cannot import"),
        ({"function": f"{HERE}:__doc__"}, "stages.x.function", "no function"),
    ],
)
def test_what_is_no_stage_is_refused_at_the_start(table: dict[str, Any], field: str, message: str) -> None:
    async def scenario() -> None:
        with pytest.raises(ConfigError, match=message) as caught:
            async with Engine(**LOCAL, stages={"x": table}):
                pytest.fail("it started")
        assert caught.value.field == field

    asyncio.run(scenario())


def test_what_is_no_stage_is_refused_from_python() -> None:
    def local(event: Any) -> Any:
        return event

    pipeline = Pipeline()
    for kind, options, field in [
        (local, {}, "stages.x"),
        (lambda event: event, {}, "stages.x"),
        (7, {}, "stages.x"),
        (stages.mark_later, {}, "stages.x.function"),
        (stages.Async, {}, "stages.x.actor"),
        (stages.Mute, {}, "stages.x.actor"),
        (stages.mark, {"options": {"x": 1}}, "options"),
        (stages.mark, {"timeout": 0}, "stages.x.timeout"),
        (stages.mark, {"on_error": "retry"}, "stages.x.on_error"),
        (stages.mark, {"topics": ["a..b"]}, "stages.x.topics[0]"),
    ]:
        with pytest.raises(ConfigError) as caught:
            pipeline.stage("x", kind, **options)  # type: ignore[arg-type]
        assert caught.value.field == field, kind
    assert pipeline.stages == {}
