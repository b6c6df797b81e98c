"""Servers that do the same work: who subscribes to a topic gets what is published there.

Those without a protocol of their own for that get the least one: a client says ``SUB topic``, a publisher
``topic payload``. Each is configured as its own documentation says for speed, without compression and TLS. They print
a ready line as an engine does, and end at SIGTERM. ``python -m bench.peers`` measures them.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from bench.server import ROOT, Server, engine
from bench.wsload import MESSAGE_BYTES, NATIVE, TOPIC, Dialect

HERE = Path(__file__).parent
NODE_MODULES = ROOT / ".venv" / "node" / "node_modules"  # see the Makefile
NCHAN_MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")  # where Debian has it
PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))

DATA = '{"t":%T,"s":%S,"x":"%X"}'
PLAIN = Dialect(path="/", subscribe=(f"SUB {TOPIC}",), publish=f"{TOPIC} {DATA}")
SOCKETIO = Dialect(
    path="/socket.io/?EIO=4&transport=websocket",
    subscribe=("40", f'42["subscribe","{TOPIC}"]'),
    publish=f'42["publish","{TOPIC}",{DATA}]',
    init="40",
    after="40",
)
OUR_SOCKETIO = SOCKETIO._replace(
    subscribe=("40", f'42["subscribe",{{"topics":["{TOPIC}"]}}]'),
    publish=f'42["publish",{{"topic":"{TOPIC}","data":{DATA}}}]',
)
NCHAN = Dialect(path="/subscribe", subscribe=(), publish=DATA, publish_path="/publish")


def nats(filler: int | None = None) -> Dialect:
    """NATS' own protocol, for data with so much filler, or for messages as long as the others'. A message announces its
    length, so filler and sequence are always the same.
    """
    connect = 'CONNECT {"verbose":false,"pedantic":false}\\r\\n'
    data = DATA.replace("%S", "1000")
    bare = len(data.replace("%T", "0" * 19).replace("%X", ""))
    if filler is None:
        filler = MESSAGE_BYTES - len(f"PUB {TOPIC} 100\r\n\r\n") - bare
    return Dialect(
        path="/",
        subscribe=(f"{connect}SUB {TOPIC} 1\\r\\n",),
        publish=f"PUB {TOPIC} {bare + filler}\\r\\n{data.replace('%X', 'x' * filler)}\\r\\n",
        init=connect,
    )


class Peer(NamedTuple):
    """A server to measure.

    Attributes:
        absent: what is to be installed before it can start, and how; empty if it can.
    """

    name: str
    start: Callable[[], Server]
    dialect: Dialect
    absent: Callable[[], str] = str


def _python(module: str) -> Callable[[], Server]:
    return lambda: Server([sys.executable, "-m", f"bench.peers.{module}"])


def _node(script: str) -> Callable[[], Server]:
    return lambda: Server(["node", os.fspath(HERE / script)], environment={"NODE_PATH": os.fspath(NODE_MODULES)})


def _packages(*modules: str) -> Callable[[], str]:
    def absent() -> str:
        lacking = [module for module in modules if find_spec(module) is None]
        return f"{', '.join(lacking)} (make .venv/.bench)" if lacking else ""

    return absent


def _modules(*modules: str) -> Callable[[], str]:
    def absent() -> str:
        if shutil.which("node") is None:
            return "node (apt-get install nodejs npm), then make node"
        lacking = [module for module in modules if not Path(NODE_MODULES, module).is_dir()]
        return f"{', '.join(lacking)} (make node)" if lacking else ""

    return absent


def _nchan() -> str:
    there = NCHAN_MODULE.exists() and shutil.which("nginx", path=PATH)
    return "" if there else "nginx with Nchan (apt-get install nginx-core libnginx-mod-nchan)"


def _nats() -> str:
    return "" if shutil.which("nats-server", path=PATH) else "nats-server (apt-get install nats-server)"


HELIOGRAPH = Peer("heliograph", engine, NATIVE)
NATS = Peer("nats", _python("nats_server"), nats(), _nats)
PEERS = (
    HELIOGRAPH,
    NATS,
    Peer("nchan", _python("nginx_nchan"), NCHAN, _nchan),
    Peer("picows", _python("picows_loop"), PLAIN, _packages("picows")),
    Peer("websockets", _python("websockets_broadcast"), PLAIN, _packages("websockets")),
    Peer("ws", _node("ws_node.cjs"), PLAIN, _modules("ws")),
    Peer("heliograph-socketio", lambda: engine(config=HERE / "socketio.toml"), OUR_SOCKETIO),
    Peer("socket.io", _node("socketio_node.cjs"), SOCKETIO, _modules("socket.io")),
    Peer("python-socketio", _python("socketio_room"), SOCKETIO, _packages("socketio", "uvicorn")),
)
"""Each with its own protocol; the last three are Socket.IO."""
