from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

import psutil
import pytest

from engine.loadtest.server_processes import NoWorker, ServerProcesses

ENGINE = """
import ctypes, os, socket, sys

def child(title, listens):
    if not (pid := os.fork()):
        admin.close()
        if not listens:
            clients.close()
        ctypes.CDLL(None).prctl(15, title.encode())  # PR_SET_NAME, as engine.forkserver does
        sys.stdin.read()
        os._exit(0)
    return pid

admin = socket.create_server(("127.0.0.1", 0))
clients = socket.create_server(("127.0.0.1", 0))
if not os.fork():  # as the forkserver
    pids = child("helio-hub", True), child("helio-worker-0", False), child("helio-worker-1", True)
    print(admin.getsockname()[1], clients.getsockname()[1], os.getpid(), *pids, flush=True)
    admin.close()
    clients.close()
    sys.stdin.read()
    os._exit(0)
clients.close()
sys.stdin.read()
"""


class FakeEngine(NamedTuple):
    """Processes as an engine has them; ``worker`` listens for clients, ``idle`` does not."""

    pid: int
    admin_url: str
    url: str
    forkserver: int
    hub: int
    idle: int
    worker: int


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with subprocess.Popen(
        [sys.executable, "-c", ENGINE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        admin, clients, *pids = map(int, process.stdout.readline().split())
        yield FakeEngine(process.pid, f"http://127.0.0.1:{admin}", f"ws://localhost:{clients}/ws", *pids)
        assert process.stdin is not None
        process.stdin.close()


def dead(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_processes_are_those_of_the_admin_api_and_all_that_it_started(engine: FakeEngine) -> None:
    processes = ServerProcesses(engine.url, engine.admin_url)
    assert processes.local
    found = processes.pids()
    assert {"hub": engine.hub, "worker-0": engine.idle, "worker-1": engine.worker}.items() <= found.items()
    assert set(found.values()) == {engine.pid, *engine[3:]}


def test_without_an_admin_api_they_are_found_by_who_listens(engine: FakeEngine) -> None:
    found = ServerProcesses(engine.url, others=[engine.hub]).pids()
    assert set(found.values()) == {engine.pid, *engine[3:]} - {engine.hub}  # a worker's daemon is known


def test_only_a_worker_that_serves_the_target_is_killed(engine: FakeEngine) -> None:
    processes = ServerProcesses(engine.url, engine.admin_url)
    assert processes.kill_worker() == "worker-1"
    while not dead(engine.worker):  # the test's own deadline
        pass
    with pytest.raises(NoWorker, match="no process that listens"):
        processes.kill_worker()
    assert not any(map(dead, (engine.pid, engine.forkserver, engine.hub, engine.idle)))


@pytest.mark.parametrize("admin", [None, "http://127.0.0.1:1", "itself"])
def test_nothing_is_killed_that_is_not_proved_to_be_of_the_engine(engine: FakeEngine, admin: str | None) -> None:
    processes = ServerProcesses(engine.url, engine.url if admin == "itself" else admin)
    with pytest.raises(NoWorker):
        processes.kill_worker()
    assert not any(map(dead, engine[3:]))


def test_of_a_server_elsewhere_or_of_none_there_are_no_processes() -> None:
    elsewhere = ServerProcesses("ws://192.0.2.1:8765/ws")
    assert not elsewhere.local
    assert elsewhere.pids() == {}
    assert ServerProcesses("ws://127.0.0.1:1/").pids() == {}
    assert ServerProcesses("ws://no-such-host.invalid/").pids() == {}


def test_a_server_in_this_process_is_this_process_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as here:
        found = ServerProcesses(f"ws://127.0.0.1:{here.getsockname()[1]}/").pids()
    assert list(found.values()) == [os.getpid()]
