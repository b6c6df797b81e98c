"""What one process counts about itself.

The hot path adds to plain attributes; once a second or so :meth:`Meter.snapshot` goes to the daemon, which sums the
processes (``engine/metrics.py``). Counters only rise while the process lives; gauges are what holds now.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, ClassVar, Self

import msgspec

from transport.errors import CodecError


class Histogram(msgspec.Struct):
    """Observations by size. One observation costs a bisection of the bounds and two additions.

    Attributes:
        BOUNDS: inclusive upper bounds in seconds, rising; one bucket more holds what is above the last.
        counts: observations per bucket, not cumulative, ``len(BOUNDS) + 1`` of them.
        sum: of all observations, seconds.
    """

    BOUNDS: ClassVar[tuple[float, ...]] = ()
    counts: list[int] = []
    sum: float = 0.0

    def __post_init__(self) -> None:
        if not self.counts:
            self.counts = [0] * (len(self.BOUNDS) + 1)
        elif len(self.counts) != len(self.BOUNDS) + 1:
            raise ValueError(f"{type(self).__name__} has {len(self.BOUNDS) + 1} buckets, not {len(self.counts)}")

    def observe(self, seconds: float) -> None:
        """Count one observation. Below 0 (clocks of two processes differ) counts as 0, so that ``sum`` never falls."""
        self.counts[bisect_left(self.BOUNDS, seconds)] += 1
        if seconds > 0.0:
            self.sum += seconds

    def observe_many(self, seconds: float, times: int) -> None:
        """Count ``times`` observations of the same size at the cost of one: an event that went to many clients."""
        self.counts[bisect_left(self.BOUNDS, seconds)] += times
        if seconds > 0.0:
            self.sum += seconds * times

    @property
    def count(self) -> int:
        """All observations."""
        return sum(self.counts)

    def quantile(self, q: float) -> float | None:
        """An estimate of the q-quantile in seconds, at most one bucket wrong; ``None`` without observations.

        What is above the last bound counts as the last bound.
        """
        rank, below = q * self.count, 0
        for i, (bound, count) in enumerate(zip(self.BOUNDS, self.counts, strict=False)):
            if count and below + count >= rank:
                lower = self.BOUNDS[i - 1] if i else 0.0
                return lower + (bound - lower) * max(0.0, rank - below) / count
            below += count
        return self.BOUNDS[-1] if self.count else None


class DeliverySeconds(Histogram):
    """From an event's acceptance by the hub to its bytes being written to a client's socket."""

    BOUNDS: ClassVar[tuple[float, ...]] = (
        0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    )  # fmt: skip


class MatchSeconds(Histogram):
    """Finding receivers that no cache knew: a topic's audience, or who of it accepts a class of events."""

    BOUNDS: ClassVar[tuple[float, ...]] = (
        1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 1e-1,
    )  # fmt: skip


class RouteSeconds(Histogram):
    """How long the router had an event's batch, counted once per event: what the event waited for it."""

    BOUNDS: ClassVar[tuple[float, ...]] = (
        1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 1.0,
    )  # fmt: skip


class BroadcastSeconds(Histogram):
    """One flush: from the arrival of the oldest batch in it at the index to the last write to a client's socket."""

    BOUNDS: ClassVar[tuple[float, ...]] = (
        1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 5.0,
    )  # fmt: skip


class KeepSeconds(Histogram):
    """One append of events to a history that is not in memory, with the sync of its disk."""

    BOUNDS: ClassVar[tuple[float, ...]] = (
        5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    )  # fmt: skip


class Condition(msgspec.Struct, frozen=True):
    """How a part of a process is: ``reason`` says what is wrong, ``None``: nothing; ``retry_in``: seconds; ``down``: it
    does nothing at all."""

    reason: str | None = None
    retry_in: float | None = None
    down: bool = False


