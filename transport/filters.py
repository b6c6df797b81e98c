"""The ``where`` of a subscription: which events of a topic it wants, by their fields.

A map holds if all of its fields hold, a list of maps if any map does. ``{"tier": "daily"}`` equals, ``{"symbol":
["A", "B"]}`` is any of, ``{"confidence": {"gte": 0.8, "lt": 1}}`` are operators that must hold together. A field that
is absent satisfies nothing but ``exists: false``.

Values keep their JSON types: ``true`` is not 1, ``"1"`` is not 1, null is a value, 1 equals 1.0. Objects and lists are
present and equal to nothing. Ranges compare numbers with numbers, as float64 like a browser, and strings with strings
by code point, so that RFC 3339 times in one zone have their order; a value of the other kind lies in no range.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from enum import Enum
from typing import Any, Final, NamedTuple

import msgspec

from transport.codes import ErrorCode
from transport.errors import RequestError
from transport.wire_forms import DECIMAL_EXT

MISSING: Final[msgspec.UnsetType] = msgspec.UNSET
"""The value of a field that an event does not have."""

MAX_CLAUSES = 32  # maps in a list
MAX_CONSTRAINTS = 64  # fields in all maps
MAX_LIST = 1_000  # values in one list
MAX_VALUES = 10_000  # values in all lists
MAX_NAME_BYTES = 255
ENVELOPE = ("@type", "@key")

CACHED = 512  # filters whose clauses are kept between parsing, joining and leaving
CACHED_BYTES = 2_048  # of source; longer ones are parsed each time, so that the cache stays below a few MB


class Truth(Enum):
    """``true`` and ``false`` as values of their own: in Python they would equal 1 and 0."""

    TRUE = True
    FALSE = False


Scalar = str | int | float | Truth | None
Bound = float | str


class Constraint(NamedTuple):
    """What a clause asks of one field; everything that is not ``None`` must hold.

    Attributes:
        accept: the value is one of these.
        reject: the value is none of these.
        lower, upper: ``lower <= value < upper``, both floats or both strings; ``None`` is unbounded.
        exists: the field must be present, or absent. All but ``False`` need it to be present.
    """

    field: str
    accept: frozenset[Scalar] | None = None
    reject: frozenset[Scalar] | None = None
    lower: Bound | None = None
    upper: Bound | None = None
    exists: bool | None = None


Clauses = tuple[tuple[Constraint, ...], ...]


class Filter(msgspec.Struct, frozen=True, gc=False):
    """A valid ``where``. It keeps no more than its JSON, since a worker may hold a million of them.

    Attributes:
        source: the ``where`` as compact JSON.
    """

    source: bytes

    @classmethod
    def parse(cls, where: Any, field: str = "where") -> Filter:
        """A filter from decoded JSON or MessagePack.

        Raises:
            RequestError: ``invalid_filter`` or ``limit_exceeded``; its ``field`` is exact: ``where[1].tier.gte``.
        """
        clauses = _Parser().clauses(where, field)
        try:
            source = _encoder.encode(where)
        except UnicodeEncodeError:
            raise RequestError(ErrorCode.INVALID_FILTER, "holds half of a surrogate pair", field) from None
        source = bytes(memoryview(source))  # the encoder's result is the prefix of a larger piece of memory
        _remember(source, clauses)
        return cls(source)

    @property
    def clauses(self) -> Clauses:
        """Any of these must hold, and of it every constraint. Parsed anew where it is not in the cache."""
        clauses = _parsed.get(self.source)
        if clauses is None:
            clauses = _Parser().clauses(msgspec.json.decode(self.source), "where")
            _remember(self.source, clauses)
        return clauses

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the fields that decide, sorted."""
        return tuple(sorted({constraint.field for clause in self.clauses for constraint in clause}))

    def holds(self, value_of: Callable[[str], Any]) -> bool:
        """Whether the filter accepts an event; ``value_of`` gives the value of a field, or ``MISSING``.

        This is the specification: operator by operator, as the contract says it. The index must agree.
        """
        return any(_first_failure(clause, value_of) is None for clause in self._maps())

    def why_not(self, value_of: Callable[[str], Any]) -> str | None:
        """The first failure of each clause in words, ``confidence is 0.5, not gte 0.8``; ``None`` if it holds."""
        failures = [_first_failure(clause, value_of) for clause in self._maps()]
        return None if None in failures else "; ".join(filter(None, failures))

    def _maps(self) -> list[dict[str, Any]]:
        where = msgspec.json.decode(self.source)
        return where if isinstance(where, list) else [where]


