"""python-socketio under uvicorn, on uvloop: a room per topic."""

from __future__ import annotations

import socket
from typing import Any

import socketio  # type: ignore[import-untyped]
import uvicorn
import uvloop

_server = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins="*")


@_server.event  # type: ignore[untyped-decorator]
async def subscribe(sid: str, topic: str) -> None:
    """A client joins the topic's room."""
    await _server.enter_room(sid, topic)


@_server.event  # type: ignore[untyped-decorator]
async def publish(_sid: str, topic: str, data: Any) -> None:
    """An event for everybody in the topic's room."""
    await _server.emit("event", data, room=topic)


async def _main() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as sock:
        print(f"ready ws://127.0.0.1:{sock.getsockname()[1]}/", flush=True)
        app = socketio.ASGIApp(_server)
        config = uvicorn.Config(
            app, lifespan="off", log_level="warning", ws="websockets-sansio", ws_per_message_deflate=False
        )
        await uvicorn.Server(config).serve(sockets=[sock])


uvloop.run(_main())
