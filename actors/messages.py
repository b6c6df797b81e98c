"""Messages between the actors of one process, in the order in which an event meets them.

What crosses a process border is in :mod:`transport.messages`. Handlers are ``on_<message>``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from transport.errors import RequestError
from transport.messages import (
    Called,
    Calling,
    HistoryPage,
    Missed,
    Publication,
    Publish,
    Published,
    Refused,
    Seat,
    Served,
    Share,
    Users,
)
from transport.requests import Snapshot, Subscribe, Unsubscribe

if TYPE_CHECKING:
    from actors.audience import Selection
    from actors.history import Accepted
    from actors.ref import Ref
    from actors.route import Route
    from actors.session import Session
    from actors.stage import Stage
    from actors.stage_batch import Answer, Outcome, Source, StageBatch


# hub --------------------------------------------------------------------------------------------------------------


class Arrived(NamedTuple):
    """Bus → router: a batch of one peer, in its order."""

    peer: Any
    items: list[Any]


class Staged(NamedTuple):
    """Router → stage → … → router: publishes on their way through the stages, and answers to those that go no further.

    A stage is told of publishes only, with the peer of each; the router of what has passed the last stage.
    """

    batch: list[Source]
    refused: list[Answer]


class StageWork(NamedTuple):
    """Stage runner → stage, a thread further: the next batch."""

    runner: Ref
    batch: StageBatch


class StageStarted(NamedTuple):
    """Stage → its runner: it can have a batch."""

    stage: Stage


class StageDone(NamedTuple):
    """Stage → its runner: what becomes of the batch."""

    stage: Stage
    outcome: Outcome


class StageEnded(NamedTuple):
    """Stage → its runner: it failed, or ended by itself; its thread is through."""

    stage: Stage
    error: BaseException | None


class StageOverdue(NamedTuple):
    """Stage runner to itself: the deadline of what this stage is at has passed."""

    stage: Stage


class PeerGone(NamedTuple):
    """Bus → router: a peer is dead; its interest goes with it."""

    peer: Any


class WindowOpened(NamedTuple):
    """Bus → router: a lagging peer has acknowledged; tell it what it missed and go on."""

    peer: Any


class Keep(NamedTuple):
    """Router → keeper: events of topics whose history is elsewhere, each with its peer, in their order."""

    batch: list[tuple[Any, Publish]]


class Kept(NamedTuple):
    """Keeper → router: what became of them, in their order; what was kept is now where its topic promises. What waits
    on this node's disk for the shared log has no epoch."""

    results: list[tuple[Any, Publish, Accepted | RequestError]]
    seconds: float = 0.0  # that it took


class ReadKept(NamedTuple):
    """Router → keeper: what was missed of some topics; answered by :class:`ReadDone` with the same token.

    ``after``: per topic the offset behind which to read, in the topic's present epoch; at most ``limit`` events in all,
    of each the newest, or with ``oldest`` the first ones. Where ``behind`` is given, instead: of the topics that match
    ``patterns``, events of the keeper's whole log behind this mark, at most ``limit`` in all.
    """

    token: Any
    after: dict[str, int]
    limit: int
    behind: int | None = None
    patterns: tuple[str, ...] = ()
    oldest: bool = False


class ReadDone(NamedTuple):
    """Keeper → router: packed events by topic, oldest first.

    ``complete``: of what is behind ``behind`` nothing is gone. Or why it cannot be read.
    """

    token: Any
    events: dict[str, list[bytes]]
    complete: bool = True
    error: RequestError | None = None


class FromBackplane(NamedTuple):
    """Tailer or keeper → router, about a log that several engines share: one of the messages that follow."""

    what: Any


class Tailing(NamedTuple):
    """Tailer → router: I have begun; tell me where."""


class TailOn(NamedTuple):
    """Router → tailer: I have everything of log ``epoch`` up to ``mark``. Answered, when there is something, by one
    :class:`Tailed` or :class:`Resumed`."""

    epoch: str
    mark: int


class Tailed(NamedTuple):
    """Tailer → router: what follows on ``behind`` in log ``epoch``; at least one event."""

    epoch: str
    behind: int
    events: list[Accepted]


class Resumed(NamedTuple):
    """Tailer → router: the shared log does not lead on from ``place``, epoch and mark. Go on behind ``mark`` of
    ``epoch``.

    ``last``: where it ended at this moment; ``ended``: offsets of topics that have nothing behind ``mark``.
    """

    place: tuple[str, int]
    epoch: str
    mark: int
    last: int
    ended: list[tuple[str, int]]


class TailState(NamedTuple):
    """Tailer → router: why the shared log cannot be read, and when it is tried again; ``None``: it can."""

    reason: str | None
    retry_in: float = 0.0


class Drain(NamedTuple):
    """Router → keeper: the shared log can be had; give it the oldest that wait. Answered by :class:`Spooled`."""


class Spooled(NamedTuple):
    """Keeper → router: so many events wait for the shared log; ``away``: why it is not asked before a :class:`Drain`.

    ``drained``: this answers one, or the keeper has begun.
    """

    waiting: int
    away: str | None
    drained: bool = False


class Advance(NamedTuple):
    """Router to itself: give a peer that is behind the log the next part."""

    peer: Any


class MarkDue(NamedTuple):
    """Router to itself: see :class:`transport.messages.Mark`."""


class SharesDue(NamedTuple):
    """To the router by itself: see :class:`actors.user_desk.UserDesk`."""


class CallsDue(NamedTuple):
    """To the router by itself: see :class:`actors.call_desk.CallDesk`."""


class GroupsDue(NamedTuple):
    """To the router by itself: see :meth:`actors.group_desk.GroupDesk.sweep`."""


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
    """Index → clients: what the hub says that is no event and no fence, in its order."""

    items: list[Published | Refused | Users | HistoryPage | Called | Served | Calling | Share | Seat]


# Index → broadcaster: operations in the order of the pipe. A plain tuple `(routes, publication)` is a delivery.


class Hold(NamedTuple):
    """An event for a held route: it waits there for its time."""

    route: Route
    publication: Publication


class Select(NamedTuple):
    """An event for those whose filters accept it."""

    selection: Selection
    publication: Publication


class Urgent(NamedTuple):
    """A critical event: written at once, before what is pending."""

    routes: tuple[Route, ...]
    selection: Selection | None
    publication: Publication


class Notice(NamedTuple):
    """The members of these routes, and ``sessions``, miss events."""

    routes: list[Route]
    sessions: list[Session]
    missed: Missed


class Seal(NamedTuple):
    """Send what is pending on these routes before anything that follows; ``None`` for all.

    Of held routes only to ``session``, where one is given: the others wait for their time.
    """

    routes: list[Route] | None
    session: Session | None = None


class Join(NamedTuple):
    """Sessions join a route, which is sealed before; a held route goes on, and they get what comes from now on."""

    route: Route
    sessions: list[Session]


class Reached(NamedTuple):
    """Everything for this worker up to a place in the hub's log stands before this."""

    position: str


class Tick(NamedTuple):
    """Broadcaster to itself: time to tell positions."""


class Send(NamedTuple):
    """Frames for one session, at this place of the order; no event of what ``topics`` match may change sides."""

    session: Session
    frames: bytes
    topics: tuple[str, ...]


class Leave(NamedTuple):
    """A session leaves a route, which is sealed before; of a held route the session gets what waits."""

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
    """Index → broadcaster: one batch; with it the bus's batches up to ``sequence`` are taken in.

    ``arrived`` is when the bus's batch came, by ``time.perf_counter``.
    """

    ops: list[Any]
    sequence: int = 0
    arrived: float = 0.0
