"""An echo as a client, on the socket that feeds read: what Autobahn's fuzzing server is let loose on.

wstest -m fuzzingserver -s SPEC
python examples/ws_client_echo.py ws://127.0.0.1:9001
"""

import asyncio
import json
import sys
from typing import NoReturn

import uvloop
from websockets.exceptions import ConnectionClosed

from actors.upstream_socket import UpstreamSocket, upstream_socket
from heliograph import FeedMap, FeedSpec, MappedProtocol, ProtocolSpec

AGENT = "heliograph"
MESSAGE_BYTES = 32 << 20  # the suite sends 16 MiB
PROTOCOL = ProtocolSpec(MappedProtocol, {"maps": (FeedMap(topic="t"),)})  # not used, but a feed has one


async def talk(url: str, echo: bool) -> list[bytes]:
    """Until the server has closed; what it said, if that was not echoed."""
    spec = FeedSpec(name="echo", urls=(url,), protocol=PROTOCOL, message_bytes=MESSAGE_BYTES)
    async with upstream_socket(spec, url, None) as socket:
        messages: asyncio.Queue[tuple[bytes, bool]] = asyncio.Queue()
        socket.deliver(lambda message: messages.put_nowait((message, socket.binary)))
        sending = asyncio.create_task(send_back(socket, messages)) if echo else None
        try:
            await socket.ended()
        except ConnectionClosed:
            return [messages.get_nowait()[0] for _ in range(messages.qsize())]
        finally:
            if sending is not None:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)


async def send_back(socket: UpstreamSocket, messages: asyncio.Queue[tuple[bytes, bool]]) -> NoReturn:
    while True:
        message, binary = await messages.get()
        await socket.send(message, text=not binary)


async def main(server: str) -> None:
    (count,) = await talk(f"{server}/getCaseCount", echo=False)
    for case in range(1, json.loads(count) + 1):
        await talk(f"{server}/runCase?case={case}&agent={AGENT}", echo=True)
    await talk(f"{server}/updateReports?agent={AGENT}", echo=False)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:9001"))
