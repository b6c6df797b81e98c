"""A file that one process at a time holds, so that no two write what it stands for."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Final

from transport.errors import ConfigError

LOCK_TIMEOUT: Final = 10.0  # s for a former holder to end
LOCK_INTERVAL: Final = 0.05  # s


def lock(path: Path, what: Path, field: str) -> int:
    """Hold ``path``, made where missing, until the descriptor that is returned is closed or the process ends.

    Blocks for :data:`LOCK_TIMEOUT` at most.

    Raises:
        ConfigError: another process holds it: ``what`` is in use, which ``field`` names.
        OSError: it cannot be opened.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_TIMEOUT
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(fd)
                raise ConfigError(f"another process uses {what}", field) from None
        time.sleep(LOCK_INTERVAL)
