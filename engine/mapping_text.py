"""What a feed's maps made of sample messages, as text for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from actors.mapping_report import FieldReport, KeptOut, Report, RowReport

NOTHING = "nothing"
_WIDEST = 44  # of a column but the last, characters

Style = Callable[[str, str], str]
"""From a text and what it is, ``bad`` or ``head``, to the text with colours."""


class Sample(NamedTuple):
    """One message of a file of samples, and where it is."""

    place: str
    raw: bytes


def samples(content: bytes) -> list[Sample]:
    """The messages in a file: one JSON document over several lines, or one a line."""
    lines = [Sample(f"line {i}", line) for i, line in enumerate(content.splitlines(), 1) if line.strip()]
    # The lines of a document are no maps or lists by themselves, unless it is all on one.
    if not _is_json(content) and any(line.raw.lstrip()[:1] in b"{[" and _is_json(line.raw) for line in lines):
        return lines
    return [Sample("message", content)] if lines else []


def _is_json(text: bytes) -> bool:
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def unstyled(text: str, kind: str) -> str:
    """For files and pipes: no colours."""
    return text


def lines(place: str, report: Report, maps: int, style: Style = unstyled) -> Iterator[str]:
    """The lines about one message; ``maps`` is how many the feed has."""
    if report.error:
        yield style(f"{place}: {report.error}", "bad")
        return
    yield style(f"{place}: {_outcome(report)}", "head")
    if report.sequence is not None:
        yield from _aligned([report.sequence], "  ", style)
    for kept in report.kept_out:
        yield f"  {_kept_out(kept, maps)}"
    for i, path, why in report.nowhere:
        yield f"  {_name(i, maps)}: each = {path} leads to no rows: {why}"
    for row in report.rows:
        yield from _row(row, maps, style)


def _outcome(report: Report) -> str:
    parts = []
    if report.mapped:
        parts.append(f"{report.mapped} event{'s' if report.mapped > 1 else ''}")
    if report.bad:
        parts.append(f"{report.bad} bad")
    return ", ".join(parts) or "not for this feed"


def _name(i: int, maps: int) -> str:
    return "map" if maps == 1 else f"map[{i}]"


def _kept_out(kept: KeptOut, maps: int) -> str:
    hint = f" ({kept.hint})" if kept.hint else ""
    return f"{_name(kept.map, maps)} wants {kept.path} = {kept.wanted}, found {kept.found}{hint}"


def _row(row: RowReport, maps: int, style: Style) -> Iterator[str]:
    place = row.place or "message"
    for kept in row.kept_out:
        yield f"  {place}: {_kept_out(kept, maps)}"
    if row.map is not None:
        yield style(f"  {place} by {_name(row.map, maps)}", "head")
        yield from _aligned(row.fields, "    ", style)


def _aligned(fields: Sequence[FieldReport], indent: str, style: Style) -> Iterator[str]:
    cells = [(field.name, field.path, (field.found or NOTHING) if field.path else "") for field in fields]
    widths = [min(_WIDEST, max(map(len, column))) for column in zip(*cells, strict=True)]
    for field, row in zip(fields, cells, strict=True):
        start = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        hint = f" ({field.hint})" if field.hint else ""
        if field.error:
            yield style(f"{indent}{start}  ! {field.error}{hint}", "bad")
        else:
            yield f"{indent}{start}  → {field.became or NOTHING}{hint}"
