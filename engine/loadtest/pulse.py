"""How a process of the load tester is itself: whether its figures are the server's, or its own."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Callable
from typing import Final

BEAT: Final = 0.02
"""Seconds between beats."""


class Pulse:
    """Beats on the running loop, and says how late the beats came and what CPU the process took.

    Args:
        on_beat: called each time.
        on_second: called once a second.
    """

    def __init__(self, on_beat: Callable[[], None], on_second: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_beat, self._on_second = on_beat, on_second
        self._late = 0.0
        self._cpu, self._lap, self._second = _cpu(), time.monotonic(), self._loop.time() + 1.0
        self._due = self._loop.time() + BEAT
        self._timer = self._loop.call_at(self._due, self._beat)

    def _beat(self) -> None:
        now = self._loop.time()
        self._late = max(self._late, now - self._due)
        self._on_beat()
        if now >= self._second:
            self._second = max(self._second + 1.0, now)
            self._on_second()
        self._due = self._loop.time() + BEAT
        self._timer = self._loop.call_at(self._due, self._beat)

    def lap(self) -> tuple[float, float]:
        """Since the last call: cores that this process took, and by how many ms the latest beat was late."""
        cpu, now = _cpu(), time.monotonic()
        cores = (cpu - self._cpu) / max(now - self._lap, 1e-9)
        late, self._late, self._cpu, self._lap = self._late, 0.0, cpu, now
        return cores, late * 1_000

    def stop(self) -> None:
        """No more beats."""
        self._timer.cancel()


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
