"""What one client should have got, and what it has: by the sequences of messages, over all its connections. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from pyroaring import BitMap

from transport.position import Position

NONE_YET: Final = -1
"""Instead of the next sequence, where the first one to come is the first expected."""


class Strays(NamedTuple):
    """Sequences that did not come in their turn."""

    duplicates: list[int]
    late: list[int]


class Sequences:
    """One client's. A hole costs some bytes, however long it is.

    Attributes:
        next: the sequence that should come now, or :data:`NONE_YET`.
        place: of the last message, where the server tells places; also what its subscription began after.
    """

    __slots__ = ("_begin", "_floor", "_missing", "_spans", "_whole", "next", "place")

    def __init__(self) -> None:
        self.next = NONE_YET
        self.place: Position | None = None
        self._begin = 0  # of the present span; valid while `next` is
        self._floor = 0  # where the last span ended
        self._spans: list[tuple[int, int]] = []  # closed ones, ends excluded
        self._missing: BitMap | None = None
        self._whole = False

    def start(self, sure: bool) -> None:
        """The first subscription stands, and nothing was published before.

        Args:
            sure: the server has said so: all that is published from now on must come. Else all must come from the
                first message on that does, but if none does, all are missing.
        """
        self._whole = True
        if sure:
            self.next = 0

    def interrupt(self) -> None:
        """The connection is gone, and what is published meanwhile will not come."""
        if self.next != NONE_YET:
            self._spans.append((self._begin, self.next))
            self._floor, self.next = self.next, NONE_YET
        self._whole = False

    def take(self, sequences: Iterable[int]) -> Strays:
        """What came, in its order. The quick way, one message after the other, is the caller's."""
        strays = Strays([], [])
        for sequence in sequences:
            if sequence == self.next:
                self.next += 1
            elif self.next == NONE_YET:
                if sequence < self._floor:
                    self._took_late(sequence, strays)
                else:
                    self._begin, self.next = sequence, sequence + 1
            elif sequence > self.next:
                self._lack(self.next, sequence)
                self.next = sequence + 1
            elif self._floor <= sequence < self._begin:  # the first that came was not the first
                self._lack(sequence + 1, self._begin)
                self._begin = sequence
                strays.late.append(sequence)
            else:
                self._took_late(sequence, strays)
        return strays

    def _lack(self, first: int, end: int) -> None:
        if self._missing is None:
            self._missing = BitMap()
        self._missing.add_range(first, end)

    def _took_late(self, sequence: int, strays: Strays) -> None:
        if self._missing is not None and sequence in self._missing:
            self._missing.remove(sequence)
            strays.late.append(sequence)
        else:
            strays.duplicates.append(sequence)

    def expected(self, first: int, end: int) -> int:
        """How many of the sequences from ``first`` on, before ``end``, should have come.

        ``end`` is not above the end of what was published.
        """
        return sum(max(0, min(b, end) - max(a, first)) for a, b in self._all_spans(end))

    def missing(self, first: int, end: int) -> tuple[int, int | None]:
        """How many of those did not, and which was the first."""
        count, earliest = 0, None
        if self._missing is not None and (count := self._missing.range_cardinality(first, end)):
            below = self._missing.rank(first - 1) if first else 0
            earliest = self._missing[below]
        begin = first if self._unseen else end if self.next == NONE_YET else max(first, self.next)
        if begin < end:
            count += end - begin
            earliest = begin if earliest is None else earliest
        return count, earliest

    @property
    def _unseen(self) -> bool:
        """It should have got everything, and got nothing."""
        return self._whole and self.next == NONE_YET

    def _all_spans(self, end: int) -> Sequence[tuple[int, int]]:
        if self._unseen:
            return [(0, end)]
        return self._spans if self.next == NONE_YET else [*self._spans, (self._begin, end)]
