"""How results are shown: tables for people, JSON for programs."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import msgspec

from bench.wsload import CLIENT_CORE, SERVER_CORE, Load

Row = Mapping[str, Any]


def table(rows: Sequence[Row]) -> str:
    """Rows with the same keys, aligned; numbers with three significant digits."""
    cells = [[*rows[0]], *([_shown(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def listing(row: Row) -> str:
    """One row, a line a figure."""
    width = max(map(len, row))
    return "\n".join(f"{name:>{width}}  {_shown(value)}" for name, value in row.items())


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        if math.isnan(value):
            return "–"
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def summary(loads: Sequence[Load]) -> dict[str, Any]:
    """Medians of the unsaturated runs; where there are none, of all: what a core did then, not what it can. Without any
    run they are NaN, and null in JSON.
    """
    chosen = [load for load in loads if not load.saturated]
    saturated = bool(loads) and not chosen
    chosen = chosen or list(loads)

    def middle(figure: Callable[[Load], float]) -> float:
        return float(median(map(figure, chosen))) if chosen else math.nan

    return {
        "runs": f"{len(chosen)}/{len(loads)}" + (" saturated" if saturated else ""),
        "us each": middle(lambda load: load.us),
        "server": middle(lambda load: load.server),
        "client": middle(lambda load: load.client),
        "p50 ms": middle(lambda load: load.p50),
        "p99 ms": middle(lambda load: load.p99),
        "delivered/s": middle(lambda load: load.delivered),
        "bytes each": middle(lambda load: load.bytes_each),
        "others": max((load.others for load in chosen), default=math.nan),
        "whole": bool(chosen) and all(load.whole for load in chosen),
    }


def show(modes: Mapping[str, Callable[[Any], list[Row]]], what: Sequence[str], options: Any) -> None:
    """Run those modes and print what they found, a table each, or all as JSON where ``options.json`` is true."""
    if (wrong := warning()) is not None:
        note(wrong)
    results: dict[str, list[Row]] = {}
    for name in what:
        results[name] = rows = modes[name](options)
        if not options.json:
            print(f"\n{name}: {(modes[name].__doc__ or '').splitlines()[0]}\n{table(rows)}", flush=True)
    if options.json:
        print(msgspec.json.encode(results).decode())


def note(text: str) -> None:
    """Progress, on stderr."""
    print(f"  {text}", file=sys.stderr, flush=True)


def warning() -> str | None:
    """What is wrong with this machine, if anything."""
    if SERVER_CORE == CLIENT_CORE:
        return "one core for server and load client: no figure of this machine means anything"
    return None
