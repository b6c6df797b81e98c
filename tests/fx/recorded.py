"""The recorded prices as the tests need them: closes of minutes, by instrument."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import datetime
from importlib import resources


def rows(name: str) -> Iterator[dict[str, str]]:
    """The rows of ``engine/recorded/NAME.csv``."""
    yield from csv.DictReader((resources.files("engine.recorded") / f"{name}.csv").read_text("ascii").splitlines())


def bars(name: str) -> list[tuple[int, float, float, float]]:
    """``(time, high, low, close)`` of one-minute bars, times in Unix seconds."""
    return [(_second(row), float(row["high"]), float(row["low"]), float(row["close"])) for row in rows(name)]


def minutes(name: str) -> dict[int, float]:
    """The last mid of each minute of recorded quotes, by the minute's start in Unix seconds."""
    return {_second(row) // 60 * 60: (float(row["bid"]) + float(row["ask"])) / 2 for row in rows(name)}


def _second(row: dict[str, str]) -> int:
    return int(datetime.fromisoformat(row["timestamp"]).timestamp())
