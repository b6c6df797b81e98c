"""A route: the cohort of sessions that get the same events, cached by the set of patterns that match."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from transport.messages import Publication
from transport.wire_forms import WireForm

if TYPE_CHECKING:
    from actors.session import Session


class Lane:
    """The members of a route that speak one wire form: fast ones as bound writes, slow ones as sessions."""

    __slots__ = ("fast", "slow")

    def __init__(self) -> None:
        self.fast: dict[Session, Callable[[bytes], None]] = {}
        self.slow: dict[Session, None] = {}


class Route:
    """Shared by index and broadcaster of one worker (same loop, same thread).

    The index owns ``patterns`` and ``members`` (session → number of its patterns that match), the broadcaster
    ``lanes`` and ``pending``. Memory: about 200 bytes per member.
    """

    __slots__ = ("lanes", "members", "patterns", "pending")

    def __init__(self, patterns: tuple[str, ...]) -> None:
        self.patterns = patterns
        self.members: dict[Session, int] = {}
        self.lanes: dict[WireForm, Lane] = {}
        self.pending: list[Publication] = []

    def enter(self, session: Session) -> None:
        """Put a session into the lane it is in now."""
        lane = self.lanes.get(session.form)
        if lane is None:
            lane = self.lanes[session.form] = Lane()
        if session.outbox is None:
            lane.fast[session] = session.write
        else:
            lane.slow[session] = None
        session.routes.add(self)

    def disband(self) -> None:
        """Take everybody out."""
        for lane in self.lanes.values():
            for session in (*lane.fast, *lane.slow):
                session.routes.discard(self)
        self.lanes.clear()

    def exit(self, session: Session) -> None:
        """Take a session out; harmless if it is not in."""
        session.routes.discard(self)
        lane = self.lanes.get(session.form)
        if lane is not None:
            lane.fast.pop(session, None)
            lane.slow.pop(session, None)
            if not lane.fast and not lane.slow:
                del self.lanes[session.form]
