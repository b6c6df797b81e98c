"""Versions of a parameter and compare-and-set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.parameter_book import VALUES_BYTES, Change, Parameter, Proposal
from transport.codes import ErrorCode
from transport.errors import RequestError


class Bounded:
    """Whole numbers from 0 to ``most``, 0 by default."""

    document: dict[str, Any] = {}

    def __init__(self, *names: str, most: int = 10) -> None:
        self.names, self.most = frozenset(names), most

    def defaults(self) -> dict[str, Any]:
        return dict.fromkeys(sorted(self.names), 0)

    def check(self, values: Mapping[str, Any]) -> dict[str, Any]:
        assert set(values) == self.names
        for name, value in values.items():
            if not (isinstance(value, int) and value <= self.most):
                raise RequestError(ErrorCode.BAD_REQUEST, f"at most {self.most}", name)
        return dict(values)


def parameter(*names: str, stored: Change | None = None, most: int = 10) -> Parameter:
    return Parameter("p", Bounded(*names, most=most), stored, at=1.0)


def version(number: int, **values: Any) -> Change:
    return Change(version=number, values=values, changed=[], by="anna", at=0.5)


def refused(of: Parameter, wanted: Proposal) -> RequestError:
    before = of.current
    with pytest.raises(RequestError) as caught:
        of.propose(wanted, None, 2.0)
    assert of.current is before
    return caught.value


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(-3, 13), st.integers(0, 5) | st.none()), max_size=30))
def test_whoever_was_not_up_to_date_has_changed_nothing_and_versions_have_no_hole(
    attempts: list[tuple[str, int, int | None]],
) -> None:
    it, model, versions = parameter("a", "b"), {"a": 0, "b": 0}, [1]
    for name, value, seen in attempts:
        wanted = Proposal(values={name: value}, version=seen)
        may = (seen is None or seen == versions[-1]) and value <= 10
        try:
            change = it.propose(wanted, "ben", 2.0)
        except RequestError as error:
            assert not may
            assert error.code in (ErrorCode.CONFLICT, ErrorCode.BAD_REQUEST)
            continue
        assert may
        assert (change is None) == (model[name] == value)
        if change is not None:
            model[name] = value
            versions.append(change.version)
            assert change.changed == [name]
            it.accept(change)
    assert it.values == model
    assert versions == list(range(1, len(versions) + 1))


def test_the_first_version_has_the_defaults() -> None:
    it = parameter("a")
    assert it.fresh
    assert (it.current.version, it.values, it.current.changed, it.current.by) == (1, {"a": 0}, ["a"], None)


def test_what_was_stored_holds() -> None:
    it = parameter("a", stored=version(7, a=3))
    assert (it.fresh, it.current.version, it.values, it.trouble) == (False, 7, {"a": 3}, None)


def test_other_names_make_another_version() -> None:
    it = parameter("b", "c", stored=version(7, a=3, b=4))
    assert it.fresh
    assert (it.current.version, it.values, it.current.changed) == (8, {"b": 4, "c": 0}, ["a", "c"])


def test_values_that_a_stricter_schema_refuses_hold_until_others_are_set() -> None:
    it = parameter("a", "b", stored=version(7, a=12, b=1))
    assert it.trouble is not None
    assert "version 7" in it.trouble
    assert "a: at most 10" in it.trouble
    error = refused(it, Proposal(values={"b": 2}))
    assert (error.field, "a is so already" in error.message) == ("values.a", True)
    change = it.propose(Proposal(values={"a": 9}), None, 2.0)
    assert change is not None
    it.accept(change)
    assert (it.trouble, it.values) == (None, {"a": 9, "b": 1})


@pytest.mark.parametrize(
    ("wanted", "code", "field", "text"),
    [
        (Proposal(values={"a": 11}), "bad_request", "values.a", "at most 10"),
        (Proposal(values={"a": 1}, version=6), "conflict", "version", "is at version 7, not 6"),
        (Proposal(values={"x": 1}), "bad_request", "values.x", "no value 'x', but a"),
        (Proposal(values={}), "bad_request", "values", "at least one"),
        (Proposal(values={"a": 1}, reason="x" * 501), "limit_exceeded", "reason", "at most 500"),
        (Proposal(values={"a": "x" * VALUES_BYTES}), "limit_exceeded", "values", f"at most {VALUES_BYTES}"),
    ],
)
def test_a_refusal_says_why(wanted: Proposal, code: str, field: str, text: str) -> None:
    error = refused(parameter("a", stored=version(7, a=3)), wanted)
    assert (error.code, error.field) == (code, field)
    assert text in error.message


def test_what_json_cannot_hold_is_refused() -> None:
    class Lenient(Bounded):
        def check(self, values: Mapping[str, Any]) -> dict[str, Any]:
            return {name: float("nan") if value == "nan" else value for name, value in values.items()}

    it = Parameter("p", Lenient("a"), None, at=1.0)
    assert refused(it, Proposal(values={"a": "nan"})).field == "values"


def test_true_is_not_one() -> None:
    class Anything(Bounded):
        def check(self, values: Mapping[str, Any]) -> dict[str, Any]:
            return dict(values)

    it = Parameter("p", Anything("a"), version(1, a=1), at=1.0)
    change = it.propose(Proposal(values={"a": True}), None, 2.0)
    assert change is not None
    assert change.changed == ["a"]