def scalar(value: Any) -> Scalar:
    """A JSON scalar as what decides equality: hashable, ``true`` apart from 1, integers exact within 64 bits.

    Raises:
        TypeError: an object or a list.
    """
    kind = type(value)
    if kind is str or value is None:
        return value  # type: ignore[no-any-return]
    if kind is bool:
        return Truth.TRUE if value else Truth.FALSE
    if kind is int:
        return value if -(1 << 63) <= value < 1 << 64 else number(value)
    if kind is float:
        return value  # type: ignore[no-any-return]
    raise TypeError(f"{kind.__qualname__} is no scalar")


def number(value: float) -> float:
    """A number as what decides ranges: its float64, infinite beyond."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


# The contract, word by word -------------------------------------------------------------------------------------------


def _first_failure(clause: dict[str, Any], value_of: Callable[[str], Any]) -> str | None:
    for name, spec in clause.items():
        value = value_of(name)
        for operator, operand in _operators(spec).items():
            if not _satisfies(value, operator, operand):
                return f"{name} is {_words(name, value, operator, operand)}"
    return None


def _operators(spec: Any) -> dict[str, Any]:
    if isinstance(spec, dict):
        return spec
    return {"in" if isinstance(spec, list) else "eq": spec}


def _satisfies(value: Any, operator: str, operand: Any) -> bool:
    if operator == "exists":
        return (value is not MISSING) is operand
    if value is MISSING:
        return False
    if operator == "eq":
        return _equal(value, operand)
    if operator == "in":
        return any(_equal(value, item) for item in operand)
    if operator == "not":
        return not any(_equal(value, item) for item in (operand if isinstance(operand, list) else [operand]))
    if isinstance(operand, str):
        return isinstance(value, str) and _ordered(value, operator, operand)
    return type(value) in (int, float) and _ordered(number(value), operator, number(operand))


def _equal(value: Any, operand: Any) -> bool:
    return not isinstance(value, (dict, list)) and scalar(value) == scalar(operand)


def _ordered(value: Any, operator: str, operand: Any) -> bool:
    if operator == "gt":
        return bool(value > operand)
    if operator == "gte":
        return bool(value >= operand)
    if operator == "lt":
        return bool(value < operand)
    return bool(value <= operand)


def _words(name: str, value: Any, operator: str, operand: Any) -> str:
    if value is MISSING:
        return "absent"
    if operator == "exists":
        return "present"
    if operator == "not":
        return f"{_short(value)}, which `not` excludes"
    return f"{_short(value)}, not {operator} {_short(operand)}"


def _short(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 80 else f"{text[:77]}..."


# From JSON to constraints ---------------------------------------------------------------------------------------------

_parsed: dict[bytes, Clauses] = {}


def _remember(source: bytes, clauses: Clauses) -> None:
    if len(source) <= CACHED_BYTES and source not in _parsed:
        if len(_parsed) >= CACHED:
            _parsed.pop(next(iter(_parsed)), None)
        _parsed[source] = clauses


class _Parser:
    """Parses one ``where`` and counts what it holds."""

    __slots__ = ("_constraints", "_values")

    def __init__(self) -> None:
        self._constraints = self._values = 0

    def clauses(self, where: Any, at: str) -> Clauses:
        if type(where) is dict:
            return (self._clause(where, at),)
        if type(where) is not list or not where:
            raise _invalid("a map of fields or a list of such maps is expected", at)
        if len(where) > MAX_CLAUSES:
            raise _too_many(f"at most {MAX_CLAUSES} maps, these are {len(where)}", at)
        return tuple(self._clause(item, f"{at}[{n}]") for n, item in enumerate(where))

    def _clause(self, item: Any, at: str) -> tuple[Constraint, ...]:
        if type(item) is not dict:
            raise _invalid("a map of fields is expected", at)
        self._constraints += len(item)
        if self._constraints > MAX_CONSTRAINTS:
            raise _too_many(f"at most {MAX_CONSTRAINTS} fields in all", at)
        return tuple(self._constraint(_name(name, at), spec, f"{at}.{name}") for name, spec in item.items())

    def _constraint(self, name: str, spec: Any, at: str) -> Constraint:
        if type(spec) is dict:
            return self._combined(name, spec, at)
        accept = self._values_of(spec, at) if type(spec) is list else frozenset((_scalar(spec, at),))
        return Constraint(name, accept)

    def _combined(self, name: str, spec: dict[Any, Any], at: str) -> Constraint:
        if not spec:
            raise _invalid(f"at least one operator is expected: {_OPERATORS}", at)
        accept: frozenset[Scalar] | None = None
        reject: frozenset[Scalar] | None = None
        lower: Any = None
        upper: Any = None
        exists: bool | None = None
        for operator, operand in spec.items():
            here = f"{at}.{operator}"
            if operator == "eq" or operator == "in":
                if operator == "in" and type(operand) is not list:
                    raise _invalid("a list is expected", here)
                some = self._values_of(operand, here) if operator == "in" else frozenset((_scalar(operand, here),))
                accept = some if accept is None else accept & some
            elif operator == "not":
                several = type(operand) is list
                reject = self._values_of(operand, here) if several else frozenset((_scalar(operand, here),))
            elif operator == "gt" or operator == "gte":
                bound = _bound(operand, here, of=lower if upper is None else upper)
                bound = _successor(bound) if operator == "gt" else bound
                lower = bound if lower is None else max(lower, bound)
            elif operator == "lt" or operator == "lte":
                bound = _bound(operand, here, of=lower if upper is None else upper)
                bound = _successor(bound) if operator == "lte" else bound
                upper = bound if upper is None else min(upper, bound)
            elif operator == "exists":
                if type(operand) is not bool:
                    raise _invalid("true or false is expected", here)
                exists = operand
            else:
                raise _invalid(f"no such operator; there are {_OPERATORS}", here)
        return Constraint(name, accept, reject, lower, upper, exists)

    def _values_of(self, values: list[Any], at: str) -> frozenset[Scalar]:
        if not values:
            raise _invalid("at least one value is expected", at)
        if len(values) > MAX_LIST:
            raise _too_many(f"at most {MAX_LIST} values in a list, these are {len(values)}", at)
        self._values += len(values)
        if self._values > MAX_VALUES:
            raise _too_many(f"at most {MAX_VALUES} values in all lists", at)
        kinds = set(map(type, values))
        if kinds == {str}:  # the usual case, without a path for each value
            return frozenset(values)
        return frozenset([_scalar(value, f"{at}[{n}]") for n, value in enumerate(values)])


_OPERATORS = "gt, gte, lt, lte, eq, in, not, exists"


def _name(name: Any, at: str) -> str:
    if type(name) is not str:
        raise _invalid(f"the name of a field is a string, {name!r} is none", at)
    if len(name) * 4 > MAX_NAME_BYTES and len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        raise _too_many(f"the name of a field has at most {MAX_NAME_BYTES} bytes", at)
    if name[:1] == "@":
        if name not in ENVELOPE:
            raise _invalid(f"of the envelope there are {' and '.join(ENVELOPE)}", f"{at}.{name}")
    elif not name or name[0] == "." or name[-1] == "." or ".." in name:
        raise _invalid("the name of a field, or a part of it between dots, is empty", f"{at}.{name}")
    return name


def _scalar(value: Any, at: str) -> Scalar:
    """A scalar of a filter, where an infinite number would be a mistake."""
    try:
        found = scalar(_plain_number(value, at))
    except TypeError:
        raise _invalid("a string, a number, true, false or null is expected", at) from None
    if type(found) is float and not math.isfinite(found):
        raise _invalid("a finite number is expected", at)
    return found


def _bound(value: Any, at: str, of: Any) -> Any:
    """A bound of a range whose other bound, if there is one yet, is ``of``."""
    value = _plain_number(value, at)
    if type(value) is not str:
        if type(value) not in (int, float):
            raise _invalid("a number or a string is expected", at)
        value = number(value)
        if not math.isfinite(value):
            raise _invalid("a finite number is expected", at)
    if of is not None and type(of) is not type(value):
        raise _invalid("the bounds of a range are all numbers or all strings", at)
    return value


def _successor(bound: Any) -> Any:
    """The least value above a bound, which makes every range half-open."""
    return f"{bound}\0" if type(bound) is str else math.nextafter(bound, math.inf)


def _plain_number(value: Any, at: str) -> Any:
    """A decimal as the number that the same digits are in JSON; everything else as it is."""
    if not isinstance(value, (Decimal, msgspec.msgpack.Ext)):
        return value
    try:
        return msgspec.json.decode(str(_decimal(value)))
    except (msgspec.MsgspecError, ValueError, ArithmeticError):
        raise _invalid("a finite number is expected", at) from None


def _decimal(value: Any) -> Decimal:
    """The encoder's hook too: what MessagePack carries as ExtType 1, a decimal's ASCII digits."""
    if isinstance(value, Decimal):
        return value
    if value.code != DECIMAL_EXT:
        raise ValueError(f"unknown ExtType {value.code}")
    return Decimal(bytes(value.data).decode("ascii"))


def _invalid(message: str, field: str) -> RequestError:
    return RequestError(ErrorCode.INVALID_FILTER, message, field)


def _too_many(message: str, field: str) -> RequestError:
    return RequestError(ErrorCode.LIMIT_EXCEEDED, message, field)


_encoder = msgspec.json.Encoder(enc_hook=_decimal, decimal_format="number")
