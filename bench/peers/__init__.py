"""Other servers, each the least that does the same work: a client says ``SUB topic``, a publisher ``topic payload``."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from bench.server import ROOT, Server
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


NODE_MODULES = ROOT / ".venv" / "node" / "node_modules"  # see the Makefile


class Peer(NamedTuple):
    """A server of this package, in Python."""

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


class NodePeer(NamedTuple):
    """A server of this package, in JavaScript."""

    name: str
    script: str
    needs: tuple[str, ...]
    dialect: Dialect

    @property
    def missing(self) -> list[str]:
        """What it needs and is not installed."""
        absent = [package for package in self.needs if not Path(NODE_MODULES, package).is_dir()]
        return absent if shutil.which("node") else ["node", *absent]

    def start(self) -> Server:
        """It, ready."""
        script = Path(__file__).with_name(self.script)
        return Server(["node", os.fspath(script)], environment={"NODE_PATH": os.fspath(NODE_MODULES)})


PEERS: tuple[Peer | NodePeer, ...] = (
    Peer("websockets broadcast()", "websockets_broadcast", ("websockets",), PLAIN),
    Peer("picows naive loop", "picows_loop", ("picows",), PLAIN),
    Peer("python-socketio", "socketio_room", ("socketio", "uvicorn"), SOCKETIO),
    NodePeer("socket.io in Node", "socketio_node.cjs", ("socket.io",), SOCKETIO),
)
