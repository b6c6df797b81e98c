"""``run --demo``: a replay exchange in a process of its own, a feed that reads it, alert rules and a job."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from actors.mapping import DEMO_MAP, DEMO_SUBSCRIBE
from engine.alert_config import Alert
from engine.config import Config
from engine.feed_config import Feed, FeedMap
from engine.replay import ReplayExchange
from transport.errors import ConfigError
from transport.meter import Meter

FEED = "demo"
ROLE = "demo"
HOST = "127.0.0.1"
ALERTS = {
    "demo-price": Alert(
        topic="price.XBT_USDT",
        field="price",
        when={"gte": 105_750},
        until={"lt": 105_500},
        severity="info",
        message="The recorded price is above 105,750; the alert clears below 105,500.",
    ),
    "demo-cpu": Alert(
        series="machine.cpu",
        when={"gte": 90},
        until={"lt": 75},
        for_seconds=10.0,
        message="This machine has been busy for 10 seconds.",
    ),
}
"""One that fires and clears within minutes, and one that should not."""
JOB = "demo-backtest"
STAGES = {"load": 1, "backtest": 8, "analysis": 1}
STEPS = 40  # of a stage, for each of its weight
STEP_S = 0.25
PAUSE_S = 20.0  # between two runs of the job


def with_demo(config: Config, port: int) -> Config:
    """``config``, a feed called :data:`FEED` from the replay exchange at ``port``, and :data:`ALERTS`."""
    if FEED in config.feeds:
        raise ConfigError("is the name of --demo's own feed", f"feeds.{FEED}")
    for name in ALERTS:
        if name in config.alerts:
            raise ConfigError("is the name of --demo's own alert", f"alerts.{name}")
    feed = Feed(
        url=f"ws://{HOST}:{port}/ws",
        subscribe=tuple(json.loads(text) for text in DEMO_SUBSCRIBE),
        map=(FeedMap(**msgspec.structs.asdict(DEMO_MAP)),),
    )
    alerts = {name: alert for name, alert in ALERTS.items() if alert.series is None or config.metrics.interval}
    return msgspec.structs.replace(config, feeds={**config.feeds, FEED: feed}, alerts={**config.alerts, **alerts})


def exchange(port: int) -> ReplayExchange:
    """All recorded instruments, each of which ticks within seconds, for ever."""
    return ReplayExchange(HOST, port, pace="demo", loop=True)


def main(argument: dict[str, Any], parent_fd: int) -> None:
    """The replay exchange's process; ``argument["port"]`` is where it serves."""
    from engine.child import Child, run_child

    async def nothing(*_: Config) -> None:
        """It has nothing to finish and takes nothing from a reload."""

    async def serve(child: Child) -> None:
        async with exchange(child.argument["port"]), _working(child.config, child.argument["client_port"]):
            await child.serve(meter=Meter(), drain=nothing, reload=nothing)

    run_child(argument, parent_fd, serve)


@contextlib.asynccontextmanager
async def _working(config: Config, port: int) -> AsyncIterator[None]:
    """A job that works meanwhile, where it is let in without a token and by any certificate."""
    if config.auth.required or config.server.tls_cert_file is not None:
        yield
        return
    host = HOST if config.server.host in ("0.0.0.0", "::") else config.server.host
    with tempfile.TemporaryDirectory(prefix="heliograph-demo-") as directory:
        work = asyncio.create_task(_work(host, port, directory), name="demo job")
        try:
            yield
        finally:
            work.cancel()
            await asyncio.wait([work])


async def _work(host: str, port: int, directory: str) -> None:
    from engine import progress

    await _open(host, port)
    url = f"ws://[{host}]:{port}/ws" if ":" in host else f"ws://{host}:{port}/ws"
    while True:
        with contextlib.suppress(progress.Cancelled):
            async with progress.job(JOB, stages=STAGES, resume=False, url=url, directory=directory) as job:
                for stage, weight in STAGES.items():
                    for _ in job.track(range(STEPS * weight), stage):
                        await asyncio.sleep(STEP_S)
        await asyncio.sleep(PAUSE_S)


async def _open(host: str, port: int) -> None:
    """Return when clients can connect: this process is up before the workers."""
    while True:
        try:
            _, writer = await asyncio.open_connection(host, port)
        except OSError:
            await asyncio.sleep(STEP_S)
        else:
            writer.close()
            return
