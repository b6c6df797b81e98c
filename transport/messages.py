"""What crosses a process border, in the order in which an event meets it.

Each is an immutable NamedTuple that :mod:`transport.codec` packs as ``[tag, *fields]``. ``data`` is the publisher's
JSON as opaque bytes and is never re-encoded on the way. Optional fields are ``None``.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Publish(NamedTuple):
    """Feed, worker or daemon → hub: please accept this event.

    ``ref`` > 0 asks for :class:`Published` or :class:`Refused`; 0 asks for nothing. An event that has the
    ``idempotency_key`` of a recent one of its topic is that one: it is not accepted again, and has its place.
    ``trace``, a W3C ``traceparent``: it is one of those whose way is traced, see :class:`Traced`.
    """

    ref: int
    topic: str
    type: str
    data: bytes
    key: str | None = None
    priority: str | None = None
    source_ts: float | None = None
    idempotency_key: str | None = None
    trace: str | None = None


class Published(NamedTuple):
    """Hub → publisher: accepted, and where the topic promises it to be. ``results`` are ``[ref, epoch, offset]``;
    no epoch: it waits on disk for its place."""

    results: list[tuple[int, str, int]]


class Refused(NamedTuple):
    """Hub → publisher or asker: request ``ref`` was not accepted."""

    ref: int
    code: str
    message: str
    field: str | None = None


class Publication(NamedTuple):
    """Hub → worker: an accepted event. ``offset`` rises by one per topic within ``epoch``; ``ts`` Unix seconds.

    Without an epoch it has no place yet: it waits on this node's disk for the Redis that engines share, and comes
    again.
    """

    topic: str
    epoch: str
    offset: int
    ts: float
    type: str
    data: bytes
    key: str | None = None
    priority: str | None = None
    source_ts: float | None = None


class Traced(NamedTuple):
    """Hub → worker: this event, which comes behind it, is one whose way is traced, in the ``context`` of its publisher.

    It is no field of :class:`Publication`: the log of events keeps those as they are, and few are traced.
    """

    topic: str
    epoch: str
    offset: int
    context: str


class Missed(NamedTuple):
    """Hub → worker: events ``first`` to ``last`` of a topic's epoch will not come to this worker."""

    topic: str
    epoch: str
    first: int
    last: int
    reason: str


class Interest(NamedTuple):
    """Worker → hub: from here on send what matches ``add``, no longer what matches ``remove``.

    With ``ref`` > 0 the hub answers with a :class:`Fence` in the same pipe as the events: everything before it was
    sent without the new interest, everything after it with it.
    ``exact`` topics get their position, the last events of what matches ``snapshot`` patterns come with the answer.
    ``since``, a place in the whole log or per exact topic ``[epoch, offset]``, asks for what of ``add`` came after it:
    it precedes the answer as :class:`Backlog`.
    """

    ref: int
    add: list[str]
    remove: list[str]
    exact: list[str]
    snapshot: list[str]
    since: str | dict[str, tuple[str, int]] | None = None


class Fence(NamedTuple):
    """Hub → worker: the answer to :class:`Interest`, at its place among the events.

    ``position`` is a place in the hub's whole log, ``positions`` maps exact topics to ``[epoch, offset]``. ``gaps`` are
    what of ``since`` cannot be had; ``recovered``: nothing is missing; ``None``: nothing was asked for.
    """

    ref: int
    position: str
    positions: dict[str, tuple[str, int]]
    events: list[Publication]
    recovered: bool | None = None
    gaps: list[Missed] = []


class Backlog(NamedTuple):
    """Hub → worker: a part of what :class:`Interest` ``ref`` has missed, before its :class:`Fence`.

    ``body`` is a batch of packed publications, see :func:`transport.codec.unpack_batch`.
    """

    ref: int
    body: bytes


class Ready(NamedTuple):
    """Worker → hub, once per link, behind its whole interest: send me the events behind ``position``.

    ``None``: those from now on. Before it the hub sends the worker no events.
    """

    position: str | None


class Mark(NamedTuple):
    """Hub → worker: everything for this worker up to ``position`` was sent. It ends the events of a turn."""

    position: str


class ReadHistory(NamedTuple):
    """Worker or daemon → hub: at most ``limit`` events of a topic.

    Answered by :class:`HistoryPage` or :class:`Refused`. With ``since``, ``[epoch, offset]``, the first ones after it,
    else the last ones.
    """

    ref: int
    topic: str
    limit: int
    since: tuple[str, int] | None = None


class HistoryPage(NamedTuple):
    """Hub → asker: events, oldest first, as in :class:`Backlog`; ``gap`` is what of ``since`` cannot be had."""

    ref: int
    body: bytes
    gap: Missed | None = None


