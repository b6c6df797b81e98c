"""The engine's figures as series."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from engine.engine_series import EngineSeries
from engine.metrics import Life
from transport.meter import Meter


def worker(at: float, deliveries: int = 0, incarnation: str = "a", slow: Iterable[float] = (), **gauges: int) -> Life:
    meter = Meter(deliveries=deliveries, **gauges)  # type: ignore[arg-type]
    for seconds in slow:
        meter.delivery.observe(seconds)
    return Life(incarnation, meter, at)


def test_a_report_that_comes_late_makes_neither_gap_nor_peak() -> None:
    """100 a second by the worker's own clock; of two samples one sees no new report, another two at once."""
    series = EngineSeries()
    seen = [series.take({"w": worker(at, int(at * 100))})["engine.deliveries"] for at in (1.0, 2.0, 2.0, 4.0, 5.0)]
    assert seen == [0.0, 100.0, 100.0, 100.0, 100.0]


def test_processes_are_summed_and_dropped_events_whatever_the_reason() -> None:
    series = EngineSeries()
    hub = Life("h", Meter(events_published=10, dropped={"slow": 1}), 1.0)
    series.take({"hub": hub, "w-0": worker(1.0), "w-1": worker(1.5)})
    hub = Life("h", Meter(events_published=30, dropped={"slow": 2, "closed": 4}, loop_lag=0.25), 3.0)
    found = series.take(
        {"hub": hub, "w-0": worker(2.0, 5, connections=2, outbox_bytes=7), "w-1": worker(3.5, 8, connections=3)}
    )
    assert found == {
        "engine.connections": 5,
        "engine.subscriptions": 0,
        "engine.slow_sessions": 0,
        "engine.outbox_bytes": 7,
        "engine.events": 10.0,
        "engine.deliveries": 9.0,
        "engine.dropped": 2.5,
        "engine.loop_lag": 250.0,
    }


def test_latency_is_of_what_was_delivered_since_the_last_report() -> None:
    series = EngineSeries()
    series.take({"w": worker(1.0, slow=[4.0] * 1_000)})
    found = series.take({"w": worker(2.0, slow=[4.0] * 1_000 + [0.002] * 99)})
    assert 1.0 < found["engine.latency_p50"] < found["engine.latency_p99"] <= 2.5  # ms
    assert "engine.latency_p50" not in series.take({"w": worker(3.0, slow=[4.0] * 1_000 + [0.002] * 99)})


def test_a_process_that_began_anew_has_no_rate_before_its_second_report() -> None:
    series = EngineSeries()
    series.take({"w": worker(1.0, 1_000)})
    series.take({"w": worker(2.0, 2_000)})
    assert series.take({"w": worker(3.0, 50, "b")})["engine.deliveries"] == 0.0
    assert series.take({"w": worker(4.0, 60, "b")})["engine.deliveries"] == 10.0
    assert series.take({})["engine.deliveries"] == 0.0
    assert series.take({"w": worker(9.0, 90, "b")})["engine.deliveries"] == pytest.approx(0.0)
