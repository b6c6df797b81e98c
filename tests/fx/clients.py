"""Socket.IO clients as their users have them: Python's, JavaScript's in Node, JavaScript's in a browser."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from typing import Any, Protocol

import socketio  # type: ignore[import-untyped]

DEADLINE_S = 20.0
STEP_S = 0.01

_names = itertools.count(1)


class Client(Protocol):
    """A client that keeps what it gets.

    Attributes:
        events: names and arguments, in order; also ``connect``, ``connect_error`` and ``disconnect``.
    """

    events: list[list[Any]]

    async def open(self, url: str) -> None: ...
    async def refresh(self) -> None: ...
    async def emit(self, *event: Any) -> None: ...
    async def call(self, *event: Any) -> list[Any]: ...
    async def close(self) -> None: ...


class PythonClient:
    """``socketio.Client``, whose threads append to ``events``."""

    def __init__(self) -> None:
        self.events: list[list[Any]] = []
        self._client = socketio.Client(reconnection=False, handle_sigint=False)
        for name in ("connect", "connect_error", "disconnect"):
            self._client.on(name, self._keep(name))
        self._client.on("*", self._any)

    def _keep(self, name: str) -> Callable[..., None]:
        def kept(*args: Any) -> None:
            self.events.append([name, *args])

        return kept

    def _any(self, name: str, *args: Any) -> None:
        self.events.append([name, *args])

    async def open(self, url: str) -> None:
        await asyncio.to_thread(self._client.connect, url)

    async def refresh(self) -> None:
        """They come by themselves."""

    async def emit(self, *event: Any) -> None:
        name, *args = event
        await asyncio.to_thread(self._client.emit, name, args[0] if args else None)

    async def call(self, *event: Any) -> list[Any]:
        name, *args = event
        data = args[0] if args else None
        return [await asyncio.to_thread(self._client.call, name, data, timeout=round(DEADLINE_S))]

    async def close(self) -> None:
        await asyncio.to_thread(self._client.disconnect)


class JavaScript(Protocol):
    """Where ``tests/node/clients.js`` was loaded."""

    async def evaluate(self, script: str) -> Any: ...


class JavaScriptClient:
    """``socket.io-client``."""

    def __init__(self, where: JavaScript) -> None:
        self.events: list[list[Any]] = []
        self._where, self._name = where, f"client {next(_names)}"

    async def _run(self, function: str, *args: Any) -> Any:
        return await self._where.evaluate(f"{function}({', '.join(map(json.dumps, (self._name, *args)))})")

    async def open(self, url: str) -> None:
        await self._run("openClient", url)

    async def refresh(self) -> None:
        self.events += await self._run("eventsOf", len(self.events))

    async def emit(self, *event: Any) -> None:
        await self._run("emit", *event)

    async def call(self, *event: Any) -> list[Any]:
        return list(await self._run("acknowledged", *event))

    async def close(self) -> None:
        await self._run("closeClient")


async def expect(client: Client, name: str, after: int = 0) -> Any:
    """The data of the first event of that name; of those from the place ``after`` on in ``events``."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                await client.refresh()
                for event in client.events[after:]:
                    if event[0] == name:
                        return event[1] if len(event) > 1 else None
                await asyncio.sleep(STEP_S)
    except TimeoutError:
        raise AssertionError(f"no {name} within {DEADLINE_S:g} s; there are {client.events}") from None


async def ask(client: Client, event: str, data: Any = None, *, answer: str) -> Any:
    """Emit an event; the data of the answer's event."""
    await client.refresh()
    after = len(client.events)
    await client.emit(event, *(() if data is None else (data,)))
    return await expect(client, answer, after)
