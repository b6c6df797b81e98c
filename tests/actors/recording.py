"""A hub that only writes down, for tests of feeds."""

from __future__ import annotations

from typing import Any

import msgspec

from transport.messages import Publish


class Recorder:
    """Takes everything at once."""

    def __init__(self) -> None:
        self.events: list[Publish] = []

    def publish(self, batch: list[Publish]) -> None:
        self.events += batch

    @property
    def is_writable(self) -> bool:
        return True

    async def writable(self) -> None:
        """Always."""

    def told(self, kind: str) -> list[Any]:
        """The data of the events of this type."""
        return [msgspec.json.decode(event.data) for event in self.events if event.type == kind]
