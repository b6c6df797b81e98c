"""The slow lane of one session: a bounded queue of frames that says what it dropped. Pure."""

from __future__ import annotations

from collections import deque
from enum import Enum, auto

from transport.codes import GapReason
from transport.messages import Missed, Publication


class Verdict(Enum):
    """What became of a push."""

    QUEUED = auto()
    HALF = auto()  # queued, and half of the bound is used now: tell the client once
    DROPPED = auto()  # queued, older events were dropped for it
    FULL = auto()  # not even dropping events makes room: disconnect


class Outbox:
    """Frames that wait for one client, oldest first.

    Full, it drops the oldest events (never answers) and remembers them as gaps, which leave before what is queued: so
    a client reads the gap of a topic before the topic's next event. Gaps are bounded like events. Cost: O(1) per push.
    """

    __slots__ = (
        "_answers",
        "_events",
        "_gaps",
        "_limit_bytes",
        "_limit_events",
        "_pushed",
        "_warned",
        "dropped",
        "size",
    )

    def __init__(self, limit_bytes: int, limit_events: int) -> None:
        self._limit_bytes, self._limit_events = limit_bytes, limit_events
        # Each with its place in the order of all; apart, so that the oldest event is found behind any answers.
        self._events: deque[tuple[int, bytes, Publication]] = deque()
        self._answers: deque[tuple[int, bytes]] = deque()
        self._pushed = 0
        self._gaps: dict[tuple[str, str], list[int]] = {}
        self._warned = False
        self.size = 0  # bytes queued
        self.dropped = 0  # events dropped in all

    def __len__(self) -> int:
        return len(self._events) + len(self._answers)

    def __bool__(self) -> bool:
        return bool(self._events or self._answers or self._gaps)

    def push(self, frame: bytes, publication: Publication | None = None) -> Verdict:
        """Queue a frame; ``publication`` is ``None`` for answers and notices, which are never dropped."""
        self._pushed += 1
        if publication is None:
            self._answers.append((self._pushed, frame))
        else:
            self._events.append((self._pushed, frame, publication))
        self.size += len(frame)
        verdict = Verdict.QUEUED
        while self.size > self._limit_bytes or len(self) > self._limit_events:
            if not self._events or len(self._gaps) > self._limit_events:
                return Verdict.FULL
            self._drop_oldest()
            verdict = Verdict.DROPPED
        if not self._warned and self.size * 2 > self._limit_bytes:
            self._warned = True
            return Verdict.HALF if verdict is Verdict.QUEUED else verdict
        return verdict

    def _drop_oldest(self) -> None:
        _, frame, publication = self._events.popleft()
        self.size -= len(frame)
        self.dropped += 1
        self._remember(publication)

    def _remember(self, publication: Publication) -> None:
        key = (publication.topic, publication.epoch)
        span = self._gaps.get(key)
        if span is None:
            self._gaps[key] = [publication.offset, publication.offset]
        else:
            span[1] = publication.offset

    def gaps(self) -> list[Missed]:
        """Take the gaps, to be told before anything from :meth:`take`."""
        taken = [
            Missed(topic, epoch, first, last, GapReason.SLOW.value)
            for (topic, epoch), (first, last) in self._gaps.items()
        ]
        self._gaps.clear()
        return taken

    def take(self, at_most: int) -> list[bytes]:
        """Take frames, oldest first, until ``at_most`` bytes are reached; at least one if there is any."""
        taken: list[bytes] = []
        size = 0
        events, answers = self._events, self._answers
        while (events or answers) and size < at_most:
            if events and not (answers and answers[0][0] < events[0][0]):
                frame = events.popleft()[1]
            else:
                frame = answers.popleft()[1]
            taken.append(frame)
            size += len(frame)
        self.size -= size
        if self.size * 4 < self._limit_bytes:
            self._warned = False
        return taken
