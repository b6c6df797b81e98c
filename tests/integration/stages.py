"""Stages of tests, which the engine, in a process of its own too, imports by their names."""

from __future__ import annotations

from heliograph import Event, Stage


class Enricher(Stage):
    """Does to an event what its data says: change, drop, multiply or raise; others go on as they are."""

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


class NoStage:
    """Is none."""
