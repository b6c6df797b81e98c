"""What the children of the tests run: ``argument["do"]`` says what."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from typing import Any

from engine.child import Child, run_child
from engine.control import ControlClient
from transport.codes import ErrorCode
from transport.errors import ConfigError, RequestError
from transport.meter import Meter


def main(argument: dict[str, Any], parent_fd: int) -> None:
    match argument["do"]:
        case "exit":
            sys.exit(argument["code"])
        case "raise":
            raise RuntimeError("as told")
        case "refuse":
            raise ConfigError("as told", "stages.x")
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "wait":
            os.read(parent_fd, 1)
        case "hang":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(60)
        case "node":
            run_child(argument, parent_fd, node)
        case "serve":
            asyncio.run(serve(argument, parent_fd))
        case other:
            raise AssertionError(other)


async def node(child: Child) -> None:
    """A node whose connections are as many as it was looked at, which may take for ever or fail."""
    meter = Meter()

    async def refresh() -> None:
        meter.connections += 1
        match child.argument.get("refresh"):
            case "hang":
                await asyncio.sleep(60)
            case "raise":
                raise RuntimeError("as told")

    async def nothing(*_: Any) -> None:
        """To finish, or to take from a reload."""

    await child.serve(meter=meter, drain=nothing, reload=nothing, refresh=refresh)


async def serve(argument: dict[str, Any], parent_fd: int) -> None:
    """As the engine's children do: ready, reports, drain."""

    async def drain() -> None:
        if path := argument.get("trace"):
            with open(path, "a") as trace:
                trace.write(f"{argument['name']}\n")
        await asyncio.sleep(argument.get("drain", 0))

    reloads: list[int] = []
    news: list[Any] = []
    reported = 0

    def reload(config: Any) -> None:
        if config.limits.connections == 13:
            raise ConfigError("unlucky", "limits.connections")
        reloads.append(config.limits.connections)

    async def report(late: float) -> dict[str, Any]:
        nonlocal reported
        reported += 1
        if argument.get("mute") and reported > 1:
            time.sleep(60)
        return {"figures": {"reloads": reloads, "reported": reported, "news": news}}

    async def tell(body: Any) -> Any:
        if body == "refuse":
            raise RequestError(ErrorCode.CONFLICT, "as told", "body")
        news.append(body)
        for _ in range(argument.get("changes", 0)):
            control.report_soon()
        return body

    control = ControlClient(argument, parent_fd, drain, reload, report, {"tell": tell})
    await control.start()
    await control.ready(pid=os.getpid())
    await control.wait_stopped()
    await control.close()
