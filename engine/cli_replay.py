"""``heliograph replay``: the replay exchange until it has played everything, or a signal ends it."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from engine.replay import ReplayExchange, serve
from transport.errors import ConfigError


def replay(files: Sequence[Path], host: str, port: int, speed: str, loop: bool) -> int:
    """Serve until the end; one line on stdout when it is ready.

    Raises:
        ConfigError: a file, the speed or the address cannot be used.
    """
    logging.basicConfig(format="heliograph: %(message)s", stream=sys.stderr, level=logging.WARNING, force=True)
    asyncio.run(_serve(files, host, port, _speed(speed), loop))
    return 0


async def _serve(files: Sequence[Path], host: str, port: int, speed: float | Literal["demo"], loop: bool) -> None:
    playing = asyncio.create_task(
        serve(files, host=host, port=port, speed=speed, loop=loop, on_ready=_ready), name="replay"
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, playing.cancel)
    await asyncio.wait({playing})
    if not playing.cancelled():
        playing.result()


def _ready(exchange: ReplayExchange) -> None:
    sys.stdout.write(f"ready {exchange.url}\n")
    sys.stdout.flush()


def _speed(text: str) -> float | Literal["demo"]:
    if text == "demo":
        return "demo"
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f'a number above 0 or "demo", not {text!r}', "--speed") from None
