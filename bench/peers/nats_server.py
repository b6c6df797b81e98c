"""nats-server, its clients over WebSocket.

Its defaults are made for speed; compression, which https://docs.nats.io (configuration, websocket) has as an option, is
off. ``GOMAXPROCS`` is set to the cores that it may use, so that Go's scheduler has no more threads than those.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import msgspec

from bench.peers import PATH
from bench.peers.launch import launch

CONFIG = """
listen: "127.0.0.1:-1"
websocket { listen: "127.0.0.1:-1", no_tls: true }
max_connections: 1000000
"""
"""-1 is any free port; it says which in a file."""


def _main() -> int:
    program = shutil.which("nats-server", path=PATH) or "nats-server"
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory, "nats.conf")
        config.write_text(CONFIG)

        def port() -> int | None:
            for path in Path(directory).glob("*.ports"):
                try:
                    return int(msgspec.json.decode(path.read_bytes())["websocket"][0].rpartition(":")[2])
                except msgspec.DecodeError:  # it is being written
                    pass
            return None

        command = [program, "--config", os.fspath(config), "--ports_file_dir", directory]
        return launch(command, port, {**os.environ, "GOMAXPROCS": str(len(os.sched_getaffinity(0)))})


sys.exit(_main())
