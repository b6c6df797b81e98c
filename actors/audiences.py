"""All subscriptions of a worker, and the audiences that they form. Pure: no pipe, no loop, no clock.

Two ways lead in: from a session to its patterns (``session.subscriptions``), and from a topic through the patterns that
match it to the audience. Changes append what the broadcaster has to do to ``ops``, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from actors.audience import Audience
from actors.filter_index import FilterIndex
from actors.messages import Disband, Join, Seal
from actors.subscription import Subscription
from actors.subscriptions import PatternIndex
from actors.topic_policy import TopicPolicies, TopicPolicy
from transport.codes import ErrorCode
from transport.errors import RequestError
from transport.filters import Filter

if TYPE_CHECKING:
    from actors.session import Session


FIELDS = 256
"""Fields that the filters on one pattern may name in all: each event is read for every one of them."""
FILTER_BYTES = 1_048_576
"""JSON of the filters of one session, once per pattern: in the indexes a value takes ten times as much."""
PRIVATE_ROUTES = 16
"""Held routes of one session; a client that changes its rate all the time leaves no more behind."""


class Statistics(NamedTuple):
    """What is there; all zero once every session has gone."""

    patterns: int
    members: int  # subscriptions without consumer groups
    filtered: int
    audiences: int
    selections: int  # classes of events whose receivers are remembered
    clauses: int  # these and what follows: of filters, summed over patterns
    fields: int
    values: int
    thresholds: int


class Audiences:
    """The two-way index.

    Args:
        reroute: called with a pattern and ``ops`` when the set of patterns changes: topics that it matches have another
            audience from here on.
    """

    def __init__(self, policies: TopicPolicies, reroute: Callable[[str, list[Any]], None]) -> None:
        self._policies, self._reroute = policies, reroute
        self._patterns = PatternIndex()
        self._members: dict[str, dict[Session, None]] = {}
        self._filters: dict[str, FilterIndex[Subscription]] = {}
        self._audiences: dict[tuple[tuple[str, ...], TopicPolicy], Audience] = {}
        self._audiences_of: dict[str, set[Audience]] = {}
        self.filtered = 0
        """Subscriptions with a filter."""

    def __contains__(self, pattern: str) -> bool:
        return pattern in self._members

    def __iter__(self) -> Iterator[str]:
        """The patterns in force."""
        return iter(self._members)

    def of(self, pattern: str) -> Iterable[Audience]:
        """The audiences that a pattern has part in."""
        return self._audiences_of.get(pattern, ())

    def members(self, pattern: str) -> Iterable[Session]:
        """Who subscribes to a pattern, filtered or not."""
        return self._members.get(pattern, ())

    def matching(self, topic: str) -> tuple[str, ...]:
        """The patterns in force that match."""
        return self._patterns.match(topic)

    def find(self, topic: str, ops: list[Any]) -> Audience | None:
        """The audience of a topic, made where it is new; ``None``: nobody here wants this topic."""
        patterns = self._patterns.match(topic)
        if not patterns:
            return None
        policy = self._policies.of(topic)
        audience = self._audiences.get((patterns, policy))
        if audience is None:
            audience = self._audiences[patterns, policy] = Audience(patterns, policy)
            self._refilter(audience)
            joins: list[Join] = []
            for pattern in patterns:
                self._audiences_of.setdefault(pattern, set()).add(audience)
            for session in dict.fromkeys(session for pattern in patterns for session in self._members[pattern]):
                audience.place(session, ops, joins)
            ops.extend(_merged(joins))
        return audience

    def admit(self, session: Session, patterns: list[str], wanted: Filter) -> None:
        """Raise :class:`RequestError` if a session cannot have this filter on these patterns.

        Its filters would be too large, or all filters on one of the patterns would name too many fields.
        """
        held = session.subscriptions or {}
        replaced = sum(_size(held[pattern].filter) for pattern in patterns if pattern in held)
        size = session.filter_bytes - replaced + len(patterns) * _size(wanted)
        if size > FILTER_BYTES:
            message = f"the filters of one session may have {FILTER_BYTES} bytes of JSON, once per topic; now {size}"
            raise RequestError(ErrorCode.LIMIT_EXCEEDED, message, "where")
        names = wanted.fields
        for pattern in patterns:
            index = self._filters.get(pattern)
            fields = len(set(names).union(index.fields if index is not None else ()))
            if fields > FIELDS:
                message = f"all filters on {pattern!r} may name {FIELDS} fields, with this one they name {fields}"
                raise RequestError(ErrorCode.LIMIT_EXCEEDED, message, "where")

    def enter(
        self, session: Session, pattern: str, subscription: Subscription, ops: list[Any], joins: list[Join]
    ) -> None:
        """A subscription begins, or replaces the one on the same pattern.

        ``joins`` are the session's, those of all patterns of a request, for the caller to put behind the answer.
        """
        if session.subscriptions is None:
            session.subscriptions = {}
        before = session.subscriptions.get(pattern)
        session.subscriptions[pattern] = subscription
        if session.private is not None and len(session.private) > PRIVATE_ROUTES:
            for audience in self._audiences.values():
                audience.forget()
            self._disband_private(session, ops)
        if before is not None and before.filter is not None:
            self._unfilter(pattern, before)
        if pattern not in self._members:
            self._members[pattern] = {}
            self._patterns.add(pattern)
            self._reroute(pattern, ops)
        self._members[pattern][session] = None
        if subscription.filter is not None:
            index = self._filters.get(pattern)
            if index is None:
                index = self._filters[pattern] = FilterIndex()
                self._refilter(*self.of(pattern))
            index.add(subscription)
            self.filtered += 1
            session.filter_bytes += _size(subscription.filter)
        for audience in self.of(pattern):
            audience.changed(session, pattern)
            audience.place(session, ops, joins)

    def exit(self, session: Session, patterns: Iterable[str], ops: list[Any]) -> list[str]:
        """Subscriptions end; those that the session does not have are no error. Patterns that nobody holds any more."""
        unused: list[str] = []
        held = session.subscriptions or {}
        for pattern in patterns:
            subscription = held.pop(pattern, None)
            if subscription is None:
                continue
            if subscription.filter is not None:
                self._unfilter(pattern, subscription)
            if session.private:
                ops.append(Seal(list(session.private.values())))
            joins: list[Join] = []
            for audience in self.of(pattern):
                audience.changed(session, pattern)
                audience.place(session, ops, joins)
            ops += joins
            members = self._members[pattern]
            del members[session]
            if not members:
                del self._members[pattern]
                unused.append(pattern)
        if not held:
            self._disband_private(session, ops)
        for pattern in unused:
            self._retire(pattern, ops)
        return unused

    def _disband_private(self, session: Session, ops: list[Any]) -> None:
        """Only while no selection is remembered that leads to them."""
        ops.extend(Disband(route) for route in (session.private or {}).values())
        session.private = None

    def _retire(self, pattern: str, ops: list[Any]) -> None:
        self._patterns.remove(pattern)
        self._reroute(pattern, ops)
        for audience in self._audiences_of.pop(pattern, ()):
            del self._audiences[audience.patterns, audience.policy]
            for other in audience.patterns:
                if other in self._audiences_of:
                    self._audiences_of[other].discard(audience)
                    if not self._audiences_of[other]:
                        del self._audiences_of[other]
            audience.disband(ops)

    def _unfilter(self, pattern: str, subscription: Subscription) -> None:
        index = self._filters[pattern]
        index.remove(subscription)
        self.filtered -= 1
        subscription.session.filter_bytes -= _size(subscription.filter)
        if not len(index):
            del self._filters[pattern]
            self._refilter(*self.of(pattern))

    def _refilter(self, *audiences: Audience) -> None:
        for audience in audiences:
            audience.filter(self._filters[pattern] for pattern in audience.patterns if pattern in self._filters)

    def age(self) -> None:
        """Forget the selections that were not used since this was called last."""
        for audience in self._audiences.values():
            audience.age()

    def statistics(self) -> Statistics:
        """How much is there. O(patterns)."""
        filters = [index.counts() for index in self._filters.values()]
        return Statistics(
            len(self._patterns),
            sum(map(len, self._members.values())),
            self.filtered,
            len(self._audiences),
            self.selections(),
            sum(counts.clauses for counts in filters),
            sum(counts.fields for counts in filters),
            sum(counts.values for counts in filters),
            sum(counts.thresholds for counts in filters),
        )

    def selections(self) -> int:
        """Classes of events whose receivers are remembered. O(audiences of patterns with filters)."""
        return sum(a.selections for a in {a: None for pattern in self._filters for a in self.of(pattern)})

    def filters(self, pattern: str) -> FilterIndex[Subscription] | None:
        """The index of a pattern's filtered subscriptions, if it has any."""
        return self._filters.get(pattern)


def _size(wanted: Filter | None) -> int:
    return 0 if wanted is None else len(wanted.source)


def _merged(joins: list[Join]) -> list[Join]:
    """One Join per route."""
    merged: dict[Any, Join] = {}
    for route, sessions in joins:
        if route in merged:
            merged[route].sessions.extend(sessions)
        else:
            merged[route] = Join(route, sessions)
    return list(merged.values())
