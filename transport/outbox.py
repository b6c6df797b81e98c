"""The slow lane of one session: a bounded queue of frames, urgent ones first, that says what it dropped. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import Enum, auto
from typing import Any, NamedTuple

from transport.codes import PRIORITY_RANK, GapReason, Priority
from transport.gap_log import GapLog
from transport.messages import Missed, Publication
from transport.topics import is_pattern, matches

OVERTAKE_LOOKS = 64
"""Look-ups that an urgent event spends on whether it may overtake barriers: a client can queue thousands of them."""
DEAD = 64
"""Entries that were conflated away and take room in a queue, beyond as many as are alive."""

_URGENT = PRIORITY_RANK[Priority.HIGH]  # ranks up to this one may overtake barriers


class Verdict(Enum):
    """What became of a push."""

    QUEUED = auto()
    HALF = auto()  # queued, and half of the bound is used now: tell the client once
    DROPPED = auto()  # queued, and for it events were dropped that are older or less urgent; or it was one of them
    FULL = auto()  # not even dropping events makes room: disconnect


class _Barrier(NamedTuple):
    frame: bytes
    topics: frozenset[str]
    patterns: tuple[str, ...]  # those with wildcards


class Outbox:
    """Frames that wait for one client: answers, then events, those of higher priority first, each priority in order.

    **Answers** that concern no topic leave before all else, in their own order.

    **Barriers** are answers and notices that have their place in topics: the `ok` of a subscription, a `gap`. They keep
    their order. Events pushed before one leave before it, whatever their priority. Events pushed after it leave after
    it, but for high and critical ones whose topic no queued barrier concerns: they may overtake. (Answers overtake
    barriers, too: clients tell answers apart by their ids.)

    **Full**, it drops the oldest event of the lowest priority, never an answer, and remembers it as a gap. Gaps leave
    before what is queued, but behind the barriers that the event was behind: so a client reads of a gap before the next
    event of that topic and priority, and nothing of a subscription before its `ok`. A span may hold events that were
    not dropped, say of another priority. Gaps are bounded like events.

    **Conflated** events replace the one of the same topic, key and priority that waits, at the place of the newer one:
    offsets rise. How many went that way is told by :meth:`skips`.

    Cost: O(1) amortised per push and per frame taken; while barriers are queued an urgent event may cost
    :data:`OVERTAKE_LOOKS` comparisons more. Memory: the frames and 0.1 KiB per event.

    Attributes:
        size: bytes queued.
        dropped: events dropped in all.
    """

    __slots__ = (
        "_answers",
        "_barriers",
        "_behind",
        "_dead",
        "_gaps",
        "_lanes",
        "_limit_bytes",
        "_limit_events",
        "_newest",
        "_notice_at",
        "_segment",
        "_skipped",
        "_waiting",
        "dropped",
        "size",
    )

    def __init__(self, limit_bytes: int, limit_events: int) -> None:
        self._limit_bytes, self._limit_events = limit_bytes, limit_events
        self._notice_at = limit_bytes // 2  # bytes from which a push is looked at: half, and when that was told, all
        self._answers: deque[bytes] = deque()
        self._barriers: deque[_Barrier] = deque()
        # A segment is what lies between two barriers: what is in the n-th leaves behind the first n barriers.
        self._segment = 0  # barriers pushed in all: where an event belongs that is pushed now
        self._behind = 0  # barriers taken in all: what may leave now
        # Entries [segment, frame, publication, identity if conflated] by rank, oldest first. They are lists because an
        # object takes three times as long to make. Without a frame: a newer one has replaced it.
        self._lanes: tuple[deque[list[Any]], ...] = (deque(), deque(), deque(), deque())
        self._newest: dict[tuple[str, str | None, int], list[Any]] = {}  # topic, key, rank → the entry that waits
        self._dead = 0
        self._waiting = 0  # frames, without the dead
        self._gaps = GapLog()
        self._skipped: dict[str, int] = {}
        self.size = 0
        self.dropped = 0

    def __len__(self) -> int:
        return self._waiting

    def __bool__(self) -> bool:
        """Whether frames or gaps wait; skips may be told at leisure."""
        return self._waiting > 0 or bool(self._gaps.spans)

    @property
    def crowded(self) -> bool:
        """Whether half of a bound is used: of bytes, events or gaps."""
        most = max(self._waiting, len(self._gaps.spans))
        return self.size * 2 >= self._limit_bytes or most * 2 >= self._limit_events

    def fits_half(self, size: int) -> bool:
        """Whether so many bytes more leave half of the room."""
        return (self.size + size) * 2 <= self._limit_bytes

    @property
    def oldest(self) -> float | None:
        """``ts`` of the event that has waited for longest; ``None`` if no event waits."""
        waited: float | None = None
        for lane in self._lanes:
            while lane and lane[0][1] is None:
                lane.popleft()
                self._dead -= 1
            if lane and (waited is None or lane[0][2].ts < waited):
                waited = lane[0][2].ts
        return waited

    # in -------------------------------------------------------------------------------------------------------------

    def push(self, frame: bytes, publication: Publication | None = None, *, conflate: bool = False) -> Verdict:
        """Queue a frame; ``publication`` is ``None`` for answers, which are never dropped."""
        if publication is None:
            self._answers.append(frame)
        else:
            rank = PRIORITY_RANK[publication.priority]
            segment = self._place(publication.topic, rank) if self._barriers else self._segment
            entry = [segment, frame, publication, None]
            if conflate:
                self._conflate(entry, publication, rank)
            self._lanes[rank].append(entry)
        self._waiting += 1
        self.size += len(frame)
        if self.size <= self._notice_at and self._waiting <= self._limit_events:
            return Verdict.QUEUED
        return self._bound()

    def push_barrier(self, frame: bytes, topics: Sequence[str]) -> Verdict:
        """Queue an answer or notice that keeps its place among the events of these topics or patterns."""
        wild = tuple(pattern for pattern in topics if is_pattern(pattern))
        self._barriers.append(_Barrier(frame, frozenset(topics), wild))
        self._segment += 1
        self._waiting += 1
        self.size += len(frame)
        return self._bound()

    def rate_limited(self, publication: Publication) -> Verdict:
        """Remember an event that is beyond the user's rate as a gap, told where the event would have been queued."""
        rank = PRIORITY_RANK[publication.priority]
        segment = self._place(publication.topic, rank) if self._barriers else self._segment
        self._gaps.remember(publication, GapReason.RATE_LIMITED, segment)
        return self._bound()

    def _place(self, topic: str, rank: int) -> int:
        """The segment of an event: the last one; of an urgent one the first that is behind all that concerns it."""
        segment = self._segment
        if rank > _URGENT:
            return segment
        looks = OVERTAKE_LOOKS
        for _, topics, patterns in reversed(self._barriers):
            looks -= 1 + len(patterns)
            if looks < 0 or topic in topics or any(matches(pattern, topic) for pattern in patterns):
                break
            segment -= 1  # never less than an earlier event of the topic got, so that its order holds
        return segment

    def _conflate(self, entry: list[Any], publication: Publication, rank: int) -> None:
        topic = publication.topic
        entry[3] = identity = (topic, publication.key, rank)
        old = self._newest.get(identity)
        self._newest[identity] = entry
        if old is None:
            return
        if topic in self._skipped or len(self._skipped) < self._limit_events:
            self._skipped[topic] = self._skipped.get(topic, 0) + 1
        else:  # bounded like events and gaps, and gaps are told sooner
            self.dropped += 1
            self._gaps.remember(old[2], GapReason.SLOW, old[0])
        self._waiting -= 1
        self.size -= len(old[1])
        old[1] = old[2] = None
        self._dead += 1
        if self._dead > self._waiting + DEAD:  # nobody takes, and the dead must not pile up
            for lane in self._lanes:
                alive = [entry for entry in lane if entry[1] is not None]
                lane.clear()
                lane.extend(alive)
            self._dead = 0

    def _bound(self) -> Verdict:
        verdict = Verdict.QUEUED
        while self.size > self._limit_bytes or self._waiting > self._limit_events:
            if len(self._gaps.spans) > self._limit_events or not self._drop():
                return Verdict.FULL
            verdict = Verdict.DROPPED
        if len(self._gaps.spans) > self._limit_events:
            return Verdict.FULL
        if self.size > self._notice_at:
            self._notice_at = self._limit_bytes
            return Verdict.HALF if verdict is Verdict.QUEUED else verdict
        return verdict

    def _drop(self) -> bool:
        """Drop the oldest event of the lowest priority; whether there was one."""
        for lane in reversed(self._lanes):
            while lane:
                segment, frame, publication, identity = lane.popleft()
                if frame is None:
                    self._dead -= 1
                    continue
                if identity is not None:
                    del self._newest[identity]
                self._waiting -= 1
                self.size -= len(frame)
                self.dropped += 1
                self._gaps.remember(publication, GapReason.SLOW, segment)
                return True
        return False

    # out ------------------------------------------------------------------------------------------------------------

    def gaps(self) -> list[Missed]:
        """Take the gaps that are to be told before what :meth:`take` gives next."""
        return self._gaps.take(self._behind) if self._gaps.spans else []

    def skips(self) -> dict[str, int]:
        """Take how many events of which topics were conflated away."""
        taken, self._skipped = self._skipped, {}
        return taken

    def take(self, at_most: int) -> list[bytes]:
        """Take frames until ``at_most`` bytes are reached, at least one if there is any.

        Ends early where gaps are to be told: ask :meth:`gaps` before each call.
        """
        taken: list[bytes] = []
        size = 0
        answers = self._answers
        while answers and size < at_most:
            size += len(answers[0])
            taken.append(answers.popleft())
        while size < at_most:
            size = self._take_events(taken, size, at_most)
            if not self._barriers or size >= at_most:
                break
            frame = self._barriers.popleft().frame
            self._behind += 1
            taken.append(frame)
            size += len(frame)
            if self._gaps.spans:
                break
        self._waiting -= len(taken)
        self.size -= size
        if self.size * 4 < self._limit_bytes:
            self._notice_at = self._limit_bytes // 2
        return taken

    def _take_events(self, taken: list[bytes], size: int, at_most: int) -> int:
        """Take what may leave before the next barrier; returns the bytes taken so far."""
        behind = self._behind
        for lane in self._lanes:
            while lane and size < at_most and lane[0][0] <= behind:
                _, frame, _, identity = lane.popleft()
                if frame is None:
                    self._dead -= 1
                    continue
                if identity is not None:
                    del self._newest[identity]
                taken.append(frame)
                size += len(frame)
        return size
