"""How all subjects of all alert rules stand: events and time in, what is to be kept and told out. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from actors.alert_rule import VALUE, Acknowledgement, Alarm, AlertRule, Phase, Reading, Turn
from transport.codes import ErrorCode
from transport.errors import RequestError
from transport.event import Event
from transport.filters import MISSING, Filter
from transport.topics import matches

SUBJECTS: Final = 1_000
"""Of one rule. Beyond it the longest quiet one is forgotten, and where all are pending or firing, a new one is not
watched."""
ROUTES: Final = 10_000
"""Topics of which is remembered who watches them; then all are looked up anew."""
LISTED: Final = 1_000
"""Alerts in one list."""
NOTE: Final = 1_000
"""Characters of a note."""


class News(NamedTuple):
    """Something to tell: ``data`` as it was then."""

    rule: AlertRule
    turn: Turn
    data: dict[str, Any]


class Alarms:
    """See the module. What it gives out of changes is taken with :meth:`changes`, then :meth:`taken`.

    Args:
        rules: all of them.
        kept: how their subjects stood. Of a rule that there is no longer, one that is firing is told as cleared.
        now: Unix seconds.

    Attributes:
        unwatched: subjects that were one too many, by rule.
    """

    def __init__(self, rules: Sequence[AlertRule], kept: Iterable[Alarm] = (), now: float = 0.0) -> None:
        self.rules = {rule.name: rule for rule in rules}
        self.unwatched: dict[str, int] = {}
        self._alarms: dict[str, dict[str | None, Alarm]] = {name: {} for name in self.rules}
        self._watching: dict[str, tuple[AlertRule, ...]] = {}
        self._own = frozenset(rule.topic for rule in rules)
        self._pending: dict[tuple[str, str | None], float] = {}  # when it fires
        self._changed: dict[tuple[str, str | None], Alarm] = {}
        self._forgotten: list[tuple[str, str | None]] = []
        self._news: list[News] = []
        for alarm in kept:
            self._take_over(alarm, now)

    def see(self, event: Event, now: float) -> None:
        """An event of the rules' topics; ``now`` is its time where it has none."""
        reading = Reading(event)
        for rule in self._rules_of(event.topic):
            value = rule.value(reading)
            if value is not MISSING:
                self._see(rule, event, value, event.ts or now)

    def advance(self, now: float) -> None:
        """It is ``now``, and all events before have been seen."""
        for name, subject in [of for of, due in self._pending.items() if due <= now]:
            alarm, rule = self._alarms[name][subject], self.rules[name]
            self._changes(rule, alarm, alarm.advance(rule, now))

    @property
    def due(self) -> float | None:
        """When the next one fires, if nothing else comes; Unix seconds."""
        return min(self._pending.values(), default=None)

    def acknowledge(
        self, name: str, subject: str | None, by: str | None, note: str | None, now: float
    ) -> dict[str, Any]:
        """Somebody has seen an alert, as it is told then; again is allowed, the last word counts.

        Raises:
            RequestError: ``not_found``: there is no such rule; ``conflict``: it is not firing; ``bad_request``.
        """
        rule = self.rules.get(name)
        if rule is None:
            raise RequestError(ErrorCode.NOT_FOUND, f"there is no alert rule {name!r}")
        if note is not None and len(note) > NOTE:
            raise RequestError(ErrorCode.BAD_REQUEST, f"has {len(note)} characters, at most {NOTE}", "note")
        if subject is None and not rule.single:
            which = f"{name} watches {rule.pattern}: say of which topic, as the list of alerts does"
            raise RequestError(ErrorCode.BAD_REQUEST, which, "subject")
        alarm = self._alarms[name].get(subject)
        if alarm is None or alarm.phase is not Phase.FIRING:
            whose = "" if subject is None else f" of {subject}"
            raise RequestError(ErrorCode.CONFLICT, f"{name}{whose} is not firing")
        alarm.acknowledged = Acknowledgement(by, now, note)
        self._changes(rule, alarm, Turn.ACKNOWLEDGED)
        return alarm.data(rule)

    def listed(self) -> dict[str, Any]:
        """``{"alerts", "more", "rules"}``: what is firing, the newest first, how much more there is, and all rules."""
        firing = [alarm for alarm in self._all() if alarm.phase is Phase.FIRING]
        firing.sort(key=lambda alarm: alarm.at, reverse=True)
        return {
            "alerts": [alarm.data(self.rules[alarm.rule]) for alarm in firing[:LISTED]],
            "more": max(0, len(firing) - LISTED),
            "rules": [self._shown(rule) for rule in self.rules.values()],
        }

    def changes(self) -> tuple[list[Alarm], list[tuple[str, str | None]], list[News]]:
        """Who has changed, who is forgotten, and what is to be told of it, in order; until :meth:`taken`."""
        return list(self._changed.values()), self._forgotten, self._news

    def taken(self) -> None:
        """What :meth:`changes` gave out is kept."""
        self._changed, self._forgotten, self._news = {}, [], []

    def _take_over(self, alarm: Alarm, now: float) -> None:
        if (rule := self.rules.get(alarm.rule)) is not None and (alarm.subject is None) is rule.single:
            self._alarms[alarm.rule][alarm.subject] = alarm
            self._scheduled(rule, alarm)
            return
        self._forgotten.append((alarm.rule, alarm.subject))
        if alarm.phase is Phase.FIRING:
            alarm.phase, alarm.at = Phase.OK, now
            last = rule or AlertRule(alarm.rule, "", "", Filter.parse({VALUE: None}), message="the rule is gone")
            self._news.append(News(last, Turn.CLEARED, alarm.data(last)))

    def _rules_of(self, topic: str) -> tuple[AlertRule, ...]:
        if (found := self._watching.get(topic)) is None:
            if len(self._watching) >= ROUTES:
                self._watching.clear()
            # Its own events are none of a rule's: two rules could keep each other busy for ever.
            rules = () if topic in self._own else self.rules.values()
            found = self._watching[topic] = tuple(rule for rule in rules if matches(rule.pattern, topic))
        return found

    def _see(self, rule: AlertRule, event: Event, value: Any, at: float) -> None:
        subject, alarms = rule.subject(event), self._alarms[rule.name]
        alarm = alarms.get(subject)
        if alarm is None:
            if not rule.fires(value):
                return  # it stands as all do of whom nothing is known
            if len(alarms) >= SUBJECTS and not self._forget_one(rule.name):
                self.unwatched[rule.name] = self.unwatched.get(rule.name, 0) + 1
                return
            alarm = alarms[subject] = Alarm(rule.name, subject)
        elif alarm.seen(event):
            return
        if (turn := alarm.advance(rule, at)) is not None:
            self._changes(rule, alarm, turn)
        before = alarm.phase, alarm.since
        turn = alarm.see(rule, value, at)
        alarm.topic, alarm.epoch, alarm.offset = event.topic, event.epoch, event.offset
        if (alarm.phase, alarm.since) != before:
            self._changes(rule, alarm, turn)

    def _changes(self, rule: AlertRule, alarm: Alarm, turn: Turn | None) -> None:
        self._changed[alarm.rule, alarm.subject] = alarm
        self._scheduled(rule, alarm)
        if turn is not None:
            self._news.append(News(rule, turn, alarm.data(rule)))

    def _scheduled(self, rule: AlertRule, alarm: Alarm) -> None:
        if (due := alarm.due(rule)) is None:
            self._pending.pop((alarm.rule, alarm.subject), None)
        else:
            self._pending[alarm.rule, alarm.subject] = due

    def _forget_one(self, name: str) -> bool:
        alarms = self._alarms[name]
        quiet = [alarm for alarm in alarms.values() if alarm.phase is Phase.OK]
        if not quiet:
            return False
        oldest = min(quiet, key=lambda alarm: max(alarm.at, alarm.since))
        del alarms[oldest.subject]
        self._changed.pop((name, oldest.subject), None)
        self._forgotten.append((name, oldest.subject))
        return True

    def _all(self) -> Iterator[Alarm]:
        for alarms in self._alarms.values():
            yield from alarms.values()

    def _shown(self, rule: AlertRule) -> dict[str, Any]:
        phases = [alarm.phase for alarm in self._alarms[rule.name].values()]
        worst = next((phase for phase in (Phase.FIRING, Phase.PENDING) if phase in phases), Phase.OK)
        return {
            "rule": rule.name,
            "state": worst,
            "topic": rule.pattern,
            "field": rule.field,
            "severity": rule.severity,
            "firing": phases.count(Phase.FIRING),
            "pending": phases.count(Phase.PENDING),
        }
