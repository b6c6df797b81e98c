from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from prometheus_client.parser import text_string_to_metric_families

from actors.breaker import BreakerState
from actors.feed_state import FeedState
from engine.metrics import RETIRED_KEPT, Figures
from tests.engine.test_feed_figures import snapshot
from transport.errors import CodecError
from transport.meter import COUNTERS, Condition, DeliverySeconds, Meter

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
CONTRACT = {
    "connections": {"transport"},
    "subscriptions": set(),
    "filtered_subscriptions": set(),
    "events_published_total": set(),
    "deliveries_total": set(),
    "events_dropped_total": {"reason"},
    "events_skipped_total": set(),
    "disconnects_total": {"code"},
    "refused_total": {"reason"},
    "admin_refused_total": {"code"},
    "stage_failures_total": {"stage", "reason"},
    "service_events_total": {"service"},
    "service_failures_total": {"service"},
    "service_missed_total": {"service"},
    "stage_bypassed": {"stage"},
    "delivery_seconds": set(),
    "match_seconds": set(),
    "route_seconds": set(),
    "broadcast_seconds": set(),
    "route_cache_hits_total": set(),
    "route_cache_misses_total": set(),
    "router_cache_hits_total": set(),
    "router_cache_misses_total": set(),
    "cached_selections": set(),
    "slow_sessions": set(),
    "outbox_bytes": set(),
    "held_events": set(),
    "group_members": set(),
    "group_events_waiting": set(),
    "group_events_unacknowledged": set(),
    "group_events_returned_total": set(),
    "history_bytes": {"history"},
    "history_topics": set(),
    "history_waiting_events": set(),
    "backplane_spooled_events": set(),
    "history_append_seconds": set(),
    "bus_queue_events": {"worker"},
    "bus_window_closed": {"worker"},
    "loop_lag_seconds": {"process"},
    "tasks": {"process"},
    "feed_state": {"feed", "state"},
    "feed_attempts_total": {"feed"},
    "feed_reconnects_total": {"feed"},
    "feed_messages_total": {"feed", "result"},
    "feed_bad_messages_total": {"feed", "reason"},
    "feed_gaps_total": {"feed"},
    "feed_missing_total": {"feed"},
    "feed_breaker_state": {"feed", "state"},
    "feed_breaker_successes_total": {"feed"},
    "feed_breaker_failures_total": {"feed"},
    "feed_breaker_opens_total": {"feed"},
    "feed_breaker_seconds_total": {"feed", "state"},
    "feed_lag_seconds": {"feed"},
    "process_restarts_total": {"process"},
    "build_info": {"version"},
    "machine_cpu_percent": set(),
    "machine_steal_percent": set(),
    "machine_load": set(),
    "machine_memory_percent": set(),
    "machine_memory_used_bytes": set(),
    "machine_swap_percent": set(),
    "machine_disk_percent": set(),
    "machine_disk_read_bytes_per_second": set(),
    "machine_disk_write_bytes_per_second": set(),
    "machine_network_in_bytes_per_second": set(),
    "machine_network_out_bytes_per_second": set(),
    "process_cpu_percent": {"process"},
    "process_memory_bytes": {"process"},
    "process_descriptors": {"process"},
    "process_threads": {"process"},
}
SAMPLED = {
    **{f"machine.{name}": 50.0 for name in ("cpu", "steal", "load", "memory", "memory_used", "swap", "disk")},
    **{f"machine.{name}": 60.0 for name in ("disk_read", "disk_write", "net_in", "net_out")},
    **{f"process.worker-0.{name}": 70.0 for name in ("cpu", "memory", "fds", "threads")},
    "engine.connections": 80.0,
}


