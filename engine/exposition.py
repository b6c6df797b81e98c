"""The figures as Prometheus's text format 0.0.4; names and labels are stable, ``docs/metrics.md`` explains them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from actors.breaker import BreakerState
from actors.feed_state import FeedState
from transport.meter import COUNTERS, Histogram

if TYPE_CHECKING:
    from engine.feed_figures import FeedFigures
    from engine.metrics import Figures

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "heliograph_"

# (field of Meter, metric, label of its values, help)
_FAMILIES = (
    ("connections", "connections", "transport", "Sessions now."),
    ("subscriptions", "subscriptions", None, "Topic patterns in force, one per pattern and session."),
    ("filtered", "filtered_subscriptions", None, "Those of them that have a filter."),
    ("events_published", "events_published", None, "Events that the hub accepted."),
    ("deliveries", "deliveries", None, "Events written to clients, one per event and client."),
    ("dropped", "events_dropped", "reason", "Events that somebody did not get."),
    ("skipped", "events_skipped", None, "Events that a newer one of their key has replaced, one per event and client."),
    ("disconnects", "disconnects", "code", "Sessions that ended, by WebSocket close code."),
    ("refused", "refused", "reason", "Connections to the client port of which no session came."),
    ("admin_refused", "admin_refused", "code", "Requests refused by the admin API's gate, by error code."),
    ("delivery", "delivery_seconds", None, "From an event's acceptance to its being written to a client's socket."),
    ("route", "route_seconds", None, "How long the router had an event's batch."),
    ("match", "match_seconds", None, "Finding receivers that a worker's caches did not know."),
    ("broadcast", "broadcast_seconds", None, "From a batch's arrival at the worker to the end of its flush."),
    ("stages_bypassed", "stage_bypassed", "stage", "1 for a stage that is left alone after failures in a row."),
    ("route_hits", "route_cache_hits", None, "Events whose receivers a worker's caches knew."),
    ("route_misses", "route_cache_misses", None, "Events whose receivers a worker had to find."),
    ("router_hits", "router_cache_hits", None, "Events whose workers the hub's cache knew."),
    ("router_misses", "router_cache_misses", None, "Events whose workers the hub had to find."),
    ("selections", "cached_selections", None, "Classes of events whose receivers are remembered."),
    ("slow_sessions", "slow_sessions", None, "Sessions in the slow lane now."),
    ("outbox_bytes", "outbox_bytes", None, "Bytes that wait in slow sessions' outboxes."),
    ("held_events", "held_events", None, "Events that wait for a window's or a rate's time, one per event and route."),
    ("group_members", "group_members", None, "Members of consumer groups, one per group and session."),
    ("group_waiting", "group_events_waiting", None, "Events of consumer groups that wait for a member."),
    ("group_unacknowledged", "group_events_unacknowledged", None, "Events that members have not acknowledged yet."),
    ("group_returned", "group_events_returned", None, "Events taken back from a member, for others."),
    ("history_bytes", "history_bytes", "history", "Size of what is kept of events, in files or memory."),
    ("history_topics", "history_topics", None, "Topics that the hub knows."),
    ("history_waiting", "history_waiting_events", None, "Events that wait to be kept."),
    ("backplane_spooled", "backplane_spooled_events", None, "Events that wait on disk for the shared Redis."),
    ("keep", "history_append_seconds", None, "One append to a history that is not in memory, with its disk's sync."),
    ("service_events", "service_events", "service", "Events that a service has taken."),
    ("service_failures", "service_failures", "service", "Lives of a service that ended in an error."),
    ("service_missed", "service_missed", "service", "Events that a service was told it will not get."),
    ("bus_queue", "bus_queue_events", "worker", "Events that the hub holds for a worker."),
    ("bus_closed", "bus_window_closed", "worker", "1 for a worker that the hub goes on without, else 0."),
)

# (counter of FeedFigures, metric, label beside the feed, help)
_FEED_COUNTERS = (
    ("attempts", "feed_attempts", None, "Attempts to connect to a feed."),
    ("reconnects", "feed_reconnects", None, "Connections to a feed after its first."),
    ("messages", "feed_messages", "result", "What a feed's messages turned out to hold."),
    ("bad", "feed_bad_messages", "reason", "Messages, or parts of them, of which no event could be made."),
    ("gaps", "feed_gaps", None, "Times that something of a feed was found missing."),
    ("missing", "feed_missing", None, "Messages that a feed is known to have missed."),
    ("breaker_failures", "feed_breaker_failures", None, "Failures that a feed's circuit breaker has counted."),
    ("breaker_successes", "feed_breaker_successes", None, "Successes that a feed's circuit breaker has counted."),
    ("breaker_opens", "feed_breaker_opens", None, "Times that a feed's circuit breaker has opened."),
    ("breaker_seconds", "feed_breaker_seconds", "state", "Time that a feed's circuit breaker was in a state."),
)


# (series of engine.machine, metric, help)
_MACHINE = (
    ("cpu", "cpu_percent", "Time in which the machine's cores were busy."),
    ("steal", "steal_percent", "Of it, what a virtual machine's host withheld."),
    ("load", "load", "Processes that run or wait to, over a minute."),
    ("memory", "memory_percent", "Memory of the machine that cannot be had without swapping."),
    ("memory_used", "memory_used_bytes", "The same in bytes."),
    ("swap", "swap_percent", "Swap space in use."),
    ("disk", "disk_percent", "The file system of the engine's state directory in use."),
    ("disk_read", "disk_read_bytes_per_second", "Read from the machine's disks."),
    ("disk_write", "disk_write_bytes_per_second", "Written to the machine's disks."),
    ("net_in", "network_in_bytes_per_second", "Received over the machine's network, the loopback left out."),
    ("net_out", "network_out_bytes_per_second", "Sent over the machine's network, the loopback left out."),
)
_PROCESS = (
    ("cpu", "cpu_percent", "Share of one core that the process had."),
    ("memory", "memory_bytes", "Memory of the process (RSS), with what it shares."),
    ("fds", "descriptors", "Descriptors that the process has open."),
    ("threads", "threads", "Threads of the process."),
)


def render(figures: Figures) -> bytes:
    """All metrics as text of :data:`CONTENT_TYPE`."""
    return generate_latest(_Snapshot(figures))


class _Snapshot(Collector):
    """What ``generate_latest`` asks for the families."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        figures = self._figures
        total = figures.merged()
        for field, name, label, about in _FAMILIES:
            value = getattr(total, field)
            if field == "connections":
                value = {"websocket": value - total.socketio, "socketio": total.socketio}
            yield _family(field in COUNTERS, name, label, about, value)
        yield _family(False, "loop_lag_seconds", "process", "How late the loop ran a timer last.", figures.loop_lags())
        yield _family(False, "tasks", "process", "asyncio tasks on the process's loop.", figures.tasks())
        yield _stage_failures(total.stage_failures)
        yield from _feeds(figures.feeds)
        yield from _sampled(figures.sampled)
        about = "Starts of a process after its death."
        yield _family(True, "process_restarts", "process", about, figures.restarts)
        yield _family(False, "build_info", "version", "1, labelled with the version.", {figures.version: 1})


