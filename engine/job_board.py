"""The jobs that somebody watches: the newest report of each, and which have fallen silent. No clock, no socket."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from engine.job_progress import EVENT_TYPE, JobState, Report
from transport.event import Event

MAX_JOBS: Final = 1_000  # beyond, the one of which nothing came for longest goes
SILENT: Final = "silent"
_decode = msgspec.json.Decoder(Report).decode


class Watched(NamedTuple):
    """A job as of its newest report, which came at ``at``."""

    report: Report
    at: float

    def state(self, now: float) -> str:
        """The job's state, or :data:`SILENT`."""
        return SILENT if self.report.silent(now - self.at) else str(self.report.state)


class JobBoard:
    """Takes events of ``progress.*``; times are any one clock's, seconds."""

    def __init__(self) -> None:
        self._jobs: dict[str, Watched] = {}  # by topic, the newest report last

    def take(self, event: Event, at: float) -> Report | None:
        """What the event tells; ``None`` where it is none of a job."""
        if event.type != EVENT_TYPE:
            return None
        try:
            report = _decode(event.payload)
        except msgspec.DecodeError:
            return None  # anybody may publish there
        self._jobs.pop(event.topic, None)
        self._jobs[event.topic] = Watched(report, at)
        if len(self._jobs) > MAX_JOBS:
            del self._jobs[next(iter(self._jobs))]
        return report

    def jobs(self) -> list[Watched]:
        """Running ones first, then those that ended, the last one first."""
        watched = reversed(self._jobs.values())
        return sorted(watched, key=_order)


def _order(watched: Watched) -> tuple[bool, float]:
    over = watched.report.state is not JobState.RUNNING
    return (over, 0.0 if over else watched.report.started)
