"""A PostgreSQL of one's own, to be killed."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import psutil  # type: ignore[import-untyped]

START_S = 20.0
STOP_S = 20.0
LOOK_S = 0.02
PASSWORD = "a-secret-of-tests"
USER = "fx"
OPTIONS = {  # a machine that crashes is not what is tested: processes that are killed lose nothing without fsync
    "fsync": "off",
    "shared_buffers": "16MB",
    "max_connections": "30",
    "autovacuum": "off",
    "unix_socket_directories": "",
    "listen_addresses": "127.0.0.1",
}


def programs() -> Path | None:
    """The directory of initdb and postgres: the newest of Debian's, or that on the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if found:
        return found[-1].parent
    command = shutil.which("initdb")
    return None if command is None else Path(command).resolve().parent


class PostgresProcess:
    """A context manager: running, on a free port of its own, which it keeps over restarts, with a password.

    PostgreSQL refuses to run as root: then it runs as ``postgres``, or ``nobody``.
    """

    def __init__(self) -> None:
        found = programs()
        if found is None:
            raise SystemExit("this needs PostgreSQL: apt-get install postgresql")
        self._programs = found
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._place = tempfile.TemporaryDirectory(prefix="postgres-")
        self._directory = Path(self._place.name)
        self._identity: dict[str, Any] = {}
        if os.geteuid() == 0:
            names = {entry.pw_name for entry in pwd.getpwall()}
            user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
            self._identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            os.chown(self._directory, user.pw_uid, user.pw_gid)
        self._data = self._directory / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        secret = self._directory / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        options = ["--username", USER, "--auth", "scram-sha-256", "--pwfile", str(secret), "--no-sync"]
        try:
            self._run("initdb", "-D", str(self._data), "--encoding", "UTF8", "--locale", "C.UTF-8", *options)
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._place.cleanup()

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._programs / program, *arguments],
            cwd=self._directory,
            env=os.environ | {"PGPASSWORD": PASSWORD},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
            **self._identity,
        )
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr.decode()}")

    def start(self) -> None:
        """Until it accepts connections. Idempotent."""
        if self._process is not None:
            return
        line: list[str | Path] = [self._programs / "postgres", "-D", self._data, "-p", str(self.port)]
        for name, value in OPTIONS.items():
            line += ["-c", f"{name}={value}"]
        deadline = time.monotonic() + START_S
        log = self._directory / "log"
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                line, cwd=self._directory, stdin=subprocess.DEVNULL, stdout=out, stderr=out, **self._identity
            )
        ready = [self._programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        while subprocess.run(ready, timeout=START_S, check=False).returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no PostgreSQL: {log.read_text()[-2_000:]}")
            time.sleep(LOOK_S)

    def stop(self, number: int = signal.SIGKILL) -> None:
        """SIGKILL: all its processes at once, as the kernel's killer would. SIGINT: it ends in order. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        if number == signal.SIGKILL:
            for child in family:
                try:
                    child.kill()
                except psutil.NoSuchProcess:
                    continue
        process.wait(STOP_S)
        while any(map(_lives, family)):  # one that is left has the shared memory, and the next server would not start
            time.sleep(LOOK_S)

    def freeze(self, frozen: bool = True) -> None:
        """All its processes hang, or go on."""
        assert self._process is not None
        postmaster = psutil.Process(self._process.pid)
        for process in (postmaster, *postmaster.children(recursive=True)):
            if frozen:
                process.suspend()
            else:
                process.resume()

    def dsn(self, database: str = "postgres", password: str = PASSWORD) -> str:
        """Of a database of this server."""
        return f"postgresql://{USER}:{password}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """An empty one; its DSN."""
        name = f"test{next(self._numbers)}"
        self.psql(f"CREATE DATABASE {name}")
        return self.dsn(name)

    def psql(self, text: str, dsn: str | None = None) -> None:
        """As an operator would."""
        self._run("psql", "-q", "-v", "ON_ERROR_STOP=1", "-c", text, dsn or self.dsn())


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
