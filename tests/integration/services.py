"""Services of tests, which the engine, in a process of its own too, imports by their names."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from heliograph import Event, Gap, Service


class Diary(Service):
    """Writes what it gets into files of the directory ``options["place"]``: a line per call in ``NAME.calls``.

    It does what an event says: ``{"do": "raise"}`` fails until there is a file ``NAME.mended``, ``{"do": "wait"}``
    waits for it, ``{"do": "answer"}`` publishes on ``answer.NAME``.
    """

    async def on_start(self) -> None:
        self.place = Path(self.options["place"])
        self._write("on_start")

    async def on_stop(self) -> None:
        self._write("on_stop")

    async def position(self) -> str | None:
        file = self.place / f"{self.name}.position"
        return file.read_text() if file.exists() else None

    async def on_events(self, batch: list[Event]) -> None:
        for event in batch:
            match event.data.get("do"):
                case "raise" if not self._mended():
                    raise OSError("as it was asked to")
                case "wait":
                    while not self._mended():
                        await asyncio.sleep(0.01)
                case "answer":
                    await self.engine.publish(f"answer.{self.name}", {"to": event.data["n"]}, type="answer")
        self._write("on_events", [event.data["n"] for event in batch])

    async def on_gap(self, gap: Gap) -> None:
        self._write("on_gap", [gap.first, gap.last])

    async def on_position(self, position: str) -> None:
        (self.place / f"{self.name}.new").write_text(position)
        (self.place / f"{self.name}.new").rename(self.place / f"{self.name}.position")

    def _mended(self) -> bool:
        return (self.place / f"{self.name}.mended").exists()

    def _write(self, *entry: object) -> None:
        with (self.place / f"{self.name}.calls").open("a") as file:
            file.write(json.dumps(entry) + "\n")


class Calls:
    """What a :class:`Diary` has written."""

    def __init__(self, place: Path, name: str) -> None:
        self._place, self._name = place, name

    def of(self, hook: str) -> list[list[int]]:
        """What it was called with."""
        file = self._place / f"{self._name}.calls"
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [line[1] if len(line) > 1 else [] for line in lines if line[0] == hook]

    @property
    def taken(self) -> list[int]:
        """Of all events that it has taken."""
        return [n for call in self.of("on_events") for n in call]

    @property
    def begun(self) -> bool:
        """Whether events are its."""
        return (self._place / f"{self._name}.position").exists()

    def mend(self) -> None:
        """From now on it does not fail, nor wait."""
        (self._place / f"{self._name}.mended").touch()
