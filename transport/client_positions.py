"""Which events of a topic a subscription has seen: tells duplicates, where to resume, and holes. Pure."""

from __future__ import annotations

import msgspec

from transport.client_messages import DISCONNECTED, Gap
from transport.codes import PRIORITY_RANK, GapReason, Priority
from transport.position import Position


class _Mark:
    """Where a topic stands: ``top`` is the highest offset accounted for, ``last`` the last one seen per priority.

    ``count`` is how many offsets are accounted for, those before the beginning included: as many as ``top`` says, if
    none below it is still to come. ``lost`` is the highest one that was given up, though a recovery may bring it.
    """

    __slots__ = ("connection", "count", "epoch", "last", "lost", "top")

    def __init__(self, epoch: str, offset: int, connection: int) -> None:
        self.epoch, self.top, self.connection = epoch, offset, connection
        self.count, self.lost = offset, 0
        self.last = [offset] * 4

    def lose(self, first: int, last: int) -> None:
        """Offsets that will not come. A span that begins below ``top`` may hold some that came: it counts for none."""
        if first > self.top:
            self.count += last - first + 1
        self.top, self.lost = max(self.top, last), max(self.lost, last)


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
        """A new connection that does not go on where the last one ended: first events show what was missed.

        Not where everything was recovered: then it goes on as before.
        """
        self._connection += 1

    def admit(self, topic: str, epoch: str, offset: int, priority: Priority | None = None) -> tuple[bool, Gap | None]:
        """Whether an event is new, and what was lost before it."""
        mark = self._mark(topic)
        if mark is None:
            # Nothing is known of what came before: events of lower priority may still follow.
            mark = self._keep(topic, _Mark(epoch, 0, self._connection))
            rank = PRIORITY_RANK[priority]
            mark.top = mark.last[rank] = offset
            mark.count = offset if rank >= PRIORITY_RANK[None] else 1  # an urgent one is likely to have overtaken
            born_meanwhile = self._whole and self._connection > 0 and not self.forgot
            return True, Gap(topic, epoch, 1, offset - 1, DISCONNECTED) if born_meanwhile and offset > 1 else None
        rank = PRIORITY_RANK[priority]
        if mark.epoch == epoch and offset <= mark.last[rank]:
            return False, None
        gap = self._hole(topic, mark, epoch, offset - 1)
        if mark.epoch != epoch:
            mark = self._keep(topic, _Mark(epoch, 0, self._connection))
        if gap is not None:
            mark.lose(gap.first, gap.last)
        mark.connection = self._connection
        mark.last[rank] = offset
        mark.top = max(mark.top, offset)
        mark.count += offset > mark.lost
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

    def skip(self, gap: Gap) -> list[Gap]:
        """The engine told of a gap: it is accounted for. What is to be told: what was lost before it, then what is new
        of the gap itself."""
        mark = self._mark(gap.topic)
        hole = self._hole(gap.topic, mark, gap.epoch, gap.first - 1) if mark is not None else None
        if mark is None:
            mark = self._keep(gap.topic, _Mark(gap.epoch, 0, self._connection))
            mark.top = mark.count = max(0, gap.first - 1)
        elif mark.epoch != gap.epoch:
            mark = self._keep(gap.topic, _Mark(gap.epoch, 0, self._connection))
        elif self._holes and gap.first <= gap.last and mark.count == mark.top and gap.first <= mark.top:
            # Told to an overlapping subscription, or once more because the connection broke while it was told.
            gap = msgspec.structs.replace(gap, first=mark.top + 1)
            if gap.last < gap.first:
                return []
        mark.connection = self._connection
        if gap.reason == GapReason.EPOCH_CHANGED:
            hole = None  # it says it all
        if hole is not None:
            mark.lose(hole.first, hole.last)
        mark.lose(gap.first, gap.last)
        return [gap] if hole is None else [hole, gap]

    def settled(self, topic: str) -> Position | None:
        """The position at which everything of a topic is accounted for, so that one may resume behind it.

        ``None`` if the topic was not seen, or forgotten, or if something below its last event may still come: an event
        that a more urgent one has overtaken.
        """
        mark = self._young.get(topic) or self._old.get(topic)
        return Position(mark.epoch, mark.top) if mark is not None and mark.count == mark.top else None

    def _hole(self, topic: str, mark: _Mark, epoch: str, last: int) -> Gap | None:
        if mark.epoch != epoch:
            # The engine tells it before the topic's next event. Where the connection broke between the two, a position
            # that was told before lies behind it, and the engine does not tell it again.
            return Gap(topic, epoch, 1, last, GapReason.EPOCH_CHANGED)
        if mark.connection == self._connection:
            return None  # within a connection the engine tells its gaps itself
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
