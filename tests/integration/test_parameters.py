"""Live parameters in a whole engine: writers race, processes are killed, nothing is lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pykka
import pytest
from msgspec import Meta, Struct

from heliograph import Client, ConnectionLost, Parameters, ParametersChanged, RequestError
from tests.integration.harness import EngineProcess

DEADLINE = 30.0
EACH = 500  # changes of one writer
RACE = "parameters.race"
CONFIG = """
[parameters.race]
model = "tests.integration.test_parameters:Counter"

[parameters.counter]
model = "tests.integration.test_parameters:Counter"

[parameters.file]
schema = "{schema}.json"  # beside this file
"""
Eventually = Callable[..., Awaitable[None]]


class Counter(Struct, frozen=True):
    count: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    share: Annotated[float, Meta(ge=0, le=1)] = 0.5


class Strategy(pykka.ThreadingActor):
    """Keeps the changes that it is told."""

    got: list[ParametersChanged]

    def on_start(self) -> None:
        self.got = []

    def on_receive(self, message: ParametersChanged) -> None:
        self.got.append(message)


def schema(most: int) -> str:
    return json.dumps({"properties": {"size": {"type": "integer", "maximum": most, "default": 1}}})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("parameters")
    (directory / "lax.json").write_text(schema(100))
    (directory / "strict.json").write_text(schema(10))
    (directory / "heliograph.toml").write_text(CONFIG.format(schema="lax"))
    return directory


@pytest.fixture(scope="module")
def engine(place: Path) -> Iterator[EngineProcess]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STATE_DIRECTORY", str(place / "state"))
        engine = EngineProcess(place / "heliograph.toml", workers=2)
    yield engine
    code, left = engine.stop(), engine.destroy()
    print(engine.tail)
    assert (code, left) == (0, [])


def check_away(error: RequestError | ConnectionLost) -> None:
    assert isinstance(error, ConnectionLost) or error.code in ("unavailable", "not_found"), error


async def history(client: Client) -> list[dict[str, Any]]:
    """The whole audit trail of the race, newest first."""
    rows: list[dict[str, Any]] = []
    before: int | None = None
    while True:
        try:
            page = await client.call(RACE, "history", {"limit": 1_000, "before": before})
        except (RequestError, ConnectionLost) as error:
            check_away(error)
            await asyncio.sleep(0.05)
            continue
        rows += page["changes"]
        before = page["before"]
        if before is None:
            return rows


async def increment(client: Client, parameters: Parameters[Counter], reason: str) -> bool:
    """One more, exactly once, whatever happens; whether its acknowledgement came."""
    while True:
        try:
            await parameters.set(count=parameters.values.count + 1, reason=reason)
            return True
        except (RequestError, ConnectionLost) as error:
            if not (isinstance(error, RequestError) and error.code == "conflict"):
                check_away(error)
                await asyncio.sleep(0.1)
                if any(row["reason"] == reason and row["refused"] is None for row in await history(client)):
                    return False  # it was made, though nobody could say so
        try:
            await parameters.refresh()
        except (RequestError, ConnectionLost) as error:
            check_away(error)
            await asyncio.sleep(0.05)


def test_two_writers_race_while_processes_are_killed(engine: EngineProcess, eventually: Eventually) -> None:
    acknowledged: list[str] = []

    async def writer(name: str) -> None:
        async with Client(engine.url) as client, client.parameters("race", Counter) as parameters:
            for n in range(EACH):
                reason = f"{name}-{n}"
                if await increment(client, parameters, reason):
                    acknowledged.append(reason)

    async def scenario() -> None:
        strategy = Strategy.start()
        got = strategy.proxy().got
        try:
            async with Client(engine.url) as client, client.parameters("race", Counter) as parameters:
                parameters.deliver_to(strategy)
                async with asyncio.TaskGroup() as race:
                    writers = [race.create_task(writer(name)) for name in ("anna", "ben")]
                    for n, name in enumerate(("monitor", "worker-0", "hub"), 1):
                        await eventually(lambda n=n: parameters.values.count > n * EACH // 2, DEADLINE)
                        assert not all(task.done() for task in writers)
                        engine.kill(name)
                await eventually(lambda: parameters.values.count == 2 * EACH, DEADLINE)
                rows = [row for row in await history(client) if row["refused"] is None]
        finally:
            told = got.get()
            strategy.stop()
        rows.reverse()
        assert [row["version"] for row in rows] == list(range(1, 2 * EACH + 2))
        assert [row["values"]["count"] for row in rows] == list(range(2 * EACH + 1))
        made = [row["reason"] for row in rows[1:]]
        assert sorted(made) == sorted(f"{name}-{n}" for name in ("anna", "ben") for n in range(EACH))
        assert set(acknowledged) <= set(made)
        versions = [message.version for message in told]
        assert versions == list(range(versions[0], 2 * EACH + 2)), "each version, in order"
        assert all(message.values.count == message.version - 1 for message in told)

    asyncio.run(scenario())
    restarts = engine.admin("/stats")[1]["process_restarts"]
    assert [restarts[name] for name in ("monitor", "worker-0", "hub")] == [1, 1, 1]


def test_nobody_else_speaks_for_them(engine: EngineProcess) -> None:
    async def main() -> list[RequestError]:
        async with Client(engine.url) as client:
            with pytest.raises(RequestError) as published:
                await client.publish(RACE, {"values": {}})
            with pytest.raises(RequestError) as served:
                await client.serve(RACE, get=print).__aenter__()
            return [published.value, served.value]

    for error in asyncio.run(main()):
        assert (error.code, error.field) == ("forbidden", "topic")
        assert "belongs to the engine" in error.message
    for body, field in (({"topic": RACE, "data": 1}, "topic"), ([{"topic": RACE, "data": 1}], "[0].topic")):
        status, said = engine.admin("/api/publish", "POST", body)
        assert (status, said["error"]["code"], said["error"]["field"]) == (403, "forbidden", field)


def test_operators_see_and_set_them(engine: EngineProcess) -> None:
    assert engine.admin("/api/parameters/nothing")[0] == 404
    _, before = engine.admin("/api/parameters/counter")
    assert before["schema"]["$defs"]["Counter"]["properties"]["share"]["maximum"] == 1
    change = {"values": {"share": 2}, "version": before["version"], "reason": "a test"}
    assert engine.admin("/api/parameters/counter", "PATCH", change) == (
        400,
        {"error": {"code": "bad_request", "message": "Expected `float` <= 1.0", "field": "values.share"}},
    )
    change["values"] = {"share": 0.25}
    status, made = engine.admin("/api/parameters/counter", "PATCH", change)
    assert (status, made["version"], made["by"]) == (200, before["version"] + 1, "admin")
    status, refused = engine.admin("/api/parameters/counter", "PATCH", change)
    assert (status, refused["error"]["code"]) == (409, "conflict")
    assert f"version {made['version']}" in refused["error"]["message"]
    _, page = engine.admin("/api/parameters/counter/history?limit=3")
    assert [row["refused"] and row["refused"]["code"] for row in page["changes"]] == ["conflict", None, "bad_request"]
    rows = {row["name"]: row for row in engine.admin("/api/parameters")[1]["parameters"]}
    assert rows["counter"]["values"]["share"] == 0.25
    assert rows["counter"]["refused"] >= 2


def test_code_without_a_loop_sets_them(engine: EngineProcess, wait_until: Callable[..., None]) -> None:
    strategy = Strategy.start()
    try:
        with Client.sync(engine.url) as client, client.parameters("counter", Counter) as parameters:
            parameters.deliver_to(strategy)
            before = parameters.version
            assert parameters.set(share=0.75, reason="by hand") == before + 1
            assert (parameters.version, parameters.values.share) == (before + 1, 0.75)
            parameters.refresh()
            got = strategy.proxy().got
            wait_until(lambda: [message.version for message in got.get()] == [before, before + 1], DEADLINE)
    finally:
        strategy.stop()


def test_a_reload_to_a_stricter_schema_is_told_and_mended(
    engine: EngineProcess, place: Path, wait_until: Callable[..., None]
) -> None:
    def health() -> dict[str, Any]:
        found: dict[str, Any] = engine.admin("/health")[1]["components"]["parameters"]
        return found

    status, made = engine.admin("/api/parameters/file", "PATCH", {"values": {"size": 50}})
    assert (status, made["version"]) == (200, 2)
    (place / "heliograph.toml").write_text(CONFIG.format(schema="strict"))
    assert engine.admin("/api/reload", "POST", {}) == (200, {"status": "reloaded", "needs_restart": []})
    wait_until(lambda: health()["status"] == "degraded" and "size" in str(health()["reason"]), DEADLINE)
    assert "file: version 2 does not fit its schema, set size: 50 is greater than the maximum of 10" in str(health())
    assert engine.admin("/api/parameters/file")[1]["values"] == {"size": 50}, "it holds all the same"
    assert engine.admin("/api/parameters/file", "PATCH", {"values": {"size": 5}})[0] == 200
    wait_until(lambda: health()["status"] == "ok", DEADLINE)
