"""The daemon and its processes, for real: one program, its stdout, its signals, its sockets."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

ROOT = Path(__file__).parents[2]
READY = re.compile(r"ready ws://([\d.]+):(\d+)/ws admin http://([\d.]+):(\d+)\n")
DEADLINE = 10.0
PROGRAM = """
import json, sys
from engine.config import load
from engine.daemon import run
overrides, file, demo = json.loads(sys.argv[1])
read = lambda: load(file, overrides, {})
sys.exit(run(read(), demo, read))
"""


class Engine:
    """``heliograph run`` without the command line."""

    def __init__(self, path: Path, *, file: Path | None = None, demo: bool = False, **overrides: object) -> None:
        settings: dict[str, object] = {
            "server.port": 0,
            "admin.port": 0,
            "server.workers": 2,
            "server.runtime_dir": str(path / "run"),
            "server.heartbeat_interval": 0.2,
            "server.heartbeat_timeout": 1.0,
            "log.format": "json",
        }
        settings |= {name.replace("__", "."): value for name, value in overrides.items()}
        arguments = json.dumps([settings, str(file) if file else None, demo])
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self.log: list[dict[str, Any]] = []
        self._stdout: queue.Queue[str] = queue.Queue()
        self._readers = [threading.Thread(target=reader) for reader in (self._read_stdout, self._read_stderr)]
        for reader in self._readers:
            reader.start()

    def _read_stdout(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._stdout.put(line)

    def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                self.log.append(json.loads(line))
            except ValueError:
                self.log.append({"event": "raw", "text": line})

    def wait_ready(self) -> None:
        line = self._stdout.get(timeout=DEADLINE)
        match = READY.fullmatch(line)
        assert match, line
        self.port, self.admin_port = int(match[2]), int(match[4])

    def get(self, path: str) -> tuple[int, Any]:
        return self._open(f"http://127.0.0.1:{self.admin_port}{path}")

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.admin_port}{path}",
            json.dumps(body).encode(),
            {"content-type": "application/json"},
            method="POST",
        )
        return self._open(request)

    def _open(self, request: Any) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def component(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.get("/health")[1]["components"][name]
        return found

    def until(self, condition: Callable[[], object], deadline: float = DEADLINE) -> None:
        end = time.monotonic() + deadline
        while not condition():
            assert time.monotonic() < end, f"too late; the log: {self.log}"
            time.sleep(0.02)

    def logged(self, event: str, **fields: object) -> list[dict[str, Any]]:
        wanted = {"event": event, **fields}
        return [line for line in self.log if all(line.get(name) == value for name, value in wanted.items())]

    def pid(self, name: str) -> int:
        """Of the child's present life."""
        return int(self.logged("process_ready", name=name)[-1]["child_pid"])

    def children(self) -> list[int]:
        return [line["child_pid"] for line in self.logged("process_ready")]

    def connect(self) -> Any:
        return connect(f"ws://127.0.0.1:{self.port}/ws", compression=None)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, deadline: float = DEADLINE) -> int:
        return self.process.wait(deadline)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for reader in self._readers:
            reader.join()
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.process.stdout.close()
        self.process.stderr.close()


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@contextmanager
def engine(path: Path, **options: Any) -> Iterator[Engine]:
    it = Engine(path, **options)
    try:
        it.wait_ready()
        yield it
    finally:
        it.close()


def exchange(client: Any, **request: Any) -> dict[str, Any]:
    """The answer to a request; events are skipped."""
    client.send(json.dumps({"id": 1, **request}))
    while True:
        message: dict[str, Any] = json.loads(client.recv(timeout=5))
        if message["op"] in ("ok", "error"):
            return message


def publish_until_accepted(it: Engine, client: Any) -> dict[str, Any]:
    answers: list[dict[str, Any]] = []

    def accepted() -> bool:
        answers.append(exchange(client, op="publish", topic="t", data=1))
        return answers[-1]["op"] == "ok"

    it.until(accepted)
    return answers[-1]


