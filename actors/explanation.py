"""Who would receive an event, and which clause keeps it from whom: an operator's question. Pure.

It is answered session by session from what is specified, without the index, so that it can find the index wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from actors.subscription import Subscription
from actors.topic_policy import Strategy, TopicPolicy
from transport.fields import lookup
from transport.messages import Publication
from transport.topics import matches

if TYPE_CHECKING:
    from actors.session import Session

REASONS_KEPT = 10_000  # filters, each with the reason why it does not hold, so that equal ones are asked once
PATTERNS_TOLD = 100


class Explanation:
    """What would become of one event in one worker now.

    A row is ``{"session", "user", "pattern", "receives", "because", "delivery"}``. ``receives`` is true or false, and
    null where the hub decides: one member of a consumer group gets the event. ``pattern`` is the one that brings it;
    ``because`` says what keeps it away, or what it depends on; ``delivery`` has the options with which it would come,
    the least restrictive of all the session's patterns that match. A session that lags may lose an event all the same.

    Args:
        publication: the event; its position and time do not matter.
        policy: of its topic.
        limit: rows kept.
    """

    def __init__(self, publication: Publication, policy: TopicPolicy, limit: int) -> None:
        self._topic, self._policy, self._limit = publication.topic, policy, limit
        self._value_of = lookup(publication)
        self._matching: dict[str, bool] = {}
        self._reasons: dict[bytes, str | None] = {}
        self._groups: set[str] = set()
        self._rows: list[dict[str, Any]] = []
        self._receivers = self._matched = 0

    def look(self, session: Session) -> None:
        """Take a session in, if one of its patterns matches. Cost: some 10 µs, and 5 µs more per further filter."""
        if session.closed or session.leaving:
            return
        held = session.subscriptions or {}
        found = {pattern: held[pattern] for pattern in sorted(held) if self._matches(pattern)}
        if found:
            self._matched += 1
            row = self._row(session, found)
            self._receivers += row["receives"] is True
            if len(self._rows) < self._limit:
                self._rows.append(row)

    def look_closely(self, session: Session) -> None:
        """Take a session in also if none of its patterns matches."""
        before = self._matched
        self.look(session)
        if self._matched == before:
            held = sorted(session.subscriptions or ())
            more = ", …" if len(held) > PATTERNS_TOLD else ""
            because = f"none of its patterns matches: {', '.join(held[:PATTERNS_TOLD])}{more}"
            self._rows.append(_row(session, None, False, because if held else "it has no subscription", {}))

    @property
    def summary(self) -> dict[str, Any]:
        """What was found.

        ``receivers`` is how many sessions would receive it; besides them, one member of each of ``groups`` would.
        ``matched`` is how many have a ``patterns`` that matches; ``sessions`` has a row for the first of them.
        """
        return {
            "strategy": self._policy.strategy.value,
            "patterns": sorted(pattern for pattern, matching in self._matching.items() if matching)[:PATTERNS_TOLD],
            "receivers": self._receivers,
            "groups": sorted(self._groups),
            "matched": self._matched,
            "sessions": self._rows,
        }

    def _matches(self, pattern: str) -> bool:
        found = self._matching.get(pattern)
        if found is None:
            found = self._matching[pattern] = matches(pattern, self._topic)
        return found

    def _row(self, session: Session, found: Mapping[str, Subscription]) -> dict[str, Any]:
        balanced = self._policy.strategy is Strategy.LOAD_BALANCED
        groups = {pattern: s.group for pattern, s in found.items() if s.group is not None}
        if balanced:
            self._groups.update(groups.values())
        accepted, reasons = self._judge(found)
        if accepted:
            pattern = accepted[0]
            conditions = []
            if found[pattern].filter is not None and self._reason(found[pattern]) is not None:
                conditions.append(f"{Strategy.BROADCAST_ALL} ignores its filter: {self._reason(found[pattern])}")
            if session.rated:
                conditions.append("as far as its user's rate allows")
            ordinary = [subscription for subscription in found.values() if subscription.group is None]
            counts = min(ordinary, key=lambda subscription: subscription.delivery.restriction)
            return _row(session, pattern, True, "; ".join(conditions) or None, self._delivery(counts))
        if not groups:
            because = "; ".join(f"{p}: {why}" if len(reasons) > 1 else why for p, why in reasons.items())
            return _row(session, next(iter(reasons)), False, because, {})
        pattern, group = next(iter(groups.items()))
        if balanced:
            return _row(
                session, pattern, None, f"one member of group {group!r} gets it", self._delivery(found[pattern])
            )
        because = f"consumer groups get nothing where the strategy is {self._policy.strategy}"
        return _row(session, pattern, False, because, {})

    def _judge(self, found: Mapping[str, Subscription]) -> tuple[list[str], dict[str, str]]:
        """The patterns that bring the event, apart from groups: those without a filter go first. Why not the others."""
        ordinary = {pattern: s for pattern, s in found.items() if s.group is None}
        if self._policy.strategy is Strategy.BROADCAST_ALL:
            return list(ordinary), {}
        if whole := [pattern for pattern, s in ordinary.items() if s.filter is None]:
            return whole, {}
        reasons = {pattern: self._reason(s) for pattern, s in ordinary.items()}
        return [p for p, why in reasons.items() if why is None], {p: why for p, why in reasons.items() if why}

    def _reason(self, subscription: Subscription) -> str | None:
        assert subscription.filter is not None, "only a filter has a reason"
        source = subscription.filter.source
        if source in self._reasons:
            return self._reasons[source]
        why = subscription.filter.why_not(self._value_of)
        if len(self._reasons) < REASONS_KEPT:
            self._reasons[source] = why
        return why

    def _delivery(self, subscription: Subscription) -> dict[str, Any]:
        options = {name: value for name, value in subscription.options.items() if name != "where"}
        if self._policy.window_s > subscription.delivery.window and subscription.group is None:
            options["window"] = self._policy.window_s
        if self._policy.strategy is Strategy.PRIORITY_FIRST:
            options["by_priority"] = True
        return options


def _row(
    session: Session, pattern: str | None, receives: bool | None, because: str | None, delivery: dict[str, Any]
) -> dict[str, Any]:
    return {
        "session": session.id,
        "user": session.user,
        "pattern": pattern,
        "receives": receives,
        "because": because,
        "delivery": delivery,
    }
