"""How hard the load client's own processes worked. Pure."""

from __future__ import annotations

from typing import Final

from engine.loadtest.latency import Latency
from engine.loadtest.report import ClientProcess

BUSY: Final = 0.9
"""Of a core; above it a process may be what limits the test."""
LATE_MS: Final = 50.0
"""Above it what a process measures is also its own lateness."""
_PERCENT: Final = 100.0
_US_PER_MS: Final = 1_000.0


class ClientLoad:
    """One process, over its measured seconds.

    Args:
        name: as reports call it.
        pid: its process id.
    """

    def __init__(self, name: str, pid: int) -> None:
        self.name, self.pid = name, pid
        self._seconds = self._busy = self._late = 0
        self._cpu = self._peak = self._worst_lag = 0.0
        self._lag = Latency()

    def add(self, cpu: float, lag_ms: float) -> None:
        """A second: the cores that it used, and how late a timer came at most."""
        self._seconds += 1
        self._busy += cpu > BUSY
        self._cpu += cpu
        self._peak = max(self._peak, cpu)
        self._late += lag_ms > LATE_MS
        self._worst_lag = max(self._worst_lag, lag_ms)
        self._lag.record(round(lag_ms * _US_PER_MS))

    def told(self) -> ClientProcess:
        """As a report has it."""
        seconds = max(1, self._seconds)
        return ClientProcess(
            name=self.name,
            pid=self.pid,
            cpu_mean=_PERCENT * self._cpu / seconds,
            cpu_peak=_PERCENT * self._peak,
            busy=self._busy / seconds,
            late=self._late / seconds,
            lag_p99_ms=self._lag.percentiles().p99,
            lag_worst_ms=self._worst_lag,
        )
