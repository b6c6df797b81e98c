"""``docs/parameters.md``, and the example that it names."""

from __future__ import annotations

import asyncio
import importlib
import json
from pathlib import Path

import httpx
import msgspec
import pytest

from actors.parameter_book import REASON_CHARACTERS, VALUES_BYTES
from engine import config, parameter_store
from engine.embedded import Engine
from engine.parameter_wiring import parameter_service
from engine.parameter_wiring import parameter_store as opened

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/parameters.md").read_text(encoding="utf-8")
TABLE = "[parameters.momentum]" + GUIDE.split("```toml\n[parameters.momentum]")[1].split("```")[0]
MODEL, FOLLOW = (part.split("```")[0] for part in GUIDE.split("```python\n")[1:3])


@pytest.fixture(autouse=True)
def _found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))


def test_it_shows_the_example() -> None:
    file = ROOT / "examples/live_strategy.toml"
    assert file.read_text(encoding="utf-8").split("\n", 1)[1] == TABLE
    loaded = config.load(file, None, {})
    assert parameter_service(loaded, opened(loaded)).name == "parameters"
    scope: dict[str, type[msgspec.Struct]] = {"__name__": "live_strategy"}  # type: ignore[dict-item]
    exec(MODEL, scope)
    shown, whole = scope["Momentum"], importlib.import_module("live_strategy").Momentum
    assert (
        msgspec.json.schema(shown)["$defs"]["Momentum"]["properties"]
        == (msgspec.json.schema(whole)["$defs"]["Momentum"]["properties"])
    )


def test_the_strategy_trades_and_is_changed_meanwhile(capsys: pytest.CaptureFixture[str]) -> None:
    example = importlib.import_module("live_strategy")
    scope: dict[str, object] = {"Momentum": example.Momentum, "told": []}
    body = FOLLOW.replace("async with Client(url) as client, ", "async with ")
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    exec(f"async def follow(client, strategy):\n{lines}", scope)

    class Strategy:
        def tell(self, message: object) -> None:
            scope["told"].append(message)  # type: ignore[attr-defined]

    async def main() -> None:
        settings = config.loads(TABLE)
        async with (
            asyncio.timeout(20),
            Engine(workers=0, port=0, admin_port=0, parameters=msgspec.to_builtins(settings.parameters)) as engine,
            engine.client() as client,
        ):
            running = asyncio.create_task(example.main(engine.url, count=6))
            async with client.parameters("momentum", example.Momentum) as parameters:
                while "version 1" not in capsys_text():
                    await asyncio.sleep(0.01)
                for bid in (100.0, 100.05, 100.2):
                    await engine.publish("price.A", {"bid": bid})
                while "price.A up" not in capsys_text():
                    await asyncio.sleep(0.01)
                await parameters.set(threshold=0.5)
                while "version 2" not in capsys_text():
                    await asyncio.sleep(0.01)
                for bid in (100.0, 120.0, 160.0):
                    await engine.publish("price.A", {"bid": bid})
                await running
                await scope["follow"](client, Strategy())  # type: ignore[operator]
            async with httpx.AsyncClient(base_url=engine.admin_url) as admin:
                command, answer = GUIDE.split("```console\n$ ")[1].split("```")[0].splitlines()
                change = json.loads(command.split(" -d ")[1].strip("'"))
                said = await admin.patch("/api/parameters/momentum", json=change)
                assert said.json() == json.loads(answer)

    seen: list[str] = []

    def capsys_text() -> str:
        seen.append(capsys.readouterr().out)
        return "".join(seen)

    asyncio.run(main())
    # The engine may log here, too.
    said = [line for line in capsys_text().splitlines() if line.startswith(("version", "price"))]
    assert said == [
        "version 1 (look_back, threshold): Momentum(threshold=0.001, look_back=20)",
        "price.A up from 100.0 to 100.2",
        "version 2 (threshold): Momentum(threshold=0.5, look_back=20)",
        "price.A up from 100.0 to 160.0",
    ]
    assert [message.version for message in scope["told"]] == [2, 3]  # type: ignore[attr-defined]


def test_its_numbers_are_those_of_the_code() -> None:
    assert f"at most {VALUES_BYTES:,} bytes" in GUIDE
    assert f"a reason {REASON_CHARACTERS} characters" in GUIDE
    assert f"{parameter_store.VERSIONS_KEPT:,} per parameter" in GUIDE
    assert f"the last {parameter_store.REFUSED_KEPT:,} per parameter" in GUIDE
    assert parameter_store.REFUSED_BYTES == 2 << 10
