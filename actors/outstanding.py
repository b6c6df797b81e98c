"""Requests that wait for the hub's answer, and what came for them so far. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from actors.session import Session
from transport.messages import Enlist, Interest, Publication
from transport.requests import Snapshot, Subscribe, Unsubscribe
from transport.topics import is_pattern

SHARED = 0.1  # s for which an equal request joins one that waits


class Asked(NamedTuple):
    """A request, and what the hub was told of it, perhaps for others too; ``by_server``: no client waits for its
    answer."""

    session: Session
    request: Subscribe | Snapshot | Unsubscribe
    by_server: bool
    message: Interest | Enlist
    deadline: float

    @property
    def patterns(self) -> list[str]:
        """What the hub was asked to send from now on."""
        return self.message.add if isinstance(self.message, Interest) else []


class Outstanding:
    """By ``ref``, in the order in which they were asked.

    Who comes with many others and wants what they want, as all clients do after a loss, shares the answer to one of
    them (:meth:`alike`): the hub is asked once, and whoever waits for the answer begins where it stands in the pipe.
    For a session that is 25 µs less, of hub and worker.

    A pattern is *wanted* as long as a request that adds it has neither taken effect nor been given up.
    """

    def __init__(self) -> None:
        self._asked: dict[int, list[Asked]] = {}
        self._alike: dict[tuple[str, ...], Asked] = {}  # the last that anybody may join, by patterns
        self._backlogs: dict[int, list[Publication]] = {}
        self._sessions: dict[Session, int] = {}  # how many of each wait
        self._wanted: dict[str, int] = {}
        self._last_ref = 0

    def __len__(self) -> int:
        return sum(map(len, self._asked.values()))

    @property
    def messages(self) -> Iterator[Interest | Enlist]:
        """What the hub has not answered."""
        return (group[0].message for group in self._asked.values())

    def next_ref(self) -> int:
        """A number for a message to the hub, above 0."""
        self._last_ref += 1
        return self._last_ref

    def put(self, asked: Asked) -> None:
        """It waits; what it adds is wanted."""
        message = asked.message
        group = self._asked.get(message.ref)
        if group is not None:
            group.append(asked)
        else:
            self._asked[message.ref] = [asked]
            if isinstance(message, Interest) and message.add and message.since is None and not asked.by_server:
                self._alike[tuple(message.add)] = asked
        self._sessions[asked.session] = self._sessions.get(asked.session, 0) + 1
        for pattern in asked.patterns:
            self._wanted[pattern] = self._wanted.get(pattern, 0) + 1

    def alike(self, session: Session, message: Interest, deadline: float) -> Interest:
        """What has been asked lately for another session and serves this one as well, or else ``message``."""
        # A session's answers come in the order of its requests, and what it has published before is not for it.
        if message.since is not None or session in self._sessions or session.unacknowledged:
            return message
        # One large snapshot for hundreds at once would hold up the loop; the hub gives them out one by one.
        if any(map(is_pattern, message.snapshot)):
            return message
        other = self._alike.get(tuple(message.add))
        if other is None or deadline - other.deadline > SHARED:
            return message
        asked = other.message
        return asked if isinstance(asked, Interest) and asked.snapshot == message.snapshot else message

    def of(self, session: Session) -> int:
        """How many requests of a session wait."""
        return self._sessions.get(session, 0)

    def wants(self, pattern: str) -> bool:
        """Whether a request adds it."""
        return pattern in self._wanted

    def collect(self, ref: int, events: list[Publication]) -> None:
        """A part of what a subscription has missed; its answer follows."""
        if ref in self._asked:
            self._backlogs.setdefault(ref, []).extend(events)

    def begin_anew(self) -> None:
        """Another hub will answer, from the start."""
        self._backlogs.clear()

    def take(self, ref: int) -> tuple[list[Asked], list[Publication]]:
        """Requests that wait no longer, and what was collected for them; none: they were given up before.

        What they add is wanted until :meth:`release`.
        """
        backlog = self._backlogs.pop(ref, [])
        group = self._asked.pop(ref, [])
        for asked in group:
            left = self._sessions[asked.session] - 1
            if left:
                self._sessions[asked.session] = left
            else:
                del self._sessions[asked.session]
            key = tuple(asked.patterns)
            if self._alike.get(key) is asked:
                del self._alike[key]
        return group, backlog

    def release(self, patterns: list[str]) -> list[str]:
        """A request that adds these is over; returns those that no other one adds."""
        unwanted = []
        for pattern in patterns:
            left = self._wanted[pattern] - 1
            if left:
                self._wanted[pattern] = left
            else:
                del self._wanted[pattern]
                unwanted.append(pattern)
        return unwanted

    def late(self, now: float) -> list[int]:
        """Refs of those whose deadline has passed. What the server ordered waits as long as its session does: nobody
        would ask again."""
        return [
            ref
            for ref, (asked, *_) in self._asked.items()
            if asked.deadline <= now and (asked.session.closed or not asked.by_server)
        ]
