"""An application in a Socket.IO namespace, for the tests of the engine as its users run it."""

from __future__ import annotations

from typing import Any

from heliograph import ConnectionRefused, Namespace, Publication, SocketClient, on


class Rooms(Namespace):
    """Clients join topics as rooms."""

    notices = frozenset({"gap"})

    def encode(self, event: Publication) -> bytes | None:
        return b'["said",%b]' % event.data

    def on_connect(self, client: SocketClient, auth: Any) -> None:
        if auth == {"ticket": "bad"}:
            raise ConnectionRefused("that ticket is no good", {"ticket": "bad"})
        client.emit("welcome", {"id": client.id, "clients": self.engine.clients})

    @on("join")
    def join(self, client: SocketClient, room: str) -> None:
        client.subscribe([room], snapshot=True, reply=lambda fields: client.packet("joined", room, fields["op"]))

    @on("say")
    async def say(self, client: SocketClient, room: str, words: Any) -> int:
        position = await self.engine.publish(room, words)
        return 0 if position is None else position.offset

    @on("echo")
    def echo(self, client: SocketClient, *values: Any) -> tuple[Any, ...]:
        return values

    @on("census")
    async def census(self, client: SocketClient) -> tuple[Any, ...]:
        return tuple(await self.engine.census())
