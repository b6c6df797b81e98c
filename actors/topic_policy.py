"""How events of a topic are routed: the policy of the most specific configured pattern. Pure; for hub and worker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import NamedTuple

from actors.subscriptions import PatternIndex


class Strategy(StrEnum):
    """Who gets an event of a topic, and in which order."""

    BROADCAST_ALL = "broadcast_all"
    """Everybody who subscribes to the topic; filters are ignored."""
    CONTENT_BASED = "content_based"
    """Who subscribes to the topic and whose filter matches."""
    PRIORITY_FIRST = "priority_first"
    """As CONTENT_BASED; what waits goes by priority."""
    LOAD_BALANCED = "load_balanced"
    """As CONTENT_BASED, and one member of each consumer group (:mod:`actors.groups`)."""


class TopicPolicy(NamedTuple):
    """What ``[topics."PATTERN"]`` says.

    ``window_s``: events are collected for so many seconds. ``acks``, ``ack_timeout_s``: members of consumer groups
    acknowledge; what they do not in so many seconds goes to others. ``presence``, ``announce``: the hub knows which
    users are there, and says so. ``durable``: events outlive the machine. ``history_size``, ``history_age_s``: how many
    events are kept, and for how many seconds; ``None``: for as long as there is room.
    """

    strategy: Strategy = Strategy.CONTENT_BASED
    window_s: float = 0.0
    acks: bool = False
    ack_timeout_s: float = 30.0
    presence: bool = False
    announce: bool = False
    durable: bool = False
    history_size: int = 10_000
    history_age_s: float | None = 300.0


DEFAULT_POLICY = TopicPolicy()
"""Of topics that no configured pattern matches, if nothing else is said."""


class TopicPolicies:
    """The configured policies by pattern.

    Of the patterns that match a topic the most specific one counts, and it alone: tables are not merged. Patterns are
    compared token by token from the left, a literal token goes before ``*``, ``*`` before ``>``. So for ``a.b.c``:
    ``a.b.c``, ``a.b.*``, ``a.b.>``, ``a.*.c``, ``a.*.*``, ``a.>``, ``*.b.c``, ``>``.
    """

    def __init__(self, policies: Mapping[str, TopicPolicy], default: TopicPolicy = DEFAULT_POLICY) -> None:
        self._policies = dict(policies)
        self._default = default
        self._patterns = PatternIndex()
        for pattern in policies:
            self._patterns.add(pattern)
        self._rank = {pattern: n for n, pattern in enumerate(sorted(policies, key=_breadth))}

    def __iter__(self) -> Iterator[TopicPolicy]:
        return iter(self._policies.values())

    def all(self) -> list[TopicPolicy]:
        """Every policy that a topic can have."""
        return [*self._policies.values(), self._default]

    def of(self, topic: str) -> TopicPolicy:
        """The policy of ``topic``. Costs a match of patterns (O(tokens)); who asks per event keeps the answer.

        A pattern may be asked for, too: it gets the policy of the most specific pattern that matches it as if its
        wildcards were tokens. Topics that it matches can still have policies of their own.
        """
        if not self._policies:
            return self._default
        matching = self._patterns.match(topic)
        return self._policies[min(matching, key=self._rank.__getitem__)] if matching else self._default


def _breadth(pattern: str) -> list[int]:
    return [2 if token == ">" else 1 if token == "*" else 0 for token in pattern.split(".")]
