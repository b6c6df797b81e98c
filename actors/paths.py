"""Paths into a message: pure, compiled once per feed.

A *path* is names joined by dots that lead into a message or a row of it, e.g. ``data.bids.0.price``; digits index a
list. One that begins with ``$.`` looks into the whole message, whatever the row. One that ends with ``?`` may lead
nowhere. In a path to rows, ``*`` goes over all items of a list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from transport.errors import ConfigError

WHOLE = "$."
OPTIONAL = "?"
EVERY = "*"
_INDEX_DIGITS = 9
ABSENT: Any = object()
"""What a path finds that leads nowhere."""


class Path:
    """A path to one value.

    Attributes:
        text: as configured, without ``?``.
        whole: whether it looks into the whole message.
        optional: whether it may lead nowhere.
        find: from row to value, :data:`ABSENT` if it leads nowhere. To be called with the whole message if ``whole``.

    Raises:
        ConfigError: it is no path.
    """

    __slots__ = ("find", "names", "optional", "text", "whole")

    def __init__(self, text: str, field: str) -> None:
        self.optional = text.endswith(OPTIONAL)
        self.text = text.removesuffix(OPTIONAL)
        self.whole = self.text.startswith(WHOLE)
        self.names = _names(self.text.removeprefix(WHOLE), text, field)
        if EVERY in self.names:
            raise ConfigError(f"{text!r}: only `each` goes over all items of a list with {EVERY}", field)
        self.find: Callable[[Any], Any] = _finder(self.names)

    @property
    def is_name(self) -> bool:
        """Whether it is a plain name in the row."""
        return not self.whole and len(self.names) == 1 and _index(self.names[0]) is None


class RowsPath:
    """A path to the rows of a message. What it leads to, if a list, is the rows, else it is the only row.

    Raises:
        ConfigError: it is no path.
    """

    __slots__ = ("_after", "_find", "_names", "text")

    def __init__(self, text: str, field: str) -> None:
        if text.endswith(OPTIONAL):
            raise ConfigError(f"{text!r}: `each` may always lead nowhere, leave out the {OPTIONAL}", field)
        self.text = text
        self._names = _names(text.removeprefix(WHOLE), text, field)
        parts: list[list[str]] = [[]]
        for name in self._names:
            if name == EVERY:
                parts.append([])
            else:
                parts[-1].append(name)
        # What leads to the first list, and from the items of each list to the next.
        self._find = _finder(tuple(parts[0]))
        self._after = [_finder(tuple(part)) if part else None for part in parts[1:]]

    def rows(self, message: Any) -> list[Any]:
        """The rows in order; none where the path leads nowhere."""
        found = self._find(message)
        if not self._after:
            return _as_rows(found)
        lists = [found]
        last = len(self._after) - 1
        for depth, find in enumerate(self._after):
            items = [item for each in lists if type(each) is list for item in each]
            if find is None:
                if depth == last:
                    return items
                lists = items
            elif depth == last:
                return [row for item in items for row in _as_rows(find(item))]
            else:
                lists = [find(item) for item in items]
        raise AssertionError("a path ends")

    def located(self, message: Any) -> Iterator[tuple[str, Any]]:
        """As :meth:`rows`, each with the place where it is: ``events.0.tickers.1``."""
        places: list[tuple[str, Any]] = [("", message)]
        for name in self._names:
            find = _finder((name,))
            places = [
                inner
                for place, value in places
                for inner in (_items(place, value) if name == EVERY else [(f"{place}.{name}", find(value))])
            ]
        for place, value in places:
            if type(value) is list and self._names[-1] != EVERY:
                yield from ((inside.removeprefix("."), row) for inside, row in _items(place, value))
            elif value is not ABSENT:
                yield place.removeprefix("."), value

    def why_no_rows(self, message: Any) -> str:
        """What is there instead of rows."""
        upto = self._names.index(EVERY) if EVERY in self._names else len(self._names)
        value, found = message, 0
        for name in self._names[:upto]:
            inner = _one(name)(value)
            if inner is ABSENT:
                return _whats_there(self._names[:found], value)
            value, found = inner, found + 1
        return "there is an empty list" if value == [] else f"{_whats_there(self._names[:found], value)}, no rows"


def _items(place: str, value: Any) -> list[tuple[str, Any]]:
    return [(f"{place}.{i}", item) for i, item in enumerate(value)] if type(value) is list else []


def _as_rows(found: Any) -> list[Any]:
    if type(found) is list:
        return found
    return [] if found is ABSENT else [found]


def _names(path: str, text: str, field: str) -> tuple[str, ...]:
    names = tuple(path.split("."))
    if not all(names):
        raise ConfigError(f"{text!r} is not a path: write names joined by dots", field)
    return names


def _index(name: str) -> int | None:
    return int(name) if len(name) <= _INDEX_DIGITS and name.isascii() and name.isdigit() else None


def _finder(names: tuple[str, ...]) -> Callable[[Any], Any]:
    """The fastest function that follows ``names``: most are one or two names into maps."""
    steps = [(name, _index(name)) for name in names]
    if len(steps) == 1:
        return _one(names[0])
    if len(steps) == 2 and steps[0][1] is steps[1][1] is None:
        return _two(*names)

    def find(value: Any) -> Any:
        for name, index in steps:
            if type(value) is dict:
                value = value.get(name, ABSENT)
            elif index is not None and type(value) is list and index < len(value):
                value = value[index]
            else:
                return ABSENT
        return value

    return find


def _two(first: str, second: str) -> Callable[[Any], Any]:
    def find(value: Any) -> Any:
        if type(value) is dict:
            value = value.get(first)
            if type(value) is dict:
                return value.get(second, ABSENT)
        return ABSENT

    return find


def _one(name: str) -> Callable[[Any], Any]:
    index = _index(name)

    def find(value: Any) -> Any:
        if type(value) is dict:
            return value.get(name, ABSENT)
        if index is not None and type(value) is list and index < len(value):
            return value[index]
        return ABSENT

    return find


def why_nowhere(path: Path, value: Any) -> str:
    """Where a path that leads nowhere ends in ``value``, and what is there instead."""
    found = 0
    for name in path.names:
        inner = _one(name)(value)
        if inner is ABSENT:
            break
        value, found = inner, found + 1
    return _whats_there(path.names[:found], value)


def _whats_there(names: tuple[str, ...], value: Any) -> str:
    place = f"in {'.'.join(names)} " if names else ""
    if type(value) is dict:
        return f"{place}there are: {', '.join(value)}" if value else f"{place}there is an empty map"
    if type(value) is list:
        return f"{place}there is a list of {len(value)}"
    return f"{place}there is a single value"
