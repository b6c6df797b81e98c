"""What crosses a process border, in the order in which an event meets it.

Each is an immutable NamedTuple that :mod:`transport.codec` packs as ``[tag, *fields]``. ``data`` is the publisher's
JSON as opaque bytes and is never re-encoded on the way. Optional fields are ``None``.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Publish(NamedTuple):
    """Feed, worker or daemon → hub: please accept this event.

    ``ref`` > 0 asks for :class:`Published` or :class:`Refused`; 0 asks for nothing.
    """

    ref: int
    topic: str
    type: str
    data: bytes
    key: str | None = None
    priority: str | None = None
    source_ts: float | None = None


class Published(NamedTuple):
    """Hub → publisher: accepted. ``results`` are ``[ref, epoch, offset]``, in the order of acceptance."""

    results: list[tuple[int, str, int]]


class Refused(NamedTuple):
    """Hub → publisher or asker: request ``ref`` was not accepted."""

    ref: int
    code: str
    message: str
    field: str | None = None


class Publication(NamedTuple):
    """Hub → worker: an accepted event. ``offset`` rises by one per topic within ``epoch``; ``ts`` Unix seconds."""

    topic: str
    epoch: str
    offset: int
    ts: float
    type: str
    data: bytes
    key: str | None = None
    priority: str | None = None
    source_ts: float | None = None


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
    """

    ref: int
    add: list[str]
    remove: list[str]
    exact: list[str]
    snapshot: list[str]


class Fence(NamedTuple):
    """Hub → worker: the answer to :class:`Interest`, at its place among the events.

    ``position`` is a place in the hub's whole log, ``positions`` maps exact topics to ``[epoch, offset]``.
    """

    ref: int
    position: str
    positions: dict[str, tuple[str, int]]
    events: list[Publication]


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
