"""Which users are subscribed here to which topics with presence: a worker's share of it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from itertools import islice
from typing import Protocol

from transport.messages import Present
from transport.topics import is_pattern

ENTRIES = 10_000  # in one message to the hub: a few MB at most


class Attendee(Protocol):
    """A session."""

    @property
    def user(self) -> str | None: ...
    def __hash__(self) -> int: ...


class Attendance:
    """(topic, user) → the sessions of the user that are subscribed to exactly that topic.

    Wildcards are no presence, and who has no name is not listed. The hub hears of a user's first session on a topic and
    of the end of the last one, see :mod:`actors.presence`.

    Args:
        enabled: whether a topic has presence; its answer for a topic never changes.
    """

    def __init__(self, enabled: Callable[[str], bool]) -> None:
        self._enabled = enabled
        self._sessions: dict[tuple[str, str], set[Hashable]] = {}
        self._joined: dict[tuple[str, str], None] = {}  # not told yet
        self._left: dict[tuple[str, str], None] = {}
        self._hub: str | None = None

    def __len__(self) -> int:
        """How many (topic, user) there are."""
        return len(self._sessions)

    def enter(self, session: Attendee, pattern: str) -> None:
        """A subscription begins. Again for the same session and pattern is without effect."""
        if session.user is None or is_pattern(pattern) or not self._enabled(pattern):
            return
        entry = pattern, session.user
        sessions = self._sessions.get(entry)
        if sessions is None:
            self._sessions[entry] = {session}
            _tell(entry, self._joined, self._left)
        else:
            sessions.add(session)

    def leave(self, session: Attendee, pattern: str) -> None:
        """A subscription has ended; one that never began is none."""
        if session.user is None:
            return
        entry = pattern, session.user
        sessions = self._sessions.get(entry)
        if sessions is None or session not in sessions:
            return
        sessions.discard(session)
        if not sessions:
            del self._sessions[entry]
            _tell(entry, self._left, self._joined)

    def changes(self) -> Present | None:
        """What the hub does not know yet, once; ``None``: nothing.

        Who came and went between two calls is not told. To be asked only while there is a hub, else by :meth:`again`.
        """
        if not self._joined and not self._left:
            return None
        told = Present(list(self._joined), list(self._left))
        self._joined, self._left = {}, {}
        return told

    def again(self, incarnation: str) -> Iterator[Present]:
        """Everything, for a hub that has forgotten it or never knew.

        To an ``incarnation`` that was not heard of before nobody has just joined. One that is found again has told
        others that our users left, so they join anew.
        """
        new, self._hub = incarnation != self._hub, incarnation
        self._joined, self._left = {}, {}
        entries = iter(list(self._sessions))
        while some := list(islice(entries, ENTRIES)):
            yield Present(some, [], again=new)


def _tell(entry: tuple[str, str], news: dict[tuple[str, str], None], opposite: dict[tuple[str, str], None]) -> None:
    if entry in opposite:
        del opposite[entry]
    else:
        news[entry] = None
