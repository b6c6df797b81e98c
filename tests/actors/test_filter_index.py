"""The filter index against every filter asked by itself."""

from __future__ import annotations

import gc
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actors import bounds
from actors.field_index import OTHER
from actors.filter_index import CHANGES_KEPT, FilterIndex, Key
from transport.fields import lookup
from transport.filters import MISSING, Filter, Truth
from transport.messages import Publication


class Owner:
    __slots__ = ("filter",)

    def __init__(self, where: Any) -> None:
        self.filter = Filter.parse(where)

    def __repr__(self) -> str:
        return self.filter.source.decode()


def event(data: Any, key: str | None = None) -> Publication:
    return Publication("t", "e", 1, 1.0, "trade", json.dumps(data).encode(), key)


def index_of(*wheres: Any) -> tuple[FilterIndex[Owner], list[Owner]]:
    index: FilterIndex[Owner] = FilterIndex()
    owners = [Owner(where) for where in wheres]
    for owner in owners:
        index.add(owner)
    return index, owners


SCALARS = st.sampled_from([None, True, False, 0, 1, 1.0, 1.5, 2, 2**70, "", "1", "a", "ab", "b", "trade"])
NUMBERS = st.sampled_from([-1, 0, 1, 1.5, 2])
TEXTS = st.sampled_from(["", "a", "ab", "b"])
LISTS = st.lists(SCALARS, min_size=1, max_size=3)
RANGES = ("gt", "gte", "lt", "lte")
OTHERS = st.fixed_dictionaries(
    {}, optional={"eq": SCALARS, "in": LISTS, "not": SCALARS | LISTS, "exists": st.booleans()}
)


def operators(bounds: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    some = st.fixed_dictionaries({}, optional=dict.fromkeys(RANGES, bounds))
    return st.tuples(some, OTHERS | st.just({})).map(lambda both: {**both[0], **both[1]}).filter(bool)


FIELDS = st.sampled_from(["x", "y", "y.z", "@type", "@key"])
SPECS = SCALARS | LISTS | operators(NUMBERS) | operators(TEXTS)
CLAUSES = st.dictionaries(FIELDS, SPECS, max_size=3)
WHERES = CLAUSES | st.lists(CLAUSES, min_size=1, max_size=3)
MEMBERS = SCALARS | NUMBERS | TEXTS | st.sampled_from([[], [1], {}, -7, 99, "c", 1.2])
EVENTS = st.builds(
    event,
    st.dictionaries(st.sampled_from(["x", "y"]), MEMBERS | st.fixed_dictionaries({"z": MEMBERS})) | MEMBERS,
    st.none() | TEXTS,
)


class Churn(RuleBasedStateMachine):
    """Owners come and go; events of all kinds ask; what was selected is kept and judged by the changes."""

    @initialize()
    def begin(self) -> None:
        self.index: FilterIndex[Owner] = FilterIndex()
        self.owners: list[Owner] = []
        self.kept: dict[Key, tuple[int, set[Owner]]] = {}

    @rule(wheres=st.lists(WHERES, min_size=1, max_size=5))
    def add(self, wheres: list[Any]) -> None:
        for where in wheres:
            owner = Owner(where)
            self.index.add(owner)
            self.owners.append(owner)

    @precondition(lambda self: self.owners)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        for owner in data.draw(st.lists(st.sampled_from(self.owners), max_size=5, unique=True)):
            self.index.remove(owner)
            self.owners.remove(owner)

    @rule(publications=st.lists(EVENTS, min_size=1, max_size=8))
    def ask(self, publications: list[Publication]) -> None:
        for publication in publications:
            key = self.index.class_of(publication)
            value_of = lookup(publication)
            wanted = {owner for owner in self.owners if owner.filter.holds(value_of)}
            listed = self.index.owners(key)
            assert len(listed) == len(set(listed)), "each once"
            assert set(listed) == wanted
            assert {owner for owner in self.owners if self.index.accepts(owner.filter, key)} == wanted
            self.judge(key, wanted)

    def judge(self, key: Key, wanted: set[Owner]) -> None:
        if key in self.kept:
            version, owners = self.kept[key]
            changes = self.index.changes_since(version)
            if changes is not None and not any(self.index.accepts(changed, key) for changed in changes):
                assert owners == wanted, "what was kept is right"
        self.kept[key] = self.index.version, wanted

    @rule()
    def rebuild(self) -> None:
        """Equal to the incremental one: the same fields, classes, answers; kept selections hold."""
        before = self.index.fields, self.index.version, self.index.check()
        self.index.rebuild()
        assert (self.index.fields, self.index.version, self.index.check()) == before

    @invariant()
    def whole(self) -> None:
        if hasattr(self, "index"):
            counts = self.index.check()
            assert counts.owners == len(self.index) == len(self.owners)
            assert set(self.index) == set(self.owners)
            assert self.index.fields == tuple(sorted({name for owner in self.owners for name in owner.filter.fields}))

    def teardown(self) -> None:
        if hasattr(self, "index"):
            for owner in self.owners:
                self.index.remove(owner)
            empty(self.index)


def empty(index: FilterIndex[Owner]) -> None:
    assert index.check() == (0, 0, 0, 0, 0)
    assert index.fields == ()
    for part in (index._ids, index._owners, index._all, index._free, index._several, index._states, index._plan):
        assert not part


Churn.TestCase.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)