def busy() -> Meter:
    """A meter in which every field has something."""
    meter = Meter(
        events_published=1,
        deliveries=2,
        dropped={"slow": 3},
        disconnects={1000: 4},
        stage_failures={"spread:raised": 14},
        route_hits=5,
        route_misses=6,
        connections=8,
        socketio=3,
        subscriptions=9,
        slow_sessions=10,
        outbox_bytes=11,
        loop_lag=0.012,
        tasks=27,
        bus_queue={"worker-0": 13},
        bus_closed={"worker-0": 1},
        router_hits=15,
        router_misses=16,
        skipped=17,
        filtered=18,
        selections=19,
        held_events=20,
        group_members=21,
        group_waiting=22,
        group_unacknowledged=23,
        group_returned=24,
        stages_bypassed={"spread": 1},
        admin_refused={"unauthorized": 26},
        refused={"origin": 28},
        history_bytes={"recent": 29, "durable": 30},
        history_topics=31,
        history_waiting=32,
        backplane_spooled=33,
        service_events={"audit": 34},
        service_failures={"audit": 35},
        service_missed={"audit": 36},
        conditions={"services.audit": Condition("no database", 2.5, down=True)},
    )
    meter.delivery.observe_many(0.003, 14)
    meter.match.observe(2e-5)
    meter.route.observe_many(3e-4, 25)
    meter.broadcast.observe(0.004)
    meter.keep.observe(0.002)
    return meter


