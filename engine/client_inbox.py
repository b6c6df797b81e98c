"""What a subscription was sent and its consumer has not taken yet: bounded, in order, honest about loss. Pure."""

from __future__ import annotations

from collections import deque

import msgspec

from transport.client_messages import Gap
from transport.codes import GapReason
from transport.event import Event

OVERRUN = 10  # times its capacity: the most an inbox holds while an answer is awaited behind the events


class Inbox:
    """A queue of events and gaps.

    From ``capacity`` on it is :attr:`full` and the client stops reading its socket, so that the engine sees the
    backpressure. Only while a request awaits its answer, which comes behind the events, the client reads on: up to
    ``capacity * OVERRUN``, beyond which the newest are dropped and told as one gap per topic and epoch.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, not {capacity}")
        self._capacity = capacity
        self._items: deque[Event | Gap] = deque()
        self._lost: dict[tuple[str, str], Gap] = {}

    def __len__(self) -> int:
        return len(self._items) + len(self._lost)

    @property
    def full(self) -> bool:
        """Whether to stop reading."""
        return len(self._items) >= self._capacity

    @property
    def roomy(self) -> bool:
        """Whether to read again: half empty, so that the socket is not stopped and started for each event."""
        return len(self._items) <= self._capacity // 2

    def put(self, item: Event | Gap) -> None:
        """Append; never blocks."""
        if len(self._items) >= self._capacity * OVERRUN:
            self._lose(item)
            return
        if self._lost:
            self._tell_lost()
        self._items.append(item)

    def take(self) -> Event | Gap | None:
        """The oldest item, ``None`` when there is none."""
        if not self._items:
            self._tell_lost()
        return self._items.popleft() if self._items else None

    def _lose(self, item: Event | Gap) -> None:
        if isinstance(item, Event):
            if not item.epoch:
                return  # it comes again
            item = Gap(item.topic, item.epoch, item.offset, item.offset, GapReason.SLOW)
        known = self._lost.get((item.topic, item.epoch))
        if known is not None:
            item = msgspec.structs.replace(known, first=min(known.first, item.first), last=max(known.last, item.last))
        self._lost[item.topic, item.epoch] = item

    def _tell_lost(self) -> None:
        self._items.extend(self._lost.values())
        self._lost.clear()