class TestChurn(Churn.TestCase):
    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bounds, "LEAF", 3)
        monkeypatch.setattr(bounds, "FAN", 3)


SPEC_CASES: list[Any] = [
    *(None, True, False, 0, 1, 1.5, "", "1", "a", "b"),
    *(["a", 1], {"in": ["a", None], "eq": "a"}, {"eq": 1, "in": [2]}),
    *({"not": "a"}, {"not": [1, True]}, {"not": None}, {"exists": True}, {"exists": False}),
    *({"gte": 1}, {"gt": 1}, {"lt": 1}, {"lte": 1.5, "gt": 0}, {"gte": -1, "not": 1}, {"lt": 2, "in": [1, "a"]}),
    *(
        {"gte": 2**53 + 4},
        {"gte": "a"},
        {"lt": "b"},
        {"gt": "", "lte": "a"},
        {"gte": "a", "exists": False},
        {"exists": False, "not": 1},
    ),
]
VALUE_CASES: list[Any] = [
    *(MISSING, None, True, False, -7, -1, 0, 1, 1.0, 1.2, 1.5, 2, 2**53 + 3, 99, 2**70, -(2**400), 10**400),
    *("", "1", "a", "a\0", "ab", "b", "c", [], [1], {}, {"a": 1}),
]


def test_every_pair_of_filters_and_every_value() -> None:
    """Each way of asking alone and beside each other one, which decides what is told apart."""
    owners = [Owner({"f": spec}) for spec in SPEC_CASES]
    held = [[owner.filter.holds(lambda _, value=value: value) for value in VALUE_CASES] for owner in owners]
    index: FilterIndex[Owner] = FilterIndex()
    for first, holds_first in zip(owners, held, strict=True):
        index.add(first)
        for second, holds_second in zip(owners, held, strict=True):
            if second is not first:
                index.add(second)
            for value, one, two in zip(VALUE_CASES, holds_first, holds_second, strict=True):
                key = index.classify((value,))
                assert set(index.owners(key)) == {o for o, holds in ((first, one), (second, two)) if holds}
                assert index.accepts(first.filter, key) is one
            if second is not first:
                index.remove(second)
        index.remove(first)
    empty(index)


def test_classes_say_what_filters_can_tell_apart() -> None:
    index, _ = index_of({"a": ["x", None], "n": {"gte": 0.5}}, {"n": {"lt": 2}, "t": [True, 1]})
    assert index.fields == ("a", "n", "t")
    assert index.classify(("x", 0.7, 1.0)) == ("x", (OTHER, 0.5), 1)
    assert index.classify(("other", 1.9, True)) == (OTHER, (OTHER, 0.5), Truth.TRUE)
    assert index.classify((None, 5, "1")) == (None, (OTHER, 2.0), OTHER)
    assert index.classify((MISSING, -3, False)) == (MISSING, (OTHER, float("-inf")), OTHER)
    assert index.classify(([], "0.7", {})) == (OTHER, OTHER, OTHER)


def test_true_and_one_are_two_classes() -> None:
    index, (one, true) = index_of({"f": 1}, {"f": True})
    keys = [index.classify((value,)) for value in (1, 1.0, True, "1")]
    assert len(set(keys)) == 3
    assert [index.owners(key) for key in keys] == [[one], [one], [true], []]


def test_words_only_are_looked_up_without_ado_and_still_exact() -> None:
    """The fast way of classifying ends where a field's filters ask for more than words."""
    index, (word, _) = index_of({"f": "1"}, {"f": None})
    assert index.classify((True,)) == (OTHER,)
    one = Owner({"f": 1})
    index.add(one)
    assert index.owners(index.classify((True,))) == []
    assert index.owners(index.classify((1,))) == [one]
    assert not index._states["f"].plain
    index.remove(one)
    assert index._states["f"].plain
    assert index.classify((1,)) == (OTHER,)
    assert index.owners(index.classify(("1",))) == [word]


