"""picows, on uvloop, one ``send`` per client per message."""

from __future__ import annotations

import asyncio

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

_topics: dict[bytes, dict[WSTransport, None]] = {}


class _Client(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()
        elif frame.msg_type == WSMsgType.TEXT:
            message = frame.get_payload_as_bytes()
            if message.startswith(b"SUB "):
                _topics.setdefault(message[4:], {})[transport] = None
            else:
                topic, _, data = message.partition(b" ")
                for member in _topics.get(topic, ()):
                    member.send(WSMsgType.TEXT, data)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        for members in _topics.values():
            members.pop(transport, None)


def _accept(_request: WSUpgradeRequest) -> _Client:
    return _Client()


async def _main() -> None:
    server = await ws_create_server(_accept, "127.0.0.1", 0, backlog=4096)
    print(f"ready ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/", flush=True)
    await asyncio.Event().wait()


uvloop.run(_main())