def test_serves_clients_and_admin_and_drains(tmp_path: Path) -> None:
    with engine(tmp_path) as it, it.connect() as one, it.connect() as two:
        for client in (one, two):
            assert json.loads(client.recv())["op"] == "welcome"
        assert exchange(one, op="subscribe", topics=["a.*"])["topics"] == ["a.*"]
        assert exchange(two, op="publish", topic="a.b", data={"x": 1})["offset"] == 1
        assert json.loads(one.recv(timeout=5))["data"] == {"x": 1}

        status, health = it.get("/health")
        assert (status, health["status"]) == (200, "ok")
        assert set(health["components"]) == {"hub", "history", "metrics", "worker-0", "worker-1"}
        assert it.get("/ready")[0] == 200

        it.signal(signal.SIGTERM)
        bye = json.loads(one.recv(timeout=5))
        assert (bye["op"], bye["code"], bye["reason"]) == ("bye", 1012, "drain")
        with pytest.raises(ConnectionClosed) as closed:
            one.recv(timeout=5)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        assert it.wait() == 0
        stopped = [line["name"] for line in it.logged("process_stopped")]
        assert stopped[-1] == "hub"
        assert all(gone(pid) for pid in it.children())
        assert [left.name for left in (tmp_path / "run").iterdir()] == ["history"], "for the next one"


def test_the_admin_api_publishes_tells_and_drains(tmp_path: Path) -> None:
    with engine(tmp_path) as it, it.connect() as client:
        exchange(client, op="subscribe", topics=["a"])
        status, _ = it.post("/api/publish", {"topic": "a", "data": 1})
        assert status == 200
        assert json.loads(client.recv(timeout=5))["data"] == 1
        os.kill(it.pid("worker-0"), signal.SIGKILL)
        it.until(lambda: it.get("/stats")[1]["process_restarts"].get("worker-0") == 1)
        it.until(lambda: it.get("/stats")[1]["events_published"] == 1)
        former = it.pid("hub")
        os.kill(former, signal.SIGSTOP)
        status, refused = it.post("/api/publish", {"topic": "a", "data": 1})
        assert (status, refused["error"]["code"]) == (503, "unavailable")
        it.until(lambda: it.pid("hub") != former)
        assert it.post("/api/drain", {})[0] == 200
        assert it.wait() == 0


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    with engine(tmp_path, server__drain_timeout=60) as it:
        with socket.create_connection(("127.0.0.1", it.port)):  # half a handshake, and silence
            for pid in (it.pid("worker-0"), it.pid("worker-1")):
                os.kill(pid, signal.SIGSTOP)  # a drain that takes for ever
            it.signal(signal.SIGINT)
            it.until(lambda: it.logged("process_stopping"))
            it.signal(signal.SIGINT)
            assert it.wait(3) == 0
        assert all(gone(pid) for pid in it.children())


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for setting in ("server__port", "admin__port"):
            it = Engine(tmp_path, **{setting: port})
            try:
                assert it.wait() == 1
            finally:
                it.close()
            assert f":{port}" in it.log[-1]["error"]
            assert "taken" in it.log[-1]["error"]


def test_a_second_daemon_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    with engine(tmp_path) as first:
        second = Engine(tmp_path, server__port=first.port)
        try:
            assert second.wait(3) == 1
        finally:
            second.close()
        assert f"process {first.process.pid}" in second.log[-1]["error"]
        elsewhere = Engine(tmp_path / "elsewhere", server__port=first.port)
        try:
            assert elsewhere.wait(3) == 1
        finally:
            elsewhere.close()
        assert f":{first.port}" in elsewhere.log[-1]["error"]
        assert first.get("/ready")[0] == 200


@pytest.mark.parametrize("name", ["worker-0", "hub"])
def test_a_killed_process_is_restarted(tmp_path: Path, name: str) -> None:
    with engine(tmp_path) as it, it.connect() as client:
        former = it.pid(name)
        os.kill(former, signal.SIGKILL)
        it.until(lambda: it.pid(name) != former)
        assert it.logged("process_restarting", name=name)[0]["reason"] == "killed by SIGKILL"
        it.until(lambda: it.get("/health")[1]["status"] == "ok")
        if name == "hub":
            assert publish_until_accepted(it, client)["offset"] == 1


