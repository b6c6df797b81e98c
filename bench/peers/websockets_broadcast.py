"""websockets' own :func:`broadcast`, on uvloop, without compression."""

from __future__ import annotations

import asyncio

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

_topics: dict[str, set[ServerConnection]] = {}


async def _client(connection: ServerConnection) -> None:
    async for message in connection:
        assert isinstance(message, str)
        if message.startswith("SUB "):
            _topics.setdefault(message[4:], set()).add(connection)
        else:
            topic, _, data = message.partition(" ")
            broadcast(_topics.get(topic, ()), data)
    for members in _topics.values():
        members.discard(connection)


async def _main() -> None:
    async with serve(_client, "127.0.0.1", 0, compression=None, backlog=4096) as server:
        print(f"ready ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/", flush=True)
        await asyncio.Event().wait()


uvloop.run(_main())
