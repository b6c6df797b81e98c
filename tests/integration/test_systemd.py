"""A real engine under a manager that speaks sd_notify(3), and the unit file as systemd reads it."""

from __future__ import annotations

import configparser
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import psutil
import pytest

from engine import cli_run
from engine.config import Config
from engine.daemon import STOP_TIMEOUT
from engine.runner import BAD_CONFIG
from tests.integration import harness
from tests.integration.harness import EngineProcess

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy/heliograph.service"
PATIENCE_S = 20.0
WATCHDOG_USEC = 200_000
SILENCE_S = 1.0  # ten times what a living daemon lets pass
# systemd's own way: libseccomp, and what is not on the list is EPERM.
CONFINE = """
import ctypes, os, sys
allowed, command = sys.argv[1].split(","), sys.argv[2:]
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | 1
lib = ctypes.CDLL("libseccomp.so.2")
lib.seccomp_init.restype = ctypes.c_void_p
context = ctypes.c_void_p(lib.seccomp_init(REFUSE))
for name in allowed:
    number = lib.seccomp_syscall_resolve_name(name.encode())
    assert number < 0 or lib.seccomp_rule_add(context, ALLOW, number, 0) == 0, name
assert lib.seccomp_load(context) == 0
os.execv(command[0], command)
"""


class Manager:
    """The receiving end of ``$NOTIFY_SOCKET``."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def wait(self, state: str) -> list[str]:
        """The next message with this state in it; those before it are skipped."""
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            states = self._sock.recv(4096).decode().split("\n")
            if state in states:
                return states
        raise AssertionError(f"no {state}")

    def drain(self) -> None:
        """Forget what has come."""
        self._sock.setblocking(False)
        try:
            while self._sock.recv(4096):
                pass
        except BlockingIOError:
            self._sock.settimeout(PATIENCE_S)

    def is_silent(self) -> bool:
        """Whether nothing comes now."""
        self._sock.settimeout(SILENCE_S)
        try:
            self._sock.recv(4096)
        except TimeoutError:
            return True
        finally:
            self._sock.settimeout(PATIENCE_S)
        return False


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    with tempfile.TemporaryDirectory(prefix="sd-") as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as it:
        it.bind(f"{directory}/notify")
        it.settimeout(PATIENCE_S)
        monkeypatch.setenv("NOTIFY_SOCKET", f"{directory}/notify")
        monkeypatch.setenv("WATCHDOG_USEC", str(WATCHDOG_USEC))
        yield Manager(it)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_manager_hears_how_it_goes(
    manager: Manager, engine_process: Callable[..., EngineProcess], workers: int
) -> None:
    engine = engine_process(workers=workers)
    assert manager.wait("READY=1") == ["READY=1", f"STATUS=serving {engine.port}"]
    engine.kill("daemon", signal.SIGHUP)
    _, when = manager.wait("RELOADING=1")
    assert int(when.removeprefix("MONOTONIC_USEC=")) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    manager.wait("READY=1")
    engine.kill("daemon", signal.SIGTERM)
    assert "STATUS=draining" in manager.wait("STOPPING=1")
    assert engine.wait() == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_the_watchdog_is_fed_only_while_the_daemon_runs(
    manager: Manager, engine_process: Callable[..., EngineProcess], workers: int
) -> None:
    engine = engine_process(workers=workers)
    for _ in range(3):
        manager.wait("WATCHDOG=1")
    daemon = psutil.Process(engine.kill("daemon", signal.SIGSTOP))
    until = time.monotonic() + PATIENCE_S
    while daemon.status() != psutil.STATUS_STOPPED:
        assert time.monotonic() < until
    manager.drain()
    assert manager.is_silent()
    engine.kill("daemon", signal.SIGCONT)
    manager.wait("WATCHDOG=1")


def test_too_few_descriptors_are_told_at_start(engine_process: Callable[..., EngineProcess]) -> None:
    for connections, lines in ((10**9, 1), (10, 0)):
        engine = engine_process(workers=0, limits__connections=connections)
        said = [line for line in engine.log() if line["event"] == "descriptors_short"]
        assert len(said) == lines
        assert all(line["level"] == "warning" and f"= {connections}:" in line["reason"] for line in said)


def service() -> configparser.SectionProxy:
    parser = configparser.RawConfigParser(strict=False)  # what may be said twice is not asked for here
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text(encoding="utf-8"))
    return parser["Service"]


def test_the_unit_says_what_is_so() -> None:
    unit, config = service(), Config()
    program, command, *arguments = unit["ExecStart"].split()
    assert (Path(program).name, command) == ("heliograph", "run")
    assert cli_run.parser().parse_args(arguments).config == "/etc/heliograph/heliograph.toml"
    assert unit["RestartPreventExitStatus"] == str(BAD_CONFIG)
    assert unit["KillMode"] == "mixed", "the daemon ends its processes in order"
    # Workers, then feeds, then the hub, each of which may take as long as it is allowed to.
    assert float(unit["TimeoutStopSec"]) > config.server.drain_timeout + 3 * STOP_TIMEOUT
    assert float(unit["WatchdogSec"]) > 2 * config.server.heartbeat_timeout
    assert int(unit["LimitNOFILE"]) > config.limits.connections


@pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux only")
def test_systemd_takes_the_unit_and_finds_it_tight(tmp_path: Path, missing: Callable[[str], NoReturn]) -> None:
    analyze = shutil.which("systemd-analyze") or missing("systemd-analyze")
    unit = tmp_path / UNIT.name
    there = str(shutil.which("true"))
    unit.write_text(UNIT.read_text(encoding="utf-8").replace("/opt/heliograph/bin/heliograph", there), encoding="utf-8")
    # The exposure is 0 to 10, in tenths here; 1.5 is what a service with network, files and nothing else can have.
    for command in (["verify", "--man=no"], ["security", "--offline=true", "--threshold=15", "--no-pager"]):
        done = subprocess.run([analyze, *command, unit], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stdout + done.stderr
        assert command[0] != "verify" or unit.name not in done.stderr, done.stderr


def members(analyze: str, group: str) -> set[str]:
    """System calls of a group of systemd's, also of those groups that it names."""
    done = subprocess.run([analyze, "syscall-filter", "--no-pager", group], capture_output=True, text=True, check=True)
    found: set[str] = set()
    for line in map(str.strip, done.stdout.splitlines()[1:]):
        if line.startswith("@"):
            found |= members(analyze, line)
        elif line and not line.startswith("#"):
            found.add(line)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux only")
