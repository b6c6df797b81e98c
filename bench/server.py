"""A server under load: its process and all its children, pinned to one core or some, from its ready line to its end."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Self

import msgspec
import psutil  # type: ignore[import-untyped]

from bench.wsload import SERVER_CORE, pin

ROOT = Path(__file__).resolve().parent.parent
READY = re.compile(rb"ready ws://[^:]+:(\d+)\S*(?: admin http://[^:]+:(\d+))?")
READY_TIMEOUT = 30.0  # s
STOP_TIMEOUT = 20.0  # s; an engine drains for 10


class Server:
    """A context manager; inside it the server is ready on ``port``, and an engine's admin API on ``admin_port``.

    Args:
        command: prints a ready line on stdout when it serves.
        source: the directory whose Python packages it uses.
        environment: variables besides those of this process.

    Raises:
        RuntimeError: it ended, or was not ready in time; with its last words.
    """

    def __init__(
        self,
        command: Sequence[str],
        source: Path = ROOT,
        cores: Set[int] = frozenset({SERVER_CORE}),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed by stop()
        own = {name: value for name, value in os.environ.items() if not name.startswith("HELIOGRAPH_")}
        self._process = subprocess.Popen(
            command,
            cwd=source,
            env=own | {"PYTHONPATH": str(source)} | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            preexec_fn=pin(cores),
        )
        try:
            ready = self._await_ready()
        except BaseException:
            self.stop()
            raise
        self.port, self.admin_port = int(ready[1]), int(ready[2] or 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _await_ready(self) -> re.Match[bytes]:
        assert self._process.stdout is not None
        pipe, said, deadline = self._process.stdout.fileno(), b"", time.monotonic() + READY_TIMEOUT
        while (found := READY.search(said)) is None or not said.endswith(b"\n"):
            left = deadline - time.monotonic()
            chunk = os.read(pipe, 4096) if left > 0 and select.select([pipe], [], [], left)[0] else b""
            if not chunk:
                self._log.seek(0)
                words = self._log.read()[-2000:].decode(errors="replace")
                raise RuntimeError(f"{self._process.args!r} is not ready: {words}")
            said += chunk
        return found

    @property
    def processes(self) -> list[psutil.Process]:
        """The process and all below it, now."""
        top = psutil.Process(self._process.pid)
        return [top, *top.children(recursive=True)]

    @property
    def pids(self) -> list[int]:
        """Of :attr:`processes`."""
        return [process.pid for process in self.processes]

    def named(self, name: str) -> psutil.Process | None:
        """An engine's process ``worker-0``, ``hub`` or ``feeds``, if it runs."""
        for process in self.processes:
            try:
                if process.name() == f"helio-{name}":
                    return process
            except psutil.NoSuchProcess:
                pass
        return None

    def clients_of(self, process: psutil.Process) -> int:
        """Connections on the client port that a process has."""
        links = process.net_connections("tcp")
        return sum(1 for link in links if link.status == "ESTABLISHED" and link.laddr.port == self.port)

    def pss(self) -> float:
        """MB of memory, pages that processes share counted once."""
        return sum(float(process.memory_full_info().pss) for process in self.processes) / 1e6

    def health(self) -> dict[str, Any]:
        """The engine's ``/health``."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/health", timeout=5) as answer:
            return msgspec.json.decode(answer.read(), type=dict[str, Any])

    def stop(self) -> None:
        """Ask, wait, and kill what has not gone."""
        try:
            processes = self.processes
        except psutil.NoSuchProcess:
            processes = []
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            pass
        for process in processes:
            try:
                process.kill()  # psutil knows a reused process id from the one it means
            except psutil.NoSuchProcess:
                pass
        self._process.wait()
        for stream in (self._process.stdout, self._log):
            if stream is not None:
                stream.close()


def engine(
    workers: int = 1,
    source: Path = ROOT,
    demo: bool = False,
    config: Path | None = None,
    environment: Mapping[str, str] | None = None,
    cores: Set[int] = frozenset({SERVER_CORE}),
) -> Server:
    """A ``heliograph run`` of the code in ``source``; with ``demo`` it also has a feed."""
    options = ["--port", "0", "--admin-port", "0", "--workers", str(workers), *(["--demo"] if demo else [])]
    options += [] if config is None else ["--config", str(config)]
    return Server([sys.executable, "-m", "engine", "run", *options], source, cores, environment)
