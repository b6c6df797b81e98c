"""Requests that wait for the hub's answer, and what came for them so far. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from actors.session import Session
from transport.messages import Enlist, Interest, Publication
from transport.requests import Snapshot, Subscribe, Unsubscribe


class Asked(NamedTuple):
    """A request, and what the hub was told of it; ``by_server``: no client waits for its answer."""

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

    A pattern is *wanted* as long as a request that adds it has neither taken effect nor been given up.
    """

    def __init__(self) -> None:
        self._asked: dict[int, Asked] = {}
        self._backlogs: dict[int, list[Publication]] = {}
        self._sessions: dict[Session, int] = {}  # how many of each wait
        self._wanted: dict[str, int] = {}
        self._last_ref = 0

    def __len__(self) -> int:
        return len(self._asked)

    def __iter__(self) -> Iterator[Asked]:
        return iter(self._asked.values())

    def next_ref(self) -> int:
        """A number for a message to the hub, above 0."""
        self._last_ref += 1
        return self._last_ref

    def put(self, asked: Asked) -> None:
        """It waits; what it adds is wanted."""
        self._asked[asked.message.ref] = asked
        self._sessions[asked.session] = self._sessions.get(asked.session, 0) + 1
        for pattern in asked.patterns:
            self._wanted[pattern] = self._wanted.get(pattern, 0) + 1

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

    def take(self, ref: int) -> tuple[Asked, list[Publication]] | None:
        """A request that waits no longer, and what was collected for it; ``None``: it was given up before.

        What it adds is wanted until :meth:`release`.
        """
        backlog = self._backlogs.pop(ref, [])
        asked = self._asked.pop(ref, None)
        if asked is None:
            return None
        left = self._sessions[asked.session] - 1
        if left:
            self._sessions[asked.session] = left
        else:
            del self._sessions[asked.session]
        return asked, backlog

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
            for ref, asked in self._asked.items()
            if asked.deadline <= now and (asked.session.closed or not asked.by_server)
        ]
