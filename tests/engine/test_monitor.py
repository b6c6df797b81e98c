"""The monitor node in an engine of one process: what a reload does to it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

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


def test_parameters_in_memory_outlive_a_reload(tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    file.write_text('{"properties": {"n": {"default": 1}}}')
    table = f"[parameters.p]\nschema = '{file}'\n"

    async def scenario() -> None:
        engine = LocalEngine(config(table))
        await engine.start()
        try:
            async with asyncio.timeout(DEADLINE):
                await asked(engine, "set", {"values": {"n": 2}})
                await engine.reload(config(table + RULE))
                got = await asked(engine, "get", {})
                assert (got["version"], got["values"]) == (2, {"n": 2})
        finally:
            await engine.stop()

    async def asked(engine: LocalEngine, method: str, params: Any) -> Any:
        while True:
            try:
                return await engine.ask_monitor("parameters", method, {"name": "p", "by": None, "params": params})
            except RequestError as error:
                assert error.code == "unavailable", error  # between two lives
                await asyncio.sleep(0.01)

    asyncio.run(scenario())
