"""Which events of a topic a subscription has seen: tells duplicates, and after a reconnect holes. Pure."""

from __future__ import annotations

from transport.client_messages import DISCONNECTED, Gap
from transport.codes import PRIORITY_RANK, GapReason, Priority
from transport.position import Position


class _Mark:
    """Where a topic stands: ``top`` is the highest offset accounted for, ``last`` the last one seen per priority."""

    __slots__ = ("connection", "epoch", "last", "top")

    def __init__(self, epoch: str, offset: int, connection: int) -> None:
        self.epoch, self.top, self.connection = epoch, offset, connection
        self.last = [offset] * 4


class Positions:
    """The last position per topic of one subscription. One look-up per event.

    Order is promised per topic and priority, so a duplicate is an event at or below the last one of its own priority:
    a low event that a critical one overtook is none.

    Args:
        holes: whether a jump in offsets after a reconnect means loss; not with filters, conflation or a rate.
        whole: whether the first connection begins with the last event of each topic: then a topic that is new after a
            reconnect has lost what came before its first event.
        capacity: topics remembered, at least; those not seen for longest are forgotten first.

    Attributes:
        forgot: whether a topic was forgotten: what it lost will not be told.
    """

    def __init__(self, *, holes: bool = True, whole: bool = False, capacity: int = 50_000) -> None:
        self.forgot = False
        self._holes, self._whole, self._capacity = holes, whole, capacity
        self._young: dict[str, _Mark] = {}
        self._old: dict[str, _Mark] = {}  # two generations: least recently used at the cost of one dict more
        self._connection = 0

    def reconnected(self) -> None:
        """A new connection: the first event of each topic shows what was missed."""
        self._connection += 1

    def admit(self, topic: str, epoch: str, offset: int, priority: Priority | None = None) -> tuple[bool, Gap | None]:
        """Whether an event is new, and what was lost before it."""
        mark = self._mark(topic)
        if mark is None:
            # Nothing is known of what came before: events of lower priority may still follow.
            mark = self._keep(topic, _Mark(epoch, 0, self._connection))
            mark.top = mark.last[PRIORITY_RANK[priority]] = offset
            born_meanwhile = self._whole and self._connection > 0 and not self.forgot
            return True, Gap(topic, epoch, 1, offset - 1, DISCONNECTED) if born_meanwhile and offset > 1 else None
        rank = PRIORITY_RANK[priority]
        if mark.epoch == epoch and offset <= mark.last[rank]:
            return False, None
        gap = self._hole(topic, mark, epoch, offset - 1)
        if mark.epoch != epoch:
            mark = self._keep(topic, _Mark(epoch, 0, self._connection))
        mark.connection = self._connection
        mark.last[rank] = offset
        mark.top = max(mark.top, offset)
        return True, gap

    def start(self, topic: str, epoch: str, offset: int) -> Gap | None:
        """A subscription begins after ``offset``; returns what was lost since it last ended."""
        mark = self._mark(topic)
        if mark is not None and mark.epoch == epoch and mark.top >= offset:
            mark.connection = self._connection
            return None
        gap = self._hole(topic, mark, epoch, offset) if mark is not None else None
        self._keep(topic, _Mark(epoch, offset, self._connection))
        return gap

    def skip(self, gap: Gap) -> Gap | None:
        """The engine told of a gap: it is accounted for. Returns what was lost before it."""
        mark = self._mark(gap.topic)
        hole = self._hole(gap.topic, mark, gap.epoch, gap.first - 1) if mark is not None else None
        if mark is None or mark.epoch != gap.epoch:
            mark = self._keep(gap.topic, _Mark(gap.epoch, 0, self._connection))
        mark.connection = self._connection
        mark.top = max(mark.top, gap.last)
        return None if gap.reason == GapReason.EPOCH_CHANGED else hole  # which says it all

    def find(self, topic: str) -> Position | None:
        """Up to where a topic is accounted for; ``None`` if it was not seen, or forgotten."""
        mark = self._young.get(topic) or self._old.get(topic)
        return None if mark is None else Position(mark.epoch, mark.top)

    def _hole(self, topic: str, mark: _Mark, epoch: str, last: int) -> Gap | None:
        if mark.connection == self._connection:
            return None  # within a connection the engine tells its gaps itself
        if mark.epoch != epoch:
            return Gap(topic, epoch, 1, last, GapReason.EPOCH_CHANGED)
        if self._holes and last > mark.top:
            return Gap(topic, epoch, mark.top + 1, last, DISCONNECTED)
        return None

    def _mark(self, topic: str) -> _Mark | None:
        mark = self._young.get(topic)
        if mark is None and (mark := self._old.get(topic)) is not None:
            self._keep(topic, mark)
        return mark

    def _keep(self, topic: str, mark: _Mark) -> _Mark:
        if len(self._young) >= self._capacity and topic not in self._young:
            self.forgot = self.forgot or any(known not in self._young and known != topic for known in self._old)
            self._old, self._young = self._young, {}
        self._young[topic] = mark
        return mark
