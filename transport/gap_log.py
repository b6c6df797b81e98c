"""What one session will not get, as spans of offsets, until it is told. Pure."""

from __future__ import annotations

from transport.codes import GapReason
from transport.messages import Missed, Publication

SPLITS = 64
"""Spans beyond one per topic and reason: then a topic's last span is stretched, over events that were not lost, too."""

Key = tuple[str, str, str, int]
"""Topic, epoch, reason, segment."""


class GapLog:
    """Lost events, joined to spans where their offsets follow each other. O(1) per event.

    A segment says when a gap may be told: the outbox counts them.

    Attributes:
        spans: by key, in the order of the first loss; ``[first, last]`` each. Its length is what the owner bounds.
    """

    __slots__ = ("_splits", "spans")

    def __init__(self) -> None:
        self.spans: dict[Key, list[list[int]]] = {}
        self._splits = 0

    def remember(self, publication: Publication, reason: GapReason, segment: int = 0) -> None:
        """An event is lost. Of one that has no place yet there is nothing to tell: it comes again."""
        if not publication.epoch:
            return
        offset = publication.offset
        key = (publication.topic, publication.epoch, reason.value, segment)
        spans = self.spans.get(key)
        if spans is None:
            self.spans[key] = [[offset, offset]]
            return
        span = spans[-1]
        if offset == span[1] + 1:
            span[1] = offset
        elif self._splits < SPLITS:
            self._splits += 1
            spans.append([offset, offset])
        else:
            span[0], span[1] = min(span[0], offset), max(span[1], offset)

    def take(self, segment: int) -> list[Missed]:
        """Take what may be told up to a segment."""
        taken: list[Missed] = []
        for key in [key for key in self.spans if key[3] <= segment]:
            topic, epoch, reason, _ = key
            spans = self.spans.pop(key)
            self._splits -= len(spans) - 1
            taken += [Missed(topic, epoch, first, last, reason) for first, last in spans]
        return taken
