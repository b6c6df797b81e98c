"""What the forkserver has in memory before it forks: importing this module is all it does.

Whatever every child would build for itself costs its memory once per child: modules, and what msgspec learns of a type
at its first use (2.5 MB for the configuration). No thread and no loop may come into being here.
"""

from __future__ import annotations

import encodings.idna  # socket.getaddrinfo wants it

import msgspec
import uvloop

import engine.child
import engine.feeds
import engine.hub
import engine.worker
from engine.config import Config
from transport import codec, messages

__all__ = ["encodings", "engine", "uvloop"]

msgspec.convert(msgspec.to_builtins(Config()), Config)
codec.unpack_batch(
    codec.join(
        [
            codec.pack(message)
            for message in (
                messages.Hello("", "", 0),
                messages.Tell("", "", None),
                messages.Publish(0, "", "", b""),
                messages.Published([]),
                messages.Publication("", "", 0, 0.0, "", b""),
                messages.Interest(0, [], [], [], []),
                messages.Fence(0, "", {}, []),
            )
        ]
    )
)
