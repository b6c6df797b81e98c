"""A report of a run in which all went well, and changes to it."""

from __future__ import annotations

from typing import Any

import msgspec

from engine.loadtest.report import (
    ClientProcess,
    Connects,
    Fault,
    Machine,
    Percentiles,
    Phase,
    Publishing,
    Report,
    Series,
    Stability,
    TargetFacts,
    Throughput,
)
from engine.loadtest.scenario import LIGHT

LATENCY = Percentiles(count=120_000, mean=1.5, p50=1.2, p90=2.0, p95=3.0, p99=8.0, p999=20.0, worst=31.0)
SECONDS = 60


def phase(name: str, start: float, seconds: float, **changes: Any) -> Phase:
    count = int(100 * 50 * seconds)
    figures = {
        "published": int(50 * seconds),
        "delivered": count,
        "expected": count,
        "silence": 0.04,
        "latency": LATENCY,
        **changes,
    }
    return Phase(name=name, start=start, end=start + seconds, **figures)


def good(**changes: Any) -> Report:
    """Light, passed by every measure."""
    report = Report(
        name="light",
        started="2026-01-02T03:04:05Z",
        scenario=LIGHT,
        target=TargetFacts(url="ws://127.0.0.1:8765/ws", kind="native", server="heliograph 0.1.0"),
        machine=Machine(cpu="Some CPU", cores=2, memory_gb=8.0, system="Linux", python="3.11.9", heliograph="0.1.0"),
        phases=[
            phase("broadcast", 1.0, 24.0),
            phase("stability", 25.0, 12.0),
            phase("recovery", 37.0, 12.0),
            phase("sustained", 49.0, 12.0),
        ],
        latency=LATENCY,
        answers=LATENCY,
        distribution=[(50.0, 1.2), (99.0, 8.0), (100.0, 31.0)],
        connects=Connects(attempted=100, opened=100, seconds=0.4, times=LATENCY),
        publishing=Publishing(published=3_000, rate=50.0, late_p99_ms=0.6),
        throughput=Throughput(peak=5_100.0, sustained=5_000.0),
        series=Series(
            t=[float(t) for t in range(1, SECONDS + 1)],
            p50=[1.2] * SECONDS,
            p99=[8.0] * SECONDS,
            worst=[31.0] * SECONDS,
            published=[50.0] * SECONDS,
            delivered=[5_000.0] * SECONDS,
            open=[100] * SECONDS,
            machine_cpu=[20.0] * SECONDS,
            machine_steal=[1.0] * SECONDS,
            machine_memory=[40.0] * SECONDS,
            server_cpu=[11.0] * SECONDS,
            server_memory_mb=[90.0] * SECONDS,
            client_cpu=[9.0] * SECONDS,
            client_lag_ms=[1.0] * SECONDS,
            net_mb=[None] * SECONDS,
        ),
        stability=[Stability(t=5.0 * n, open=100, expected=100, uptime=1.0) for n in range(1, 13)],
        uptime=1.0,
        faults=[Fault(t=37.0, kind="cut", what="10 cut", affected=10, recovered=10, mean_s=0.2, worst_s=0.3)],
        clients=[ClientProcess(name="client 1", pid=7, cpu_mean=9.0, cpu_peak=12.0, lag_p99_ms=2.0)],
    )
    return msgspec.structs.replace(report, **changes)
