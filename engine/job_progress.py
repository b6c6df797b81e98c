"""How far a job is: stages with weights, a figure that never falls, and the time that is left. No clock, no thread."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from numbers import Integral, Number
from typing import Any

import msgspec

from transport.errors import HeliographError
from transport.topics import topic

PREFIX = "progress"  # of the topics
EVENT_TYPE = "progress"
BEAT_S = 5.0
"""A running job says at least this often that it lives."""
SILENT_BEATS = 3
"""A running job of which nothing came for so many beats is silent: it hangs, was killed, or cannot reach the engine."""
ONLY_STAGE = "work"
"""The stage of a job that declares none."""
MAX_STAGES = 100
MAX_STAGE_NAME = 64  # characters
MAX_COUNT = 10**18  # steps; more is a mistake, and no integer of JSON
DIGITS = 10_000  # progress is told in steps of 1/10,000, rounded down: 1 is said only of what is complete
SPEED_MEMORY = 0.25  # of the time elapsed: so far back the speed looks
SPEED_MEMORY_LEAST_S = 5.0
ETA_LEAST_S = 1.0  # of a life; before, what prepares the job says nothing of its speed
ETA_MOST_S = 10 * 365 * 86_400.0  # beyond, nothing can be said


class JobState(StrEnum):
    """Where a job stands; all but the first are the end."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class StageReport(msgspec.Struct, frozen=True):
    """A stage as events tell it; ``total`` is ``None`` where nobody knows it."""

    name: str
    weight: float
    progress: float
    done: float
    total: float | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The data of a ``progress`` event; see ``docs/progress.md``. Fields with defaults may be missing."""

    job: str
    run: str
    attempt: int
    state: JobState
    progress: float
    stage: str | None
    stages: tuple[StageReport, ...] = ()
    eta: float | None = None
    elapsed: float = 0.0
    started: float = 0.0
    beat: float = BEAT_S
    message: str | None = None
    error: str | None = None
    resumed: float | None = None
    checkpoint: float | None = None

    def silent(self, quiet_s: float) -> bool:
        """Whether a job of which nothing came for ``quiet_s`` seconds is to be shown as silent."""
        return self.state is JobState.RUNNING and quiet_s > SILENT_BEATS * self.beat


def topic_of(job: str) -> str:
    """Where a job's progress is told.

    Raises:
        RequestError: ``invalid_topic``: the name is too long.
    """
    return topic(PREFIX, job)


class StageProgress:
    """One stage: ``done`` of ``total``. What it has reached never falls, whatever is done again or turns out longer."""

    __slots__ = ("_reached", "complete", "done", "name", "total", "weight")

    def __init__(self, name: str, weight: float) -> None:
        self.name, self.weight = name, weight
        self.done: float = 0
        self.total: float | None = None
        self.complete = False
        self._reached = 0.0

    @property
    def progress(self) -> float:
        """0 to 1; without a total 0 until the stage is complete."""
        if self.complete:
            return 1.0
        if self.total is not None:
            part = min(1.0, self.done / self.total) if self.total > 0 else 0.0
            self._reached = max(self._reached, part)
        return self._reached

    def restore(self, done: float, total: float | None, progress: float) -> None:
        """Stand where a checkpoint says."""
        self.done, self.total = done, total
        self._reached = min(1.0, max(0.0, progress))
        self.complete = self._reached == 1.0

    def report(self) -> StageReport:
        """As of now."""
        return StageReport(self.name, self.weight, _rounded(self.progress), self.done, self.total)


class JobProgress:
    """The stages of a job in their order, and which of them it is in.

    Attributes:
        changes: rises with whatever is to be told.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.stages = {name: StageProgress(name, weight) for name, weight in _checked(weights).items()}
        self.changes = 0
        self._sum = math.fsum(weights.values())
        self._running: list[StageProgress] = []

    @property
    def current(self) -> StageProgress | None:
        """The stage entered last of those that run."""
        return self._running[-1] if self._running else None

    @property
    def progress(self) -> float:
        """0 to 1, the mean of the stages by their weights; never falls, as no stage does."""
        return math.fsum(stage.weight * stage.progress for stage in self.stages.values()) / self._sum

    @property
    def told(self) -> float:
        """:attr:`progress` as it is told."""
        return _rounded(self.progress)

    def restore(self, name: str, done: float, total: float | None, progress: float) -> None:
        """Stand where a checkpoint says; what it says of a stage that is no longer declared is left out."""
        if name in self.stages:
            self.stages[name].restore(done, total, progress)

    def enter(self, name: str, total: float | None, start: float) -> StageProgress:
        """Begin a stage, or begin it again, with ``start`` of ``total`` done.

        Raises:
            HeliographError: there is no such stage, it runs already, or a number is wrong; nothing has changed.
        """
        stage = self.stages.get(name)
        if stage is None:
            raise HeliographError(f"stage {name!r} is not declared; there are: {', '.join(self.stages)}")
        if stage in self._running:
            raise HeliographError(f"stage {name!r} runs already")
        total, start = total_of(total), number("start", start)
        stage.total, stage.done = total, start
        self._running.append(stage)
        self.changes += 1
        return stage

    def leave(self, stage: StageProgress, complete: bool) -> None:
        """The stage is over."""
        if stage in self._running:  # else the job was complete before
            self._running.remove(stage)
        stage.complete = stage.complete or complete
        self.changes += 1

    def finish(self) -> None:
        """All is done."""
        for stage in self.stages.values():
            stage.complete = True
        self._running.clear()
        self.changes += 1


