"""What a feed's maps make of a message, field by field, for the people who write them. Pure; not for the hot path."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from actors.feed_map import Column, CompiledMap, Condition
from actors.paths import ABSENT, Path, why_nowhere
from actors.upstream_values import (
    BadMessage,
    MappingError,
    check_finite,
    decode_any,
    shown,
    whole_number,
)

NOTHING = "nothing"
VALUE_CHARS = 60  # shown of a value
PLAUSIBLE_S = (0.0, 4_102_444_800.0)  # a source's time; beyond 1970 to 2100 the unit is likely wrong


class FieldReport(NamedTuple):
    """What became of one field of an event.

    Attributes:
        name: ``topic``, ``type``, ``key``, ``time``, ``sequence`` or ``data.NAME``.
        path: where it was looked for; empty where nothing was.
        found: the JSON of what was there, shortened; ``None``: nothing.
        became: what is in the event; ``None``: nothing.
        error, hint: why the row is bad, and what may help.
    """

    name: str
    path: str
    found: str | None
    became: str | None
    error: str | None = None
    hint: str | None = None


class KeptOut(NamedTuple):
    """A map did not want a row, or a message: ``found`` was at ``path`` instead of one of ``wanted``."""

    map: int
    path: str
    wanted: str
    found: str
    hint: str | None


class RowReport(NamedTuple):
    """A row and the map that took it, ``None`` if none did. ``place`` is where it is in the message, empty: all."""

    place: str
    map: int | None
    kept_out: Sequence[KeptOut]
    fields: Sequence[FieldReport]

    @property
    def errors(self) -> list[FieldReport]:
        """What makes the row bad."""
        return [field for field in self.fields if field.error]


class Report(NamedTuple):
    """Of one message.

    Attributes:
        error: it is no JSON.
        sequence: of the feed's ``sequence``; ``None`` where there is none.
        kept_out: maps that want no such message.
        nowhere: maps whose ``each`` leads to no row in it, with the path and a hint.
        rows: in the order of the events.
    """

    error: str | None
    sequence: FieldReport | None
    kept_out: Sequence[KeptOut]
    nowhere: Sequence[tuple[int, str, str]]
    rows: Sequence[RowReport]

    @property
    def bad(self) -> int:
        """How many rows, or the message itself, could not be mapped."""
        return bool(self.error) + sum(bool(row.errors) for row in self.rows)

    @property
    def mapped(self) -> int:
        """How many events come of it."""
        return sum(row.map is not None and not row.errors for row in self.rows)


def report(maps: Sequence[CompiledMap], sequence: Path | None, raw: str | bytes) -> Report:
    """See :meth:`actors.mapping.Mapper.explain`."""
    try:
        message = decode_any(raw)
    except MappingError as error:
        return Report(str(error), None, (), (), ())
    kept_out: list[KeptOut] = []
    nowhere: list[tuple[int, str, str]] = []
    rows: list[RowReport] = []
    for group in _by_each(maps):
        wanting = []
        for i, one in group:
            unmet = _unmet(i, one.of_message, message)
            if unmet is None:
                wanting.append((i, one))
            else:
                kept_out.append(unmet)
        each = group[0][1].each
        places = [("", message)] if each is None else list(each.located(message))
        if each is not None and not places:
            nowhere += [(i, each.text, each.why_no_rows(message)) for i, _ in wanting]
        rows += [_row(place, row, message, raw, wanting) for place, row in places if wanting]
    return Report(None, _numbered(sequence, message), kept_out, nowhere, rows)


def _numbered(sequence: Path | None, message: Any) -> FieldReport | None:
    if sequence is None:
        return None
    value = sequence.find(message)
    number = whole_number(value)
    hint = None
    if number is None:
        hint = why_nowhere(sequence, message) if value is ABSENT else "not a whole number, so this message has none"
    return FieldReport("sequence", sequence.text, _json(value), None if number is None else str(number), hint=hint)


def _by_each(maps: Sequence[CompiledMap]) -> list[list[tuple[int, CompiledMap]]]:
    groups: dict[str | None, list[tuple[int, CompiledMap]]] = {}
    for i, one in enumerate(maps):
        groups.setdefault(one.source.each, []).append((i, one))
    return list(groups.values())


def _row(place: str, row: Any, message: Any, raw: str | bytes, maps: Sequence[tuple[int, CompiledMap]]) -> RowReport:
    kept_out: list[KeptOut] = []
    for i, one in maps:
        unmet = _unmet(i, one.of_row, row)
        if unmet is None:
            return RowReport(place, i, kept_out, list(_Fields(one, row, message).all(raw)))
        kept_out.append(unmet)
    return RowReport(place, None, kept_out, ())


def _unmet(i: int, conditions: Sequence[Condition], value: Any) -> KeptOut | None:
    for condition in conditions:
        path = condition.path
        found = path.find(value)
        if not condition.is_met(found):
            hint = why_nowhere(path, value) if found is ABSENT else None
            return KeptOut(i, path.text, _wanted(condition), _json(found) or NOTHING, hint)
    return None


def _wanted(condition: Condition) -> str:
    if condition.exists is not None:
        return "anything" if condition.exists else NOTHING
    return " or ".join(shown(value, VALUE_CHARS) for value in condition.values)


class _Fields:
    """The fields of one row, each tried by itself, with the functions that map."""

    def __init__(self, one: CompiledMap, row: Any, message: Any) -> None:
        self._map, self._row, self._message = one, row, message

    def all(self, raw: str | bytes) -> Iterator[FieldReport]:
        one, at = self._map, (self._row, self._message)
        yield from self._topic()
        yield FieldReport("type", "", None, one.source.type)
        if one.key is not None:
            yield self._tried("key", one.key, self._key)
        if one.time is not None:
            yield _doubted(self._tried("time", one.time, lambda: one.source_ts(*at)))
        if one.sequence is not None:
            yield self._tried("sequence", one.sequence, lambda: one.number(*at))
        for column in one.columns:
            yield self._column(column)
        if not one.columns:
            yield self._as_it_came(raw)

    def _tried(self, name: str, path: Path, make: Callable[[], Any]) -> FieldReport:
        base = self._message if path.whole else self._row
        found = _json(path.find(base))
        try:
            became = make()
        except MappingError as error:
            hint = why_nowhere(path, base) if error.reason is BadMessage.MISSING else None
            return FieldReport(name, path.text, found, None, _what(error), hint)
        return FieldReport(name, path.text, found, None if became is None else str(became))

    def _topic(self) -> Iterator[FieldReport]:
        one = self._map
        names: list[str] = []
        for path in one.topic_paths:

            def take(path: Path = path) -> str:
                names.append(one.name(path, self._row, self._message))
                return one.renamed(names[-1])

            asked = self._tried(f"topic {{{path.text}}}", path, take)
            if asked.error or len(one.topic_paths) > 1:
                yield asked
        if len(names) < len(one.topic_paths):
            return
        if len(names) == 1:
            yield self._tried("topic", one.topic_paths[0], lambda: one.rendered(*names))
            return
        try:
            yield FieldReport("topic", "", None, one.rendered(*names))
        except MappingError as error:
            yield FieldReport("topic", "", None, None, _what(error))

    def _key(self) -> str | None:
        upstream = self._map.upstream_key(self._row, self._message)
        return None if upstream is None else self._map.renamed(upstream)

    def _column(self, column: Column) -> FieldReport:
        def make() -> str | None:
            value = self._map.value(column, self._row, self._message)
            if value is ABSENT:
                return None
            check_finite(value, column.path.text)
            return _json(value)

        return self._tried(f"data.{column.name}", column.path, make)

    def _as_it_came(self, raw: str | bytes) -> FieldReport:
        try:
            check_finite(self._row, "")
        except MappingError as error:
            return FieldReport("data", "", None, None, _what(error))
        return FieldReport("data", "", None, "all as it came", hint="`data` names nothing")


def _doubted(time: FieldReport) -> FieldReport:
    """A time as people read it, with a word on one that is hardly meant."""
    if time.became is None:
        return time
    at_s = float(time.became)
    if not PLAUSIBLE_S[0] <= at_s < PLAUSIBLE_S[1]:
        return time._replace(hint="that is not between 1970 and 2100: is time_unit right?")
    return time._replace(became=f"{time.became} ({datetime.fromtimestamp(at_s, UTC).isoformat()})")


def _json(value: Any) -> str | None:
    return None if value is ABSENT else shown(value, VALUE_CHARS)


def _what(error: MappingError) -> str:
    return ": ".join(filter(None, (error.reason, error.detail)))
