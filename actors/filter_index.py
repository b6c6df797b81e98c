"""Which of many filtered subscriptions accept an event? Exact, and without looking at those that do not.

Each clause of each filter has a small number, its id, and each field has bitmaps of the ids that ask something of it.
From an event's fields follow the clauses that fail; the others hold.

An event counts only by its class: per field the value where some filter names it, else that it is another one, and
where there are ranges the greatest threshold that is not above the value. Ranges are half-open, so that this threshold
stands for every value up to the next one: no filter tells them apart. That stays so for a class that is kept while
filters come and go. A value that is named later, or a threshold that comes between, makes a class of its own, and the
old class means what remains of it; where one goes, no filter is left that tells the two sides apart. So what was
selected for a class may be kept, and is right for as long as no filter that came or went since accepts that class.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from pyroaring import BitMap

from actors.field_index import OTHER, FieldIndex, Ids, accepts, bitmap
from transport.fields import Fields, fields_of
from transport.filters import CACHED_BYTES, MISSING, Filter
from transport.messages import Publication

CHANGES_KEPT = 256
"""Filters that came or went by which a kept selection can be judged; asking each takes 1 to 10 µs."""


class Filtered(Hashable, Protocol):
    """What the index asks of an owner. The filter must stay the same while it is in."""

    @property
    def filter(self) -> Filter | None: ...


Owner = TypeVar("Owner", bound=Filtered)
Key = tuple[Hashable, ...]


class FilterCounts(NamedTuple):
    """How much is in an index."""

    owners: int
    clauses: int
    fields: int
    values: int  # that filters name, per field
    thresholds: int  # of ranges, equal ones counted apart


class FilterIndex(Generic[Owner]):
    """The filtered subscriptions to one topic pattern. Pure; used on one thread.

    Measured with 1,000,000 of them that name up to four fields (``bench/test_filter_index.py``): a match 0.1 to 0.2 ms,
    an event's class 1 µs, joining 10 µs and leaving 20 µs, more where memory is cold; 120 to 160 bytes each beside the
    owner and its filter. Joining and leaving cost nothing for fields that the filter does not name.

    Attributes:
        fields: the fields that the filters name, sorted.
        version: rises with each owner that comes or goes.
    """

    def __init__(self) -> None:
        self.fields: tuple[str, ...] = ()
        self.version = 0
        self._reader: Fields | None = None
        self._log: deque[Filter] = deque(maxlen=CHANGES_KEPT)  # not owners: they would outlive their sessions
        self._empty()

    def _empty(self) -> None:
        self._ids: dict[Owner, int | tuple[int, ...]] = {}
        self._owners: list[Owner | None] = []  # by clause id
        self._all = BitMap()
        self._free = BitMap()  # ids below the highest one in use
        self._several = BitMap()  # ids of owners with more than one
        self._states: dict[str, FieldIndex] = {}
        self._plan: list[tuple[Ids | None, Callable[[Any], Hashable]]] = []  # per field: see classify

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, owner: object) -> bool:
        return owner in self._ids

    def __iter__(self) -> Iterator[Owner]:
        return iter(self._ids)

    # owners ---------------------------------------------------------------------------------------------------------

    def add(self, owner: Owner) -> None:
        """Take in an owner, which is not in and has a filter."""
        assert owner not in self._ids, "an owner is taken in once"
        if self._insert(owner):
            self._make_plan()
        self._changed(owner)

    def remove(self, owner: Owner) -> None:
        """Let go of an owner.

        Raises:
            KeyError: it is not in.
        """
        held = self._ids.pop(owner)
        replan = False
        for clause, constraints in zip(_tuple(held), _filter(owner).clauses, strict=True):
            for constraint in constraints:
                state = self._states[constraint.field]
                plain = state.plain
                state.remove(constraint, clause)
                if not state:
                    del self._states[constraint.field]
                replan |= not state or plain is not state.plain
            self._all.remove(clause)
            self._several.discard(clause)
            self._owners[clause] = None
            self._free.add(clause)
        while self._owners and self._owners[-1] is None:
            self._owners.pop()
            self._free.remove(len(self._owners))
        if replan:
            self._make_plan()
        self._changed(owner)

    def _insert(self, owner: Owner) -> bool:
        """Whether fields are to be looked at in another way from here on."""
        clauses = _filter(owner).clauses
        ids = [self._new_id(owner) for _ in clauses]
        if len(ids) == 1:
            self._ids[owner] = ids[0]
        else:
            self._ids[owner] = tuple(ids)
            self._several.update(ids)
        replan = False
        for clause, constraints in zip(ids, clauses, strict=True):
            for constraint in constraints:
                state = self._states.get(constraint.field)
                if state is None:
                    state = self._states[constraint.field] = FieldIndex()
                    replan = True
                plain = state.plain
                state.add(constraint, clause)
                replan |= plain is not state.plain
        return replan

    def _new_id(self, owner: Owner) -> int:
        if self._free:
            clause: int = self._free.min()
            self._free.remove(clause)
            self._owners[clause] = owner
        else:
            clause = len(self._owners)
            self._owners.append(owner)
        self._all.add(clause)
        return clause

    def _make_plan(self) -> None:
        fields = tuple(sorted(self._states))
        if fields != self.fields:
            # Classes of other fields mean nothing from here on: nobody may bring a selection up to date.
            self.fields = fields
            self.version += 1
            self._log.clear()
            self._reader = None
        states = [self._states[name] for name in fields]
        self._plan = [(state.accepted if state.plain else None, state.represent) for state in states]

    def _changed(self, owner: Owner) -> None:
        self.version += 1
        changed = _filter(owner)
        if len(changed.source) <= CACHED_BYTES:
            self._log.append(changed)
        else:  # to ask a filter that is parsed anew each time would take longer than to match
            self._log.clear()

    def changes_since(self, version: int) -> Iterable[Filter] | None:
        """The filters of the owners that came or went since ``version``, oldest first.

        ``None``: too long ago, or one of them is large, or the fields are others since, so that classes of then mean
        nothing now.
        """
        count = self.version - version
        if count > len(self._log):
            return None
        return islice(self._log, len(self._log) - count, None)

    # events ---------------------------------------------------------------------------------------------------------

    def class_of(self, publication: Publication) -> Key:
        """The class of an event."""
        if self._reader is None:
            self._reader = fields_of(self.fields)
        return self.classify(self._reader.of(publication))

    def classify(self, values: Sequence[Any]) -> Key:
        """The class of an event that has these values of ``fields``, in that order."""
        try:
            return tuple(
                [
                    represent(value) if known is None else value if value in known or value is MISSING else OTHER
                    for (known, represent), value in zip(self._plan, values)  # noqa: B905, it would cost 0.1 µs
                ]
            )
        except TypeError:  # an object or a list where filters expect words
            return tuple([represent(value) for (_, represent), value in zip(self._plan, values, strict=True)])

    def match(self, key: Key) -> BitMap:
        """The ids of the clauses that accept a class, for :meth:`listed`."""
        # The cheapest order, measured: unions of what fails stay dense and cost 2 µs each, where narrowing what is left
        # would convert containers from dense to sparse at each step, 20 to 200 µs.
        failing: BitMap | None = None
        fresh = False
        for name, seen in zip(self.fields, key, strict=True):
            for some in self._states[name].failing(seen):
                if failing is None:
                    failing = some
                elif fresh:
                    failing |= some
                else:
                    failing, fresh = failing | some, True
        return self._all.copy() if failing is None else self._all - failing

    def listed(self, clauses: BitMap) -> list[Owner]:
        """The owners of what :meth:`match` found, each once."""
        found: list[Any] = list(map(self._owners.__getitem__, clauses.to_array()))
        return list(dict.fromkeys(found)) if self._several.intersect(clauses) else found

    def owners(self, key: Key) -> list[Owner]:
        """The owners that accept a class, each once."""
        return self.listed(self.match(key))

    def accepts(self, changed: Filter, key: Key) -> bool:
        """Whether one filter accepts a class: what :meth:`match` says of all. Its owner need not be in any more."""
        seen = dict(zip(self.fields, key, strict=True))
        return any(
            all(accepts(constraint, seen[constraint.field]) for constraint in constraints)
            for constraints in changed.clauses
        )

    # maintenance ----------------------------------------------------------------------------------------------------

    def rebuild(self) -> None:
        """Make everything anew from the owners: as it was, but packed. Classes and versions keep their meaning."""
        owners = list(self._ids)
        self._empty()
        for owner in owners:
            self._insert(owner)
        self._make_plan()

    def counts(self) -> FilterCounts:
        """How much there is. O(fields)."""
        states = self._states.values()
        values = sum(len(state.accepted) + len(state.rejected) for state in states)
        thresholds = sum(bounds.size for state in states for bounds in state.bounds)
        return FilterCounts(len(self._ids), len(self._all), len(self.fields), values, thresholds)

    def check(self) -> FilterCounts:
        """Assert that the index says of each owner what its filter says, and nothing else; :meth:`counts`.

        Cost: all of it, seconds for a million owners.
        """
        fresh: FilterIndex[Owner] = FilterIndex()
        new_ids: list[int] = []
        for owner, held in self._ids.items():
            fresh._insert(owner)
            new_ids += _tuple(held)
        fresh._make_plan()
        assert fresh.fields == self.fields, "fields"
        assert sorted(new_ids) == list(self._all), "ids in use"
        assert list(self._all | self._free) == list(range(len(self._owners))), "ids that nobody has"
        for owner, held in self._ids.items():
            assert all(self._owners[clause] is owner for clause in _tuple(held)), "an id of somebody else"
        for name, state in fresh._states.items():
            mine = self._states[name]
            for part in ("needs", "absent", "choosy"):
                assert _renamed(getattr(state, part), new_ids) == getattr(mine, part), f"{part} of {name}"
            for part in ("accepted", "rejected"):
                theirs, ours = getattr(state, part), getattr(mine, part)
                assert theirs.keys() == ours.keys(), f"{part} values of {name}"
                for value, ids in theirs.items():
                    assert _renamed(bitmap(ids), new_ids) == bitmap(ours[value]), f"{part} {value} of {name}"
            for bounds, others in zip(mine.bounds, state.bounds, strict=True):
                bounds.check()
                assert sorted(bounds) == sorted((value, new_ids[i]) for value, i in others), f"thresholds of {name}"
        return self.counts()


def _filter(owner: Filtered) -> Filter:
    assert owner.filter is not None, "a subscription without filter is none of this index"
    return owner.filter


def _tuple(held: int | tuple[int, ...]) -> tuple[int, ...]:
    return held if isinstance(held, tuple) else (held,)


def _renamed(ids: BitMap, names: list[int]) -> BitMap:
    return BitMap([names[i] for i in ids])