class Eta:
    """Seconds left, from a speed that forgets: what was reached by the time it took, both weighted by
    ``exp(-age / memory)``; the memory is a quarter of the time elapsed, at least 5 s. Exact for a constant speed.
    """

    __slots__ = ("_at", "_began", "_progress", "_reached", "_took")

    def __init__(self, progress: float, now: float) -> None:
        self._began = self._at = now
        self._progress = progress
        self._reached = self._took = 0.0

    def look(self, progress: float, now: float) -> float | None:
        """Seconds left as of ``now``; ``None`` in the first second, while nothing has moved, and beyond ten years."""
        passed, elapsed = now - self._at, now - self._began
        if passed > 0:
            kept = math.exp(-passed / max(SPEED_MEMORY_LEAST_S, SPEED_MEMORY * elapsed))
            self._reached = kept * self._reached + progress - self._progress
            self._took = kept * self._took + passed
            self._progress, self._at = progress, now
        if progress >= 1:
            return 0.0
        if elapsed < ETA_LEAST_S or self._reached <= 0:
            return None
        left = (1 - progress) * self._took / self._reached
        return left if left < ETA_MOST_S else None


def _rounded(part: float) -> float:
    return math.floor(part * DIGITS) / DIGITS


def _checked(weights: Mapping[str, float]) -> Mapping[str, float]:
    if not 0 < len(weights) <= MAX_STAGES:
        raise HeliographError(f"a job has 1 to {MAX_STAGES} stages, not {len(weights)}")
    for name, weight in weights.items():
        if not isinstance(name, str) or not 0 < len(name) <= MAX_STAGE_NAME or not _has_utf8(name):
            raise HeliographError(f"the name of a stage has 1 to {MAX_STAGE_NAME} characters, unlike {name!r}")
        if not _is_number(weight) or not 0 < weight < math.inf:
            raise HeliographError(f"the weight of stage {name!r} is a number above 0, not {weight!r}")
    return weights


def number(what: str, value: Any) -> float:
    """``value`` as an ``int`` or ``float``: also one of numpy, a ``Decimal``, a ``Fraction``.

    Raises:
        HeliographError: it is none, or not from 0 to :data:`MAX_COUNT`.
    """
    if isinstance(value, Number) and not isinstance(value, complex) and 0 <= value <= MAX_COUNT:  # type: ignore[operator]
        return int(value) if isinstance(value, Integral) else float(value)  # type: ignore[arg-type]
    raise HeliographError(f"{what} is a number from 0 to {MAX_COUNT:.0e}, not {value!r}")


def total_of(value: Any) -> float | None:
    """The total of a stage: :func:`number`, or ``None``."""
    return None if value is None else number("total", value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _has_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # of a file name, perhaps, that is no UTF-8
        return False
    return True