def test_a_frozen_hub_is_down_then_replaced(tmp_path: Path) -> None:
    with engine(tmp_path) as it:
        former = it.pid("hub")
        os.kill(former, signal.SIGSTOP)
        it.until(lambda: it.logged("process_restarting", name="hub"))
        assert it.logged("process_restarting", name="hub")[0]["reason"] == "silent for 1 s"
        it.until(lambda: it.pid("hub") != former)


def test_kill_9_of_the_daemon_leaves_nothing_and_a_new_start_works(tmp_path: Path) -> None:
    with engine(tmp_path) as it, it.connect():
        port, children, frozen = it.port, it.children(), it.pid("worker-1")
        assert len(children) == 3
        os.kill(frozen, signal.SIGSTOP)
        it.process.kill()
        it.process.wait()
        it.until(lambda: all(gone(pid) for pid in children if pid != frozen))
        with engine(tmp_path, server__port=port) as successor:  # waits for the last of them
            assert gone(frozen)
            assert successor.port == port
            assert successor.get("/ready")[0] == 200


def test_sighup_reloads_what_can_be(tmp_path: Path) -> None:
    file = tmp_path / "heliograph.toml"
    file.write_text("[limits]\ntopics_per_request = 2\n")
    with engine(tmp_path, file=file) as it:
        with it.connect() as client:
            assert exchange(client, op="subscribe", topics=["a", "b", "c"])["code"] == "limit_exceeded"
        file.write_text("[limits]\ntopics_per_request = 3\n[history]\ntopic_idle = 5.0\n")
        it.signal(signal.SIGHUP)
        it.until(lambda: it.logged("engine_reloaded"))
        assert it.logged("engine_reloaded")[0]["needs_restart"] == ["history.topic_idle"]
        with it.connect() as client:
            assert exchange(client, op="subscribe", topics=["a", "b", "c"])["op"] == "ok"
        formers = [it.pid("worker-0"), it.pid("worker-1")]
        for former in formers:
            os.kill(former, signal.SIGKILL)
        it.until(lambda: {it.pid("worker-0"), it.pid("worker-1")}.isdisjoint(formers))
        with it.connect() as client:
            assert exchange(client, op="subscribe", topics=["a", "b", "c"])["op"] == "ok", "later lives too"

        file.write_text("[limits]\ntopics_per_request = 'many'\n")
        it.signal(signal.SIGHUP)
        it.until(lambda: it.logged("reload_failed"))
        assert "limits.topics_per_request" in it.logged("reload_failed")[0]["error"]
        assert it.process.poll() is None


def test_a_feed_of_a_reload_gets_a_process(tmp_path: Path) -> None:
    file = tmp_path / "heliograph.toml"
    file.write_text("")
    with engine(tmp_path, file=file) as it:
        file.write_text('[feeds.fx]\nurl = "ws://127.0.0.1:9/"\n')
        it.signal(signal.SIGHUP)
        it.until(lambda: it.logged("process_ready", name="feeds"))
        it.until(lambda: it.get("/health")[1]["status"] == "degraded")
        assert it.component("feed:fx")["status"] == "degraded"
        told = {"status": "degraded", "components": {"feed:fx": {"status": "degraded"}}}
        it.until(lambda: it._open(f"http://127.0.0.1:{it.port}/health") == (200, told))
        assert it.get("/ready")[0] == 200, "a feed that is away keeps no client away"


def test_a_process_of_a_reload_that_cannot_start_is_an_error_of_the_reload_alone(tmp_path: Path) -> None:
    file = tmp_path / "heliograph.toml"
    file.write_text("")
    with engine(tmp_path, file=file) as it:
        file.write_text('[parameters.p]\nmodel = "nowhere.at_all:Class"\n')
        status, answer = it.post("/api/reload", {})
        assert (status, answer["error"]["code"]) == (400, "bad_request")
        assert "monitor: it does not start" in answer["error"]["message"]
        assert "parameters.p.model" in it.logged("process_failed", name="monitor")[0]["error"]
        assert it.get("/ready")[0] == 200
        file.write_text('[alerts.a]\ntopic = "a"\nfield = "v"\nwhen = { gt = 1 }\n')
        assert it.post("/api/reload", {})[0] == 200
        it.until(lambda: it.get("/api/alerts")[0] == 200)