def test_an_owner_of_several_clauses_is_listed_once() -> None:
    index, (both, _) = index_of([{"a": 1}, {"b": 2}], {"a": 3})
    key = index.classify((1, 2))
    assert len(index.match(key)) == 2
    assert index.owners(key) == [both]
    for owner in list(index):
        index.remove(owner)
    empty(index)


def test_events_are_read_for_the_fields_in_force() -> None:
    index, (first,) = index_of({"a": 1})
    publication = event({"a": 1, "b": 2}, key="K")
    assert index.class_of(publication) == (1,)
    second = Owner({"@key": "K", "b": 3})
    index.add(second)
    assert index.class_of(publication) == ("K", 1, OTHER)
    index.remove(first)
    assert index.class_of(publication) == ("K", OTHER)


def test_a_filter_without_fields_holds_always() -> None:
    index, owners = index_of({}, {})
    assert index.fields == ()
    assert index.classify(()) == ()
    assert index.owners(()) == owners
    matched = index.match(())
    matched.clear()
    assert index.owners(()) == owners, "what match gives is the caller's"


def test_ids_are_used_again() -> None:
    index, owners = index_of(*({"a": n} for n in range(100)))
    for owner in owners[::2]:
        index.remove(owner)
    for n in range(50):
        index.add(Owner({"a": n}))
    assert list(index.match((MISSING,))) == []
    assert index.check().clauses == 100
    assert index._all.max() == 99


def test_changes_are_told_oldest_first_and_not_for_ever() -> None:
    index, (first,) = index_of({"a": 1})
    version = index.version
    second = Owner({"a": 2})
    index.add(second)
    index.remove(first)
    assert list(index.changes_since(version) or ()) == [second.filter, first.filter]
    assert list(index.changes_since(index.version) or ()) == []
    for n in range(CHANGES_KEPT):
        index.add(Owner({"a": n}))
    assert index.changes_since(version) is None
    assert len(list(index.changes_since(index.version - CHANGES_KEPT) or ())) == CHANGES_KEPT


def test_what_a_large_filter_changes_is_not_asked_for_but_matched_anew() -> None:
    index, (first,) = index_of({"a": 1})
    version = index.version
    index.add(Owner({"a": [f"value {n}" for n in range(1_000)]}))
    assert index.changes_since(version) is None
    index.remove(first)
    assert list(index.changes_since(index.version - 1) or ()) == [first.filter]


def test_no_owner_is_held_after_it_has_gone() -> None:
    index, owners = index_of({"a": 1}, {"a": 2})
    index.remove(owners[0])
    assert not [holder for holder in gc.get_referrers(owners[0]) if holder is not owners]


def test_other_fields_end_what_was_known() -> None:
    """A class of the fields (a, b) says nothing when they are (a, c), even where it looks the same."""
    index, (_, second) = index_of({"a": 1}, {"b": 1})
    version = index.version
    third = Owner({"c": 1})
    index.add(third)
    assert index.changes_since(version) is None
    version = index.version
    index.remove(second)
    assert index.fields == ("a", "c")
    assert index.changes_since(version) is None


def test_the_version_rises() -> None:
    index, owners = index_of({"a": 1}, {"a": 2})
    versions = [index.version]
    for owner in owners:
        index.remove(owner)
        versions.append(index.version)
    assert all(before < after for before, after in pairwise(versions))


def test_misuse() -> None:
    index, (owner,) = index_of({"a": 1})
    with pytest.raises(AssertionError, match="once"):
        index.add(owner)
    index.remove(owner)
    with pytest.raises(KeyError):
        index.remove(owner)
    empty(index)


def test_the_check_finds_what_is_wrong() -> None:
    index, owners = index_of({"a": {"gte": 1}}, {"a": [1, 2]}, {"a": 2})
    index._states["a"].choosy.discard(1)
    with pytest.raises(AssertionError, match="choosy of a"):
        index.check()
    index.rebuild()
    index.check()
    index._states["a"].accepted[2] = 2
    with pytest.raises(AssertionError, match="accepted 2 of a"):
        index.check()
    index.rebuild()
    assert index.owners(index.classify((2,))) == owners


def test_many() -> None:
    """Enough for every kind of container and level, with its real sizes."""
    wheres = [{"s": f"S{n % 50}", "c": {"gte": (n * 7919 % 20011) / 20011}} for n in range(5_000)]
    index, owners = index_of(*wheres)
    for n, c in ((0, 0.5), (7, 0.0), (49, 1.0), (3, 0.123456)):
        value_of = {"s": f"S{n}", "c": c}.__getitem__
        some = owners[n::50]
        assert set(index.owners(index.classify((c, f"S{n}")))) == {o for o in some if o.filter.holds(value_of)}
    for owner in owners[1::2]:
        index.remove(owner)
    index.check()
    for owner in owners[::2]:
        index.remove(owner)
    empty(index)
