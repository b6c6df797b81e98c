"""What the clauses of many filters ask of one field, and which of them a value of it fails.

A value is represented by what filters can tell apart: see :mod:`actors.filter_index`. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import Enum
from typing import Any

from pyroaring import BitMap

from actors.bounds import Bounds
from transport.filters import MISSING, Constraint, Scalar, number, scalar


class _Unnamed(Enum):
    OTHER = "a value that no filter names"


OTHER = _Unnamed.OTHER
_NOTHING = (None, None, None, None)  # is asked of the value
_WORDS = frozenset((str, type(None)))  # kinds of values that equal nothing of another kind

Ids = dict[Scalar, int | BitMap]
"""By value. A single id as it is: a bitmap of one takes 200 bytes."""


class _Ranges:
    """The ranges of one field over numbers, or over strings."""

    __slots__ = ("_least", "lower", "upper")

    def __init__(self, kind: type[Any]) -> None:
        self._least: Any = -math.inf if kind is float else ""  # stands for what lies below all thresholds
        self.lower: Bounds[Any] = Bounds(kind, above=True)
        self.upper: Bounds[Any] = Bounds(kind, above=False)

    @property
    def size(self) -> int:
        return self.lower.size + self.upper.size

    def floor(self, value: Any) -> Any:
        """The greatest threshold that is at most ``value``."""
        lower = self.lower.floor(value) if self.lower.size else None
        upper = self.upper.floor(value) if self.upper.size else None
        if upper is None:
            return self._least if lower is None else lower
        return upper if lower is None else max(lower, upper)


class FieldIndex:
    """What all clauses ask of one field."""

    __slots__ = ("absent", "accepted", "choosy", "needs", "numbers", "odd", "rejected", "strings")

    def __init__(self) -> None:
        self.needs = BitMap()  # want it to be present
        self.absent = BitMap()  # want it not to be
        self.choosy = BitMap()  # accept some values only: those in
        self.accepted: Ids = {}
        self.rejected: Ids = {}
        self.numbers: _Ranges | None = None
        self.strings: _Ranges | None = None
        self.odd = 0  # accepted values that are no words

    def __bool__(self) -> bool:
        return bool(self.needs) or bool(self.absent)

    @property
    def plain(self) -> bool:
        """Whether :meth:`represent` needs no more than to look into ``accepted``."""
        return not self.odd and not self.rejected and self.numbers is None and self.strings is None

    @property
    def bounds(self) -> list[Bounds[Any]]:
        """All thresholds there are."""
        both = (self.numbers, self.strings)
        return [bounds for ranges in both if ranges is not None for bounds in (ranges.lower, ranges.upper)]

    def add(self, constraint: Constraint, clause: int) -> None:
        """Take in what a clause asks of this field."""
        _, accept, reject, lower, upper, exists = constraint
        if exists is False:
            self.absent.add(clause)
        if exists is not False or constraint[1:5] != _NOTHING:
            self.needs.add(clause)
        if accept is not None:
            self.choosy.add(clause)
            for value in accept:
                if _put(self.accepted, value, clause) and type(value) not in _WORDS:
                    self.odd += 1
        if reject is not None:
            for value in reject:
                _put(self.rejected, value, clause)
        if lower is not None:
            self._ranges(lower).lower.add(lower, clause)
        if upper is not None:
            self._ranges(upper).upper.add(upper, clause)

    def remove(self, constraint: Constraint, clause: int) -> None:
        """Let go of what a clause asked, which must be the same."""
        _, accept, reject, lower, upper, _ = constraint
        self.absent.discard(clause)
        self.needs.discard(clause)
        if accept is not None:
            self.choosy.discard(clause)
            for value in accept:
                if _take(self.accepted, value, clause) and type(value) not in _WORDS:
                    self.odd -= 1
        if reject is not None:
            for value in reject:
                _take(self.rejected, value, clause)
        if lower is not None:
            self._ranges(lower).lower.remove(lower, clause)
        if upper is not None:
            self._ranges(upper).upper.remove(upper, clause)
        if self.numbers is not None and not self.numbers.size:
            self.numbers = None
        if self.strings is not None and not self.strings.size:
            self.strings = None

    def _ranges(self, bound: Any) -> _Ranges:
        if type(bound) is float:
            if self.numbers is None:
                self.numbers = _Ranges(float)
            return self.numbers
        if self.strings is None:
            self.strings = _Ranges(str)
        return self.strings

    def represent(self, value: Any) -> Any:
        """What of a value filters can tell apart: it or ``OTHER``, and with ranges that and the threshold below it."""
        kind = type(value)
        if kind is float or kind is int:
            exact = value if kind is float else scalar(value)
            named = exact if exact in self.accepted or exact in self.rejected else OTHER
            if self.numbers is None:
                return named
            return named, self.numbers.floor(value if kind is float else number(value))
        if value is MISSING:
            return MISSING
        if kind is dict or kind is list:
            return OTHER
        exact = scalar(value)
        named = exact if exact in self.accepted or exact in self.rejected else OTHER
        return named if kind is not str or self.strings is None else (named, self.strings.floor(value))

    def failing(self, seen: Any) -> Iterator[BitMap]:
        """Bitmaps of the clauses that do not accept a represented value; not to be changed."""
        if seen is MISSING:
            yield self.needs
            return
        name, floor = seen if type(seen) is tuple else (seen, None)
        if self.absent:
            yield self.absent
        if self.choosy:
            fitting = self.accepted.get(name)
            yield self.choosy if fitting is None else self.choosy - bitmap(fitting)
        if self.rejected and (unfit := self.rejected.get(name)) is not None:
            yield bitmap(unfit)
        for kind, ranges in ((float, self.numbers), (str, self.strings)):
            if ranges is not None:
                if type(floor) is kind:
                    yield from ranges.lower.cut(floor)
                    yield from ranges.upper.cut(floor)
                else:
                    yield ranges.lower.all
                    yield ranges.upper.all


def accepts(constraint: Constraint, seen: Any) -> bool:
    """Whether one constraint accepts a represented value: what :meth:`FieldIndex.failing` says of many."""
    _, accept, reject, lower, upper, exists = constraint
    if seen is MISSING:
        return exists is False and constraint[1:5] == _NOTHING
    name, floor = seen if type(seen) is tuple else (seen, None)
    if exists is False or (accept is not None and name not in accept) or (reject is not None and name in reject):
        return False
    above: Any = lower  # bounds and floor are compared only where they are of one kind
    below: Any = upper
    if above is not None and (type(floor) is not type(above) or floor < above):
        return False
    return below is None or (type(floor) is type(below) and bool(floor < below))


def bitmap(held: int | BitMap) -> BitMap:
    """The ids of a value; not to be changed."""
    return held if isinstance(held, BitMap) else BitMap((held,))


def _put(ids: Ids, value: Scalar, clause: int) -> bool:
    """Add an id to those of a value; whether the value is new."""
    held = ids.get(value)
    if held is None:
        ids[value] = clause
        return True
    if isinstance(held, BitMap):
        held.add(clause)
    else:
        ids[value] = BitMap((held, clause))
    return False


def _take(ids: Ids, value: Scalar, clause: int) -> bool:
    """Take an id from those of a value; whether the value has gone with it."""
    held = ids[value]
    if not isinstance(held, BitMap):
        assert held == clause, "the id of another clause"
        del ids[value]
        return True
    held.remove(clause)
    if len(held) == 1:
        ids[value] = held.min()
    return False
