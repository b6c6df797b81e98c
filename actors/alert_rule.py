"""A rule of ``[alerts]``, and how one subject of it stands: ok, pending, firing. Pure; the time is an argument.

A subject fires when ``when`` has held for ``for_s`` and clears when ``until`` holds and ``when`` does not. Between the
two conditions nothing changes, so a value that jitters around a threshold fires once: that is the hysteresis.

A value holds until the next one comes: who is pending fires at its time, also if nothing came then. Times are those at
which the hub accepted the events, so that events that are read again later lead to the same alerts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum
from functools import cached_property
from typing import Any, Final, Literal, NamedTuple

import msgspec

from transport.codes import Priority
from transport.event import Event
from transport.fields import lookup
from transport.filters import MISSING, Filter
from transport.messages import Publication
from transport.topics import is_pattern, topic

METRICS: Final = "system.metrics"
"""The topic of the engine's own metrics: a flat map of series and their values."""
VALUE: Final = "value"
"""The name by which the filters of a rule know the value of its field."""
SHOWN: Final = 200
"""Characters of a value that is text, in what is told of it."""

Severity = Literal["info", "warning", "critical"]
PRIORITY: Final[dict[Severity, Priority]] = {
    "info": Priority.LOW,
    "warning": Priority.MEDIUM,
    "critical": Priority.CRITICAL,
}


class Reading:
    """An event as rules look at it: decoded once, and only when a rule wants to know."""

    def __init__(self, event: Event) -> None:
        self._event = event

    @cached_property
    def value_of(self) -> Callable[[str], Any]:
        """The value of a field, by its path as in ``where``; ``MISSING``: there is none."""
        event = self._event
        return lookup(Publication(event.topic, "", 0, 0.0, event.type, event.payload, event.key))

    @cached_property
    def series(self) -> dict[str, Any]:
        """The data as a flat map; one that is none is empty."""
        try:
            data = self._event.data
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return {}
        return data if isinstance(data, dict) else {}


class AlertRule(NamedTuple):
    """What to watch, and what to say.

    Attributes:
        name: of the rule; its events are on ``alert.NAME``.
        pattern: of the topics whose events it sees; each topic of a pattern is a subject of its own.
        field: path of the value, as in ``where``; of :data:`METRICS` the name of a series.
        when, until: what they ask of :data:`VALUE`; without ``until`` it is enough that ``when`` holds no longer.
        where: events that do not fit are not seen.
        for_s: seconds that ``when`` must have held.
        message: for people; ``None``: the value is named.
        webhooks: who is told, too.
    """

    name: str
    pattern: str
    field: str
    when: Filter
    until: Filter | None = None
    where: Filter | None = None
    for_s: float = 0.0
    severity: Severity = "warning"
    message: str | None = None
    webhooks: tuple[str, ...] = ()

    @property
    def topic(self) -> str:
        """Of its own events."""
        return topic("alert", self.name)

    @property
    def single(self) -> bool:
        """Whether it is about one topic: then its subject is ``None``, else it has one per topic."""
        return not is_pattern(self.pattern)

    def subject(self, event: Event) -> str | None:
        """Who an event is about."""
        return None if self.single else event.topic

    def value(self, reading: Reading) -> Any:
        """What the rule looks at in an event; ``MISSING``: the event says nothing."""
        if self.where is not None and not self.where.holds(reading.value_of):
            return MISSING
        found = reading.series.get(self.field, MISSING) if self.pattern == METRICS else reading.value_of(self.field)
        return MISSING if isinstance(found, dict | list) else found

    def fires(self, value: Any) -> bool:
        """Whether ``when`` holds."""
        return self.when.holds(_known(value))

    def clears(self, value: Any) -> bool:
        """Whether ``until`` holds, and ``when`` does not."""
        return not self.fires(value) and (self.until is None or self.until.holds(_known(value)))


def _known(value: Any) -> Callable[[str], Any]:
    return lambda name: value


class Phase(StrEnum):
    """How a subject stands."""

    OK = "ok"
    PENDING = "pending"
    FIRING = "firing"


class Turn(StrEnum):
    """What others are told; the type of the event."""

    FIRED = "alert_fired"
    CLEARED = "alert_cleared"
    ACKNOWLEDGED = "alert_acknowledged"


class Acknowledgement(msgspec.Struct, frozen=True):
    """That somebody has seen an alert: who (``None``: nobody known), when, and what was said of it."""

    by: str | None
    at: float
    note: str | None


class Alarm(msgspec.Struct):
    """How one subject of a rule stands. What is kept on disk.

    Attributes:
        since: Unix seconds at which ``when`` began to hold, of a subject that is pending or firing, or did so last.
        at: of the last change to firing or to ok.
        value: the last one that was seen.
        topic, epoch, offset: place of the event with that value; what comes again after a crash is told by it.
    """

    rule: str
    subject: str | None
    phase: Phase = Phase.OK
    since: float = 0.0
    at: float = 0.0
    value: str | int | float | bool | None = None
    acknowledged: Acknowledgement | None = None
    topic: str = ""
    epoch: str = ""
    offset: int = 0

    def seen(self, event: Event) -> bool:
        """Whether it has seen this event, or a later one of its topic."""
        same = event.epoch != "" and (event.topic, event.epoch) == (self.topic, self.epoch)
        return same and event.offset <= self.offset

    def see(self, rule: AlertRule, value: Any, at: float) -> Turn | None:
        """A value came, at ``at``, up to which it was advanced; what there is to tell."""
        self.value = _shown(value)
        if self.phase is Phase.PENDING:
            self.since = min(self.since, at)  # else a clock that is set back would make it wait until then
        if self.phase is Phase.FIRING:
            if not rule.clears(value):
                return None
            self.phase, self.at = Phase.OK, at
            return Turn.CLEARED
        if not rule.fires(value):
            self.phase = Phase.OK
        elif self.phase is Phase.OK:
            self.phase, self.since, self.acknowledged = Phase.PENDING, at, None
        return self.advance(rule, at)

    def advance(self, rule: AlertRule, now: float) -> Turn | None:
        """It is ``now``; what there is to tell."""
        if (due := self.due(rule)) is None or due > now:
            return None
        self.phase, self.at = Phase.FIRING, due
        return Turn.FIRED

    def due(self, rule: AlertRule) -> float | None:
        """When it fires if nothing else comes; ``None``: it is not pending."""
        return self.since + rule.for_s if self.phase is Phase.PENDING else None

    def data(self, rule: AlertRule) -> dict[str, Any]:
        """As events, the admin API and webhooks tell it."""
        firing, seen = self.phase is Phase.FIRING, self.acknowledged
        return {
            "rule": self.rule,
            "subject": self.subject,
            "state": "firing" if firing else "cleared",
            "severity": rule.severity,
            "value": self.value,
            "since": self.since,
            "at": self.at,
            "message": rule.message or _described(rule, self),
            "acknowledged": None if seen is None else msgspec.structs.asdict(seen),
        }


def _shown(value: Any) -> str | int | float | bool | None:
    """A scalar as JSON can hold it."""
    if isinstance(value, str):
        return value[:SHOWN].encode(errors="replace").decode()  # half of a surrogate pair is no text
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, int):
        return value if -(1 << 63) <= value < 1 << 63 else str(value)[:SHOWN]
    return None


def _described(rule: AlertRule, alarm: Alarm) -> str:
    whose = "" if alarm.subject is None else f" of {alarm.subject}"
    return f"{rule.field}{whose} is {msgspec.json.encode(alarm.value).decode()}"
