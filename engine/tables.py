"""Frozen structs from tables: text layers on a TOML document become typed values, or an error that names the field.

The structs say all there is to know of a field in ``Annotated[type, about(...)]``; nothing here knows a field's name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from transport.errors import ConfigError, RequestError

NONE = "none"
"""TOML has no null: this string says none, where a field allows none."""

Name = Annotated[str, Meta(min_length=1)]
Positive = Annotated[float, Meta(gt=0, le=86_400)]
"""Seconds for the most part, up to a day."""

SomeStruct = TypeVar("SomeStruct", bound=Struct)

_TOML_TYPES = {"object": "table", "array": "list", "str": "text", " | ": " or ", "null": f'"{NONE}"'}
"""What msgspec calls otherwise than who writes TOML."""
_MSGSPEC_TYPE = re.compile(r"\b(?:object|array|str|null)\b| \| ")


def about(
    text: str,
    unit: str = "",
    *,
    none: str = "",
    secret: bool = False,
    ge: float | None = None,
    le: float | None = None,
) -> Meta:
    """What a field is: description, unit, meaning of none, bounds; a secret is masked and can come from a file."""
    return Meta(description=text, extra={"unit": unit, "none": none, "secret": secret}, ge=ge, le=le)


class Field(NamedTuple):
    """A struct's field as :func:`about` describes it. ``kind`` is its type without annotations."""

    name: str
    hint: Any
    kind: Any
    default: Any
    required: bool
    text: str
    unit: str
    none: str
    secret: bool


def fields(struct: type[Struct]) -> list[Field]:
    """The fields of ``struct`` in order. ``default`` is a fresh value, ``None`` where required."""
    hints = get_type_hints(struct, include_extras=True)
    out = []
    for field in msgspec.structs.fields(struct):
        hint = hints[field.name]
        note = next(
            (note for note in getattr(hint, "__metadata__", ()) if isinstance(note, Meta) and note.extra), Meta()
        )
        default = None if field.default is msgspec.NODEFAULT else field.default
        if field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        extra = note.extra or {"unit": "", "none": "", "secret": False}
        out.append(Field(field.name, hint, _bare(hint), default, field.required, text=note.description or "", **extra))
    return out


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def inner_struct(kind: Any) -> type[Struct] | None:
    """The struct of a field that is a table (``Inner``), or one table or several (``tuple[Inner, ...]``)."""
    if get_origin(kind) is tuple:
        kind = get_args(kind)[0]
    return kind if isinstance(kind, type) and issubclass(kind, Struct) else None


