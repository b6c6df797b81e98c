"""The examples do what they say."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest

from engine.embedded import Engine
from engine.pipeline import Pipeline
from transport.event import Event

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """An example as a module that others find by its name."""

    def load(name: str) -> ModuleType:
        monkeypatch.syspath_prepend(str(EXAMPLES))
        return importlib.import_module(name)

    return load


def run(test: Callable[[Engine], Coroutine[Any, Any, None]], **settings: Any) -> None:
    async def main() -> None:
        async with asyncio.timeout(20), Engine(workers=0, port=0, admin_port=0, **settings) as engine:
            await test(engine)

    asyncio.run(main())


def test_subscribe_async(example: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]) -> None:
    async def test(engine: Engine) -> None:
        await engine.publish("price.EUR_USD", {"bid": 1.5})
        await example("subscribe_async").main(engine.url, count=1)

    run(test)
    assert capsys.readouterr().out == "price.EUR_USD 1 {'bid': Decimal('1.5')}\n"


def test_publish_sync(example: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]) -> None:
    async def test(engine: Engine) -> None:
        async with engine.client() as client, client.subscribe("alert.>") as alerts:
            await asyncio.to_thread(example("publish_sync").main, engine.url)
            event = await anext(alerts)
            assert (event.topic, event.priority, str(event.exact["limit"])) == ("alert.limit.EUR/USD", "high", "1.1200")

    run(test)
    out = capsys.readouterr().out
    assert "accepted as 1 of epoch" in out
    assert "refused" in out
    assert not [thread for thread in threading.enumerate() if thread.name == "heliograph-client"]


def test_stage_spread(example: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(example("stage_spread").main())
    assert "'spread': Decimal('0.0004')" in capsys.readouterr().out


def test_stage_function(example: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(example("stage_function").main())
    assert capsys.readouterr().out.splitlines() == [
        "weather.oslo {'celsius': 15.0}",
        "weather.cairo {'celsius': 40.0}",
        "alert.weather.cairo {'celsius': 40.0}",
    ]
    assert example("stage_function").celsius(Event.of("weather.x", [1])) is None


@pytest.mark.parametrize("named", [True, False], ids=["from TOML", "as a class"])
def test_a_stage_leaves_other_events_as_they_are(
    example: Callable[[str], ModuleType], tmp_path: Path, named: bool
) -> None:
    stage = example("stage_spread").SpreadStage
    file = tmp_path / "spread.toml"
    file.write_text('[stages.spread]\nactor = "stage_spread:SpreadStage"\ntopics = ["price.>"]\n')
    settings: dict[str, Any] = {"pipeline": Pipeline().stage("spread", stage, topics=["price.>"])}

    async def test() -> None:
        async with (
            Engine(file if named else None, workers=0, port=0, admin_port=0, **({} if named else settings)) as engine,
            engine.client() as client,
            client.subscribe(">") as events,
        ):
            for topic, data in (
                ("price.a", {"price": 1}),
                ("other", {"bid": 1, "ask": 2}),
                ("price.b", {"bid": 1, "ask": 2}),
            ):
                await engine.publish(topic, data)
            assert [(await anext(events)).data for _ in range(3)] == [
                {"price": 1},
                {"bid": 1, "ask": 2},
                {"bid": 1, "ask": 2, "spread": 1},
            ]

    asyncio.run(test())


def test_fastapi_app(example: Callable[[str], ModuleType], missing: Callable[[str], NoReturn]) -> None:
    for name in ("fastapi", "httpx"):
        if importlib.util.find_spec(name) is None:
            missing(name)
    import httpx

    from heliograph import Client

    async def test() -> None:
        app = example("fastapi_app").create_app(port=0, admin_port=0)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as http,
            Client((await http.get("/stream")).json()["url"]) as client,
            client.subscribe("order.*") as orders,
        ):
            answer = await http.post("/orders/17", json={"status": "filled"})
            assert answer.json() == {"offset": 1}
            event = await anext(orders)
            assert (event.topic, event.type, event.data) == ("order.17", "order_changed", {"status": "filled"})

    asyncio.run(test())


def test_feed_client(example: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(asyncio.wait_for(example("feed_client").main(), 20))
    out = capsys.readouterr().out.splitlines()
    assert len([line for line in out if line.startswith('price.BTC-USD message {"price":')]) == 3
    assert any('"state":"reconnecting","reason":"abnormal: ended without a close frame"' in line for line in out)
    assert "2 reconnects, 3 events" in out
