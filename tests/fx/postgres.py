"""A real PostgreSQL that tests start, kill and start again; test files import the fixture."""

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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 20.0
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


def binaries() -> Path | None:
    """Where Debian or the path has initdb and postgres: the newest."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if found:
        return found[-1].parent
    command = shutil.which("initdb")
    return None if command is None else Path(command).resolve().parent


class PostgresServer:
    """On a free port of its own, which it keeps over restarts, with a password.

    PostgreSQL refuses to run as root: then it runs as ``postgres``, or ``nobody``.
    """

    def __init__(self, commands: Path) -> None:
        self._commands = commands
        with socket.create_server(("127.0.0.1", 0)) as sock:
            self.port: int = sock.getsockname()[1]
        self._directory = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._identity: dict[str, Any] = {}
        if os.geteuid() == 0:
            names = {entry.pw_name for entry in pwd.getpwall()}
            user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
            self._identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            os.chown(self._directory, user.pw_uid, user.pw_gid)
        self._data = self._directory / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        secret = self._directory / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        options = ["--username", USER, "--auth", "scram-sha-256", "--pwfile", str(secret), "--no-sync"]
        self._run("initdb", "-D", str(self._data), "--encoding", "UTF8", "--locale", "C.UTF-8", *options)

    def _run(self, command: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._commands / command, *arguments],
            cwd=self._directory,
            env=os.environ | {"PGPASSWORD": PASSWORD},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            **self._identity,
        )
        assert done.returncode == 0, done.stderr.decode()

    def start(self) -> None:
        """Returns when it accepts connections."""
        line: list[str | Path] = [self._commands / "postgres", "-D", self._data, "-p", str(self.port)]
        for name, value in OPTIONS.items():
            line += ["-c", f"{name}={value}"]
        give_up = time.monotonic() + START_TIMEOUT_S
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                line, cwd=self._directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self._identity
            )
        ready = [self._commands / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        while subprocess.run(ready, timeout=START_TIMEOUT_S, check=False).returncode:
            if self._process.poll() is not None or time.monotonic() > give_up:
                raise AssertionError(f"no PostgreSQL: {(self._directory / 'log').read_text()[-2_000:]}")
            time.sleep(0.02)

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
        process.wait(STOP_TIMEOUT_S)
        while any(map(_lives, family)):  # one that is left has the shared memory, and the next server would not start
            time.sleep(0.005)

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

    def destroy(self) -> None:
        """At the end."""
        self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One for all tests, which start it again where they stop it."""
    commands = binaries()
    if commands is None:
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail("PostgreSQL is missing, and CI must have it")
        pytest.skip("PostgreSQL is missing")
    server = PostgresServer(commands)
    try:
        server.start()
        yield server
    finally:
        server.destroy()
