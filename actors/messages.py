"""Messages between the actors of one process, in the order in which an event meets them.

What crosses a process border is in :mod:`transport.messages`. Handlers are ``on_<message>``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from transport.messages import Missed, Publish, Published, Refused
from transport.requests import Snapshot, Subscribe, Unsubscribe

if TYPE_CHECKING:
    from actors.route import Route
    from actors.session import Session


# hub --------------------------------------------------------------------------------------------------------------


class Arrived(NamedTuple):
    """Bus → router: a batch of one peer, in its order."""

    peer: Any
    items: list[Any]


class Staged(NamedTuple):
    """Router → stage → … → router: publishes on their way through the stages.

    ``dropped`` are the refs of publishes that a stage let go; ``step`` is the number of the next stage.
    """

    peer: Any
    batch: list[Publish]
    dropped: list[int]
    step: int


class PeerGone(NamedTuple):
    """Bus → router: a peer is dead; its interest goes with it."""

    peer: Any


class WindowOpened(NamedTuple):
    """Bus → router: a lagging peer has acknowledged; tell it what it missed and go on."""

    peer: Any


class Sweep(NamedTuple):
    """A periodic look: idle topics go, requests past their deadline are answered."""


# worker -----------------------------------------------------------------------------------------------------------


class Downlink(NamedTuple):
    """Bus → index: batch number ``sequence`` from the hub, in its order."""

    items: list[Any]  # Publication, Fence, Missed, Published, Refused
    sequence: int


class SubscribeFor(NamedTuple):
    """Clients → index: a session asks to subscribe; ``by_server``: it did not ask, and is told ``subscribed``."""

    session: Session
    request: Subscribe
    by_server: bool = False


class UnsubscribeFor(NamedTuple):
    """Clients → index: a session gives up patterns; ``by_server``: it did not ask, and is told ``unsubscribed``."""

    session: Session
    request: Unsubscribe
    by_server: bool = False


class SnapshotFor(NamedTuple):
    """Clients → index: a session asks for last events."""

    session: Session
    request: Snapshot


class SessionClosed(NamedTuple):
    """Clients → index: forget the session."""

    session: Session


class Farewell(NamedTuple):
    """Clients → index: take the session out of its routes, send what is pending, then `bye` and close."""

    session: Session
    code: int
    reason: str
    reconnect_in: float | None


class HubFound(NamedTuple):
    """Bus → index, clients: a hub answers; ``incarnation`` tells whether it is a new one."""

    incarnation: str


class HubLost(NamedTuple):
    """Bus → clients: publishes in flight have an unknown outcome."""

    reason: str


class Answered(NamedTuple):
    """Index → clients: the hub's answers to publishes."""

    items: list[Published | Refused]


# Index → broadcaster: operations in the order of the pipe. A plain tuple `(route, publication)` is a delivery.


class Notice(NamedTuple):
    """The members of ``route`` miss events."""

    route: Route
    missed: Missed


class Seal(NamedTuple):
    """Send what is pending on these routes before anything that follows; ``None`` for all."""

    routes: list[Route] | None


class Join(NamedTuple):
    """Sessions join a route, which is sealed before."""

    route: Route
    sessions: list[Session]


class Send(NamedTuple):
    """A frame for one session, at this place of the order."""

    session: Session
    frame: bytes


class Leave(NamedTuple):
    """A session leaves a route, which is sealed before."""

    route: Route
    session: Session


class Disband(NamedTuple):
    """No event will take this route any more; nothing may hold on to it."""

    route: Route


class Finish(NamedTuple):
    """Close the session; it has left its routes."""

    session: Session
    code: int
    reason: str


class Operations(NamedTuple):
    """Index → broadcaster: one batch; with it the bus's batches up to ``sequence`` are taken in."""

    ops: list[Any]
    sequence: int = 0
