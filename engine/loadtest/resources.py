"""What the machine and the server under test use while a test runs, sampled in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

import psutil
import pykka

from engine.machine import Machine
from engine.rates import Rates

INTERVAL: Final = 1.0  # s between samples
HISTORY: Final = 1_000  # samples; the oldest go
STOP_TIMEOUT: Final = 5.0  # s for a sample that is being taken
_MEGA: Final = 1e6


class ResourceSample(NamedTuple):
    """One look.

    Attributes:
        t: s of CLOCK_MONOTONIC.
        cpu: of all of the machine's cores, %.
        memory: of the machine, %.
        net_mb: received by this machine, its loopback included, MB/s.
        server_cpu: of the server's processes together, % of one core; ``None``: none is known.
        server_memory_mb: theirs in MB, what they share counted for each.
        steal: of ``cpu`` what a virtual machine's host withheld, %; 0 where the system does not tell.
    """

    t: float
    cpu: float
    memory: float
    net_mb: float
    server_cpu: float | None
    server_memory_mb: float | None
    steal: float = 0.0


class Level(NamedTuple):
    """One figure of all samples kept."""

    mean: float
    peak: float
    current: float


class WebSocketResourceMonitor:
    """Samples from :meth:`start` to :meth:`stop`, or in ``with``; may be asked at any time, from any thread.

    Args:
        pids: the server's processes by name, asked at each sample, on the monitor's thread.
        interval: s between samples.
        history: samples that are kept.
    """

    def __init__(
        self,
        pids: Callable[[], Mapping[str, int]] = dict,
        interval: float = INTERVAL,
        history: int = HISTORY,
    ) -> None:
        self._pids, self._interval = pids, interval
        self._samples: deque[ResourceSample] = deque(maxlen=history)
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._actor: pykka.ActorRef[_Sampling] | None = None

    def start(self) -> None:
        """The first sample comes an interval later: processor time is known between two looks only."""
        self._actor = _Sampling.start(self._pids, self._keep, self._interval, self._ended)
        self._actor.tell(_SAMPLE)

    def stop(self) -> None:
        """Take no more samples; those taken stay. Idempotent; blocks while one is being taken."""
        self._ended.set()
        if self._actor is not None:
            self._actor.stop(timeout=STOP_TIMEOUT)
            self._actor = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _keep(self, sample: ResourceSample) -> None:
        with self._lock:
            self._samples.append(sample)

    @property
    def history(self) -> list[ResourceSample]:
        """The samples, oldest first."""
        with self._lock:
            return list(self._samples)

    @property
    def current(self) -> ResourceSample | None:
        """The last one, if there is one yet."""
        with self._lock:
            return self._samples[-1] if self._samples else None

    def summary(self) -> dict[str, Level]:
        """Of each of a sample's figures (``cpu``, ``memory``, …) that was known at least once."""
        samples = self.history
        levels = {}
        for name in ResourceSample._fields[1:]:
            values = [value for sample in samples if (value := getattr(sample, name)) is not None]
            if values:
                levels[name] = Level(sum(values) / len(values), max(values), values[-1])
        return levels


_SAMPLE: Final = "sample"


class _Sampling(pykka.ThreadingActor):
    """Samples, waits for the next one's time and tells itself to go on; so it is told to stop between two."""

    use_daemon_thread = True

    def __init__(
        self,
        pids: Callable[[], Mapping[str, int]],
        keep: Callable[[ResourceSample], None],
        interval: float,
        ended: threading.Event,
    ) -> None:
        super().__init__()
        self._pids, self._keep, self._interval, self._ended = pids, keep, interval, ended
        self._machine = Machine(Path("/"))
        self._rates = Rates()

    def on_start(self) -> None:
        self._due = time.monotonic()

    def on_receive(self, _message: object) -> None:
        if self._ended.is_set():
            return
        now = time.monotonic()
        sample = self._sample(now)
        if sample is not None:
            self._keep(sample)
        self._due = max(self._due + self._interval, now)  # late ones are not made up for
        if not self._ended.wait(max(0.0, self._due - time.monotonic())):
            self.actor_ref.tell(_SAMPLE)

    def _sample(self, now: float) -> ResourceSample | None:
        pids = self._pids()
        found = self._machine.sample(now, pids)
        net = self._rates.of("net", {"received": _received()}, now)
        if "machine.cpu" not in found:
            return None  # the first look
        cpu = [found[name] for pid in pids if (name := f"process.{pid}.cpu") in found]
        memory = [found[name] for pid in pids if (name := f"process.{pid}.memory") in found]
        return ResourceSample(
            t=now,
            cpu=found["machine.cpu"],
            memory=found.get("machine.memory", 0.0),
            net_mb=net.get("received", 0.0) / _MEGA,
            server_cpu=sum(cpu) if cpu else None,
            server_memory_mb=sum(memory) / _MEGA if memory else None,
            steal=found.get("machine.steal", 0.0),
        )


def _received() -> float:
    try:
        counters = psutil.net_io_counters(nowrap=False)
    except (psutil.Error, OSError):  # a container may not show them
        return 0.0
    return float(counters.bytes_recv) if counters else 0.0
