"""The figures as Prometheus's text format 0.0.4; names and labels are stable, ``docs/metrics.md`` explains them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from transport.meter import COUNTERS, Histogram

if TYPE_CHECKING:
    from engine.metrics import Figures

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "heliograph_"

# (field of Meter, metric, label of its values, help)
_FAMILIES = (
    ("connections", "connections", "transport", "Sessions now."),
    ("subscriptions", "subscriptions", None, "Topic patterns in force, one per pattern and session."),
    ("events_published", "events_published", None, "Events that the hub accepted."),
    ("deliveries", "deliveries", None, "Events written to clients, one per event and client."),
    ("dropped", "events_dropped", "reason", "Events that somebody did not get."),
    ("disconnects", "disconnects", "code", "Sessions that ended, by WebSocket close code."),
    ("delivery", "delivery_seconds", None, "From an event's acceptance to its being written to a client's socket."),
    ("match", "match_seconds", None, "Finding the route of an event that the route cache did not know."),
    ("route_hits", "route_cache_hits", None, "Events whose route the cache knew."),
    ("route_misses", "route_cache_misses", None, "Events whose route had to be found."),
    ("slow_sessions", "slow_sessions", None, "Sessions in the slow lane now."),
    ("outbox_bytes", "outbox_bytes", None, "Bytes that wait in slow sessions' outboxes."),
    ("bus_queue", "bus_queue_events", "worker", "Events that the hub holds for a worker."),
    ("feed_reconnects", "feed_reconnects", "feed", "Attempts to reconnect to a feed."),
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
            value = {"websocket": total.connections} if field == "connections" else getattr(total, field)
            yield _family(field in COUNTERS, name, label, about, value)
        yield _family(False, "loop_lag_seconds", "process", "How late the loop ran a timer last.", figures.loop_lags())
        state = GaugeMetricFamily(
            PREFIX + "feed_state", "1 for the state that the feed is in.", labels=("feed", "state")
        )
        for feed, now in total.feed_states.items():
            state.add_metric((feed, now), 1)
        yield state
        about = "Starts of a process after its death."
        yield _family(True, "process_restarts", "process", about, figures.restarts)
        yield _family(False, "build_info", "version", "1, labelled with the version.", {figures.version: 1})


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
