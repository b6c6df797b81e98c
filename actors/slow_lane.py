"""The accounts of a worker's slow sessions: their outboxes, and what happens to the events in them."""

from __future__ import annotations

from typing import Protocol

from transport.meter import Meter
from transport.outbox import Outbox


class Limits(Protocol):
    """What is needed of :class:`actors.clients.ClientLimits`."""

    @property
    def outbox_bytes(self) -> int: ...
    @property
    def outbox_events(self) -> int: ...
    @property
    def write_chunk(self) -> int: ...
    @property
    def disconnect_slow(self) -> bool: ...


class SlowLane:
    """One per worker, on its loop.

    Attributes:
        limits: those in force; may be replaced at any time, outboxes that exist keep theirs.
    """

    def __init__(self, limits: Limits, meter: Meter) -> None:
        self.limits, self._meter = limits, meter
        self._outboxes: set[Outbox] = set()

    def enter(self, *, slow: bool = True) -> Outbox:
        """A bounded queue for a session that has become slow, or whose events are looked at one by one."""
        outbox = Outbox(self.limits.outbox_bytes, self.limits.outbox_events)
        self._outboxes.add(outbox)
        self._meter.slow_sessions += slow
        return outbox

    def leave(self, outbox: Outbox, *, slow: bool = True) -> None:
        """The session is fast again, or gone."""
        self._outboxes.discard(outbox)
        self._meter.slow_sessions -= slow

    def no_longer_slow(self) -> None:
        """A session stays here for another reason than being slow."""
        self._meter.slow_sessions -= 1

    def queued(self, events: int, dropped: int, limited: int = 0) -> None:
        """One flush into an outbox: ``events`` were queued; ``dropped`` that waited and ``limited`` are lost."""
        self._meter.deliveries += events - dropped
        for reason, count in (("slow", dropped), ("rate_limited", limited)):
            if count:
                self._meter.dropped[reason] = self._meter.dropped.get(reason, 0) + count

    def skipped(self, events: int) -> None:
        """A session was told that so many events were conflated away."""
        self._meter.skipped += events

    @property
    def size(self) -> int:
        """Bytes that wait in all outboxes."""
        return sum(outbox.size for outbox in self._outboxes)
