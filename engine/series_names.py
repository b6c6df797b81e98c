"""Which series the engine samples: those of the machine, of its processes and of itself."""

from __future__ import annotations

import re
from typing import Final

from transport.errors import ConfigError

_SPACE: Final = ("memory", "memory_used", "swap", "disk")
MACHINE: Final = ("cpu", "steal", "load", *_SPACE, "disk_read", "disk_write", "net_in", "net_out")
_COUNTED: Final = ("connections", "subscriptions", "slow_sessions", "outbox_bytes", "events", "deliveries", "dropped")
ENGINE: Final = (*_COUNTED, "latency_p50", "latency_p99", "loop_lag")
PROCESS: Final = ("cpu", "memory", "fds", "threads")
_NAME: Final = re.compile(r"(machine|engine|process\.[^.]+)\.([^.]+)")
_KNOWN: Final = {"machine": MACHINE, "engine": ENGINE}


def check_series(name: str) -> None:
    """Raise :class:`ConfigError`, for the field ``series``, where no sample ever has it; processes come and go, so any
    name of one will do.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise ConfigError("a series is machine.…, engine.… or process.NAME.…: see docs/metrics.md", "series")
    known = _KNOWN.get(found[1], PROCESS)
    if found[2] not in known:
        raise ConfigError(f"there is no {name!r}; of {found[1]} there are {', '.join(known)}", "series")