def _stage_failures(counted: Mapping[str, int]) -> Metric:
    about = "Events for which a stage did nothing."
    family = CounterMetricFamily(PREFIX + "stage_failures", about, labels=("stage", "reason"))
    for label, times in counted.items():
        family.add_metric(label.rsplit(":", 1), times)
    return family


def _feeds(feeds: FeedFigures) -> Iterator[Metric]:
    shown = feeds.shown()
    states = {name: feed["state"] for name, feed in shown.items()}
    yield _states("feed_state", "1 for the state that the feed is in, 0 for the others.", FeedState, states)
    breakers = {name: feed["breaker"]["state"] for name, feed in shown.items()}
    yield _states("feed_breaker_state", "1 for the state of the feed's circuit breaker.", BreakerState, breakers)
    lags = {name: feed["lag"] for name, feed in shown.items() if feed["lag"] is not None}
    yield _family(False, "feed_lag_seconds", "feed", "Age of a feed's newest event by the upstream's clock.", lags)
    counters = feeds.counters()
    for counter, name, label, about in _FEED_COUNTERS:
        family = CounterMetricFamily(PREFIX + name, about, labels=("feed", label) if label else ("feed",))
        for feed, counted in counters.items():
            for (key, *labels), value in counted.items():
                if key == counter:
                    family.add_metric((feed, *labels), value)
        yield family


def _sampled(sampled: Mapping[str, float]) -> Iterator[Metric]:
    for series, name, about in _MACHINE:
        if (value := sampled.get(f"machine.{series}")) is not None:
            yield _family(False, f"machine_{name}", None, about, value)
    by_series: dict[str, dict[str, float]] = {}
    for full, value in sampled.items():
        if full.startswith("process."):
            process, series = full.removeprefix("process.").rsplit(".", 1)
            by_series.setdefault(series, {})[process] = value
    for series, name, about in _PROCESS:
        yield _family(False, f"process_{name}", "process", about, by_series.get(series, {}))


def _states(name: str, about: str, states: Iterable[str], now: Mapping[str, str]) -> Metric:
    family = GaugeMetricFamily(PREFIX + name, about, labels=("feed", "state"))
    for feed, its in now.items():
        for state in states:
            family.add_metric((feed, str(state)), its == state)
    return family


def _family(counter: bool, name: str, label: str | None, about: str, value: Any) -> Metric:
    """A family with one sample, one per label of a map, or a histogram's buckets."""
    if isinstance(value, Histogram):
        buckets = list(zip((*map(str, value.BOUNDS), "+Inf"), accumulate(value.counts), strict=True))
        return HistogramMetricFamily(PREFIX + name, about, buckets=buckets, sum_value=value.sum)
    family = (CounterMetricFamily if counter else GaugeMetricFamily)(
        PREFIX + name, about, labels=(label,) if label else ()
    )
    samples: Iterable[tuple[tuple[str, ...], float]] = (
        (((str(key),), number) for key, number in value.items()) if isinstance(value, Mapping) else [((), value)]
    )
    for labels, number in samples:
        family.add_metric(labels, number)
    return family
