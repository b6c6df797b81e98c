"""The echoes that conformance suites talk to: `examples/ws_echo.py` and `examples/ws_client_echo.py`."""

from __future__ import annotations

import asyncio
import importlib
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

ROOT = Path(__file__).parents[2]
DEADLINE = 20.0  # s


@pytest.mark.parametrize(("options", "agreed"), [([], True), (["--deflate"], True), (["--no-deflate"], False)])
def test_ws_echo(options: list[str], agreed: bool) -> None:
    command = [sys.executable, "examples/ws_echo.py", "--port", "0", *options]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    async def talk(url: str) -> None:
        async with asyncio.timeout(DEADLINE), connect(f"{url}any/path", proxy=None, max_size=None) as client:
            assert bool(client.protocol.extensions) == agreed
            for message in ("x" * 100_000, b"\xff" * 2_000_000, ""):
                await client.send(message)
                assert await client.recv() == message

    assert process.stdout is not None
    with process, process.stdout:
        try:
            asyncio.run(talk(process.stdout.readline().split()[1]))
        finally:
            process.terminate()
    assert process.returncode == 0


def test_ws_client_echo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    example = importlib.import_module("ws_client_echo")
    asked: list[str] = []

    async def suite(connection: ServerConnection) -> None:
        assert connection.request is not None
        asked.append(connection.request.path)
        if urlsplit(connection.request.path).path == "/getCaseCount":
            await connection.send("2")
        elif "runCase" in connection.request.path:
            for message in ("text", b"\xff"):
                await connection.send(message)
                assert await connection.recv() == message

    async def main() -> None:
        async with asyncio.timeout(DEADLINE), serve(suite, "127.0.0.1", 0) as server:
            await example.main(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}")

    asyncio.run(main())
    agent = "agent=heliograph"
    assert asked == ["/getCaseCount", f"/runCase?case=1&{agent}", f"/runCase?case=2&{agent}", f"/updateReports?{agent}"]
