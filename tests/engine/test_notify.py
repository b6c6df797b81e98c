from __future__ import annotations

import os
import socket
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.notify import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(5)
        yield receiver


@pytest.fixture
def notifier(manager: socket.socket) -> Notifier:
    return Notifier({"NOTIFY_SOCKET": manager.getsockname()})


def test_states_are_what_systemd_reads(manager: socket.socket, notifier: Notifier) -> None:
    for send, expected in [
        (notifier.ready, b"READY=1"),
        (lambda: notifier.ready("2 workers"), b"READY=1\nSTATUS=2 workers"),
        (notifier.stopping, b"STOPPING=1"),
        (notifier.watchdog, b"WATCHDOG=1"),
        (lambda: notifier.status("a\nREADY=1"), b"STATUS=a READY=1"),
    ]:
        assert send()
        assert manager.recv(4096) == expected


def test_reloading_says_when(manager: socket.socket, notifier: Notifier) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert notifier.reloading()
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    state, when = manager.recv(4096).decode().split("\n")
    assert state == "RELOADING=1"
    assert before <= int(when.removeprefix("MONOTONIC_USEC=")) <= after


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux only")
def test_an_abstract_socket_begins_with_an_at_sign() -> None:
    name = f"heliograph-test-{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("\0" + name)
        receiver.settimeout(5)
        assert Notifier({"NOTIFY_SOCKET": "@" + name}).ready()
        assert receiver.recv(4096) == b"READY=1"


@pytest.mark.parametrize("address", [None, "", "vsock:2:1234", "/nowhere/notify"])
def test_without_a_manager_nothing_happens(address: str | None) -> None:
    assert not Notifier({} if address is None else {"NOTIFY_SOCKET": address}).ready()


def test_a_manager_that_does_not_read_does_not_hold_us_up(notifier: Notifier) -> None:
    results = [notifier.status("x" * 1000) for _ in range(2000)]
    assert results[0]
    assert not results[-1]


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
    ],
)
def test_the_watchdog_wants_to_hear_twice_in_its_time(environ: dict[str, str], interval: float | None) -> None:
    assert Notifier(environ).watchdog_interval == interval
