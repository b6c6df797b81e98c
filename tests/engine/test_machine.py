"""What the operating system says, on this machine, and what becomes of it where it says nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from engine import machine
from engine.machine import Machine

MACHINE = {"memory", "memory_used", "swap", "disk", "load"}
RATES = {"cpu", "net_in", "net_out", *({"steal"} if sys.platform == "linux" else ())}
PROCESS = {"memory", "fds", "threads"}


def named(found: dict[str, float], prefix: str) -> set[str]:
    return {name.removeprefix(prefix) for name in found if name.startswith(prefix)}


def test_all_series_of_machine_and_processes(tmp_path: Path) -> None:
    it = Machine(tmp_path / "not" / "there" / "yet")
    first = it.sample(1.0, {"daemon": os.getpid()})
    assert named(first, "machine.") == MACHINE
    assert named(first, "process.daemon.") == PROCESS
    sum(i * i for i in range(300_000))  # at least one tick of the clock that processes are measured by
    second = it.sample(2.0, {"daemon": os.getpid()})
    assert named(second, "machine.") - {"disk_read", "disk_write"} == MACHINE | RATES
    assert named(second, "process.daemon.") == PROCESS | {"cpu"}
    assert 0 <= second.get("machine.steal", 0.0) <= second["machine.cpu"] <= 100
    assert second["machine.memory_used"] > 1e6
    assert second["process.daemon.memory"] > 1e6
    descriptor = os.open(os.devnull, os.O_RDONLY)
    try:
        assert it.sample(3.0, {"daemon": os.getpid()})["process.daemon.fds"] == second["process.daemon.fds"] + 1
    finally:
        os.close(descriptor)


def test_a_process_that_dies_is_silent_and_goes_on_under_its_name(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    it = Machine(tmp_path)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert named(it.sample(1.0, {"worker-0": child.pid}), "process.worker-0.") == PROCESS
    assert named(it.sample(2.0, {"worker-0": child.pid}), "process.") == set()
    assert named(it.sample(3.0, {"worker-0": os.getpid()}), "process.worker-0.") == PROCESS, "no rate of two processes"
    assert "worker-0.cpu" in named(it.sample(4.0, {"worker-0": os.getpid()}), "process.")
    assert "not_sampled" not in "".join(capfd.readouterr())


def test_what_cannot_be_read_is_absent_and_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Any:
        raise PermissionError("no /proc/stat here")

    said: list[dict[str, Any]] = []
    log = SimpleNamespace(warning=lambda event, **fields: said.append(fields))
    monkeypatch.setattr(machine, "get_logger", lambda: log)
    monkeypatch.setattr(psutil, "cpu_times", refuse)
    monkeypatch.setattr(psutil, "disk_io_counters", lambda nowrap: None)
    it = Machine(tmp_path)
    it.sample(1.0, {})
    found = it.sample(2.0, {})
    assert named(found, "machine.") == MACHINE | {"net_in", "net_out"}
    assert said == [{"what": "cpu", "error": "no /proc/stat here"}]


def test_the_loopback_is_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cards = {"lo": 1_000.0, "lo0": 1_000.0, "eth0": 0.0, "lon1": 0.0}

    def counters(pernic: bool, nowrap: bool) -> dict[str, Any]:
        return {name: SimpleNamespace(bytes_recv=n, bytes_sent=2 * n) for name, n in cards.items()}

    monkeypatch.setattr(psutil, "net_io_counters", counters)
    it = Machine(tmp_path)
    it.sample(1.0, {})
    cards |= {"lo": 9_000.0, "lo0": 5_000.0, "eth0": 30.0, "lon1": 20.0}
    found = it.sample(3.0, {})
    assert (found["machine.net_in"], found["machine.net_out"]) == (25.0, 50.0)
