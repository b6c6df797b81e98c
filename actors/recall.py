"""What a subscription has missed since a place in the log: the events, and what of them cannot be had. Pure but for the
log's reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from actors.history import Expired
from transport.codec import unpack
from transport.codes import GapReason
from transport.messages import Missed, Publication
from transport.topics import is_pattern, matcher

RECALL_EVENTS: Final = 50_000  # of one request; of what is more the oldest are a gap
RECALL_BYTES: Final = 16 * 2**20
Since = str | dict[str, tuple[str, int]]


class Log(Protocol):
    """What is needed of the log (:class:`actors.topic_log.TopicLog`)."""

    def mark_of(self, position: str) -> int: ...
    def where(self, name: str) -> tuple[str, int]: ...
    def first(self, topic: str) -> int: ...
    def read(self, topic: str, after: int, limit: int) -> list[bytes]: ...
    def topics_behind(self, mark: int) -> dict[str, tuple[str, int]]: ...
    def last(self, pattern: str) -> list[Publication]: ...
    def is_durable(self, topic: str) -> bool: ...


class Recalled(NamedTuple):
    """Packed events, per topic in order, and the gaps before them. ``complete``: nothing is missing, named or not."""

    events: list[bytes]
    gaps: list[Missed]
    complete: bool = True


class _Budget:
    __slots__ = ("events", "nbytes")

    def __init__(self) -> None:
        self.events, self.nbytes = RECALL_EVENTS, RECALL_BYTES


class Older(NamedTuple):
    """What a history elsewhere still has that the log has no more: by topic the first offset and the packed events.

    ``complete``: of a place in that history nothing behind it is gone.
    """

    first: Mapping[str, int]
    events: Mapping[str, list[bytes]]
    complete: bool


NOTHING_OLDER = Older({}, {}, False)


def recall(log: Log, patterns: Sequence[str], since: Since, older: Older = NOTHING_OLDER) -> Recalled:
    """What of ``patterns`` came after ``since``: a position for all of them, or per exact topic epoch and offset."""
    recalled = Recalled([], [])
    budget = _Budget()
    if isinstance(since, dict):
        for topic, (epoch, offset) in since.items():
            _topic(log, topic, epoch, offset, recalled, budget, older)
        return recalled._replace(complete=not recalled.gaps)
    try:
        behind = log.topics_behind(log.mark_of(since))
    except Expired:
        for topic, packed in older.events.items():
            offset = unpack(packed[0])[3] - 1
            _topic(log, topic, log.where(topic)[0], offset, recalled, budget, older)
        _all_lost(log, patterns, recalled, older)
        # Of topics that nobody knows any more the loss cannot be named.
        whole = older.complete and all(log.is_durable(pattern) for pattern in patterns)
        return recalled._replace(complete=whole and not recalled.gaps)
    for topic in _matching(behind, patterns):
        epoch, first = behind[topic]
        _topic(log, topic, epoch, first - 1, recalled, budget, NOTHING_OLDER)
    return recalled._replace(complete=not recalled.gaps)


def _matching(topics: dict[str, tuple[str, int]], patterns: Sequence[str]) -> list[str]:
    exact = {pattern for pattern in patterns if not is_pattern(pattern)}
    wild = [matcher(pattern) for pattern in patterns if is_pattern(pattern)]
    if not wild:
        return [topic for topic in exact if topic in topics]
    return [topic for topic in topics if topic in exact or any(match(topic) for match in wild)]


def _topic(log: Log, topic: str, epoch: str, offset: int, recalled: Recalled, budget: _Budget, older: Older) -> None:
    present, head = log.where(topic)
    reason = GapReason.HISTORY_EXPIRED
    if epoch != present or offset > head:
        # Of the former epoch nobody knows what was lost; what there is of this one is new to the client.
        reason, offset = GapReason.EPOCH_CHANGED, 0
    first, events = _kept(log, topic, offset, head, older)
    spare = _too_many(events, budget)
    first += spare
    if reason is GapReason.EPOCH_CHANGED or first > offset + 1:
        if spare and first - spare == offset + 1:
            reason = GapReason.OVERFLOW
        recalled.gaps.append(Missed(topic, present, offset + 1, first - 1, reason.value))
    recalled.events.extend(events[spare:])


def _kept(log: Log, topic: str, offset: int, head: int, older: Older) -> tuple[int, list[bytes]]:
    """The events behind ``offset`` that there are, without a hole up to the head, and the offset of the first."""
    first = max(log.first(topic), offset + 1, head - RECALL_EVENTS + 1)
    events = log.read(topic, first - 1, RECALL_EVENTS) if first <= head else []
    before = [packed for packed in older.events.get(topic, ()) if offset < unpack(packed)[3] < first]
    if before and unpack(before[-1])[3] == first - 1:
        return first - len(before), before + events
    return first, events


def _too_many(events: list[bytes], budget: _Budget) -> int:
    """How many of the oldest are too many."""
    for n in range(len(events) - 1, -1, -1):
        budget.events -= 1
        budget.nbytes -= len(events[n])
        if budget.events < 0 or budget.nbytes < 0:
            return n + 1
    return 0


def _all_lost(log: Log, patterns: Sequence[str], recalled: Recalled, older: Older) -> None:
    """The place is too old, or of another log: say of every topic that something may be missing up to its head."""
    told = set(older.events)
    for pattern in patterns:
        for last in log.last(pattern):
            if last.topic not in told and not (older.complete and log.is_durable(last.topic)):
                told.add(last.topic)
                recalled.gaps.append(Missed(last.topic, last.epoch, 1, last.offset, GapReason.HISTORY_EXPIRED.value))
