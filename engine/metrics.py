"""The figures of all processes as one, kept by the daemon. Pure; ``engine/exposition.py`` writes them for Prometheus.

Each process sends the whole of its :class:`~transport.meter.Meter` about once a second. What an incarnation counted
stays in the sum when it dies, so no counter ever falls; its gauges go with it. Feeds outlive their process and count
for themselves: :mod:`engine.feed_figures`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from engine.feed_figures import FeedFigures
from transport.meter import COUNTERS, GAUGES, Histogram, Meter

RETIRED_KEPT = 16  # incarnations per process whose late reports are told from those of a new one
SLOW_SHARE = 0.25  # of a worker's sessions; with so many in the slow lane the worker is degraded
SERVICE = "services."
"""Before the name of a service, of a component of health."""
SLOW_LEAST = 10  # sessions; fewer slow ones than this are their own affair


class Life(NamedTuple):
    """What one incarnation of a process last reported; ``at`` seconds of the machine's monotonic clock."""

    incarnation: str
    meter: Meter
    at: float = 0.0


class Figures:
    """Sums what the processes report. Each call costs O(labels), :meth:`merged` O(processes × labels).

    What a process counted between its last report and its death is lost: at most one interval's worth.

    Attributes:
        version: of the engine.
        feeds: what is known of them.
        sampled: the newest sample of machine and processes, by series; empty where there is none.
    """

    def __init__(self, version: str) -> None:
        self.version = version
        self.feeds = FeedFigures()
        self.sampled: dict[str, float] = {}
        self.restarts: dict[str, int] = {}
        """How often each process was started anew."""
        self._live: dict[str, Life] = {}
        self._dead = Meter()  # the counters of all that ended
        self._retired: dict[str, deque[str]] = {}
        self._seconds = dict.fromkeys(("delivery", "match", "route", "broadcast", "keep"), 0.0)
        """The histograms' sums when last asked for."""

    def update(self, process: str, incarnation: str, snapshot: Any, at: float = 0.0) -> None:
        """Take a report; one of an incarnation that has been succeeded or forgotten is too late and ignored.

        Args:
            at: when it was made, for who asks for :meth:`lives`.

        Raises:
            CodecError: ``snapshot`` is none of a :class:`Meter`; nothing has changed.
        """
        if incarnation in self._retired.get(process, ()):
            return
        meter = Meter.of(snapshot)
        before = self._live.get(process)
        if before is not None and before.incarnation == incarnation:
            # max: a part of the process that began to count anew must not make the sum fall
            _merge(meter, before.meter, COUNTERS, max)
        else:
            self.forget(process)
        self._live[process] = Life(incarnation, meter, at)
        self.restarts.setdefault(process, 0)

    def forget(self, process: str) -> None:
        """A process ended: its gauges go, its counters stay. One that is not known is no error."""
        life = self._live.pop(process, None)
        if life is not None:
            self._retired.setdefault(process, deque(maxlen=RETIRED_KEPT)).append(life.incarnation)
            _merge(self._dead, life.meter, COUNTERS, _add)

    def restarted(self, process: str) -> None:
        """A process is being started anew after it died; also one that never got as far as to report."""
        self.forget(process)
        self.restarts[process] = self.restarts.get(process, 0) + 1

    def merged(self) -> Meter:
        """The sum over all processes, dead ones' counters included; a copy. ``loop_lag`` and ``tasks`` are the worst
        process's."""
        total = Meter()
        _merge(total, self._dead, COUNTERS, _add)
        for _, meter, _ in self._live.values():
            _merge(total, meter, COUNTERS + GAUGES, _add)
            total.loop_lag = max(total.loop_lag, meter.loop_lag)
            total.tasks = max(total.tasks, meter.tasks)
        for field, before in self._seconds.items():
            # a float sum depends on the order, which a death changes; to Prometheus the least fall is a restart
            histogram = getattr(total, field)
            self._seconds[field] = histogram.sum = max(before, histogram.sum)
        return total

    def lives(self) -> dict[str, Life]:
        """The processes that live, by name; not to be changed."""
        return dict(self._live)

    def loop_lags(self) -> dict[str, float]:
        """Seconds, by process that lives."""
        return {process: life.meter.loop_lag for process, life in self._live.items()}

    def tasks(self) -> dict[str, int]:
        """On its loop, by process that lives."""
        return {process: life.meter.tasks for process, life in self._live.items()}

    def total(self, name: str) -> float:
        """One field of :class:`Meter` over all processes: labels summed, of a histogram the number of observations.

        Raises:
            KeyError: no field of that name can be summed.
        """
        if name not in COUNTERS + GAUGES:
            raise KeyError(name)
        value = getattr(self.merged(), name)
        if isinstance(value, Histogram):
            return value.count
        return float(sum(value.values()) if isinstance(value, dict) else value)

    def components(self, processes: dict[str, Any]) -> dict[str, Any]:
        """What health says of processes, as given, but degraded where they are in trouble, of their parts, of feeds and
        of stages."""
        degraded = {
            name: {"status": "degraded", "reason": reason, "retry_in": None}
            for name, reason in self.troubles().items()
            if name in processes and processes[name]["status"] == "ok"
        }
        return processes | degraded | self._parts() | self.feeds.components() | self.stage_components()

    def _parts(self) -> dict[str, Any]:
        return {
            name: {
                "status": "ok" if condition.reason is None else "down" if condition.down else "degraded",
                "reason": condition.reason,
                "retry_in": condition.retry_in,
            }
            for life in self._live.values()
            for name, condition in life.meter.conditions.items()
        }

    def stage_components(self) -> dict[str, Any]:
        """What health says of the stages."""
        ok, bypassed = ("ok", None), ("degraded", "it failed too often and is left alone for a while")
        components = {}
        for life in self._live.values():
            for stage, bypass in life.meter.stages_bypassed.items():
                status, reason = bypassed if bypass else ok
                components[f"stage:{stage}"] = {"status": status, "reason": reason, "retry_in": None}
        return components

    def troubles(self) -> dict[str, str]:
        """What keeps processes that live from doing their work well, by process."""
        found = {}
        for process, life in self._live.items():
            meter = life.meter
            if meter.slow_sessions >= max(SLOW_LEAST, SLOW_SHARE * meter.connections):
                found[process] = f"{meter.slow_sessions} of {meter.connections} clients do not keep up"
            if meter.accept_paused:
                found[process] = "no descriptors are left, clients wait: raise the limit on open files (ulimit -n)"
        for life in self._live.values():
            for peer, closed in life.meter.bus_closed.items():
                if closed and peer in self._live:
                    found[peer] = "it does not keep up: the hub goes on without it, its clients get gaps"
        return found

    def layers(self) -> dict[str, dict[str, float | None]]:
        """Along an event's way: quantiles in seconds since the start, and the share of events that caches knew.

        ``None``: nothing was observed; ``hit_rate`` of a layer without a cache.
        """
        total = self.merged()
        return {
            "router": _layer(total.route, total.router_hits, total.router_misses),
            "index": _layer(total.match, total.route_hits, total.route_misses),
            "broadcaster": _layer(total.broadcast),
            "delivery": _layer(total.delivery),
        }

    def stats(self) -> dict[str, Any]:
        """The engine at a glance, for people and ``GET /stats``: the metrics' names without prefix and ``_total``.

        Counters count since the daemon's start; ``delivery_seconds`` are estimates over the same time, or ``None``.
        ``layers`` is :meth:`layers`, ``feeds`` what ``GET /api/feeds`` says of them.
        """
        total = self.merged()
        return {
            "version": self.version,
            "connections": total.connections,
            "subscriptions": total.subscriptions,
            "filtered_subscriptions": total.filtered,
            "events_published": total.events_published,
            "deliveries": total.deliveries,
            "events_dropped": total.dropped,
            "events_skipped": total.skipped,
            "stage_failures": total.stage_failures,
            "stages_bypassed": total.stages_bypassed,
            "disconnects": {str(code): times for code, times in total.disconnects.items()},
            "refused": total.refused,
            "admin_refused": total.admin_refused,
            "slow_sessions": total.slow_sessions,
            "outbox_bytes": total.outbox_bytes,
            "held_events": total.held_events,
            "group_members": total.group_members,
            "group_events_waiting": total.group_waiting,
            "group_events_unacknowledged": total.group_unacknowledged,
            "group_events_returned": total.group_returned,
            "history_bytes": total.history_bytes,
            "history_topics": total.history_topics,
            "history_waiting_events": total.history_waiting,
            "backplane_spooled_events": total.backplane_spooled,
            "history_append_seconds": {"p50": total.keep.quantile(0.5), "p99": total.keep.quantile(0.99)},
            "layers": self.layers(),
            "delivery_seconds": {"p50": total.delivery.quantile(0.5), "p99": total.delivery.quantile(0.99)},
            "route_cache_hits": total.route_hits,
            "route_cache_misses": total.route_misses,
            "router_cache_hits": total.router_hits,
            "router_cache_misses": total.router_misses,
            "cached_selections": total.selections,
            "bus_queue_events": total.bus_queue,
            "bus_window_closed": total.bus_closed,
            "loop_lag_seconds": self.loop_lags(),
            "tasks": self.tasks(),
            "feeds": self.feeds.shown(),
            "services": self._services(total),
            "process_restarts": dict(self.restarts),
        }

    def _services(self, total: Meter) -> dict[str, Any]:
        """By name; with their state, where the process that runs them has said it."""
        parts = self._parts()
        counted = {"events": total.service_events, "failures": total.service_failures, "missed": total.service_missed}
        return {
            name: {**parts.get(SERVICE + name, {}), **{what: by_name.get(name, 0) for what, by_name in counted.items()}}
            for name in total.service_events
        }

    def render(self) -> bytes:
        """All metrics of the contract in Prometheus's text format."""
        from engine.exposition import render  # prometheus_client: 1.7 MB that an engine nobody scrapes does not need

        return render(self)


def _layer(seconds: Histogram, hits: int | None = None, misses: int = 0) -> dict[str, float | None]:
    looks = 0 if hits is None else hits + misses
    rate = hits / looks if hits is not None and looks else None
    return {"p50": seconds.quantile(0.5), "p99": seconds.quantile(0.99), "hit_rate": rate}


def _add(a: float, b: float) -> float:
    return a + b


def _merge(into: Meter, other: Meter, fields: tuple[str, ...], combine: Callable[[Any, Any], Any]) -> None:
    for field in fields:
        mine, theirs = getattr(into, field), getattr(other, field)
        if isinstance(mine, Histogram):
            mine.counts = [combine(a, b) for a, b in zip(mine.counts, theirs.counts, strict=True)]
            mine.sum = combine(mine.sum, theirs.sum)
        elif isinstance(mine, dict):
            for label, value in theirs.items():
                mine[label] = combine(mine.get(label, 0), value)
        else:
            setattr(into, field, combine(mine, theirs))
