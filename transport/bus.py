"""What both ends of the bus share: its frames, and one link's conversation as a pure object.

A link joins one DEALER (:mod:`transport.bus_client`) to one ROUTER (:mod:`transport.bus_server`). Both send the same
frames, ``header [, body]``; only a HELLO and a BATCH have a body.

    client                                server
    HELLO mine=c theirs=""           ──►  takes the peer in
                                     ◄──  HELLO mine=s theirs=c
    BATCH, HEARTBEAT                 ◄─►  BATCH, HEARTBEAT
    anything from an unknown peer    ──►  answered by HELLO mine=s theirs="": begin anew
    BYE                              ◄─►  BYE

A link never outlives a connection: whatever goes wrong (disconnected, silent, a hole in the numbers), the client drops
the socket and begins anew under a new incarnation, and so does the numbering. So within a link nothing is lost, doubled
or out of order, and what was in flight when a link ended has an unknown outcome.
"""

from __future__ import annotations

import secrets
from bisect import bisect_right
from collections.abc import Iterator
from enum import IntEnum
from itertools import accumulate, islice
from typing import Any, NamedTuple

import msgpack

from transport import codec
from transport.errors import CodecError
from transport.link import Intake, Liveness, Window

WINDOW_BYTES = 8 << 20
"""Unacknowledged bytes at which a sender stops."""
BATCH_BYTES = 128 << 10
BATCH_ITEMS = 4096
"""A longer batch is split, so that one batch is a millisecond of the receiver's loop and acknowledgements flow."""
HEARTBEAT_INTERVAL = 1.0
HEARTBEAT_TIMEOUT = 5.0
LINGER_MS = 200
"""How long a closing socket tries to send its BYE."""


class Kind(IntEnum):
    """What a frame is."""

    HELLO = 0
    BATCH = 1
    HEARTBEAT = 2  # also carries an acknowledgement that found no batch to ride on
    BYE = 3


class Header(NamedTuple):
    """The first frame of everything on the bus, packed as a msgpack array.

    ``mine`` and ``theirs`` are the incarnations of sender and receiver as the sender knows them; ``sequence`` is the
    number of this batch, or of the last one; ``ack`` is the last batch that the sender has processed.
    """

    kind: int
    mine: str
    theirs: str
    sequence: int
    ack: int

    def packed(self) -> bytes:
        """As a frame."""
        frame: bytes = _pack(self)
        return frame


_header_shape = (int, str, str, int, int)
_kinds = frozenset(Kind)
_pack = msgpack.Packer().pack


def unpack_header(frame: bytes) -> Header:
    """Raises :class:`CodecError` if ``frame`` is no header."""
    if len(frame) > 256:
        raise CodecError(f"a bus header of {len(frame)} bytes")
    value = codec.unpack(frame)
    if type(value) is not list or tuple(map(type, value)) != _header_shape or value[0] not in _kinds:
        raise CodecError("not a bus header")
    return Header._make(value)


def new_incarnation() -> str:
    """A name that no earlier or later process or connection has."""
    return secrets.token_hex(8)


class Link:
    """One side of one conversation: what waits to be sent, and what is known of the other side. Pure.

    ``out`` takes packed messages; the list object never changes, so a caller may hold on to it.
    """

    __slots__ = ("intake", "liveness", "mine", "out", "theirs", "window")

    def __init__(self, mine: str, theirs: str, window_bytes: int, liveness: Liveness) -> None:
        self.mine, self.theirs = mine, theirs
        self.out: list[bytes] = []
        self.window = Window(window_bytes)
        self.intake = Intake(window_bytes)
        self.liveness = liveness

    def header(self, kind: Kind) -> bytes:
        """A header that acknowledges what was processed."""
        return Header(kind, self.mine, self.theirs, self.window.sequence, self.intake.ack()).packed()

    def batches(self) -> Iterator[tuple[bytes, bytes]]:
        """Take what waits in ``out`` as ``header, body`` until nothing waits or the window closes."""
        out, window = self.out, self.window
        while out and window.open:
            n = _fitting(out)
            body = codec.join(out[:n])
            del out[:n]
            window.sent(len(body))
            yield self.header(Kind.BATCH), body

    def receive(self, header: Header, frames: list[bytes], now: float) -> list[Any]:
        """Take a BATCH or HEARTBEAT, whose last frame is the body; returns the messages.

        Raises:
            CodecError: a hole in the numbers or malformed bytes; the link is then broken.
        """
        self.liveness.heard(now)
        self.window.acknowledged(header.ack)
        if header.kind != Kind.BATCH:
            self.intake.level(header.sequence)
            return []
        body = frames[-1]
        self.intake.arrived(header.sequence, len(body))
        return codec.unpack_batch(body)


def _fitting(items: list[bytes]) -> int:
    # How many items go into one batch: at least one, and no more than BATCH_BYTES of several.
    ends = list(accumulate(map(len, islice(items, BATCH_ITEMS))))
    return bisect_right(ends, BATCH_BYTES) or 1
