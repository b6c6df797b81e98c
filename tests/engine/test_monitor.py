"""The monitor node in an engine of one process: what a reload does to it."""

from __future__ import annotations

import asyncio

from engine.config import Config, loads
from engine.local import LocalEngine
from heliograph import Client
from transport.errors import RequestError

DEADLINE = 30.0
BASE = "[server]\nport = 0\nworkers = 0\n[admin]\nport = 0\n"
RULE = "[alerts.much]\ntopic = 'a'\nfield = 'v'\nwhen = { gt = 1 }\n"


def config(text: str = "") -> Config:
    return loads(BASE + text)


def test_who_fires_goes_on_firing_and_clears_when_its_rule_goes() -> None:
    async def scenario() -> None:
        engine = LocalEngine(config(RULE))
        await engine.start()
        try:
            async with (
                asyncio.timeout(DEADLINE),
                Client(f"ws://127.0.0.1:{engine.port}/ws") as client,
                client.subscribe("alert.much") as alerts,
            ):
                while not await firing(engine):  # the service begins beside the engine
                    await client.publish("a", {"v": 2})
                assert (await anext(alerts)).type == "alert_fired"
                await engine.reload(config(f"{RULE}message = 'too much'\n"))
                while not await firing(engine):
                    await asyncio.sleep(0.01)
                assert await firing(engine) == ["too much"]
                await engine.reload(config())
                event = await anext(alerts)
                assert (event.type, event.data["message"]) == ("alert_cleared", "the rule is gone")
        finally:
            await engine.stop()

    async def firing(engine: LocalEngine) -> list[str]:
        try:
            listed = await engine.ask_monitor("alerts", "list", {})
        except RequestError:  # between two lives
            return []
        return [alert["message"] for alert in listed["alerts"]]

    asyncio.run(scenario())
