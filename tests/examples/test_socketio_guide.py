"""``docs/socketio.md`` says what is so: its programs run, its numbers are those of the code."""

from __future__ import annotations

import asyncio
import queue
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import socketio  # type: ignore[import-untyped]

from actors.socketio_door import NAMESPACES, TASKS
from engine import config
from engine.embedded import Engine
from transport.engine_socket import OVERFLOW

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/socketio.md").read_text(encoding="utf-8")
PATIENCE = 30.0  # s


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", GUIDE, re.M | re.S)


def test_the_numbers_are_those_of_the_code() -> None:
    assert f"At most {TASKS} async methods" in GUIDE
    assert f"Clients can be in {NAMESPACES} namespaces" in GUIDE
    assert OVERFLOW == 4 and "closed with four times that" in GUIDE


def test_what_it_shows_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simple, application = blocks("toml")
    assert config.loads(simple).socketio.enabled
    weather, echo = blocks("python")
    (tmp_path / "weather.py").write_text(weather)
    (tmp_path / "echo.py").write_text(echo)
    settings = "[server]\nport = 0\nworkers = 0\n[admin]\nport = 0\n"
    engines = '\n[socketio.engines]\n"/engine.io/" = "echo:Echo"\n'
    (tmp_path / "engine.toml").write_text(settings + application + engines)
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        asyncio.run(asyncio.wait_for(_show(tmp_path / "engine.toml"), PATIENCE))
    finally:
        for module in ("weather", "echo"):
            sys.modules.pop(module, None)


async def _show(path: Path) -> None:
    async with Engine(path) as engine:
        await asyncio.to_thread(_converse, engine.url.replace("ws:", "http:").removesuffix("/ws"))


def _converse(url: str) -> None:
    heard: queue.Queue[tuple[Any, ...]] = queue.Queue()
    client = socketio.Client(reconnection=False)
    for name in ("welcome", "following", "weather"):
        client.on(name, lambda *data, name=name: heard.put((name, *data)))
    client.connect(url)
    try:
        assert heard.get(timeout=PATIENCE) == ("welcome", {"you": client.get_sid()})
        assert client.call("report", ("Oslo", -3.5)) == "thank you"
        client.emit("follow", "Oslo")
        assert heard.get(timeout=PATIENCE) == ("following", {"city": "Oslo", "ok": True})
        assert heard.get(timeout=PATIENCE) == ("weather", "Oslo", {"celsius": -3.5})
    finally:
        client.disconnect()
    refusals: queue.Queue[Any] = queue.Queue()
    stolen = socketio.Client(reconnection=False)
    stolen.on("connect_error", refusals.put)
    with pytest.raises(socketio.exceptions.ConnectionError):
        stolen.connect(url, auth={"key": "stolen"}, wait_timeout=PATIENCE)
    assert refusals.get(timeout=PATIENCE)["message"] == "this key was stolen"
    stolen.disconnect()
