"""Which of many filtered subscriptions accept an event? Exact, and without looking at those that do not.

Each clause of each filter has a small number, its id, and each field has bitmaps of the ids that ask something of it.
An event narrows the set of all clauses field by field; what is left are the clauses that hold.

An event counts only by its class: per field the value where some filter names it, else that it is another one, and where
there are ranges the greatest threshold that is not above the value. Since ranges are half-open, that threshold stands
for every value up to the next one: no filter tells them apart. The same holds for a class that was made earlier and is
asked about later. A value that a filter names meanwhile, or a threshold that comes between, makes a class of its own, and
the old class means what remains of it; one that goes leaves filters that do not tell the two apart. So what was selected
for a class can be kept, and brought up to date by asking only the subscriptions that came and went.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from enum import Enum
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

from pyroaring import BitMap

from actors.bounds import Bounds
from transport.filters import MISSING, Clauses, Constraint, Scalar, number, scalar

CHANGES_KEPT = 256


class _Unnamed(Enum):
    OTHER = "a value that no filter names"


OTHER = _Unnamed.OTHER
_NOTHING = (None, None, None, None)  # asked of the value


class Filtered(Hashable, Protocol):
    """What the index asks of an owner; the filter must stay the same while it is in."""

    @property
    def filter(self) -> Any: ...


Owner = TypeVar("Owner", bound=Filtered)
Key = tuple[Hashable, ...]
Ids = dict[Scalar, "int | BitMap"]  # one id as it is: a bitmap of one takes 200 bytes


class _Ranges:
    """The ranges of one field over numbers, or over strings."""

    __slots__ = ("least", "lower", "upper")

    def __init__(self, kind: type[Any]) -> None:
        self.least: Any = -math.inf if kind is float else ""  # stands for what lies below all thresholds
        self.lower: Bounds[Any] = Bounds(kind, above=True)
        self.upper: Bounds[Any] = Bounds(kind, above=False)

    def floor(self, value: Any) -> Any:
        lower, upper = self.lower.floor(value), self.upper.floor(value)
        if lower is None or upper is None:
            return (self.least if upper is None else upper) if lower is None else lower
        return max(lower, upper)

    def __bool__(self) -> bool:
        return bool(self.lower) or bool(self.upper)


class _Field:
    """What clauses ask of one field."""

    __slots__ = ("absent", "accepted", "choosy", "needs", "numbers", "rejected", "strings")

    def __init__(self) -> None:
        self.needs = BitMap()  # the field must be present
        self.absent = BitMap()  # it must not
        self.choosy = BitMap()  # it must have one of some values
        self.accepted: Ids = {}
        self.rejected: Ids = {}
        self.numbers: _Ranges | None = None
        self.strings: _Ranges | None = None

    def __bool__(self) -> bool:
        return bool(self.needs) or bool(self.absent)

    def add(self, constraint: Constraint, clause: int) -> None:
        _, accept, reject, lower, upper, exists = constraint
        if exists is False:
            self.absent.add(clause)
        if exists is not False or constraint[1:5] != _NOTHING:
            self.needs.add(clause)
        if accept is not None:
            self.choosy.add(clause)
            for value in accept:
                _put(self.accepted, value, clause)
        for value in reject or ():
            _put(self.rejected, value, clause)
        if lower is not None:
            self._ranges(lower).lower.add(lower, clause)
        if upper is not None:
            self._ranges(upper).upper.add(upper, clause)

    def remove(self, constraint: Constraint, clause: int) -> None:
        _, accept, reject, lower, upper, _ = constraint
        self.absent.discard(clause)
        self.needs.discard(clause)
        if accept is not None:
            self.choosy.discard(clause)
            for value in accept:
                _take(self.accepted, value, clause)
        for value in reject or ():
            _take(self.rejected, value, clause)
        if lower is not None:
            self._ranges(lower).lower.remove(lower, clause)
        if upper is not None:
            self._ranges(upper).upper.remove(upper, clause)
        if self.numbers is not None and not self.numbers:
            self.numbers = None
        if self.strings is not None and not self.strings:
            self.strings = None

    def _ranges(self, bound: Any) -> _Ranges:
        if type(bound) is float:
            if self.numbers is None:
                self.numbers = _Ranges(float)
            return self.numbers
        if self.strings is None:
            self.strings = _Ranges(str)
        return self.strings

    def represent(self, value: Any) -> Hashable:
        """What of a value filters can tell apart."""
        kind = type(value)
        if kind is str:
            name = value if value in self.accepted or value in self.rejected else OTHER
            return name if self.strings is None else (name, self.strings.floor(value))
        if kind is float or kind is int:
            exact = scalar(value)
            named = exact if exact in self.accepted or exact in self.rejected else OTHER
            return named if self.numbers is None else (named, self.numbers.floor(number(value)))
        if value is MISSING:
            return MISSING
        if kind is bool or value is None:
            known = scalar(value)
            return known if known in self.accepted or known in self.rejected else OTHER
        return OTHER

    def narrow(self, left: BitMap, seen: Any) -> None:
        """Take from ``left`` the clauses that do not accept a represented value."""
        if seen is MISSING:
            left -= self.needs
            return
        name, floor = seen if type(seen) is tuple else (seen, None)
        if self.absent:
            left -= self.absent
        if self.choosy:
            fitting = self.accepted.get(name)
            if fitting is None:
                left -= self.choosy
            elif type(fitting) is int:
                stays = fitting in left
                left -= self.choosy
                if stays:
                    left.add(fitting)
            else:
                kept = left & fitting
                left -= self.choosy
                left |= kept
        if self.rejected and (unfit := self.rejected.get(name)) is not None:
            if type(unfit) is int:
                left.discard(unfit)
            else:
                left -= unfit
        for kind, ranges in ((float, self.numbers), (str, self.strings)):
            if ranges is not None:
                if type(floor) is kind:
                    parts = (*ranges.lower.cut(floor), *ranges.upper.cut(floor))
                else:
                    parts = (ranges.lower.all, ranges.upper.all)
                for part in parts:
                    left -= part


class FilterIndex(Generic[Owner]):
    """The filtered subscriptions to one topic pattern.

    Attributes:
        fields: the fields that the filters name, sorted.
        version: rises with each owner that comes or goes.
    """

    def __init__(self) -> None:
        self.fields: tuple[str, ...] = ()
        self.version = 0
        self._states: list[_Field] = []
        self._places: dict[str, int] = {}
        self._by_name: dict[str, _Field] = {}
        self._ids: dict[Owner, int | tuple[int, ...]] = {}
        self._owners: list[Owner | None] = []  # by clause id
        self._all = BitMap()
        self._free = BitMap()
        self._several = BitMap()  # clauses of owners that have more than one
        self._log: deque[Owner] = deque(maxlen=CHANGES_KEPT)

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, owner: object) -> bool:
        return owner in self._ids

    def __iter__(self) -> Iterator[Owner]:
        return iter(self._ids)

    def add(self, owner: Owner) -> None:
        """Take in an owner that is not in."""
        assert owner not in self._ids, "an owner is taken in once"
        self._insert(owner)
        self._changed(owner)

    def remove(self, owner: Owner) -> None:
        """Let go of an owner; :class:`KeyError` if it is not in."""
        held = self._ids.pop(owner)
        gone = False
        for clause, constraints in zip(_ids(held), owner.filter.clauses, strict=True):
            for constraint in constraints:
                state = self._by_name[constraint.field]
                state.remove(constraint, clause)
                if not state:
                    del self._by_name[constraint.field]
                    gone = True
            self._all.remove(clause)
            self._several.discard(clause)
            self._owners[clause] = None
            self._free.add(clause)
        while self._owners and self._owners[-1] is None:
            self._owners.pop()
            self._free.remove(len(self._owners))
        if gone:
            self._refresh_fields()
        self._changed(owner)

    def classify(self, values: Sequence[Any]) -> Key:
        """The class of an event that has these values of ``fields``, in that order."""
        return tuple([state.represent(value) for state, value in zip(self._states, values, strict=True)])

    def match(self, key: Key) -> BitMap:
        """The ids of the clauses that accept a class."""
        left = self._all.copy()
        for state, seen in zip(self._states, key, strict=True):
            state.narrow(left, seen)
        return left

    def owners(self, key: Key) -> list[Owner]:
        """The owners that accept a class, each once."""
        return self.listed(self.match(key))

    def listed(self, clauses: BitMap) -> list[Owner]:
        """The owners of what :meth:`match` found, each once."""
        found: list[Any] = list(map(self._owners.__getitem__, clauses.to_array()))
        if self._several and self._several.intersect(clauses):
            return list(dict.fromkeys(found))
        return found

    def accepts(self, owner: Owner, key: Key) -> bool:
        """Whether one owner of this index accepts a class; the same as :meth:`match` says of all."""
        places = self._places
        return any(
            all(_accepts(constraint, key[places[constraint.field]]) for constraint in constraints)
            for constraints in owner.filter.clauses
        )

    def changes_since(self, version: int) -> Iterable[Owner] | None:
        """Owners that came or went since ``version``, oldest first; which of the two, ``in`` says.

        ``None``: too long ago, or the fields are others since, so that classes of then mean nothing now.
        """
        count = self.version - version
        if count > len(self._log):
            return None
        return islice(self._log, len(self._log) - count, None)

    def _changed(self, owner: Owner) -> None:
        self.version += 1
        self._log.append(owner)

    def _insert(self, owner: Owner) -> None:
        clauses: Clauses = owner.filter.clauses
        ids = [self._new_id(owner) for _ in clauses]
        self._ids[owner] = ids[0] if len(ids) == 1 else tuple(ids)
        if len(ids) > 1:
            self._several.update(ids)
        new = False
        for clause, constraints in zip(ids, clauses, strict=True):
            for constraint in constraints:
                state = self._by_name.get(constraint.field)
                if state is None:
                    state = self._by_name[constraint.field] = _Field()
                    new = True
                state.add(constraint, clause)
        if new:
            self._refresh_fields()

    def _new_id(self, owner: Owner) -> int:
        if self._free:
            clause = self._free.min()
            self._free.remove(clause)
            self._owners[clause] = owner
        else:
            clause = len(self._owners)
            self._owners.append(owner)
        self._all.add(clause)
        return clause

    def _refresh_fields(self) -> None:
        fields = tuple(sorted(self._by_name))
        if fields != self.fields:
            self.fields = fields
            self._states = [self._by_name[name] for name in fields]
            self._places = {name: place for place, name in enumerate(fields)}
            self.version += 1
            self._log.clear()
        else:  # the last clause of a field went and came within one owner
            self._states = [self._by_name[name] for name in fields]


def _accepts(constraint: Constraint, seen: Any) -> bool:
    _, accept, reject, lower, upper, exists = constraint
    if seen is MISSING:
        return exists is False and constraint[1:5] == _NOTHING
    name, floor = seen if type(seen) is tuple else (seen, None)
    if exists is False or (accept is not None and name not in accept) or (reject is not None and name in reject):
        return False
    for bound in (lower, upper):
        if bound is not None and type(bound) is not type(floor):
            return False
    return (lower is None or lower <= floor) and (upper is None or floor < upper)


def _ids(held: int | tuple[int, ...]) -> tuple[int, ...]:
    return held if type(held) is tuple else (held,)  # type: ignore[return-value]


def _put(ids: Ids, value: Scalar, clause: int) -> None:
    held = ids.get(value)
    if held is None:
        ids[value] = clause
    elif type(held) is int:
        ids[value] = BitMap((held, clause))
    else:
        held.add(clause)  # type: ignore[union-attr]


def _take(ids: Ids, value: Scalar, clause: int) -> None:
    held = ids[value]
    if type(held) is int:
        assert held == clause, "an id that another clause holds"
        del ids[value]
        return
    held.remove(clause)  # type: ignore[union-attr]
    if len(held) == 1:  # type: ignore[arg-type]
        ids[value] = held.min()  # type: ignore[union-attr]
