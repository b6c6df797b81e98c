"""A place in a topic's log."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class Position(msgspec.Struct, frozen=True):
    """``offset`` rises by one per event within ``epoch``."""

    epoch: Annotated[str, Meta(max_length=64)]
    offset: Annotated[int, Meta(ge=0, le=2**63 - 1)]  # what the bus carries


class Place(Position, frozen=True, forbid_unknown_fields=True):
    """A position in a request: fields that it does not have are refused, where an answer may get more of them."""

    @classmethod
    def of(cls, position: Position) -> Place:
        """The same, to be asked for."""
        return cls(position.epoch, position.offset)
