"""Keeps each price once, whatever dies meanwhile: heliograph run --config examples/services/audit.toml"""

import asyncio
import sqlite3

from heliograph import Event, Gap, Service


class Audit(Service):
    async def on_start(self) -> None:
        await asyncio.to_thread(self._open)

    def _open(self) -> None:
        self.database = sqlite3.connect(self.options["file"], check_same_thread=False)
        with self.database as database:
            database.execute(
                "CREATE TABLE IF NOT EXISTS event "
                "(topic TEXT, epoch TEXT, number INTEGER, data TEXT, PRIMARY KEY (topic, epoch, number))"
            )
            database.execute("CREATE TABLE IF NOT EXISTS place (one INTEGER PRIMARY KEY, position TEXT)")

    async def position(self) -> str | None:
        row = self.database.execute("SELECT position FROM place").fetchone()
        return row[0] if row else None

    async def on_events(self, batch: list[Event]) -> None:
        await asyncio.to_thread(self._keep, batch)

    def _keep(self, batch: list[Event]) -> None:
        rows = [(event.topic, event.epoch, event.offset, event.payload.decode()) for event in batch]
        with self.database as database:
            database.executemany("INSERT OR IGNORE INTO event VALUES (?, ?, ?, ?)", rows)  # it may come again

    async def on_position(self, position: str) -> None:
        with self.database as database:
            database.execute("INSERT OR REPLACE INTO place VALUES (1, ?)", (position,))

    async def on_gap(self, gap: Gap) -> None:
        lost = gap.last - gap.first + 1
        await self.engine.publish("alert.audit", {"topic": gap.topic, "lost": lost}, type="alert")

    async def on_stop(self) -> None:
        if hasattr(self, "database"):  # also after an on_start that failed
            self.database.close()
