"""A Redis of one's own, to be killed."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from typing import Self

START_S = 30.0
LOOK_S = 0.02


class RedisProcess:
    """A context manager. It keeps its data on disk, and its port over restarts.

    Args:
        appendfsync: ``always`` or ``everysec``.
    """

    def __init__(self, appendfsync: str = "always") -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._place = tempfile.TemporaryDirectory(prefix="redis-")
        command = shutil.which("redis-server")
        if command is None:
            raise SystemExit("this needs redis-server")
        options = {"port": self.port, "bind": "127.0.0.1", "dir": self._place.name, "save": "", "appendonly": "yes"}
        options |= {"appendfsync": appendfsync}
        self._command = [command, *(part for name, value in options.items() for part in (f"--{name}", str(value)))]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._place.cleanup()

    def start(self) -> None:
        """Until it answers."""
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no Redis: {' '.join(self._command)}")
            time.sleep(LOOK_S)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), START_S) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")  # else it is loading
        except OSError:
            return False

    def kill(self) -> None:
        """``kill -9``."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
