"""``run --demo``: a replay exchange in a process of its own, and a feed that reads it."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from actors.mapping import DEMO_MAP, DEMO_SUBSCRIBE
from engine.config import Config
from engine.feed_config import Feed, FeedMap
from engine.replay import ReplayExchange
from transport.errors import ConfigError
from transport.meter import Meter

FEED = "demo"
ROLE = "demo"
HOST = "127.0.0.1"


def with_demo(config: Config, port: int) -> Config:
    """``config`` and a feed called :data:`FEED` from the replay exchange at ``port``."""
    if FEED in config.feeds:
        raise ConfigError("is the name of --demo's own feed", f"feeds.{FEED}")
    feed = Feed(
        url=f"ws://{HOST}:{port}/ws",
        subscribe=tuple(json.loads(text) for text in DEMO_SUBSCRIBE),
        map=(FeedMap(**msgspec.structs.asdict(DEMO_MAP)),),
    )
    return msgspec.structs.replace(config, feeds={**config.feeds, FEED: feed})


def exchange(port: int) -> ReplayExchange:
    """All recorded instruments, each of which ticks within seconds, for ever."""
    return ReplayExchange(HOST, port, pace="demo", loop=True)


def main(argument: dict[str, Any], parent_fd: int) -> None:
    """The replay exchange's process; ``argument["port"]`` is where it serves."""
    from engine.child import Child, run_child

    async def nothing(*_: Config) -> None:
        """It has nothing to finish and takes nothing from a reload."""

    async def serve(child: Child) -> None:
        async with exchange(child.argument["port"]):
            await child.serve(meter=Meter(), drain=nothing, reload=nothing)

    run_child(argument, parent_fd, serve)
