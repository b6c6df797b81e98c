"""Open files: each client is one, and a process may have only so many."""

from __future__ import annotations

import contextlib
import resource
import sys
from typing import Final

HEADROOM: Final = 128
"""Descriptors of a process that are no clients: about 40 for logs, bus and files, and those that its listener keeps."""


def raise_descriptor_limit() -> int:
    """Let this process, and those that it starts from now on, open as many files as the system allows; how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # macOS calls it unlimited and has a limit all the same
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def shortage(connections: int, limit: int) -> str | None:
    """Why a process with this limit cannot have so many clients, and what to do; ``None``: it can."""
    needed = connections + HEADROOM
    if limit >= needed:
        return None
    return (
        f"{limit} open files are enough for {max(0, limit - HEADROOM)} of limits.connections = {connections}: allow "
        f"{needed} (ulimit -n, LimitNOFILE= of systemd), or lower limits.connections"
    )