def test_an_engine_lives_on_the_system_calls_that_the_unit_allows(
    engine_process: Callable[..., EngineProcess], missing: Callable[[str], NoReturn], monkeypatch: pytest.MonkeyPatch
) -> None:
    analyze = shutil.which("systemd-analyze") or missing("systemd-analyze")
    allowed: set[str] = set()
    for line in re.findall(r"^SystemCallFilter=(.*)$", UNIT.read_text(encoding="utf-8"), re.M):
        groups = set().union(*(members(analyze, group) for group in line.lstrip("~").split()))
        allowed = allowed - groups if line.startswith("~") else allowed | groups
    confined = (sys.executable, "-c", CONFINE, ",".join(sorted(allowed)), *harness.COMMAND)
    monkeypatch.setattr(harness, "COMMAND", confined)
    engine = engine_process(workers=1, limits__connections=10)
    assert "NoNewPrivs:\t1\nSeccomp:\t2" in Path(f"/proc/{engine.pid}/status").read_text()
    assert engine.admin("/ready")[0] == 200
    assert engine.admin("/metrics")[0] == 200
    former = engine.kill("worker-0")
    until = time.monotonic() + PATIENCE_S
    while engine.admin("/ready")[0] != 200 or engine.children().get("worker-0", former) == former:
        assert time.monotonic() < until
    assert not [line for line in engine.log() if line["level"] in ("error", "critical")]
