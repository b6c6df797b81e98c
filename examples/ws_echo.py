"""An echo on the engine's own listener and WebSocket connection, on any path: what conformance suites are run against.

python examples/ws_echo.py --port 9001 [--no-deflate]
"""

import argparse
import asyncio
import signal

import uvloop

from transport.listener import Listener, bind
from transport.websocket import ConnectionLimits, WebSocketConnection

MESSAGE_BYTES = 32 << 20  # suites send 16 MiB


class Echo:
    """Sends each message back, compressed if that was agreed on; reads no more while the client does not."""

    def __init__(self, connection: WebSocketConnection) -> None:
        self._connection = connection

    def on_message(self, data: bytes, binary: bool) -> None:
        self._connection.write(self._connection.frame(data, binary))

    def on_paused(self) -> None:
        self._connection.pause_reading()

    def on_resumed(self) -> None:
        self._connection.resume_reading()

    def last_words(self, code: int) -> bytes:
        return b""

    def on_closed(self, code: int, reason: str) -> None:
        pass


class EchoDoor:
    """Lets everybody in."""

    path = None
    subprotocols = ()

    def open(self, connection: WebSocketConnection) -> Echo:
        return Echo(connection)

    def http(self, method: str, path: str) -> None:
        return None


async def main(host: str, port: int, deflate: bool) -> None:
    loop = asyncio.get_running_loop()
    limits = ConnectionLimits(message_bytes=MESSAGE_BYTES, deflate=deflate)
    listener = Listener(loop, bind(host, port), EchoDoor(), limits)
    await listener.start()
    print(f"ready ws://{host}:{listener.port}/", flush=True)
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()
    await listener.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9001)
    parser.add_argument(
        "--deflate",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="permessage-deflate, if the client offers it",
    )
    options = parser.parse_args()
    uvloop.run(main(options.host, options.port, options.deflate))
