"""Bands of a value with hysteresis: which one it is in now, so that a value beside a border is told once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Self


class Border(NamedTuple):
    """Between two bands: a value rises over it at ``up`` and falls below it only under ``down``; ``down <= up``."""

    up: float
    down: float


class Bands:
    """Names from low to high with a border between each two; pure.

    ``of(value, was)`` is idempotent: what it answers, given back as ``was`` with the same value, is the answer again.
    So a computation that is repeated finds no change.

    Args:
        names: of the bands, from low to high.
        borders: one fewer than names, ascending.
        home: the band of something that is not known yet.

    Raises:
        ValueError: these borders are none.
    """

    def __init__(self, names: Sequence[str], borders: Sequence[Border], home: str) -> None:
        edges = [edge for border in borders for edge in (border.down, border.up)]
        if len(names) != len(borders) + 1 or home not in names:
            raise ValueError(f"{len(names)} bands ({', '.join(names)}) around {home} need one border between each two")
        if not all(map(math.isfinite, edges)) or edges != sorted(edges):
            raise ValueError(f"the borders of {', '.join(names)} must ascend: {edges}")
        self.names, self.borders, self.home = tuple(names), tuple(borders), home

    def of(self, value: float, was: str | None = None) -> str:
        """The band of ``value`` that was in band ``was`` before; ``None`` or an unknown name: in ``home``."""
        place = self.names.index(was if was in self.names else self.home)
        while place < len(self.borders) and value >= self.borders[place].up:
            place += 1
        while place > 0 and value < self.borders[place - 1].down:
            place -= 1
        return self.names[place]

    @classmethod
    def threshold(cls, above: float, clear: float) -> Self:
        """``normal`` and ``high``: from ``above`` on, until it is less than ``clear`` (a fraction of ``above``)."""
        return cls(("normal", "high"), (Border(up=above, down=above * clear),), "normal")

    @classmethod
    def symmetric(cls, border: float, margin: float) -> Self:
        """``negative``, ``weak``, ``positive``: out beyond ``border + margin``, back within ``border - margin``."""
        outer, inner = border + margin, border - margin
        return cls(
            ("negative", "weak", "positive"), (Border(up=-inner, down=-outer), Border(up=outer, down=inner)), "weak"
        )
