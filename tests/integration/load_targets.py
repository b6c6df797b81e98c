"""Servers for the load tester, good and bad ones, each in a process of its own.

``python load_targets.py KIND FAULT`` writes its port when it listens, and ends with its standard input. KIND is
``plain`` (websockets: ``SUB TOPIC`` subscribes, ``TOPIC DATA`` publishes) or ``socketio`` (python-socketio). FAULT, of
plain ones: ``none``; ``drop`` loses each hundredth delivery; ``stall`` does nothing for 2 s, once; ``refuse`` answers
each tenth connection with 503.
"""

from __future__ import annotations

import asyncio
import http
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

STALL_AT, STALL_S = 50, 2.0  # messages published before it; s


@contextmanager
def load_target(kind: str, fault: str = "none") -> Iterator[str]:
    """Start one; its URL."""
    with subprocess.Popen(
        [sys.executable, __file__, kind, fault], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield f"ws://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


class Plain:
    """A topic's subscribers get what is published on it."""

    def __init__(self, fault: str) -> None:
        self._fault = fault
        self._topics: defaultdict[str, set[Any]] = defaultdict(set)
        self._connections, self._published, self._deliveries = itertools.count(1), 0, 0

    def refuse(self, connection: Any, _request: Any) -> Any:
        if self._fault == "refuse" and next(self._connections) % 10 == 0:
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "no room\n")
        return None

    async def serve(self, connection: Any) -> None:
        from websockets.exceptions import ConnectionClosed

        try:
            while True:
                try:
                    message = await connection.recv()
                except ConnectionClosed:
                    return
                word, data = message.split(" ", 1)
                if word == "SUB":
                    self._topics[data].add(connection)
                else:
                    self._publish(self._topics[word], data)
        finally:
            for subscribers in self._topics.values():
                subscribers.discard(connection)

    def _publish(self, subscribers: set[Any], data: str) -> None:
        from websockets.asyncio.server import broadcast

        self._published += 1
        if self._fault == "stall" and self._published == STALL_AT:
            time.sleep(STALL_S)
        if self._fault == "drop":
            reached = set()
            for connection in subscribers:
                self._deliveries += 1
                if self._deliveries % 100:
                    reached.add(connection)
            subscribers = reached
        broadcast(subscribers, data)


async def plain(fault: str) -> None:
    from websockets.asyncio.server import serve

    server = Plain(fault)
    async with serve(server.serve, "127.0.0.1", 0, process_request=server.refuse, compression=None) as listening:
        print(next(iter(listening.sockets)).getsockname()[1], flush=True)
        await asyncio.get_running_loop().create_future()


async def socketio() -> None:
    import socket

    import uvicorn
    from socketio import ASGIApp, AsyncServer

    server = AsyncServer(async_mode="asgi", transports=["websocket"])

    async def subscribe(sid: str, options: dict[str, Any]) -> str:
        for topic in options["topics"]:
            await server.enter_room(sid, topic)
        return "ok"

    async def publish(_sid: str, event: dict[str, Any]) -> None:
        await server.emit("event", event, room=event["topic"])

    server.on("subscribe", subscribe)
    server.on("publish", publish)
    listener = socket.create_server(("127.0.0.1", 0))
    print(json.dumps(listener.getsockname()[1]), flush=True)
    config = uvicorn.Config(ASGIApp(server), log_level="error", lifespan="off")
    await uvicorn.Server(config).serve([listener])


def _end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    asyncio.run(socketio() if sys.argv[1] == "socketio" else plain(sys.argv[2]))
