"""Which machine a load came from. Blocks for a ms; imports psutil."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Final

import psutil

from engine.loadtest.report import Machine
from engine.version import VERSION

_GIGA: Final = 1e9
_CPU_INFO: Final = Path("/proc/cpuinfo")


def machine_facts() -> Machine:
    """Of the machine that this process runs on."""
    return Machine(
        cpu=_cpu(),
        cores=os.cpu_count() or 1,
        memory_gb=round(psutil.virtual_memory().total / _GIGA, 1),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        heliograph=VERSION,
    )


def _cpu() -> str:
    try:
        lines = _CPU_INFO.read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
