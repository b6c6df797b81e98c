"""What the children of the tests run: ``argument["do"]`` says what."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from typing import Any

from engine.control import ControlClient
from transport.errors import ConfigError


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
        case "serve":
            asyncio.run(serve(argument, parent_fd))
        case other:
            raise AssertionError(other)


async def serve(argument: dict[str, Any], parent_fd: int) -> None:
    """As the engine's children do: ready, reports, drain."""

    async def drain() -> None:
        if path := argument.get("trace"):
            with open(path, "a") as trace:
                trace.write(f"{argument['name']}\n")
        await asyncio.sleep(argument.get("drain", 0))

    reloads: list[int] = []
    reported = 0

    def reload(config: Any) -> None:
        if config.limits.connections == 13:
            raise ConfigError("unlucky", "limits.connections")
        reloads.append(config.limits.connections)

    def report() -> dict[str, Any]:
        nonlocal reported
        reported += 1
        if argument.get("mute") and reported > 1:
            time.sleep(60)
        return {"figures": {"reloads": reloads, "reported": reported}, "health": {}}

    control = ControlClient(argument, parent_fd, drain, reload, report)
    await control.start()
    await control.ready(pid=os.getpid())
    await control.wait_stopped()
    await control.close()