class Meter(msgspec.Struct, kw_only=True):
    """The figures of one process, each written by the one actor that knows it, all on the process's loop.

    Attributes:
        events_published: events that the hub accepted.
        deliveries: events written to clients, one per event and client.
        dropped: events that somebody will not get, by reason.
        disconnects: sessions that ended, by WebSocket close code.
        refused: connections to the client port of which no session came, by reason (:mod:`transport.listener`).
        admin_refused: requests that the admin API refused, for lack of a key or otherwise, by error code.
        stage_failures: events for which a stage did nothing, by "STAGE:REASON" (:mod:`actors.stage_batch`).
        route_hits, route_misses: events whose receivers a worker's caches knew, or not.
        router_hits, router_misses: events whose workers the hub's cache knew, or not.
        skipped: events that a newer one of their key has replaced, one per event and client, counted when it is told.
        group_returned: events that a member of a consumer group had and did not acknowledge, so that others get them.
        service_events, service_failures, service_missed: events that a service has taken, its lives that ended in an
            error, events that it was told it will not get, by service.
        delivery, match, route, broadcast, keep: see their types.
        connections: sessions of clients now.
        socketio: those of them that are Socket.IO's, one per client and namespace.
        subscriptions: topic patterns now, one per pattern and session.
        filtered: those of them that have a filter.
        selections: classes of events whose receivers are remembered.
        held_events: events that wait on routes for a window's or rate's time, one per event and route.
        group_members: sessions in consumer groups, one per group and session.
        group_waiting, group_unacknowledged: events that wait for a member, or for a member's word.
        slow_sessions: sessions in the slow lane now.
        outbox_bytes: bytes that wait in slow sessions' outboxes.
        accept_paused: 1 for a worker that takes no client in because descriptors have run out, else 0.
        loop_lag: how late the loop ran a timer last, seconds.
        tasks: asyncio tasks on the loop.
        bus_queue: events that the hub holds for a worker, by worker.
        bus_closed: 1 for a worker that is so far behind that the hub goes on without it, else 0, by worker.
        stages_bypassed: 1 for a stage that is left alone after failures in a row, else 0, by stage.
        history_bytes: of files, or of memory, by history: "recent" events of all topics, "durable" ones.
        history_topics: topics that the hub knows.
        history_waiting: events that wait to be kept, before anybody gets them.
        backplane_spooled: events that wait on disk for the Redis that engines share.
        metrics_watched: 1 while somebody is subscribed to what is sampled, else 0.
        conditions: of parts that may be in trouble while the process does its work, by name.
    """

    # counters
    events_published: int = 0
    deliveries: int = 0
    dropped: dict[str, int] = {}
    disconnects: dict[int, int] = {}
    refused: dict[str, int] = {}
    admin_refused: dict[str, int] = {}
    stage_failures: dict[str, int] = {}
    route_hits: int = 0
    route_misses: int = 0
    router_hits: int = 0
    router_misses: int = 0
    skipped: int = 0
    group_returned: int = 0
    service_events: dict[str, int] = {}
    service_failures: dict[str, int] = {}
    service_missed: dict[str, int] = {}
    delivery: DeliverySeconds = msgspec.field(default_factory=DeliverySeconds)
    match: MatchSeconds = msgspec.field(default_factory=MatchSeconds)
    route: RouteSeconds = msgspec.field(default_factory=RouteSeconds)
    broadcast: BroadcastSeconds = msgspec.field(default_factory=BroadcastSeconds)
    keep: KeepSeconds = msgspec.field(default_factory=KeepSeconds)
    # gauges
    connections: int = 0
    socketio: int = 0
    subscriptions: int = 0
    filtered: int = 0
    selections: int = 0
    held_events: int = 0
    group_members: int = 0
    group_waiting: int = 0
    group_unacknowledged: int = 0
    slow_sessions: int = 0
    outbox_bytes: int = 0
    accept_paused: int = 0
    loop_lag: float = 0.0
    tasks: int = 0
    bus_queue: dict[str, int] = {}
    bus_closed: dict[str, int] = {}
    stages_bypassed: dict[str, int] = {}
    history_bytes: dict[str, int] = {}
    history_topics: int = 0
    history_waiting: int = 0
    backplane_spooled: int = 0
    metrics_watched: int = 0
    conditions: dict[str, Condition] = {}

    def snapshot(self) -> dict[str, Any]:
        """A copy as maps with string keys, lists and numbers: whatever packs those can carry it."""
        snapshot: dict[str, Any] = msgspec.to_builtins(self, str_keys=True)
        return snapshot

    @classmethod
    def of(cls, snapshot: Any) -> Self:
        """The meter that :meth:`snapshot` copied.

        Raises:
            CodecError: it is no such copy; names the field.
        """
        try:
            return msgspec.convert(snapshot, cls, str_keys=True)
        except msgspec.ValidationError as error:
            raise CodecError(f"not a meter's snapshot: {error}") from None


COUNTERS = (
    "events_published", "deliveries", "dropped", "disconnects", "refused", "admin_refused", "stage_failures",
    "route_hits", "route_misses", "router_hits", "router_misses", "skipped", "group_returned", "service_events",
    "service_failures", "service_missed", "delivery", "match", "route", "broadcast", "keep",
)  # fmt: skip
"""Fields of :class:`Meter` that only rise."""
GAUGES = (
    "connections", "socketio", "subscriptions", "filtered", "selections", "held_events", "group_members",
    "group_waiting", "group_unacknowledged", "slow_sessions", "outbox_bytes", "accept_paused", "bus_queue",
    "bus_closed", "stages_bypassed", "history_bytes", "history_topics", "history_waiting", "backplane_spooled",
    "metrics_watched",
)  # fmt: skip
"""Fields of :class:`Meter` whose sum over processes means something."""
