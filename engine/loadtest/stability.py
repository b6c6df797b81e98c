"""Who stays connected, what the tester breaks on purpose, and who comes back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from engine.loadtest.report import Fault, FaultKind, Stability

INTERVAL: Final = 5.0  # s between samples


class ConnectionStabilityTester:
    """Counts connection seconds, and faults. Times are seconds since the test began, and the caller's.

    Args:
        expected: connections that are open at the beginning, and are to stay so.
        began: when that was.
        cut: aborts so many open connections; how many they were.
        kill_worker: kills a worker of the server; its name.
    """

    def __init__(
        self,
        expected: int,
        began: float,
        cut: Callable[[int], Awaitable[int]],
        kill_worker: Callable[[], Awaitable[str]],
    ) -> None:
        self.expected = expected
        self.samples: list[Stability] = []
        self._cut, self._kill_worker = cut, kill_worker
        self._due = began + INTERVAL
        self._last = began
        self._wanted = self._away = 0.0  # connection seconds
        self._open = expected
        self._faults: list[_Fault] = []

    def observe(self, t: float, open_now: int, judged: bool) -> None:
        """What is open now, once a second. Whom the tester itself has cut is not missed until it has come back.

        Args:
            judged: whether this second counts; those of the recovery phase do not, as its losses are wanted.
        """
        passed = max(0.0, t - self._last)
        self._last, self._open = t, open_now
        if judged:
            wanted = self.expected - sum(fault.affected - len(fault.times) for fault in self._faults)
            self._wanted += wanted * passed
            self._away += max(0, wanted - open_now) * passed
        if t >= self._due:
            uptime = 1.0 if self.uptime is None else self.uptime
            self.samples.append(Stability(t=t, open=open_now, expected=self.expected, uptime=uptime))
            self._due = max(self._due + INTERVAL, t)

    @property
    def uptime(self) -> float | None:
        """Share of the connection seconds that count so far; ``None``: none do."""
        return 1 - self._away / self._wanted if self._wanted else None

    async def cut(self, t: float, share: float) -> None:
        """Abort a share of the open connections, one at least."""
        fault = self._broken(t, "cut")
        fault.affected = wanted = max(1, round(share * self._open))  # some may be back before we are told
        fault.affected = await self._cut(wanted)
        fault.what = f"{fault.affected} connections cut"

    async def kill(self, t: float) -> None:
        """Kill a worker of the server.

        Raises:
            NoWorker: there is none that may be killed.
        """
        fault = self._broken(t, "kill")  # before it is done: its connections may be told of while we wait
        try:
            fault.what = f"{await self._kill_worker()} killed"
        finally:
            if not fault.what:
                self._faults.remove(fault)

    def _broken(self, t: float, kind: FaultKind) -> _Fault:
        fault = _Fault(t, kind)
        self._faults.append(fault)
        return fault

    def lost(self, count: int) -> bool:
        """So many connections went unasked in the recovery phase: the last worker that was killed had them.

        Returns:
            Whether one was.
        """
        fault = next((fault for fault in reversed(self._faults) if fault.kind == "kill"), None)
        if fault is not None:
            fault.affected += count
        return fault is not None

    def recovered(self, seconds: Iterable[float]) -> None:
        """Connections are open and subscribed again, each after so many seconds: those of the earliest fault first."""
        for time in seconds:
            for fault in self._faults:
                if len(fault.times) < fault.affected:
                    fault.times.append(time)
                    break

    @property
    def faults(self) -> list[Fault]:
        """In order."""
        return [fault.told() for fault in self._faults]


class _Fault:
    def __init__(self, t: float, kind: FaultKind) -> None:
        self.t, self.kind, self.what = t, kind, ""
        self.affected = 0
        self.times: list[float] = []

    def told(self) -> Fault:
        times = self.times
        return Fault(
            t=self.t,
            kind=self.kind,
            what=self.what,
            affected=self.affected,
            recovered=len(times),
            mean_s=sum(times) / len(times) if times else None,
            worst_s=max(times, default=None),
        )
