"""A real Redis that a test starts, kills and starts again; conftest files import the fixture."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 10.0


class RedisServer:
    """On a free port of its own, which it keeps over restarts; it stores nothing.

    Args:
        command: the server's binary.
        directory: its working directory.
        options: of its command line, ``name=value``.
    """

    def __init__(self, command: str, directory: str, **options: object) -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            self.port: int = sock.getsockname()[1]
        fields: dict[str, object] = {"port": self.port, "bind": "127.0.0.1", "dir": directory, "save": "", **options}
        self._line = [command]
        for name, value in fields.items():
            self._line += [f"--{name.replace('_', '-')}", str(value)]
        self._password = str(options["requirepass"]) if "requirepass" in options else None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Without password."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Of the process that runs now."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Returns when it answers."""
        self._process = subprocess.Popen(self._line, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        give_up = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), START_TIMEOUT_S) as sock:
                    sock.sendall(b"PING\r\n")
                    if not sock.recv(64).startswith(b"-LOADING"):  # else it reads what it had stored
                        return
            except (ConnectionRefusedError, ConnectionResetError):
                pass
            if self._process.poll() is not None or time.monotonic() > give_up:
                raise AssertionError(f"no Redis: {' '.join(self._line)}")
            time.sleep(0.005)

    def stop(self, number: int = signal.SIGKILL) -> None:
        """As the kernel's killer would do it. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait(STOP_TIMEOUT_S)

    @contextlib.contextmanager
    def client(self) -> Iterator[redis.Redis]:
        """Another program."""
        client = redis.Redis(
            port=self.port,
            password=self._password,
            socket_timeout=START_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
        try:
            yield client
        finally:
            client.close()

    def publish(self, channel: str, *payloads: str | bytes) -> list[int]:
        """In order; how many subscriptions got each."""
        with self.client() as client:
            pipe = client.pipeline(transaction=False)
            for payload in payloads:
                pipe.publish(channel, payload)
            return list(pipe.execute())

    def subscribers(self) -> list[dict[str, Any]]:
        """What ``CLIENT LIST`` says of them."""
        with self.client() as client:
            return list(client.client_list(_type="pubsub"))


@contextlib.contextmanager
def running(command: str, **options: object) -> Iterator[RedisServer]:
    """A server for the time of the block."""
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:
        server = RedisServer(command, directory, **options)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture
def redis_server(missing: Callable[[str], NoReturn]) -> Iterator[Callable[..., RedisServer]]:
    """``redis_server(option=value, …)`` starts one; it ends with the test."""
    command = shutil.which("redis-server") or missing("redis-server")
    with contextlib.ExitStack() as servers:
        yield lambda **options: servers.enter_context(running(command, **options))