def test_a_stage_that_cannot_be_imported_is_a_configuration_error(tmp_path: Path) -> None:
    file = tmp_path / "heliograph.toml"
    file.write_text('[stages.mine]\nactor = "nowhere.at_all:Class"\n')
    it = Engine(tmp_path, file=file)
    try:
        assert it.wait() == 2
    finally:
        it.close()
    assert "stages.mine.actor" in it.logged("process_failed")[0]["error"]


def test_the_demo_ticks(tmp_path: Path) -> None:
    with engine(tmp_path, demo=True) as it, it.connect() as client:
        exchange(client, op="subscribe", topics=["price.>", "progress.>"])
        seen: set[str] = set()
        end = time.monotonic() + DEADLINE
        while len(seen) < 5 and time.monotonic() < end:
            seen |= {json.loads(client.recv(timeout=DEADLINE)).get("topic")} - {None}
        job = "progress.demo-backtest"
        assert seen == {"price.EUR_USD", "price.USD_JPY", "price.GBP_USD", "price.XBT_USDT", job}
        assert it.component("alerts")["status"] == "ok"
        assert it.component("feed:demo")["status"] == "ok"
        it.signal(signal.SIGTERM)
        assert it.wait() == 0


def test_no_workers_is_one_process(tmp_path: Path) -> None:
    with engine(tmp_path, server__workers=0) as it, it.connect() as client:
        assert exchange(client, op="publish", topic="t", data=1)["offset"] == 1
        assert it.children() == []
        it.signal(signal.SIGTERM)
        assert it.wait() == 0


def test_tells_the_service_manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(DEADLINE)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "1000000")  # a slow start must not fill the socket's queue
        with engine(tmp_path) as it:
            said: list[str] = []
            while not {"READY=1", "WATCHDOG=1"} <= set(said):
                said += manager.recv(1000).decode().splitlines()
            it.signal(signal.SIGTERM)
            while "STOPPING=1" not in said:
                said += manager.recv(1000).decode().splitlines()
            assert it.wait() == 0


def test_embedded_daemon_leaves_nothing(tmp_path: Path) -> None:
    from engine.config import loads
    from engine.daemon import Daemon

    settings = {"server.port": 0, "admin.port": 0, "server.workers": 1, "server.runtime_dir": str(tmp_path / "run")}

    async def once() -> None:
        daemon = Daemon(loads("", settings))
        try:
            await daemon.start()
            assert daemon.ready() is None
            assert daemon.health()["status"] == "ok"
        finally:
            await daemon.stop()
        assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []

    asyncio.run(once())
    descriptors, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(3):
        asyncio.run(once())
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == (descriptors, threads)


def test_a_process_that_is_just_starting_takes_a_reload_too(tmp_path: Path) -> None:
    from engine.config import Config, loads
    from engine.daemon import Daemon
    from engine.process_supervisor import ProcessState

    base = {"server.port": 0, "admin.port": 0, "server.workers": 1, "server.runtime_dir": str(tmp_path / "run")}

    def config(path: str) -> Config:
        return loads(f'[feeds.f]\nurl = "ws://127.0.0.1:9/{path}"\n', base)

    async def main() -> None:
        daemon = Daemon(config("old"))
        try:
            await daemon.start()
            assert daemon._supervisor is not None
            feeds = daemon._supervisor.processes["feeds"]
            assert feeds.pid is not None
            os.kill(feeds.pid, signal.SIGKILL)
            async with asyncio.timeout(DEADLINE):
                while feeds.state is not ProcessState.STARTING:
                    await asyncio.sleep(0)
                await daemon.reload(config("new"))
                while daemon.feeds()["f"]["state"] == "disconnected":
                    await asyncio.sleep(0.01)
            assert daemon.feeds()["f"]["address"] == "ws://127.0.0.1:9/new"
        finally:
            await daemon.stop()

    asyncio.run(main())
