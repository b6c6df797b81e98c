"""Socket.IO clients without a network: a hub and a worker on one loop, and fake Engine.IO sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import uvloop
import zmq

from actors.namespace import Namespace
from actors.socketio_door import Visitor
from engine.config import Config, loads
from engine.hub import Hub
from engine.worker import Worker
from transport.frames import unframe
from transport.listener import bind


class FakeEngineSocket:
    """An Engine.IO session that keeps what is written, as texts and bytes."""

    subprotocol: str | None = None
    user: str | None = None
    token: str | None = None
    token_in_query = False
    address, host = "192.0.2.1:5", "192.0.2.1"
    buffered = 0

    def __init__(self) -> None:
        self.got: list[str | bytes] = []
        self.closed: tuple[int, str] | None = None
        self.paused = False
        self.visitor: Visitor | None = None
        self.write: Callable[[bytes], None] = self._written

    @property
    def direct(self) -> Callable[[bytes], None]:
        return self.write

    def _written(self, data: bytes) -> None:
        assert self.closed is None
        self.got += [payload if binary else payload.decode() for binary, payload in unframe(data)]

    def close(self, code: int, reason: str = "") -> None:
        if self.closed is None:
            self.closed = (code, reason)
            self.write = lambda data: None
            asyncio.get_running_loop().call_soon(self.hung_up, code, reason)

    def hung_up(self, code: int = 1006, reason: str = "") -> None:
        visitor, self.visitor = self.visitor, None
        if visitor is not None:
            visitor.on_closed(code, reason)

    def pause_reading(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_reading(self) -> None:
        assert self.paused
        self.paused = False

    # what the client does and finds

    def say(self, *texts: str | bytes) -> None:
        for text in texts:
            assert self.visitor is not None, f"closed: {self.closed}"
            self.visitor.on_message(text.encode() if isinstance(text, str) else text, isinstance(text, bytes))

    def emit(self, name: str, *args: Any, ack: int | None = None, namespace: str = "") -> None:
        self.say(f"2{namespace}{'' if ack is None else ack}{msgspec.json.encode([name, *args]).decode()}")

    def take(self) -> list[str | bytes]:
        got, self.got = self.got, []
        return got

    async def until(self, begin: str) -> str:
        """The first text that begins so; those before it are gone."""

        def found() -> str | None:
            while self.got:
                text = self.got.pop(0)
                if isinstance(text, str) and text.startswith(begin):
                    return text
            return None

        return str(await until(found))

    async def event(self, name: str) -> Any:
        """The argument of the next event of this name in "/"."""
        text = await self.until(f'42["{name}"')
        return msgspec.json.decode(text[2:])[1]

    async def ack(self, number: int) -> Any:
        """The arguments of an acknowledgement in "/"."""
        text = await self.until(f"43{number}[")
        return msgspec.json.decode(text[2 + len(str(number)) :])


class House:
    """A hub and workers on this loop; ``doors[n]`` is the n-th worker's."""

    def __init__(self, config: Config, workers: int = 1) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.failures: list[str] = []
        self._config = config
        self.hub = self._hub()
        self.workers = [
            Worker(config, self._context, "inproc://hub", bind("127.0.0.1", 0), self.failures.append, f"worker-{n}")
            for n in range(workers)
        ]

    def _hub(self) -> Hub:
        return Hub(self._config, self._context, "inproc://hub", self.failures.append)

    async def __aenter__(self) -> House:
        await self.hub.start()
        await asyncio.gather(*(worker.start() for worker in self.workers))
        return self

    async def __aexit__(self, *_: object) -> None:
        for worker in self.workers:
            await worker.stop()
        await self.hub.stop()
        self._context.term()
        assert not self.failures

    def visit(self, worker: int = 0, **attributes: Any) -> FakeEngineSocket:
        """An Engine.IO session of one of the workers."""
        socket = FakeEngineSocket()
        for name, value in attributes.items():
            setattr(socket, name, value)
        doors = self.workers[worker]._socketio
        assert doors is not None
        socket.visitor = doors.accepts["/socket.io/"](socket)  # type: ignore[arg-type]
        return socket

    async def enter(self, worker: int = 0, auth: str = "", **attributes: Any) -> FakeEngineSocket:
        """One that is in "/" already."""
        socket = self.visit(worker, **attributes)
        socket.say(f"0{auth}")
        await socket.until('40{"sid":')
        return socket

    async def publish(self, topic: str, data: Any, **fields: Any) -> None:
        """An event, by an inner client."""
        client = self.workers[0].inner_client()
        await client.publish(topic, data, **fields)
        client.close()


async def until(condition: Callable[[], Any]) -> Any:
    """What it returns, once that is true."""
    async with asyncio.timeout(20):
        while not (found := condition()):
            await asyncio.sleep(0.001)
        return found


def config(toml: str = "", actor: type[Namespace] | None = None) -> Config:
    """Socket.IO, with an application in "/" where one is given; ``toml`` comes behind ``[socketio]``."""
    text = f"[socketio]\nenabled = true\n{toml}\n"
    if actor is not None:
        text += f'[socketio.namespaces."/"]\nactor = "{actor.__module__}:{actor.__qualname__}"\n'
    return loads(text)


def run(test: Callable[[House], Awaitable[None]], settings: Config | None = None, workers: int = 1) -> None:
    """A test in a house of its own."""

    chosen = settings or config()
    chosen = msgspec.structs.replace(chosen, server=msgspec.structs.replace(chosen.server, workers=workers))

    async def main() -> None:
        async with House(chosen, workers) as house:
            await test(house)

    uvloop.run(main())
