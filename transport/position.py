"""A place in a topic's log."""

from __future__ import annotations

import msgspec


class Position(msgspec.Struct, frozen=True):
    """``offset`` rises by one per event within ``epoch``."""

    epoch: str
    offset: int
