"""What the coordinator and its processes say to each other: one JSON line a message, tagged by ``type``.

The coordinator's messages come first, in the order of a run. Each names its ``id``, which the one answer to it repeats;
:class:`Second` and :class:`PublisherSecond` come unasked, each second. Histograms are encoded as
:mod:`engine.loadtest.latency` does; times are seconds, ``t`` of CLOCK_MONOTONIC.
"""

from __future__ import annotations

from typing import Any

import msgspec

from engine.loadtest.target import Target

LINE_BYTES = 1 << 24
"""The longest line: 10,000 connections that come back within a second tell 10,000 times."""


class _Ask(msgspec.Struct, tag_field="type", frozen=True, kw_only=True):
    id: int = 0  # given by who sends it


class Load(_Ask, tag="load", frozen=True):
    """To a client process, first: whom to talk to. Answer: :class:`Done`."""

    target: Target
    number: int  # of this process, from 0
    connect_timeout: float
    pings: float  # a second, over all connections of this process


class RampUp(_Ask, tag="ramp_up", frozen=True):
    """Open connections, ``batch`` at a time. Answer: :class:`Ramped`."""

    first: int  # number of the first connection among all processes
    connections: int
    batch: int


class Mark(_Ask, tag="mark", frozen=True):
    """Sequences from ``first`` on belong to this phase, and so does what is counted by time. Answer: :class:`Done`."""

    phase: str
    first: int
    afresh: bool = False  # a silence that goes on now is not this phase's


class CutOff(_Ask, tag="cut_off", frozen=True):
    """Abort so many open connections, those that were cut longest ago. Answer: :class:`Done` with how many."""

    connections: int


class Drain(_Ask, tag="drain", frozen=True):
    """Wait until all connections have ``last``, or ``seconds`` pass. Answer: :class:`Done`: how many lack it."""

    last: int
    seconds: float


class Collect(_Ask, tag="collect", frozen=True):
    """What was counted, of sequences up to ``last``; connections stay. Answer: :class:`Collected`."""

    last: int


class Publishing(_Ask, tag="publishing", frozen=True):
    """To the publisher, first: where and what. Answer: :class:`Done`, when its connection is open."""

    target: Target
    payload_bytes: int
    connect_timeout: float
    redis_url: str | None = None  # with it, PUBLISH to `channel` instead of the target
    channel: str = ""

    def __repr__(self) -> str:
        return f"Publishing(id={self.id}, target={self.target!r})"


class Publish(_Ask, tag="publish", frozen=True):
    """Publish ``count`` messages, the n-th at n / ``rate`` seconds from now. Answer: :class:`Published`."""

    rate: float
    count: int


class Stop(_Ask, tag="stop", frozen=True):
    """Close all connections and end. No answer; the end of stdin means the same."""


Command = Load | RampUp | Mark | CutOff | Drain | Collect | Publishing | Publish | Stop


class _Told(msgspec.Struct, tag_field="type", frozen=True, kw_only=True):
    id: int = 0  # of what it answers


class Done(_Told, tag="done", frozen=True):
    """It is so."""

    count: int = 0


class Refused(_Told, tag="refused", frozen=True):
    """It cannot be, and why."""

    reason: str


class Ramped(_Told, tag="ramped", frozen=True):
    """How opening went. ``times`` are from the begin of an attempt to the answer of its subscription."""

    attempted: int
    opened: int
    failed: int
    reasons: dict[str, int]
    seconds: float
    times: str


class PhaseFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What a process counted of a phase. Silence is the longest time in which no message came to any connection."""

    phase: str
    delivered: int  # messages read, duplicates included
    expected: int
    missing: int
    duplicates: int
    out_of_order: int
    lacking: int  # connections to which something did not come
    first_missing: int | None  # sequence
    silence: float
    silence_at: float  # when it began
    latency: str
    answers: str


class Collected(_Told, tag="collected", frozen=True):
    """What a process counted. ``gaps`` are messages by the server's reason, ``losses`` connections by ours."""

    phases: list[PhaseFigures]
    gaps: dict[str, int]
    losses: dict[str, int]


class Published(_Told, tag="published", frozen=True):
    """How a run of the schedule went; ``count`` is what was given to the socket."""

    first: int
    count: int
    began: float  # of CLOCK_MONOTONIC
    seconds: float
    behind: str  # lateness of writes while the socket was writable
    blocked: float  # s in which the socket took nothing


class Second(_Told, tag="second", frozen=True):
    """A client process's second that has just passed."""

    process: int
    t: float
    open: int
    delivered: int
    latency: str
    answers: str
    recoveries: list[float]
    lost: int  # connections that went unasked
    cpu: float  # cores
    lag_ms: float  # the latest that a timer came
    gaps: int  # messages that the server said it would not send
    problems: dict[str, int]  # why connections went unasked or could not be opened again, and how often


class PublisherSecond(_Told, tag="publisher_second", frozen=True):
    """The publisher's second that has just passed."""

    t: float
    published: int
    answered: int
    errors: dict[str, int]  # answers that refuse, and why the connection went
    behind: str
    blocked: float  # s
    cpu: float  # cores
    lag_ms: float


Told = Done | Refused | Ramped | Collected | Published | Second | PublisherSecond

_encoder = msgspec.json.Encoder()
_commands: msgspec.json.Decoder[Command] = msgspec.json.Decoder(Command)
_told: msgspec.json.Decoder[Told] = msgspec.json.Decoder(Told)


def line(message: Any) -> bytes:
    """A message as it goes through a pipe."""
    return _encoder.encode(message) + b"\n"


def command(text: bytes) -> Command:
    """What a process reads. Raises :class:`msgspec.DecodeError`."""
    return _commands.decode(text)


def told(text: bytes) -> Told:
    """What the coordinator reads. Raises :class:`msgspec.DecodeError`."""
    return _told.decode(text)
