"""The server that the test suites of the Engine.IO and the Socket.IO protocol describe; on public API only.

    python examples/socketio_conformance.py [--port 3000] [--workers N]

The suites are in socketio/socket.io on GitHub: `docs/engine.io-protocol/v4-test-suite` and
`docs/socket.io-protocol/v5-test-suite`; `npm ci && npm test` there, while this runs.
"""

import argparse
import asyncio
import signal
from typing import Any

from heliograph import Engine, EngineHandler, Namespace, SocketClient, on

AUTH_DELAY = (
    0.03  # s. The suite begins to wait for `auth` when it has read that it is connected: not in the same packet
)

SOCKETIO = {
    "enabled": True,
    "ping_interval": 0.3,
    "ping_timeout": 0.2,
    "max_payload": 1_000_000,
    "connect_timeout": 1.0,
    "namespaces": {
        "/": {"actor": "socketio_conformance:Main"},
        "/custom": {"actor": "socketio_conformance:Custom"},
    },
    "engines": {"/engine.io/": "socketio_conformance:Echo"},
}


class Echo(EngineHandler):
    """Plain Engine.IO: what comes goes back, as text or as bytes."""

    def on_message(self, data: bytes, binary: bool) -> None:
        self.send(data if binary else data.decode())


class Custom(Namespace):
    """Tells each client with what it has connected."""

    def on_connect(self, client: SocketClient, auth: Any) -> None:
        asyncio.get_running_loop().call_later(AUTH_DELAY, client.emit, "auth", {} if auth is None else auth)


class Main(Custom):
    """Says all again, as an event or as the acknowledgement."""

    @on("message")
    def back(self, client: SocketClient, *args: Any) -> None:
        client.emit("message-back", *args)

    @on("message-with-ack")
    def acknowledged(self, client: SocketClient, *args: Any) -> tuple[Any, ...]:
        return args


async def main(port: int, workers: int) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    server = {"port": port, "workers": workers, "origins": ["*"]}
    async with Engine(server=server, admin_port=0, socketio=SOCKETIO) as engine:
        print(f"ready {engine.url}", flush=True)
        await ended.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=3000)
    parser.add_argument("--workers", type=int, default=0, help="0: all in one process")
    options = parser.parse_args()
    asyncio.run(main(options.port, options.workers))
