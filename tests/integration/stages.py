"""Stages of tests, which the engine, in a process of its own too, imports by their names."""

from __future__ import annotations

import threading

from heliograph import Event, Stage

NEVER = threading.Event()
"""What a stage that hangs waits for; a test that has it in its own process sets it at its end."""


class Enricher(Stage):
    """Does to an event what its data says: change, drop, multiply, raise or hang; others go on as they are."""

    def on_events(self, batch: list[Event]) -> list[Event]:
        out: list[Event] = []
        for event in batch:
            what = event.data.get("do")
            if what == "change":
                out.append(event.replace(data={**event.exact, "by": self.options.get("name")}, type="changed"))
            elif what == "multiply":
                out += [event.replace(topic=f"{event.topic}.{n}") for n in range(3)]
            elif what == "raise":
                raise ValueError("as it was asked to")
            elif what == "hang":
                NEVER.wait()
            elif what == "spoil":
                out.append(event.replace(topic="no..topic"))
            elif what != "drop":
                out.append(event)
        return out


class Counter(Stage):
    """Numbers its events since it was started."""

    count = 0

    def on_events(self, batch: list[Event]) -> list[Event]:
        out = []
        for event in batch:
            self.count += 1
            if event.data.get("fail") == self.count:
                raise ValueError("as it was asked to")
            out.append(event.replace(data={**event.data, "count": self.count}))
        return out


class Mute(Stage):
    """Lacks ``on_events``."""


class Async(Stage):
    """Has one for a loop, which there is not."""

    async def on_events(self, batch: list[Event]) -> list[Event]:  # type: ignore[override]
        return batch


class NoStage:
    """Is none."""


def mark(event: Event) -> Event | list[Event] | None:
    """Does to an event what its data says."""
    what = event.data.get("do")
    if what == "drop":
        return None
    if what == "multiply":
        return [event, event.replace(topic=f"{event.topic}.copy")]
    if what == "raise":
        raise ValueError("as it was asked to")
    return event.replace(data={**event.data, "marked": True})


async def mark_later(event: Event) -> Event:
    """For a loop, which there is not."""
    return event


class Marker:
    """An object that can be called."""

    def __call__(self, event: Event) -> Event:
        return event.replace(type="marked")


class AsyncMarker:
    """For a loop, which there is not."""

    async def __call__(self, event: Event) -> Event:
        return event


marker, async_marker = Marker(), AsyncMarker()
