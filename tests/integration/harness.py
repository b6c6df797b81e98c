"""The engine as its users run it, and a client that keeps every message it gets."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec
import psutil
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

COMMAND = (sys.executable, "-m", "engine", "run")
ROOT = Path(__file__).parents[2]
START_TIMEOUT = 20.0  # s to the ready line
STOP_TIMEOUT = 20.0  # s from SIGTERM to the exit
STEP = 0.02
MARK = "HELIOGRAPH_SERVER__RUNTIME_DIR"  # in the environment of all processes of one engine, and of no other


class EngineProcess:
    """``heliograph run`` and its processes, from the constructor, which returns at the ready line, to :meth:`stop`.

    Args:
        config: TOML, or a file of it.
        workers: the command's ``--workers``.
        port, admin_port: 0 picks one.
        fields: more configuration, ``table__field=value``.

    Attributes:
        runtime_dir: of this engine; to be given to another one that shall find what this one left.
    """

    def __init__(
        self, config: str | Path = "", workers: int = 1, port: int = 0, admin_port: int = 0, **fields: object
    ) -> None:
        # Not pytest's directory: the path of a Unix socket has 107 bytes at most.
        self._directory = Path(tempfile.mkdtemp(prefix="helio-"))
        if isinstance(config, Path):
            file = config
        else:
            file = self._directory / "heliograph.toml"
            file.write_text(config)
        self._log, self._out = self._directory / "log", self._directory / "out"
        self.tail = ""
        """The end of the log; after :meth:`destroy`."""
        fields = {"log__format": "json", "server__runtime_dir": self._directory / "run", **fields}
        self.runtime_dir = str(fields["server__runtime_dir"])
        environ = {f"HELIOGRAPH_{name.upper()}": str(value) for name, value in fields.items()}
        options = [
            "--config",
            str(file),
            "--port",
            str(port),
            "--admin-port",
            str(admin_port),
            "--workers",
            str(workers),
        ]
        with self._log.open("wb") as log, self._out.open("wb") as out:
            self._process = subprocess.Popen(
                [*COMMAND, *options],
                cwd=ROOT,
                env=os.environ | environ,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
            )
        self.pid = self._process.pid
        self.url, self.admin_url = self._await_ready()

    def _await_ready(self) -> tuple[str, str]:
        deadline = time.monotonic() + START_TIMEOUT
        while not (line := self._out.read_text()).endswith("\n"):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.destroy()
                raise AssertionError(f"no ready line; exit code {self._process.returncode}, log:\n{self.tail}")
            time.sleep(STEP)
        ready, url, admin, admin_url = line.split()
        assert (ready, admin) == ("ready", "admin"), line
        return url, admin_url

    @property
    def port(self) -> int:
        """Of the clients."""
        return urlsplit(self.url).port or 0

    def processes(self) -> list[psutil.Process]:
        """All living processes of this engine, also those whose parent is gone."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return bool(process.environ().get(MARK) == self.runtime_dir)
        except psutil.Error:  # gone, a zombie, or somebody else's
            return False

    def children(self) -> dict[str, int]:
        """Process ids by name: ``hub``, ``feeds``, ``worker-0``… as far as they run now."""
        found = {}
        for process in self.processes():
            try:
                name = process.name()
            except psutil.Error:
                continue
            if name.startswith("helio-"):
                found[name.removeprefix("helio-")] = process.pid
        return found

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """Send a signal to a child, or to the ``daemon``; its process id."""
        pid = self.pid if name == "daemon" else self.children()[name]
        os.kill(pid, number)
        return pid

    def memory(self, name: str) -> int:
        """Bytes that a child has of its own or as its part of what is shared (PSS; RSS where there is none)."""
        figures = psutil.Process(self.children()[name]).memory_full_info()
        return int(getattr(figures, "pss", figures.rss))

    def admin(self, path: str, method: str = "GET", body: Any = None) -> tuple[int, Any]:
        """A request to the admin API: status and body, decoded where it is JSON. Blocks for milliseconds."""
        connection = http.client.HTTPConnection(urlsplit(self.admin_url).netloc, timeout=5)
        try:
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, path, None if body is None else msgspec.json.encode(body), headers)
            answer = connection.getresponse()
            content = answer.read()
            is_json = (answer.getheader("Content-Type") or "").startswith("application/json")
            return answer.status, msgspec.json.decode(content) if is_json else content
        finally:
            connection.close()

    def log(self) -> list[dict[str, Any]]:
        """What all processes have logged so far."""
        lines = self._log.read_bytes().splitlines() if self._log.exists() else []
        return [msgspec.json.decode(line) for line in lines if line.startswith(b"{") and line.endswith(b"}")]

    def wait(self, timeout: float = STOP_TIMEOUT) -> int:
        """The daemon's exit code when it has ended (negative: the signal)."""
        return self._process.wait(timeout)

    def stop(self) -> int:
        """SIGTERM; the exit code. Idempotent."""
        if self._process.poll() is None:
            self._process.terminate()
        return self.wait()

    def destroy(self) -> list[str]:
        """At the end of a test: kill what is left, remove the files; tells what was left."""
        left = []
        for process in self.processes():
            try:
                left.append(f"{process.name()} ({process.pid})")
                process.kill()
            except psutil.Error:
                continue
        self._process.wait(STOP_TIMEOUT)
        if self._log.exists():
            self.tail = self._log.read_text()[-8_000:]
        shutil.rmtree(self._directory, ignore_errors=True)
        return left


