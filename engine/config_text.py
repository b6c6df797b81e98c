"""The configuration as people read it: effective with secrets masked, default with comments, reference tables.

All of it comes from the structs' own :func:`~engine.tables.about`, so that it cannot disagree with them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_args, get_origin

from msgspec import Struct

from engine import toml_text
from engine.tables import NONE, Field, fields, inner_struct, join

MASK = "***"
Predicate = Callable[[str], bool]
_SECRET_NAME = re.compile(r"token|secret|passw|passphrase|auth|signature|credential|api_?key", re.IGNORECASE)
_USER_OR_QUERY = re.compile(r"(?<=//)[^/@?#]*@|(?<=\?)[^#]+")


def masked(struct: Struct) -> dict[str, Any]:
    """``struct`` as plain tables. Masked are secret fields, users and queries in URLs, and in free tables every value
    whose name sounds like a secret."""
    return {field.name: _masked(field, getattr(struct, field.name)) for field in fields(type(struct))}


def _masked(field: Field, value: Any) -> Any:
    if value is None:
        return NONE
    if field.secret:
        return dict.fromkeys(value, MASK) if isinstance(value, Mapping) else MASK
    return _plain(value, field.name)


def _plain(value: Any, name: str) -> Any:
    if isinstance(value, Struct):
        return masked(value)
    if isinstance(value, Mapping):
        return {key: MASK if _sounds_secret(key, item) else _plain(item, key) for key, item in value.items()}
    if _are_tables(value):
        return masked(value[0]) if len(value) == 1 else _Tables(map(masked, value))
    if isinstance(value, (list, tuple)):
        return [_plain(item, name) for item in value]
    if isinstance(value, str) and "://" in value:
        return _USER_OR_QUERY.sub(lambda found: MASK + "@" if found[0].endswith("@") else MASK, value)
    return value


class _Tables(list[dict[str, Any]]):
    """Several tables of one name, each with a heading of its own in TOML."""


def _are_tables(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and all(isinstance(item, Struct) for item in value)


def _sounds_secret(name: str, value: Any) -> bool:
    return isinstance(value, (str, int, float, list, tuple)) and _SECRET_NAME.search(name) is not None


def effective(struct: Struct) -> str:
    """:func:`masked` as TOML."""
    return "\n".join(_table("", masked(struct))).lstrip("\n") + "\n"


def _table(path: str, table: Mapping[str, Any], heading: str = "[{}]") -> Iterator[str]:
    simple = {name: value for name, value in table.items() if not isinstance(value, (dict, _Tables))}
    if path and simple:
        yield from ("", heading.format(path))
    yield from (f"{toml_text.key(name)} = {toml_text.literal(value)}" for name, value in simple.items())
    for name, value in table.items():
        inner = join(path, toml_text.key(name))
        if isinstance(value, dict):
            yield from _table(inner, value)
        elif isinstance(value, _Tables):
            for item in value:
                yield from _table(inner, item, "[[{}]]")


def defaults(config: type[Struct], examples: Mapping[str, Struct], reload_takes: Predicate) -> str:
    """Every field with comment and default; the tables that have names as examples, commented out.

    ``reload_takes`` is asked with the dotted name of each field.
    """
    lines = ["# The default configuration of heliograph. A table, field or file that is left out means the same."]
    for table in fields(config):
        if isinstance(table.kind, type):
            lines += _commented(table.name, table.default, reload_takes)
    for path, example in examples.items():
        shown = _commented(path, example, reload_takes)
        lines += [line if line.startswith("#") else f"#{line}" if line else "" for line in shown]
    return "\n".join(lines) + "\n"


def _commented(path: str, struct: Struct, reload_takes: Predicate) -> Iterator[str]:
    yield from ("", f"[{path}]")
    inner = []
    for field in fields(type(struct)):
        value = getattr(struct, field.name)
        if isinstance(value, Struct):
            inner.append((join(path, field.name), value))
            continue
        if _named_tables(field):
            continue
        if _are_tables(value):
            assert len(value) == 1, "a default or example has one"
            inner.append((join(path, field.name), value[0]))
            continue
        takes = reload_takes(join(path, field.name))
        yield f"# {_sentence(field)}. {'A reload takes it.' if takes else 'Needs a restart.'}"
        yield f"{field.name} = {toml_text.literal(NONE if value is None else value)}"
    for name, value in inner:
        yield from _commented(name, value, reload_takes)


def _named_tables(field: Field) -> bool:
    return get_origin(field.kind) is dict and inner_struct(get_args(field.kind)[1]) is not None


def _sentence(field: Field) -> str:
    unit = f" ({field.unit})" if field.unit else ""
    none = f'; "none": {field.none}' if field.none else ""
    return f"{field.text[0].upper()}{field.text[1:]}{unit}{none}"


def reference(config: type[Struct], reload_takes: Predicate) -> str:
    """Markdown: a heading and a table of fields per table of the configuration."""
    return "\n".join(line for table in fields(config) for line in _section(table, table.name, reload_takes))


def _section(table: Field, path: str, reload_takes: Predicate) -> Iterator[str]:
    named, several = get_origin(table.kind) is dict, get_origin(table.kind) is tuple
    struct = inner_struct(get_args(table.kind)[1] if named else table.kind)
    assert struct is not None, f"{path} is a table"
    path = f"{path}.NAME" if named else path
    rows = fields(struct)
    yield f"## `[{path}]`" + (f", or several `[[{path}]]`" if several else "") + "\n"
    yield "| field | default | unit | meaning | none | reload |"
    yield "|---|---|---|---|---|---|"
    for field in rows:
        if inner_struct(field.kind) is not None or _named_tables(field):
            continue
        default = (
            "required" if field.required else f"`{toml_text.literal(NONE if field.default is None else field.default)}`"
        )
        name = f"`{field.name}`" + (" (secret)" if field.secret else "")
        reload = "yes" if reload_takes(join(path, field.name)) else "restart"
        cells = (name, default, field.unit or "–", field.text, field.none or "–", reload)
        yield f"| {' | '.join(cells)} |"
    yield ""
    for field in rows:
        if inner_struct(field.kind) is not None or _named_tables(field):
            yield from _section(field, join(path, field.name), reload_takes)
