"""The engine of :mod:`bench.chaos`: started as users start it, killed process by process or as a whole."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

import psutil  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parent.parent
READY = re.compile(r"ready ws://[^:]+:(\d+)\S* admin (\S+)\n")
WAIT_S = 30.0  # until it is ready, has stopped, or a process is back
LOOK_S = 0.02
MARK = "HELIOGRAPH_SERVER__RUNTIME_DIR"  # in the environment of all processes of one engine


class ChaosEngine:
    """A context manager, which leaves no process behind.

    Args:
        config: TOML. Runtime directory and files of durable topics are in a directory that goes with this object.

    Attributes:
        port: of the clients; the same in all its lives.
        admin_url: of this life.
    """

    def __init__(self, config: str, workers: int) -> None:
        self._workers, self.port, self.admin_url = workers, 0, ""
        self._place = tempfile.TemporaryDirectory(prefix="helio-")
        self._directory = Path(self._place.name)
        (self._directory / "heliograph.toml").write_text(config)
        self._log = (self._directory / "log").open("wb")

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Until it is ready."""
        out = self._directory / "out"
        options = ["--port", str(self.port), "--admin-port", "0", "--workers", str(self._workers)]
        names = {
            MARK: str(self._directory / "run"),
            "HELIOGRAPH_HISTORY__DURABLE_FILE": str(self._directory / "history.db"),
            "HELIOGRAPH_LOG__FORMAT": "json",
        }
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HELIOGRAPH_")}
        with out.open("wb") as stdout:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "heliograph", "run", "--config", self._directory / "heliograph.toml", *options],
                cwd=ROOT,
                env=environment | names,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=self._log,
            )
        deadline = time.monotonic() + WAIT_S
        while (ready := READY.search(out.read_text())) is None:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the engine is not ready: {self.last_words()}")
            time.sleep(LOOK_S)
        self.port, self.admin_url = int(ready[1]), ready[2]

    def last_words(self) -> str:
        """The end of the log."""
        return (self._directory / "log").read_text(errors="replace")[-3000:]

    def processes(self) -> list[psutil.Process]:
        """All of this engine, also those whose parent is gone."""
        mine = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == str(self._directory / "run"):
                    mine.append(process)
            except psutil.Error:  # gone, a zombie, or somebody else's
                pass
        return mine

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """``kill -9``, or another signal, to a child, ``hub`` or ``worker-0``; waits for it to run."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            for process in self.processes():
                try:
                    if process.name() == f"helio-{name}":
                        process.send_signal(number)
                        return
                except psutil.NoSuchProcess:
                    pass
            time.sleep(LOOK_S)
        raise RuntimeError(f"there is no {name}: {self.last_words()}")

    def kill_all(self) -> None:
        """``kill -9`` of all, first of those who would start others."""
        self._process.send_signal(signal.SIGKILL)
        while left := self.processes():
            for process in left:
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    pass
            time.sleep(LOOK_S)
        self._process.wait()

    def reload(self, *options: str) -> None:
        """``heliograph reload``; raises :class:`RuntimeError` with what it said if that went wrong."""
        command = [sys.executable, "-m", "heliograph", "reload", *options, "--admin-url", self.admin_url]
        told = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if told.returncode:
            raise RuntimeError(f"the engine was not reloaded: {told.stderr}")

    def stop(self) -> None:
        """SIGTERM, until everything has ended; raises :class:`RuntimeError` where it did not go well."""
        self._process.terminate()
        if (code := self._process.wait(WAIT_S)) != 0:
            raise RuntimeError(f"the engine ended with {code}: {self.last_words()}")

    def forget(self) -> None:
        """What the end of the machine does: the runtime directory is gone, the durable file is there."""
        shutil.rmtree(self._directory / "run")

    def close(self) -> None:
        """Stop it, kill what does not, remove its files."""
        if hasattr(self, "_process"):
            self._process.terminate()
            try:
                self._process.wait(WAIT_S)
            except subprocess.TimeoutExpired:
                pass
            self.kill_all()
        self._log.close()
        self._place.cleanup()
