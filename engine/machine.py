"""The machine and the engine's processes, as the operating system sees them. Blocks; imports psutil.

What cannot be read (a container without disk figures, a process that is just gone) is absent, the rest goes on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import psutil

from engine.log import get_logger
from engine.rates import Rates

LOOPBACK: Final = re.compile(r"lo\d*").fullmatch
"""Whether a network interface, by its name, leads nowhere."""


class Machine:
    """Reads the series ``machine.*`` and ``process.*``. On one thread.

    Args:
        path: on the file system whose room is watched.
    """

    def __init__(self, path: Path) -> None:
        self._path = next(place for place in (path, *path.absolute().parents) if place.exists())
        self._rates = Rates()
        self._silent: set[str] = set()  # what could not be read when it was last tried
        self._processes: dict[str, psutil.Process] = {}

    def sample(self, at: float, pids: Mapping[str, int]) -> dict[str, float]:
        """All that there is at ``at``, seconds of a clock that never falls; a rate is absent the first time.

        About 0.5 ms, and 0.1 ms a process.

        Args:
            pids: by the name of the process. One that was started anew goes on under its name.
        """
        parts = {
            "cpu": self._cpu,
            "memory": self._memory,
            "swap": self._swap,
            "disk": self._disk,
            "disk_io": self._disk_io,
            "net": self._net,
            "load": self._load,
        }
        found: dict[str, float] = {}
        for what, read in parts.items():
            found |= self._tried(what, read, at)
        for name, pid in pids.items():
            found |= self._tried(f"process {name}", self._process, name, pid, at)
            found |= self._tried(f"descriptors of {name}", self._descriptors, name)
        for gone in self._processes.keys() - pids.keys():
            del self._processes[gone]
        self._rates.rest(at)
        return found

    def _tried(self, what: str, read: Callable[..., dict[str, float]], *args: Any) -> dict[str, float]:
        """psutil's errors are many, and differ by system; none is worth the other series."""
        try:
            found = read(*args)
            self._silent.discard(what)
            return found
        except psutil.NoSuchProcess:
            pass  # between its death and its restart
        except Exception as error:
            if what not in self._silent:
                get_logger().warning("not_sampled", what=what, error=str(error) or type(error).__name__)
            self._silent.add(what)
        return {}

    # the machine -----------------------------------------------------------------------------------------------------

    def _cpu(self, at: float) -> dict[str, float]:
        times = psutil.cpu_times()
        # A guest's time is counted in user's, and iowait is time in which nothing was done.
        total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        busy = total - times.idle - getattr(times, "iowait", 0.0)
        counted = {"cpu": busy, "total": total}
        if hasattr(times, "steal"):  # Linux alone tells of it; busy is this, too
            counted["steal"] = times.steal
        rates = self._rates.of("cpu", counted, at)
        total = rates.pop("total", 0.0)
        return {f"machine.{name}": min(100.0, 100.0 * rate / total) for name, rate in rates.items() if total}

    def _memory(self, at: float) -> dict[str, float]:
        memory = psutil.virtual_memory()
        return {"machine.memory": memory.percent, "machine.memory_used": memory.total - memory.available}

    def _swap(self, at: float) -> dict[str, float]:
        return {"machine.swap": psutil.swap_memory().percent}

    def _disk(self, at: float) -> dict[str, float]:
        return {"machine.disk": psutil.disk_usage(str(self._path)).percent}

    def _disk_io(self, at: float) -> dict[str, float]:
        counters = psutil.disk_io_counters(nowrap=False)
        if counters is None:  # a machine without disks of its own
            return {}
        counted = {"machine.disk_read": counters.read_bytes, "machine.disk_write": counters.write_bytes}
        return self._rates.of("disk_io", counted, at)

    def _net(self, at: float) -> dict[str, float]:
        cards = psutil.net_io_counters(pernic=True, nowrap=False)
        real = [counters for name, counters in cards.items() if not LOOPBACK(name)]
        counted = {
            "machine.net_in": sum(card.bytes_recv for card in real),
            "machine.net_out": sum(card.bytes_sent for card in real),
        }
        return self._rates.of("net", counted, at)

    def _load(self, at: float) -> dict[str, float]:
        return {"machine.load": os.getloadavg()[0]}

    # processes -------------------------------------------------------------------------------------------------------

    def _process(self, name: str, pid: int, at: float) -> dict[str, float]:
        process = self._processes.get(name)
        if process is None or process.pid != pid:
            process = self._processes[name] = psutil.Process(pid)
        with process.oneshot():
            times = process.cpu_times()
            found: dict[str, float] = {
                f"process.{name}.memory": process.memory_info().rss,
                f"process.{name}.threads": process.num_threads(),
            }
        rates = self._rates.of(f"process {name} {pid}", {"cpu": times.user + times.system}, at)
        if "cpu" in rates:
            found[f"process.{name}.cpu"] = 100.0 * rates["cpu"]
        return found

    def _descriptors(self, name: str) -> dict[str, float]:
        process = self._processes.get(name)
        if process is None:
            return {}
        try:  # the directory's size is the number of descriptors (Linux 6.2), of which none has to be looked at then
            size = os.stat(f"/proc/{process.pid}/fd").st_size
        except OSError:
            size = 0
        return {f"process.{name}.fds": size or process.num_fds()}