class Enlist(NamedTuple):
    """Worker → hub: session ``member`` joins consumer group ``group`` for what matches ``patterns``.

    Answered like an :class:`Interest` by a :class:`Fence`; ``ref`` 0: a known member, told to a new hub.
    """

    ref: int
    member: str
    group: str
    patterns: list[str]


class Delist(NamedTuple):
    """Worker → hub: session ``member`` is out of the consumer groups of these ``patterns``.

    What was assigned to it for them and not acknowledged goes to other members.
    """

    member: str
    patterns: list[str]


class Assigned(NamedTuple):
    """Hub → worker: this event is for one session, a member of a consumer group that the hub has chosen."""

    member: str
    publication: Publication


class Ack(NamedTuple):
    """Worker → hub: ``member`` has handled the event that was assigned to it."""

    member: str
    topic: str
    epoch: str
    offset: int


class Present(NamedTuple):
    """Worker → hub: a user's first session here subscribes to a topic with presence, or the last one leaves it.

    ``joined`` and ``left`` are ``[topic, user]``. ``again``: told to a new hub, nobody has just joined.
    """

    joined: list[tuple[str, str]]
    left: list[tuple[str, str]]
    again: bool = False


class WhoIsPresent(NamedTuple):
    """Worker or daemon → hub: which users are present on a topic? Answered by :class:`Users` or :class:`Refused`."""

    ref: int
    topic: str


class Users(NamedTuple):
    """Hub → asker: the users that are present, sorted."""

    ref: int
    users: list[str]


class Seated(NamedTuple):
    """Worker → hub, where users have a rate: it has sessions of the users ``came``, no longer of the users ``went``.

    ``again``: the first word to a hub by a worker that had shares of another one, or of this one over another link.
    """

    came: list[str]
    went: list[str]
    again: bool = False


class Share(NamedTuple):
    """Hub → worker: how many of a user's events per window this worker may deliver; answered by :class:`ShareTaken`."""

    user: str
    events: int
    version: int


class ShareTaken(NamedTuple):
    """Worker → hub: share ``version`` of a user is in force."""

    user: str
    version: int


class Serve(NamedTuple):
    """Worker → hub: session ``member`` answers calls of ``methods`` on ``topic`` from now on; without methods no more.

    ``since``: Unix seconds when it was asked for. ``inner``: it is a part of the engine, which goes before clients.
    Answered by :class:`Served`; ``ref`` 0: told to a new hub, or nobody asked for it.
    """

    ref: int
    member: str
    topic: str
    methods: list[str]
    since: float
    inner: bool = False


class Served(NamedTuple):
    """Hub → worker: :class:`Serve` ``ref`` is in force."""

    ref: int


class Withdraw(NamedTuple):
    """Worker → hub: session ``member`` has gone, and answers nothing any more."""

    member: str


class Call(NamedTuple):
    """Worker → hub: please have ``method`` of ``topic`` called; ``params`` is JSON, ``user`` who asks.

    Answered by :class:`Called` or :class:`Refused`.
    """

    ref: int
    topic: str
    method: str
    params: bytes
    user: str | None = None


class Calling(NamedTuple):
    """Hub → worker: session ``member`` is to answer this with :class:`CallDone`; ``call`` is unique over all hubs."""

    call: str
    member: str
    topic: str
    method: str
    params: bytes
    user: str | None = None


class CallDone(NamedTuple):
    """Worker → hub: what session ``member`` answers to ``call``: JSON, or ``error``, ``[code, message, field]``."""

    call: str
    member: str
    result: bytes
    error: tuple[str, str, str | None] | None = None


class Called(NamedTuple):
    """Hub → caller's worker: what was answered to :class:`Call` ``ref``, JSON."""

    ref: int
    result: bytes


class Occupied(NamedTuple):
    """Worker → hub: so many Socket.IO clients have a seat here, with so many subscriptions; its first word to a hub.

    ``heard``: how many seats this hub has given to it over this link, as far as it knows: later ones are on their way.
    """

    clients: int
    subscriptions: int
    heard: int


class AskSeat(NamedTuple):
    """Worker → hub: how many are there, in all workers; with ``take``, and may one more? Answered by :class:`Seat`."""

    ref: int
    take: bool


class Seat(NamedTuple):
    """Hub → worker: Socket.IO clients of the whole engine, this one included if it was ``given`` a seat."""

    ref: int
    given: bool
    clients: int
    subscriptions: int


class Hello(NamedTuple):
    """First message of each bus connection, and again for each new incarnation of the server."""

    name: str
    incarnation: str
    pid: int


class Tell(NamedTuple):
    """A message to a named actor in another process."""

    actor: str
    method: str
    body: Any


class Ask(NamedTuple):
    """A question to a named actor in another process; answered by :class:`Reply` or :class:`Refused`."""

    ref: int
    actor: str
    method: str
    body: Any


class Reply(NamedTuple):
    """The answer to :class:`Ask` ``ref``."""

    ref: int
    body: Any
