"""``heliograph explain``: who would receive an event, and which clause keeps it from whom."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from engine.cli import nobody_reads, note
from engine.cli_admin import ABSENT, ask, shown

if TYPE_CHECKING:
    from rich.table import Table

RECEIVES = {True: "yes", False: "no", None: "maybe"}


def explain(admin_url: str, api_key: str | None, event: Mapping[str, Any]) -> int:
    """Write a row per session: a table on a terminal, else NDJSON; a summary for people goes to stderr.

    Args:
        event: the body of ``POST /api/explain``, see :mod:`engine.admin_explain`.
    """
    found = ask("POST", admin_url, "/api/explain", api_key, msgspec.json.encode(event))
    try:
        if sys.stdout.isatty():
            from rich.console import Console

            Console().print(_table(found["sessions"]))
        else:
            sys.stdout.writelines(msgspec.json.encode(row).decode() + "\n" for row in found["sessions"])
            sys.stdout.flush()
    except BrokenPipeError:
        return nobody_reads()
    note(summary(found))
    return 0


def summary(found: Mapping[str, Any]) -> str:
    """One line: how many of how many, by which strategy and patterns."""
    if not found["matched"]:
        return f"nobody has subscribed to {found['topic']}"
    groups = "".join(f", and one member of group {shown(group)}" for group in found["groups"])
    text = f"{found['receivers']:,} of {found['matched']:,} subscribed to {found['topic']} would receive it{groups}"
    text += f" ({found['strategy']}; {', '.join(found['patterns'])})"
    return f"{text}; {len(found['sessions']):,} shown" if found["truncated"] else text


def _table(rows: list[Mapping[str, Any]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(show_edge=False)
    for column in ("session", "user", "pattern", "receives"):
        table.add_column(column, overflow="fold")
    table.add_column("because", overflow="fold")
    table.add_column("delivery", overflow="fold")
    for row in rows:
        delivery = ", ".join(f"{name} {shown(value)}" for name, value in row["delivery"].items())
        texts = [shown(row[name]) for name in ("session", "user", "pattern")]
        table.add_row(*map(Text, [*texts, RECEIVES[row["receives"]], shown(row["because"]), delivery or ABSENT]))
    return table