class Masked(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table that may hold secrets: its ``repr``, in a traceback or an error of somebody's, shows none."""

    def __repr__(self) -> str:
        from engine.config_text import masked  # it is built on this module

        return f"{type(self).__name__}({masked(self)})"


class Text(str):
    """Text that still has to become what its field needs, e.g. an environment variable."""

    __slots__ = ()


def put(table: dict[str, Any], path: list[str], value: object) -> str:
    """Set ``value`` at ``path``; an existing name matches in any case, ``_`` for ``-``. Return the dotted name."""
    found: list[str] = []
    for depth, name in enumerate(path, 1):
        match = next((known for known in table if _same(known, name)), name)
        found.append(match)
        if depth == len(path):
            table[match] = value
            break
        deeper = table.setdefault(match, {})
        if not isinstance(deeper, dict):
            raise ConfigError("is not a table", ".".join(found))
        table = deeper
    return ".".join(found)


def _same(known: str, name: str) -> bool:
    return known.lower().replace("-", "_") == name.lower().replace("-", "_")


class Reader:
    """Turns tables into structs.

    Args:
        layered: dotted names that a later layer has set over the document, the strongest last.
        refused: dotted names that this version does not know yet, though the contract does.
    """

    def __init__(self, layered: Collection[str] = (), refused: Collection[str] = ()) -> None:
        self._rank = {name: rank for rank, name in enumerate(layered)}
        self._refused = refused

    def struct(self, kind: type[SomeStruct], table: object, path: str = "") -> SomeStruct:
        """``table`` as a ``kind``. Field by field, so that an error names the field exactly (``feeds.fx.url``).

        Raises:
            ConfigError: with the dotted field, without a line.
        """
        if not isinstance(table, dict):
            raise ConfigError("must be a table", path)
        known = {field.name: field for field in fields(kind)}
        values: dict[str, Any] = {}
        for name, value in self._with_secrets(table, list(known.values()), path).items():
            where = join(path, name)
            if where in self._refused:
                raise ConfigError("not supported by this version", where)
            if name not in known:
                raise ConfigError(_unknown(name, list(known)), where)
            values[name] = self._value(known[name].hint, value, where)
        for name, field in known.items():
            if field.required and name not in values:
                raise ConfigError("is required", join(path, name))
        try:
            return kind(**values)
        except ConfigError as error:
            raise ConfigError(error.message, join(path, error.field or "")) from None

    def _value(self, hint: Any, value: object, where: str) -> Any:
        kind = _bare(hint)
        if (inner := inner_struct(kind)) is not None:
            return self.struct(inner, value, where) if inner is kind else self._structs(inner, value, where)
        if get_origin(kind) is dict:
            if not isinstance(value, dict):
                raise ConfigError("must be a table", where)
            return {name: self._value(get_args(kind)[1], item, join(where, name)) for name, item in value.items()}
        if isinstance(value, str) and value.lower() == NONE and NoneType in get_args(kind):
            return None
        try:
            if isinstance(value, Text):
                return msgspec.convert(str(value), hint, strict=False)
            return msgspec.convert(value, hint)
        except msgspec.ValidationError as error:
            raise ConfigError(_explain(error, kind), where) from None

    def _structs(self, kind: type[SomeStruct], value: object, where: str) -> tuple[SomeStruct, ...]:
        """Tables as structs; a single one need not be in a list."""
        if isinstance(value, dict):
            return (self.struct(kind, value, where),)
        if not (isinstance(value, list) and value):
            raise ConfigError("must be a table, or a list of tables", where)
        return tuple(self.struct(kind, item, f"{where}[{i}]") for i, item in enumerate(value))

    def _with_secrets(self, table: dict[str, Any], known: list[Field], path: str) -> dict[str, Any]:
        """``table`` with each ``<secret>_file`` replaced by what that file holds, also in a table of secrets."""
        out = dict(table)
        names = {field.name for field in known}
        for field in known:
            if not field.secret or f"{field.name}_file" in names:  # whoever uses that one reads its file
                continue
            if get_origin(field.kind) is not dict:
                self._read_secret(out, field.name, path)
            elif isinstance(inside := out.get(field.name), dict):
                out[field.name] = inside = dict(inside)
                for name in [name for name in inside if name.endswith("_file")]:
                    self._read_secret(inside, name.removesuffix("_file"), join(path, field.name))
        return out

    def _read_secret(self, table: dict[str, Any], name: str, path: str) -> None:
        file_name = f"{name}_file"
        if file_name not in table:
            return
        where = join(path, file_name)
        file = table.pop(file_name)
        if name in table:
            by_value, by_file = self._rank.get(join(path, name), -1), self._rank.get(where, -1)
            if by_value == by_file:
                raise ConfigError(f"{name} is given too; give one of them", where)
            if by_value > by_file:
                return
        if not isinstance(file, str):
            raise ConfigError("must be the path of a file", where)
        table[name] = read_text(Path(file), where).strip()
        if not table[name]:
            raise ConfigError(f"{file} is empty", where)


def check_importable(path: str, wanted: str, field: str) -> None:
    """Raise :class:`ConfigError` where ``path`` cannot be ``package.module:NAME``; ``wanted`` is what NAME is."""
    module, colon, name = path.partition(":")
    if not (colon and all(part.isidentifier() for part in [*module.split("."), *name.split(".")])):
        raise ConfigError(f'{path!r} must be "package.module:{wanted}"', field)


def check_with(check: Callable[[str], object], text: str, field: str) -> None:
    """Raise :class:`ConfigError` for ``field`` where ``check``, made for requests, refuses ``text``."""
    try:
        check(text)
    except RequestError as error:
        raise ConfigError(error.message, field) from None


def read_text(path: Path, field: str | None = None) -> str:
    """A UTF-8 file's text, or :class:`ConfigError`."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", field) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8", field) from None


def _explain(error: msgspec.ValidationError, kind: Any) -> str:
    text = str(error).replace("`", "").split(" - at $")[0]
    if text.startswith("Invalid enum value"):
        return f"{text}, must be one of {', '.join(_choices(kind))}"
    return _MSGSPEC_TYPE.sub(lambda found: _TOML_TYPES[found[0]], text) if text.startswith("Expected ") else text


def _choices(kind: Any) -> Iterator[str]:
    for part in (kind, *get_args(kind)):
        if get_origin(part) is Literal:
            yield from get_args(part)
        elif part is float or _bare(part) is float:
            yield "a number"


def _unknown(name: str, known: list[str]) -> str:
    from difflib import get_close_matches  # only where there is something to explain

    close = get_close_matches(name, known, 1)
    return "unknown; " + (f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}")


def join(path: str, name: str) -> str:
    """Two dotted names as one; either may be empty."""
    return f"{path}.{name}" if path and name else path or name