def samples(figures: Figures) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """What Prometheus would read."""
    return {
        (sample.name.removeprefix("heliograph_"), frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(figures.render().decode())
        for sample in family.samples
    }


def test_the_contracts_names_and_labels() -> None:
    figures = Figures("0.1.0")
    figures.update("worker-0", "a", busy().snapshot())
    figures.feeds.update({"fx": snapshot()})
    figures.sampled = SAMPLED
    found: dict[str, set[str]] = {}
    for name, labels in samples(figures):
        found.setdefault(re.sub("_(bucket|count|sum)$", "", name), set()).update(label for label, _ in labels)
    for histogram in ("delivery", "match", "route", "broadcast", "history_append"):
        found[f"{histogram}_seconds"].remove("le")
    assert found == CONTRACT
    assert figures.render().decode().count("# TYPE") == len(CONTRACT)


def test_how_services_are() -> None:
    figures = Figures("0.1.0")
    figures.update("services", "a", busy().snapshot())
    trouble = {"status": "down", "reason": "no database", "retry_in": 2.5}
    assert figures.components({})["services.audit"] == trouble
    assert figures.stats()["services"] == {"audit": {**trouble, "events": 34, "failures": 35, "missed": 36}}
    assert samples(figures)["service_events_total", frozenset({("service", "audit")})] == 34
    figures.restarted("services")
    assert "services.audit" not in figures.components({})
    assert figures.stats()["services"] == {"audit": {"events": 34, "failures": 35, "missed": 36}}


def test_the_documentation_has_them_all() -> None:
    documented = set(re.findall(r"^\| `heliograph_(\w+)", DOCS.read_text(), re.MULTILINE))
    assert documented == set(CONTRACT)


def test_values_reach_the_text() -> None:
    figures = Figures("0.1.0")
    figures.update("worker-0", "a", busy().snapshot())
    figures.update("worker-1", "b", busy().snapshot())
    figures.restarted("hub")
    figures.feeds.update({"fx": snapshot(lag=0.25), "eq": snapshot(state="reconnecting", lag=None)})
    found = samples(figures)

    def value(name: str, **labels: str) -> float:
        return found[name, frozenset(labels.items())]

    assert value("connections", transport="websocket") == 10
    assert value("connections", transport="socketio") == 6
    assert value("deliveries_total") == 4
    assert value("events_dropped_total", reason="slow") == 6
    assert value("disconnects_total", code="1000") == 8
    assert value("delivery_seconds_bucket", le="0.0025") == 0
    assert value("delivery_seconds_bucket", le="0.005") == value("delivery_seconds_bucket", le="+Inf") == 28
    assert value("delivery_seconds_count") == 28
    assert value("delivery_seconds_sum") == pytest.approx(28 * 0.003)
    assert value("match_seconds_count") == 2
    assert (value("route_seconds_count"), value("broadcast_seconds_count")) == (50, 2)
    assert value("route_seconds_bucket", le="0.00025") == 0
    assert value("route_seconds_bucket", le="0.0005") == 50
    assert (value("route_cache_hits_total"), value("route_cache_misses_total")) == (10, 12)
    assert (value("router_cache_hits_total"), value("router_cache_misses_total")) == (30, 32)
    assert (value("events_skipped_total"), value("group_events_returned_total")) == (34, 48)
    gauges = ("filtered_subscriptions", "cached_selections", "held_events")
    assert [value(name) for name in gauges] == [36, 38, 40]
    groups = ("group_members", "group_events_waiting", "group_events_unacknowledged")
    assert [value(name) for name in groups] == [42, 44, 46]
    assert (value("history_bytes", history="recent"), value("history_bytes", history="durable")) == (58, 60)
    assert (value("history_topics"), value("history_waiting_events")) == (62, 64)
    assert value("backplane_spooled_events") == 66
    assert value("history_append_seconds_bucket", le="0.001") == 0
    assert (value("history_append_seconds_count"), value("history_append_seconds_sum")) == (2, 0.004)
    assert value("bus_window_closed", worker="worker-0") == 2
    assert value("bus_queue_events", worker="worker-0") == 26
    assert value("loop_lag_seconds", process="worker-1") == 0.012
    assert value("tasks", process="worker-1") == 27
    assert value("refused_total", reason="origin") == 56
    assert value("feed_state", feed="fx", state="connected") == 1
    assert [value("feed_state", feed="eq", state=str(state)) for state in FeedState] == [0, 0, 0, 1, 0, 0]
    assert value("feed_attempts_total", feed="fx") == 8
    assert value("feed_reconnects_total", feed="fx") == 7
    results = {name: value("feed_messages_total", feed="fx", result=name) for name in ("published", "ignored", "bad")}
    assert results == {"published": 90, "ignored": 4, "bad": 5}
    assert value("feed_bad_messages_total", feed="fx", reason="missing") == 3
    assert (value("feed_gaps_total", feed="fx"), value("feed_missing_total", feed="fx")) == (1, 12)
    assert [value("feed_breaker_state", feed="fx", state=str(state)) for state in BreakerState] == [0, 1, 0]
    assert value("feed_breaker_opens_total", feed="fx") == 2
    assert value("feed_breaker_seconds_total", feed="fx", state="closed") == 50.5
    assert value("feed_lag_seconds", feed="fx") == 0.25
    assert ("feed_lag_seconds", frozenset({("feed", "eq")})) not in found
    assert value("process_restarts_total", process="hub") == 1
    assert value("process_restarts_total", process="worker-0") == 0
    assert value("build_info", version="0.1.0") == 1


def test_what_was_sampled_is_shown_and_what_was_not_is_absent() -> None:
    figures = Figures("0.1.0")
    figures.sampled = SAMPLED
    found = samples(figures)
    assert found["machine_network_in_bytes_per_second", frozenset()] == 60.0
    assert found["process_descriptors", frozenset({("process", "worker-0")})] == 70.0
    figures.sampled = {"machine.cpu": 1.0}
    left = {
        name for name, _ in samples(figures) if name.startswith(("machine_", "process_")) and "restarts" not in name
    }
    assert left == {"machine_cpu_percent"}


def test_a_process_that_ended_leaves_its_counters_and_takes_its_gauges() -> None:
    figures = Figures("0.1.0")
    figures.update("worker-0", "a", busy().snapshot())
    figures.forget("worker-0")
    figures.forget("worker-0")
    assert figures.total("deliveries") == 2
    assert figures.total("delivery") == 14
    assert figures.total("connections") == figures.total("bus_queue") == 0
    assert not figures.loop_lags()
    assert not figures.tasks()
    assert figures.total("refused") == 28


def test_a_late_report_of_the_dead_is_ignored() -> None:
    figures = Figures("0.1.0")
    figures.update("worker-0", "a", busy().snapshot())
    figures.update("worker-0", "b", Meter(deliveries=1).snapshot())
    figures.update("worker-0", "a", busy().snapshot())
    assert figures.total("deliveries") == 3
    assert figures.total("connections") == 0
    figures.restarted("worker-0")
    figures.update("worker-0", "b", busy().snapshot())
    assert figures.total("deliveries") == 3


@pytest.mark.parametrize("histogram", ["delivery", "match", "route", "broadcast", "keep"])
def test_not_even_rounding_makes_a_sum_fall(histogram: str) -> None:
    figures = Figures("0.1.0")
    sums = {"a": 0.1, "b": 0.2, "c": 0.3}
    for process, seconds in sums.items():
        meter = Meter()
        getattr(meter, histogram).observe(seconds)
        figures.update(process, "1", meter.snapshot())
    before = getattr(figures.merged(), histogram).sum
    assert before > 0.3 + 0.2 + 0.1  # the order in which they die below
    for process in reversed(sums):
        figures.forget(process)
        assert getattr(figures.merged(), histogram).sum >= before


def test_what_is_no_snapshot_changes_nothing() -> None:
    figures = Figures("0.1.0")
    figures.update("worker-0", "a", busy().snapshot())
    before = figures.render()
    for wrong in (None, {"deliveries": "many"}, {"delivery": {"counts": [1], "sum": 0.0}}, {"disconnects": {"x": 1}}):
        with pytest.raises(CodecError):
            figures.update("worker-0", "b", wrong)
    assert figures.render() == before


def test_totals_know_their_names() -> None:
    figures = Figures("0.1.0")
    for name in ("loop_lag", "nothing"):
        with pytest.raises(KeyError):
            figures.total(name)


def test_stats() -> None:
    figures = Figures("0.1.0")
    assert figures.stats()["delivery_seconds"] == {"p50": None, "p99": None}
    figures.update("worker-0", "a", busy().snapshot())
    figures.feeds.update({"fx": snapshot()})
    stats = figures.stats()
    assert stats["version"] == "0.1.0"
    assert (stats["connections"], stats["deliveries"], stats["events_dropped"]) == (8, 2, {"slow": 3})
    assert stats["disconnects"] == {"1000": 4}
    assert (stats["stage_failures"], stats["stages_bypassed"]) == ({"spread:raised": 14}, {"spread": 1})
    assert stats["history_bytes"] == {"recent": 29, "durable": 30}
    assert (stats["history_topics"], stats["history_waiting_events"]) == (31, 32)
    assert stats["backplane_spooled_events"] == 33
    assert 0.001 <= stats["history_append_seconds"]["p50"] <= 0.0025
    assert stats["feeds"] == figures.feeds.shown()
    assert (stats["feeds"]["fx"]["state"], stats["feeds"]["fx"]["reconnects"]) == ("connected", 7)
    assert 0.0025 <= stats["delivery_seconds"]["p50"] <= 0.005


def test_stats_have_a_line_per_layer() -> None:
    figures = Figures("0.1.0")
    nothing = {"p50": None, "p99": None, "hit_rate": None}
    assert figures.layers() == dict.fromkeys(("router", "index", "broadcaster", "delivery"), nothing)
    figures.update("worker-0", "a", busy().snapshot())
    layers = figures.stats()["layers"]
    rates = {name: layer["hit_rate"] for name, layer in layers.items()}
    assert rates == {"router": 15 / 31, "index": 5 / 11, "broadcaster": None, "delivery": None}
    bounds = {"router": (2.5e-4, 5e-4), "index": (1e-5, 2.5e-5), "broadcaster": (2.5e-3, 5e-3)}
    for name, (lower, upper) in bounds.items():
        assert lower < layers[name]["p50"] < layers[name]["p99"] <= upper, name
    figures.update("worker-0", "b", Meter(route_misses=5).snapshot())
    assert figures.layers()["index"]["hit_rate"] == 5 / 16, "what another life has counted stays"


@pytest.mark.parametrize(
    ("slow", "connections", "degraded"),
    [(9, 12, False), (10, 40, True), (10, 41, False), (25, 99, True), (0, 0, False)],
)
def test_a_worker_of_which_many_clients_are_slow_is_degraded(slow: int, connections: int, degraded: bool) -> None:
    figures = Figures("0.1.0")
    figures.update("worker-0", "a", Meter(slow_sessions=slow, connections=connections).snapshot())
    figures.update("worker-1", "a", Meter(connections=connections).snapshot())
    expected = {"worker-0": f"{slow} of {connections} clients do not keep up"} if degraded else {}
    assert figures.troubles() == expected


def test_a_worker_that_the_hub_goes_on_without_is_degraded_as_long_as_it_lives() -> None:
    figures = Figures("0.1.0")
    ok = {"status": "ok", "reason": None, "retry_in": None}
    figures.update("hub", "a", Meter(bus_closed={"worker-0": 1, "worker-1": 0, "gone": 1}).snapshot())
    for name in ("worker-0", "worker-1"):
        figures.update(name, "a", Meter().snapshot())
    found = figures.components({"hub": ok, "worker-0": ok, "worker-1": ok})
    assert (found["hub"], found["worker-1"]) == (ok, ok)
    assert found["worker-0"]["status"] == "degraded" and "gaps" in found["worker-0"]["reason"]
    down = {"status": "down", "reason": "restarting", "retry_in": None}
    assert figures.components({"worker-0": down})["worker-0"] == down
    figures.restarted("worker-0")
    assert figures.troubles() == {}


def test_health_knows_the_stages() -> None:
    figures = Figures("0.1.0")
    assert figures.stage_components() == {}
    figures.update("hub", "a", Meter(stages_bypassed={"one": 0, "two": 1}).snapshot())
    figures.update("worker-0", "a", Meter().snapshot())
    components = figures.stage_components()
    assert components["stage:one"] == {"status": "ok", "reason": None, "retry_in": None}
    assert figures.components({}) == components
    assert components["stage:two"]["status"] == "degraded" and components["stage:two"]["reason"]


def test_health_knows_what_may_be_in_trouble_inside_a_process() -> None:
    figures = Figures("0.1.0")
    figures.update("worker-0", "a", Meter().snapshot())
    assert figures.components({}) == {}
    figures.update("hub", "a", Meter(conditions={"history": Condition()}).snapshot())
    assert figures.components({}) == {"history": {"status": "ok", "reason": None, "retry_in": None}}
    figures.update("hub", "a", Meter(conditions={"history": Condition("the disk is full")}).snapshot())
    found = figures.components({})["history"]
    assert (found["status"], found["reason"]) == ("degraded", "the disk is full")
    figures.restarted("hub")
    assert figures.components({}) == {}, "nobody knows"


# the meter's way here -------------------------------------------------------------------------------------------------


def test_a_snapshot_is_a_copy_that_packs() -> None:
    meter = busy()
    snapshot = meter.snapshot()
    assert Meter.of(msgpack.unpackb(msgpack.packb(snapshot))) == meter
    meter.dropped["slow"] += 1
    meter.delivery.observe(1)
    assert Meter.of(snapshot) == busy()


def test_a_bucket_holds_its_bound() -> None:
    histogram = DeliverySeconds()
    for seconds in (0.0005, 0.00051, 10.0, 10.1, -1.0):
        histogram.observe(seconds)
    assert histogram.counts == [2, 1, *[0] * 11, 1, 1]
    assert histogram.sum == pytest.approx(20.10101)


@given(st.lists(st.floats(0, 9.99), min_size=1, max_size=50), st.floats(0, 1))
def test_a_quantile_is_in_the_right_bucket(values: list[float], q: float) -> None:
    histogram = DeliverySeconds()
    for value in values:
        histogram.observe(value)
    true = sorted(values)[max(0, -int(-q * len(values) // 1) - 1)]
    estimate = histogram.quantile(q)
    assert estimate is not None
    bounds = (0.0, *DeliverySeconds.BOUNDS)
    upper = next(bound for bound in bounds[1:] if true <= bound)
    assert bounds[bounds.index(upper) - 1] <= estimate <= upper


class Processes(RuleBasedStateMachine):
    """Processes count, report, report late or again, die and come back in any order: no counter falls.

    ``known`` is what the daemon was told, the least that it must show.
    """

    names = st.sampled_from(["hub", "worker-0", "worker-1"])

    def __init__(self) -> None:
        super().__init__()
        self.figures = Figures("0.1.0")
        self.lives: dict[str, tuple[int, Meter]] = {}
        self.reports: list[tuple[str, str, dict[str, Any]]] = []
        self.before: dict[Any, float] = {}
        self.accepted: dict[tuple[str, str], int] = {}
        self.over: set[tuple[str, str]] = set()

    def life(self, name: str) -> tuple[int, Meter]:
        return self.lives.setdefault(name, (0, Meter()))

    @rule(name=names, n=st.integers(1, 5), label=st.sampled_from(["slow", "overflow"]), seconds=st.floats(-1, 20))
    def work(self, name: str, n: int, label: str, seconds: float) -> None:
        _, meter = self.life(name)
        meter.deliveries += n
        meter.dropped[label] = meter.dropped.get(label, 0) + n
        meter.disconnects[4008] = meter.disconnects.get(4008, 0) + 1
        meter.delivery.observe_many(seconds, n)
        meter.match.observe(seconds)
        meter.connections = n

    @rule(name=names)
    def report(self, name: str) -> None:
        incarnation, meter = self.life(name)
        self.reports.append((name, str(incarnation), meter.snapshot()))
        self.deliver(self.reports[-1])

    @rule(data=st.data())
    def report_again(self, data: st.DataObject) -> None:
        if self.reports:
            self.deliver(data.draw(st.sampled_from(self.reports[-RETIRED_KEPT:])))

    @rule(name=names, told=st.booleans())
    def die(self, name: str, told: bool) -> None:
        incarnation, _ = self.life(name)
        self.lives[name] = (incarnation + 1, Meter())
        if told:
            self.figures.restarted(name)
            self.over |= {life for life in self.accepted if life[0] == name}

    def deliver(self, report: tuple[str, str, dict[str, Any]]) -> None:
        name, incarnation, snapshot = report
        self.figures.update(*report)
        if (name, incarnation) not in self.over:
            self.over |= {life for life in self.accepted if life[0] == name and life[1] != incarnation}
            count = max(self.accepted.get((name, incarnation), 0), snapshot["deliveries"])
            self.accepted[name, incarnation] = count

    @invariant()
    def nothing_lost_or_counted_twice(self) -> None:
        assert self.figures.total("deliveries") == sum(self.accepted.values())

    @invariant()
    def no_counter_falls(self) -> None:
        total = self.figures.merged()
        now: dict[Any, float] = {}
        for field in COUNTERS:
            value = getattr(total, field)
            if isinstance(value, dict):
                now |= {(field, label): number for label, number in value.items()}
            elif isinstance(value, int):
                now[field] = value
            else:
                now |= {(field, i): count for i, count in enumerate(value.counts)} | {(field, "sum"): value.sum}
        for name, count in self.before.items():
            assert now[name] >= count, name
        self.before = now


TestProcesses = Processes.TestCase
