"""Node for tests, with the Socket.IO clients that ``make node`` has installed."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[1]
NODE_MODULES = ROOT / ".venv/node/node_modules"
SCRIPTS = ROOT / "tests/node"
CLIENT, SEEDS_CLIENT = "socket.io-client", "socket.io-client-4.5"
REQUEST_TIMEOUT_S = 20.0


def environment() -> dict[str, str]:
    """For a Node that shall find the packages."""
    return {**os.environ, "NODE_PATH": str(NODE_MODULES)}


def browser_client(package: str) -> bytes:
    """The script that a page loads."""
    return (NODE_MODULES / package / "dist/socket.io.min.js").read_bytes()


class Node:
    """A process that evaluates JavaScript: ``async with Node("node") as node``.

    Args:
        command: its binary.
        package: the client that ``io`` is of.
    """

    def __init__(self, command: str, package: str = CLIENT) -> None:
        self._line = (command, str(SCRIPTS / "evaluate.cjs"), package)
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *self._line, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=environment(), limit=1 << 24
        )
        self._reader = asyncio.create_task(self._read(), name="node")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._reader

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            answer = json.loads(line)
            self._answers.pop(answer["id"]).set_result(answer)
        for waiting in self._answers.values():
            waiting.cancel()

    async def evaluate(self, script: str) -> Any:
        """The value of an expression; of a promise, what it resolves to."""
        assert self._process.stdin is not None
        request_id = next(self._ids)
        answered: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[request_id] = answered
        self._process.stdin.write(json.dumps({"id": request_id, "script": script}).encode() + b"\n")
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            answer = await answered
        assert "error" not in answer, (script, answer["error"])
        return answer["value"]
