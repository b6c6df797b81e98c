"""Alerts in a whole engine: told once, whatever is killed and however noisy it is."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from heliograph import Engine
from tests.integration.harness import EngineProcess, RawClient
from tests.webhook_receiver import Receiver

DEADLINE = 30.0
Eventually = Callable[..., Awaitable[None]]
CONFIG = """
[server]
heartbeat_interval = 0.2
heartbeat_timeout = 2.0

[alerts.load]
topic = "load.main"
field = "cpu"
when = { gte = 80 }
until = { lt = 70 }
severity = "critical"

[metrics]
interval = 0.2

[alerts.memory]
series = "machine.memory"
when = { gt = 0 }

[alerts.each]
topic = "feed.*"
field = "state"
when = { not = "up" }
for_seconds = 0.3
"""
HOOK = """
[alerts.hooked]
topic = "hooked"
field = "v"
when = { eq = true }
webhooks = ["ops"]

[webhooks.ops]
url = "URL/hook"
headers = { Authorization = "Bearer of-the-webhook" }
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("alerts") / "heliograph.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def engine(file: Path) -> Iterator[EngineProcess]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STATE_DIRECTORY", str(file.parent))
        engine = EngineProcess(file)
    yield engine
    code, left = engine.stop(), engine.destroy()
    print(engine.tail)
    assert (code, left) == (0, [])


def component(engine: EngineProcess) -> tuple[str, str | None]:
    found = engine.admin("/health")[1]["components"].get("alerts", {})
    return found.get("status"), found.get("reason")


def firing(engine: EngineProcess, rule: str) -> list[dict[str, Any]]:
    """By the admin API."""
    return [alert for alert in engine.admin("/api/alerts")[1].get("alerts", ()) if alert["rule"] == rule]


def told(client: RawClient) -> list[tuple[str, str, Any]]:
    """What came on ``alert.>``."""
    events = [event for event in client.of("event") if event["topic"].startswith("alert.")]
    return [(event["type"], event["key"], event["data"]["value"]) for event in events]


async def publish(client: RawClient, topic: str, **data: Any) -> None:
    answer = await client.request("publish", topic=topic, data=data)
    assert answer["op"] == "ok", answer


def test_a_noisy_series_fires_once_and_clears_once_and_a_killed_monitor_tells_nothing_twice(
    engine: EngineProcess, eventually: Eventually
) -> None:
    noise = random.Random(7)
    high = [80 + noise.uniform(-9, 9) for _ in range(600)]  # above 70, and on both sides of 80
    calm = [70 + noise.uniform(-9, 9) for _ in range(600)]  # below 80, and on both sides of 70
    assert sum((a < 80) != (b < 80) for a, b in pairwise(high)) > 200

    async def scenario() -> None:
        await eventually(lambda: component(engine) == ("ok", None), DEADLINE)
        async with RawClient(engine.url) as client:
            await client.subscribe("alert.load")
            for value in high[:300]:
                await publish(client, "load.main", cpu=value)
            await eventually(lambda: told(client), DEADLINE)
            first = next(value for value in high if value >= 80)
            assert told(client) == [("alert_fired", "load", first)]
            assert client.of("event")[0]["priority"] == "critical"

            killed = engine.kill("monitor")
            for value in high[300:]:
                await publish(client, "load.main", cpu=value)
            await eventually(lambda: engine.children().get("monitor", killed) != killed, DEADLINE)
            await eventually(lambda: component(engine) == ("ok", None), DEADLINE)
            [alert] = firing(engine, "load")
            assert (alert["rule"], alert["state"], alert["since"]) == ("load", "firing", alert["at"])

            path, body = "/api/alerts/load/acknowledge", {"note": "I look at it"}
            assert engine.admin(path, "POST", body)[1]["acknowledged"]["by"] == "admin"
            answer = await client.request("call", topic="alert.load", method="acknowledge", params={"note": "me too"})
            assert answer["result"]["acknowledged"]["note"] == "me too"

            for value in calm:
                await publish(client, "load.main", cpu=value)
            cleared = next(value for value in calm if value < 70)
            await eventually(lambda: told(client)[-1:] == [("alert_cleared", "load", cleared)], DEADLINE)
            assert [one[0] for one in told(client)] == ["alert_fired", *["alert_acknowledged"] * 2, "alert_cleared"]
            assert firing(engine, "load") == []
            assert engine.admin(path, "POST", body)[0] == 409
            assert engine.admin("/api/alerts/none/acknowledge", "POST", {})[0] == 404
        assert engine.admin("/stats")[1]["process_restarts"]["monitor"] >= 1
        assert {"alert_fired", "alert_acknowledged", "alert_cleared"} <= {line["event"] for line in engine.log()}

    asyncio.run(scenario())


