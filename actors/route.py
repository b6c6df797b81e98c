"""A route: the cohort of sessions that get the same events in the same way."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from actors.holding import Holding
from actors.subscription import PLAIN, Delivery
from transport.messages import Publication
from transport.wire_forms import WireForm

if TYPE_CHECKING:
    from actors.session import Session


class Lane:
    """The members of a route that speak one wire form; fast ones with the shortest way to their sockets: it returns how
    many bytes it took, ``None`` for all, or raises :class:`OSError`; the rest is for ``Session.write``."""

    __slots__ = ("fast", "slow")

    def __init__(self) -> None:
        self.fast: dict[Session, Callable[[bytes], int | None]] = {}
        self.slow: dict[Session, None] = {}

    def snapshot(self) -> tuple[list[Session], Iterator[tuple[Session, Callable[[bytes], int | None]]]]:
        """The fast ones as they are now: sessions may come and go while a long flush gives way to the loop."""
        sessions = list(self.fast)
        return sessions, zip(sessions, list(self.fast.values()), strict=True)


class Timing:
    """When a held route may be sent: its events, when it was sent last, and who waits to join. The broadcaster's."""

    __slots__ = ("due", "holding", "joining", "sent", "timer", "told")

    def __init__(self, conflate: bool) -> None:
        self.holding = Holding(conflate)
        self.joining: dict[Session, int] = {}  # session → the events that came before it
        self.due = math.inf  # loop time at which it is to be sent, or was and the next flush takes it
        self.timer: asyncio.TimerHandle | None = None
        self.sent = self.told = float("-inf")  # loop time of the last sending, of the last `skipped`


class Route:
    """Shared by index and broadcaster of one worker (same loop, same thread).

    The index owns ``size``, the number of members, the broadcaster the rest. ``pending`` is what the next flush sends;
    a held route (see :attr:`Delivery.held`) has ``timing`` instead. Memory: about 200 bytes per member.
    """

    __slots__ = ("delivery", "lanes", "pending", "size", "timing")

    def __init__(self, delivery: Delivery = PLAIN) -> None:
        self.delivery = delivery
        self.size = 0
        self.lanes: dict[WireForm, Lane] = {}
        self.pending: list[Publication] = []
        self.timing = Timing(delivery.conflate) if delivery.held else None

    def enter(self, session: Session) -> None:
        """Put a session into the lane it is in now."""
        lane = self.lanes.get(session.form)
        if lane is None:
            lane = self.lanes[session.form] = Lane()
        if session.outbox is None:
            lane.fast[session] = session.connection.direct
        else:
            lane.slow[session] = None
        session.routes.add(self)

    def exit(self, session: Session) -> None:
        """Take a session out; harmless if it is not in."""
        session.routes.discard(self)
        lane = self.lanes.get(session.form)
        if lane is not None:
            lane.fast.pop(session, None)
            lane.slow.pop(session, None)
            if not lane.fast and not lane.slow:
                del self.lanes[session.form]

    def members(self) -> Iterator[Session]:
        """All of them; not to be held on to while the route changes."""
        for lane in self.lanes.values():
            yield from lane.fast
            yield from lane.slow

    def disband(self) -> None:
        """Take everybody out."""
        for session in self.members():
            session.routes.discard(self)
        self.lanes.clear()
