from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from engine.loadtest.resources import ResourceSample, WebSocketResourceMonitor

DEADLINE = 20.0  # s


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def samplers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("_Sampling")]


def test_samples_machine_and_server_in_a_thread_of_its_own() -> None:
    threads = set()

    def pids() -> dict[str, int]:
        threads.add(threading.current_thread().name)
        return {"one": os.getpid(), "gone": 2**22 + 1}

    with WebSocketResourceMonitor(pids, interval=0.01) as monitor:
        until(lambda: len(monitor.history) >= 3)
        assert samplers() == list(threads)
    assert samplers() == []
    samples = monitor.history
    assert monitor.current == samples[-1]
    assert [sample.t for sample in samples] == sorted({sample.t for sample in samples})
    for sample in samples:
        assert 0 <= sample.cpu <= 100
        assert 0 < sample.memory < 100
        assert sample.net_mb >= 0
        assert sample.server_cpu is not None
        assert sample.server_cpu >= 0
        assert sample.server_memory_mb is not None
        assert 1 < sample.server_memory_mb < 100_000


def test_takes_no_sample_once_it_is_stopped() -> None:
    monitor = WebSocketResourceMonitor(interval=0.001)
    monitor.start()
    until(lambda: monitor.current)
    monitor.stop()
    count = len(monitor.history)
    monitor.stop()
    assert samplers() == []
    assert len(monitor.history) == count


def test_stops_in_the_middle_of_a_long_interval() -> None:
    looked = threading.Event()

    def pids() -> dict[str, int]:
        looked.set()
        return {}

    monitor = WebSocketResourceMonitor(pids, interval=1_000.0)
    monitor.start()
    assert looked.wait(DEADLINE)
    monitor.stop()
    assert samplers() == []
    assert monitor.history == []
    assert monitor.current is None
    assert monitor.summary() == {}


def test_history_is_bounded() -> None:
    with WebSocketResourceMonitor(interval=0.001, history=3) as monitor:
        until(lambda: len(monitor.history) == 3)
        first = monitor.history[0]
        until(lambda: monitor.history[0] != first)
    assert len(monitor.history) == 3


def test_summary_has_mean_peak_and_current_of_what_is_known() -> None:
    monitor = WebSocketResourceMonitor()
    for t, server in ((1.0, None), (2.0, 50.0), (3.0, 30.0)):
        monitor._keep(ResourceSample(t, 10 * t, 50.0, 1.0, server, None))
    summary = monitor.summary()
    assert summary["cpu"] == (20.0, 30.0, 30.0)
    assert summary["server_cpu"] == (40.0, 50.0, 30.0)
    assert "server_memory_mb" not in summary
    assert summary["net_mb"].peak == pytest.approx(1.0)