def test_a_reload_brings_rules_and_webhooks_which_are_told_what_they_missed(
    engine: EngineProcess, file: Path, eventually: Eventually
) -> None:
    async def scenario() -> None:
        async with Receiver() as receiver, RawClient(engine.url) as client:
            receiver.answers += [503, "hang"]
            file.write_text(CONFIG + HOOK.replace("URL", receiver.url))
            assert engine.admin("/api/reload", "POST", {}) == (200, {"status": "reloaded", "needs_restart": []})
            await eventually(lambda: component(engine) == ("ok", None), DEADLINE)
            await client.subscribe("alert.hooked")
            await publish(client, "hooked", v=True)
            await eventually(lambda: receiver.attempts == 2, DEADLINE)
            await eventually(lambda: component(engine)[0] == "degraded", DEADLINE)
            assert component(engine)[1] == "webhook ops: HTTP 503"
            await publish(client, "hooked", v=False)
            await eventually(lambda: len(told(client)) == 2, DEADLINE)  # the engine waits for no webhook

            killed = engine.kill("monitor")  # while the receiver has an attempt in hand
            await eventually(lambda: len(receiver.taken) == 2, DEADLINE)
            assert engine.children()["monitor"] != killed
            assert [(one["type"], one["topic"], one["data"]["value"]) for one in receiver.taken] == [
                ("alert_fired", "alert.hooked", True),
                ("alert_cleared", "alert.hooked", False),
            ]
            assert receiver.headers[-1]["authorization"] == "Bearer of-the-webhook"
            await eventually(lambda: component(engine) == ("ok", None), DEADLINE)
            assert len(told(client)) == 2
        assert "of-the-webhook" not in str(engine.log())

    asyncio.run(scenario())


def test_without_another_event_it_fires_when_it_is_time(engine: EngineProcess, eventually: Eventually) -> None:
    async def scenario() -> None:
        async with RawClient(engine.url) as client:
            await eventually(lambda: component(engine)[0] is not None, DEADLINE)
            await client.subscribe("alert.each")
            await publish(client, "feed.a", state="down")
            await publish(client, "feed.b", state="up")
            await eventually(lambda: told(client) == [("alert_fired", "feed.a", "down")], DEADLINE)
            [event] = client.of("event")
            assert event["data"]["at"] == pytest.approx(event["data"]["since"] + 0.3)
            await publish(client, "feed.a", state="up")
            await eventually(lambda: told(client)[1:] == [("alert_cleared", "feed.a", "up")], DEADLINE)

    asyncio.run(scenario())


def test_the_engine_s_own_metrics_are_watched(engine: EngineProcess, eventually: Eventually) -> None:
    async def scenario() -> None:
        await eventually(lambda: firing(engine, "memory"), DEADLINE)
        [alert] = firing(engine, "memory")
        assert 0 < alert["value"] <= 100

    asyncio.run(scenario())


def test_an_embedded_engine_has_alerts_too() -> None:
    table = {"topic": "a", "field": "v", "when": {"gt": 1}, "message": "too much"}

    async def scenario() -> None:
        async with (
            Engine(workers=0, port=0, admin_port=0, alerts={"much": table}) as engine,
            engine.client() as client,
        ):
            async with client.subscribe("alert.>") as alerts:

                async def publish() -> None:
                    while True:  # until it is seen: the service begins beside the engine
                        await engine.publish("a", {"v": 2})
                        await asyncio.sleep(0.05)

                publishing = asyncio.create_task(publish())
                async with asyncio.timeout(DEADLINE):
                    event = await anext(alerts)
                publishing.cancel()
            assert (event.type, event.data["message"]) == ("alert_fired", "too much")

    asyncio.run(scenario())
