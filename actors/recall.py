"""What a subscription has missed since a place in the log: the events, and what of them cannot be had. Pure but for the
log's reading."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from typing import Final, NamedTuple, Protocol

from actors.history import Expired
from transport.codec import unpack
from transport.codes import GapReason
from transport.messages import Missed, Publication
from transport.topics import is_pattern, matcher

RECALL_EVENTS: Final = 50_000  # of one request; of what is more the oldest are a gap
RECALL_BYTES: Final = 16 * 2**20
RECALL_TOPICS: Final = 20_000  # some 0.3 s; of those beyond nothing is read
PAGE_BYTES: Final = 8 * 2**20
Since = str | dict[str, tuple[str, int]]


class Log(Protocol):
    """What is needed of the log (:class:`actors.topic_log.TopicLog`)."""

    def mark_of(self, position: str) -> int: ...
    def where(self, name: str) -> tuple[str, int]: ...
    def first(self, topic: str, after: int = 0) -> int: ...
    def newest(self, topic: str, after: int, events: int, nbytes: int) -> int: ...
    def read(self, topic: str, after: int, limit: int) -> list[bytes]: ...
    def events(self, topic: str, after: int) -> Iterator[bytes]: ...
    def topics_behind(self, mark: int, topics: Collection[str] | None = None) -> dict[str, tuple[str, int]]: ...
    def last(self, pattern: str) -> list[Publication]: ...
    def is_durable(self, topic: str) -> bool: ...


class Recalled(NamedTuple):
    """Packed events, per topic in order, and the gaps before them. ``complete``: nothing is missing, named or not."""

    events: list[bytes]
    gaps: list[Missed]
    complete: bool = True


class _Budget:
    __slots__ = ("events", "nbytes", "topics")

    def __init__(self) -> None:
        self.events, self.nbytes, self.topics = RECALL_EVENTS, RECALL_BYTES, RECALL_TOPICS

    def take(self, events: list[bytes]) -> int:
        """How many of the oldest are too many."""
        for n in range(len(events) - 1, -1, -1):
            self.events -= 1
            self.nbytes -= len(events[n])
            if self.events < 0 or self.nbytes < 0:
                self.topics = 0  # then nothing of other topics either
                return n + 1
        return 0


class Older(NamedTuple):
    """What a history elsewhere still has that the log has no more: the packed events by topic, oldest first.

    ``complete``: of a place in that history nothing behind it is gone.
    """

    events: Mapping[str, list[bytes]]
    complete: bool


NOTHING_OLDER = Older({}, False)


def recall(log: Log, patterns: Sequence[str], since: Since, older: Older = NOTHING_OLDER) -> Recalled:
    """What of ``patterns`` came after ``since``: a position for all of them, or per exact topic epoch and offset."""
    recalled = Recalled([], [])
    budget = _Budget()
    if isinstance(since, dict):
        for topic, (epoch, offset) in since.items():
            _topic(log, topic, epoch, offset, recalled, budget, older)
        return recalled._replace(complete=not recalled.gaps)
    try:
        mark = log.mark_of(since)
        behind = log.topics_behind(mark, None if any(map(is_pattern, patterns)) else dict.fromkeys(patterns))
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


def page(
    log: Log, topic: str, limit: int, since: tuple[str, int] | None, older: Older = NOTHING_OLDER
) -> tuple[list[bytes], Missed | None]:
    """At most ``limit`` events of a topic and :data:`PAGE_BYTES`, but one at least: the first after ``since``, with
    what of those cannot be had, else the last ones."""
    present, head = log.where(topic)
    epoch, offset = (present, max(0, head - limit)) if since is None else since
    same = epoch == present and offset <= head
    offset = offset if same else 0
    kept = log.first(topic, offset)
    first, before = _older(topic, offset, kept, older)
    room = PAGE_BYTES
    if same and since is not None and not before:
        begin, run = _run(topic, offset, kept, older)
        if len(run) >= limit or sum(map(len, run)) > room:  # a whole page, which need not lead on to the log
            first, before = begin, run
    if since is None:
        kept = first + len(before)
        newest = max(kept, min(log.newest(topic, kept - 1, limit, room), head))
        events = log.read(topic, newest - 1, limit) if newest <= head else []
        if newest == kept:
            events = [*before, *events]
        return events, None
    events = []
    for packed in chain(before, log.events(topic, first + len(before) - 1)):
        room -= len(packed)
        if len(events) >= limit or (events and room < 0):
            break
        events.append(packed)
    if not same:
        return events, Missed(topic, present, 1, first - 1, GapReason.EPOCH_CHANGED.value)
    if first > offset + 1:
        return events, Missed(topic, present, offset + 1, first - 1, GapReason.HISTORY_EXPIRED.value)
    return events, None


def _topic(log: Log, topic: str, epoch: str, offset: int, recalled: Recalled, budget: _Budget, older: Older) -> None:
    present, head = log.where(topic)
    same = epoch == present and offset <= head
    # Of the former epoch nobody knows what was lost; what there is of this one is new to the client.
    offset = offset if same else 0
    budget.topics -= 1
    if budget.topics < 0:
        kept, first, events = offset + 1, head + 1, list[bytes]()
    else:
        kept = log.first(topic, offset)
        first = log.newest(topic, kept - 1, budget.events, budget.nbytes) if kept <= head else kept
        events = log.read(topic, first - 1, budget.events) if first <= head else []
        if first == kept:
            kept, before = _older(topic, offset, kept, older)
            first, events = kept, before + events
        spare = budget.take(events)
        first += spare
        del events[:spare]
    if not same or first > offset + 1:
        reason = GapReason.OVERFLOW if kept == offset + 1 else GapReason.HISTORY_EXPIRED
        reason = reason if same else GapReason.EPOCH_CHANGED
        recalled.gaps.append(Missed(topic, present, offset + 1, first - 1, reason.value))
    recalled.events.extend(events)


def _older(topic: str, offset: int, first: int, older: Older) -> tuple[int, list[bytes]]:
    """What another history has between ``offset`` and ``first``, if nothing is missing before that, and where it
    begins."""
    before: list[bytes] = []
    for packed in reversed(older.events.get(topic, ())):
        place = unpack(packed)[3]
        if place == first - 1 and place > offset:
            before.append(packed)
            first = place
        elif place < first:
            break  # what comes before a hole is not to be had without it
    before.reverse()
    return first, before


def _run(topic: str, offset: int, first: int, older: Older) -> tuple[int, list[bytes]]:
    """The first events between ``offset`` and ``first`` that another history has without a hole, and where they
    begin."""
    begin, run = first, list[bytes]()
    for packed in older.events.get(topic, ()):
        place = unpack(packed)[3]
        if run and place != begin + len(run):
            break
        if offset < place < first:
            begin = begin if run else place
            run.append(packed)
    return begin, run


def _all_lost(log: Log, patterns: Sequence[str], recalled: Recalled, older: Older) -> None:
    """The place is too old, or of another log: say of every topic that something may be missing up to its head."""
    told = set(older.events)
    for pattern in patterns:
        for last in log.last(pattern):
            if last.topic not in told and not (older.complete and log.is_durable(last.topic)):
                told.add(last.topic)
                recalled.gaps.append(Missed(last.topic, last.epoch, 1, last.offset, GapReason.HISTORY_EXPIRED.value))
