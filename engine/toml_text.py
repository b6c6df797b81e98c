"""TOML as text: where a field stands in it, and how a value is written."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_POSITION = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


def syntax_error(error: tomllib.TOMLDecodeError) -> tuple[str, int | None]:
    """What is wrong, and the 1-based line where tomllib says it."""
    text = str(error)
    where = _POSITION.search(text)
    return (text[: where.start()], int(where[1]) if where[1] else None) if where else (text, None)


def line_of(text: str, field: str) -> int | None:
    """The 1-based line of valid TOML where ``field`` (dotted) is set, or else that of its closest table."""
    best, best_length = None, 0
    for line, path in _places(text):
        # A name may hold dots itself ("price.*"), and an error may point into a list ("topics[0]").
        if (field == path or field.startswith((path + ".", path + "["))) and len(path) > best_length:
            best, best_length = line, len(path)
    return best


def _places(text: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of each table and key. A statement ends where tomllib can read it: O(n²) only within one."""
    table, statement, start = "", "", 1
    lists: dict[str, int] = {}  # how many tables of each [[list.of.tables]] have begun
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        start = start if statement else number
        statement += line
        try:
            parsed = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue  # a string or list goes on in the next line
        header, statement = statement.lstrip(), ""
        paths = list(_paths(parsed))
        if header.startswith("[["):
            lists[paths[-1]] = lists.get(paths[-1], 0) + 1
        if header.startswith("["):
            table = paths[-1]
        elif table:
            paths = [f"{table}.{path}" for path in paths]
        for path in paths:  # [a.b] says a too
            yield start, path
            if (numbered := _numbered(path, lists)) != path:
                yield start, numbered


def _numbered(path: str, lists: Mapping[str, int]) -> str:
    """``z.list.q`` as ``z.list[1].q``: in the table of each list that began last."""
    for name in sorted(lists, reverse=True):  # the inner list first
        if path == name or path.startswith(name + "."):
            path = f"{name}[{lists[name] - 1}]{path.removeprefix(name)}"
    return path


def _paths(value: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(value, list) and value and isinstance(value[-1], dict):
        value = value[-1]  # [[array.of.tables]]
    if isinstance(value, dict):
        for name, item in value.items():
            path = f"{prefix}.{name}" if prefix else name
            yield path
            yield from _paths(item, path)


def key(name: str) -> str:
    """``name`` as a TOML key, quoted where needed."""
    return name if _BARE_KEY.fullmatch(name) else _string(name)


def literal(value: object) -> str:
    """A TOML value on one line.

    Raises:
        TypeError: for what TOML cannot say, such as ``None``.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, int):
        return f"{value:_}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, Mapping):
        inside = ", ".join(f"{key(str(name))} = {literal(item)}" for name, item in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(literal, value))}]"
    raise TypeError(f"TOML has no {type(value).__qualname__}")


def _string(text: str) -> str:
    # A JSON string is a TOML basic string, but for DEL.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
