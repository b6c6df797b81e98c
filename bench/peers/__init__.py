"""Other servers, each the least that does the same work: a client says ``SUB topic``, a publisher ``topic payload``."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import NamedTuple

from bench.server import Server
from bench.wsload import TOPIC, Dialect

DATA = '{"t":%T,"s":%S,"x":"%X"}'
PLAIN = Dialect(path="/", subscribe=(f"SUB {TOPIC}",), publish=f"{TOPIC} {DATA}")
SOCKETIO = Dialect(
    path="/socket.io/?EIO=4&transport=websocket",
    subscribe=("40", f'42["subscribe","{TOPIC}"]'),
    publish=f'42["publish","{TOPIC}",{DATA}]',
    init="40",
    after="40",
)


class Peer(NamedTuple):
    """A server of this package."""

    name: str
    module: str
    needs: tuple[str, ...]
    dialect: Dialect

    @property
    def missing(self) -> list[str]:
        """Packages that it needs and that are not installed."""
        return [package for package in self.needs if find_spec(package) is None]

    def start(self) -> Server:
        """It, ready."""
        return Server([sys.executable, "-m", f"bench.peers.{self.module}"])


PEERS = (
    Peer("websockets broadcast()", "websockets_broadcast", ("websockets",), PLAIN),
    Peer("picows naive loop", "picows_loop", ("picows",), PLAIN),
    Peer("python-socketio", "socketio_room", ("socketio", "uvicorn"), SOCKETIO),
)