class RawClient:
    """A WebSocket that speaks the JSON protocol and keeps all it gets: ``async with RawClient(url) as client``.

    Attributes:
        messages: all that came, in order.
        closed: the close code when the connection has ended (1006: without a close frame).
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self.messages: list[dict[str, Any]] = []
        self.closed: int | None = None
        self._ids = itertools.count(1)
        self._answers: dict[Any, asyncio.Future[dict[str, Any]]] = {}
        self._reading = asyncio.Event()
        self._reading.set()

    async def __aenter__(self) -> Self:
        self._connection: ClientConnection = await connect(
            self.url,
            additional_headers=self._headers,
            compression=None,
            max_size=None,
            ping_interval=None,
            open_timeout=10,
            close_timeout=2,
            proxy=None,
        )
        self._reader = asyncio.create_task(self._read(), name="raw client")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reading.set()
        await self._connection.close()
        await self._reader

    async def _read(self) -> None:
        try:
            while True:
                message = msgspec.json.decode(await self._connection.recv(decode=False))
                self.messages.append(message)
                answer = self._answers.pop(message.get("id"), None)
                if answer is not None and not answer.done():
                    answer.set_result(message)
                if not self._reading.is_set():
                    await self._reading.wait()
        except ConnectionClosed:
            self.closed = self._connection.close_code
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(ConnectionError(f"closed with {self.closed}"))

    def stop_reading(self) -> None:
        """As a client that hangs: the socket is no longer read once websockets' own small queue is full."""
        self._reading.clear()

    def read_on(self) -> None:
        """The opposite."""
        self._reading.set()

    def send(self, op: str, **fields: Any) -> asyncio.Future[dict[str, Any]]:
        """Queue a request, without waiting for the socket; its answer, be it ``ok`` or ``error``."""
        request_id = next(self._ids)
        answer = self._answers[request_id] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(_seen)
        self._connection.transport.write(_masked(msgspec.json.encode({"op": op, "id": request_id, **fields})))
        return answer

    async def request(self, op: str, timeout: float = 10.0, **fields: Any) -> dict[str, Any]:
        """Send a request; its answer, be it ``ok`` or ``error``."""
        async with asyncio.timeout(timeout):
            return await self.send(op, **fields)

    async def subscribe(self, *topics: str, **options: Any) -> dict[str, Any]:
        """Subscribe; the answer, which must be ``ok``."""
        answer = await self.request("subscribe", topics=list(topics), **options)
        assert answer["op"] == "ok", answer
        return answer

    def of(self, op: str) -> list[dict[str, Any]]:
        """The messages of one kind so far."""
        return [message for message in self.messages if message["op"] == op]

    def offsets(self, topic: str) -> list[int]:
        """Of the events of a topic so far."""
        return [message["offset"] for message in self.of("event") if message["topic"] == topic]


def _masked(payload: bytes) -> bytes:
    # A frame of our own: websockets' send() awaits the buffer, and a mask of zeros costs nothing.
    size = len(payload)
    head = b"\x81" + (
        bytes([0x80 | size])
        if size < 126
        else b"\xfe" + size.to_bytes(2, "big")
        if size < 65_536
        else b"\xff" + size.to_bytes(8, "big")
    )
    return head + bytes(4) + payload


def _seen(answer: asyncio.Future[dict[str, Any]]) -> None:
    if not answer.cancelled():
        answer.exception()  # who does not wait for an answer does not want to hear of its loss


class Publisher:
    """Publishes ``0, 1, 2, …`` on a topic, from ``async with`` to its end, and looks at the answers.

    Args:
        rate: events per second.

    Attributes:
        accepted: ``(epoch, offset)`` of what the engine has accepted, in order.
        refused: error codes of what it has not.
        unanswered: what it has not answered yet.
    """

    def __init__(self, client: RawClient, topic: str, rate: float) -> None:
        self._client, self._topic, self._interval = client, topic, 1 / rate
        self.accepted: list[tuple[str, int]] = []
        self.refused: list[str] = []
        self.unanswered: set[asyncio.Future[dict[str, Any]]] = set()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._publish(), name=f"publisher of {self._topic}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def stop(self) -> None:
        """No more; returns when all that was sent has been answered."""
        self._task.cancel()
        await asyncio.wait([self._task])
        await asyncio.wait_for(asyncio.gather(*self.unanswered, return_exceptions=True), 10)

    async def _publish(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        for n in itertools.count():
            answer = self._client.send("publish", topic=self._topic, data=n)
            self.unanswered.add(answer)
            answer.add_done_callback(self._answered)
            await asyncio.sleep(began + (n + 1) * self._interval - loop.time())

    def _answered(self, future: asyncio.Future[dict[str, Any]]) -> None:
        self.unanswered.discard(future)
        if not future.cancelled() and future.exception() is None:
            answer = future.result()
            if answer["op"] == "ok":
                self.accepted.append((answer["epoch"], answer["offset"]))
            else:
                self.refused.append(answer["code"])


def followed(messages: list[dict[str, Any]], topic: str) -> list[tuple[str, int]]:
    """Positions of a topic's events, each of which must follow the one before, or a gap says what is between."""
    found: list[tuple[str, int]] = []
    last: tuple[str, int] | None = None
    for message in messages:
        if message.get("topic") == topic and message["op"] in ("event", "gap"):
            epoch, first = message["epoch"], message["offset"] if message["op"] == "event" else message["from"]
            if message["op"] == "gap" and last is not None and epoch != last[0]:
                assert message["reason"] == "epoch_changed" and first == 1, (last, message)
            elif last is not None:
                assert (epoch, first) == (last[0], last[1] + 1), (last, message)
            last = epoch, message.get("to", first)
            if message["op"] == "event":
                found.append((epoch, first))
    return found
