"""An event's fields: what is taken out of its JSON equals what a plain look into it finds."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.fields import SHAPES_CACHED, Fields, fields_of, lookup
from transport.filters import MISSING
from transport.messages import Publication

DEEP = b'{"a":' + b"[" * 9_999 + b"]" * 9_999 + b"}"


def event(data: bytes, key: str | None = None) -> Publication:
    return Publication("t", "e", 1, 1.0, "trade", data, key)


def both(names: tuple[str, ...], publication: Publication) -> tuple[Any, ...]:
    found = Fields(names).of(publication)
    assert found == tuple(map(lookup(publication), names))
    assert list(map(type, found)) == [type(lookup(publication)(name)) for name in names]
    return found


def test_members() -> None:
    assert both(("b", "a", "c"), event(b'{"a":1,"b":"x","d":[1,{"e":2}]}')) == ("x", 1, MISSING)
    assert both((), event(b'{"a":1}')) == ()


def test_types_stay_what_they_are() -> None:
    found = both(tuple("abcdefg"), event(b'{"a":true,"b":1.0,"c":1,"d":null,"e":"1","f":[],"g":{}}'))
    assert found == (True, 1.0, 1, None, "1", [], {})


def test_dots_go_deeper_but_not_into_lists() -> None:
    data = event(b'{"a":{"b":{"c":5},"n":null},"a.b":7,"l":[{"x":1}],"s":"x"}')
    names = ("a.b.c", "a.b", "a.n", "a.n.x", "a.x", "l.0", "l.x", "s.x", "z.z", "a")
    assert both(names, data)[:5] == (5, {"c": 5}, None, MISSING, MISSING)
    assert both(names, data)[5:9] == (MISSING,) * 4


def test_the_envelope() -> None:
    data = event(b'{"@type":"no","a":1}', key="K")
    assert both(("@key", "@type", "a"), data) == ("K", "trade", 1)
    assert both(("@key", "@type"), event(b"[]")) == (MISSING, "trade")


def test_the_last_of_two_members_counts() -> None:
    assert both(("a",), event(b'{"a":1,"a":2}')) == (2,)


@pytest.mark.parametrize(
    "data", [b"[1]", b'"x"', b"1", b"null", b"", b"{", b'{"a":NaN}', b'{"a":\xff}', b'{"a":"\xff"}', DEEP]
)
def test_what_is_no_object_has_no_members(data: bytes) -> None:
    assert both(("@type", "a", "a.b"), event(data)) == ("trade", MISSING, MISSING)


def test_numbers_that_a_decoder_may_refuse() -> None:
    huge = 10**400
    found = both(("a", "b", "c"), event(b'{"a":1e400,"b":%d,"c":-1e400}' % huge))
    assert found == (math.inf, huge, -math.inf)
    assert both(("a",), event(b'{"a":' + b"9" * 5000 + b"}")) == (MISSING,)  # of more digits than Python takes


@pytest.mark.parametrize("name", ['q"', "back\\slash", "line\nbreak", "é", " ", "__class__", "m0", "class"])
def test_any_name(name: str) -> None:
    assert both((name, "m1"), event(json.dumps({name: 1}).encode())) == (1, MISSING)


def test_shapes_are_made_once_and_bounded() -> None:
    assert fields_of(("a", "b")) is fields_of(("a", "b"))
    for n in range(SHAPES_CACHED + 10):
        fields_of((f"f{n}",))
    assert fields_of.cache_info().currsize == SHAPES_CACHED


NAMES = st.sampled_from(["a", "b", "a.a", "a.b", "a.b.a", "@type", "@key", 'a"'])
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(("a", "b", 'a"', "@key")), inner),
    max_leaves=12,
)


@given(st.lists(NAMES, unique=True, max_size=5), TREES, st.none() | st.text(max_size=2))
def test_equals_the_plain_look(names: list[str], data: Any, key: str | None) -> None:
    both(tuple(names), event(json.dumps(data).encode(), key))
