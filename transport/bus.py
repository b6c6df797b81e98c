"""What both ends of the bus share: its frames, and one link's conversation as a pure object.

A link joins one DEALER (:mod:`transport.bus_client`) to one ROUTER (:mod:`transport.bus_server`). Both send the
same, one frame each: a header, behind which a HELLO and a BATCH have a body. (A frame more would cost each side 1 µs.)

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
import struct
from bisect import bisect_right
from collections.abc import Iterator
from enum import IntEnum
from itertools import accumulate, islice
from typing import Any, Final, NamedTuple

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


_HEADER: Final = struct.Struct("<Bqq16s16s")
HEADER_BYTES: Final = _HEADER.size
_INCARNATION_BYTES: Final = 16


class Header(NamedTuple):
    """With what everything on the bus begins.

    ``mine`` and ``theirs`` are the incarnations of sender and receiver as the sender knows them; ``sequence`` is the
    number of this batch, or of the last one; ``ack`` is the last batch that the sender has processed.
    """

    kind: int
    mine: str
    theirs: str
    sequence: int
    ack: int

    def packed(self) -> bytes:
        """As the beginning of a frame; :class:`CodecError` where an incarnation is too long for it."""
        return _HEADER.pack(self.kind, self.sequence, self.ack, _encoded(self.mine), _encoded(self.theirs))


def _encoded(incarnation: str) -> bytes:
    encoded = incarnation.encode()
    if len(encoded) > _INCARNATION_BYTES:
        raise CodecError(f"an incarnation has at most {_INCARNATION_BYTES} bytes")
    return encoded


_kinds = frozenset(Kind)


def unpack_header(frame: bytes) -> Header:
    """Raises :class:`CodecError` if ``frame`` does not begin with a header."""
    if len(frame) < HEADER_BYTES or frame[0] not in _kinds:
        raise CodecError("not a bus header")
    kind, sequence, ack, mine, theirs = _HEADER.unpack_from(frame)
    try:
        return Header(kind, mine.rstrip(b"\0").decode(), theirs.rstrip(b"\0").decode(), sequence, ack)
    except UnicodeDecodeError:
        raise CodecError("not a bus header") from None


def unpack_body(frame: bytes) -> list[Any]:
    """The messages behind the header; raises :class:`CodecError`."""
    return codec.unpack_batch(memoryview(frame)[HEADER_BYTES:])


def new_incarnation() -> str:
    """A name that no earlier or later process or connection has."""
    return secrets.token_hex(8)


class Link:
    """One side of one conversation: what waits to be sent, and what is known of the other side. Pure.

    ``out`` takes packed messages; the list object never changes, so a caller may hold on to it.
    """

    __slots__ = ("_ends", "intake", "liveness", "mine", "out", "theirs", "window")

    def __init__(self, mine: str, theirs: str, window_bytes: int, liveness: Liveness) -> None:
        self.mine, self.theirs = mine, theirs
        self._ends = ("", "", b"", b"")
        self.out: list[bytes] = []
        self.window = Window(window_bytes)
        self.intake = Intake(window_bytes)
        self.liveness = liveness

    def header(self, kind: Kind) -> bytes:
        """A header that acknowledges what was processed."""
        ends = self._ends
        if ends[0] is not self.mine or ends[1] is not self.theirs:  # the client learns of them with the hello
            ends = self._ends = (self.mine, self.theirs, _encoded(self.mine), _encoded(self.theirs))
        return _HEADER.pack(kind, self.window.sequence, self.intake.ack(), ends[2], ends[3])

    def batches(self) -> Iterator[bytes]:
        """Take what waits in ``out`` as frames until nothing waits or the window closes."""
        out, window = self.out, self.window
        while out and window.open:
            n = _fitting(out) if len(out) > 1 else 1
            body = codec.join(out[:n])
            del out[:n]
            window.sent(len(body))
            yield self.header(Kind.BATCH) + body

    def receive(self, header: Header, frame: bytes, now: float) -> list[Any]:
        """Take a BATCH or HEARTBEAT; returns the messages.

        Raises:
            CodecError: a hole in the numbers or malformed bytes; the link is then broken.
        """
        self.liveness.heard(now)
        self.window.acknowledged(header.ack)
        if header.kind != Kind.BATCH:
            self.intake.level(header.sequence)
            return []
        self.intake.arrived(header.sequence, len(frame) - HEADER_BYTES)
        return unpack_body(frame)


def _fitting(items: list[bytes]) -> int:
    # How many items go into one batch: at least one, and no more than BATCH_BYTES of several.
    ends = list(accumulate(map(len, islice(items, BATCH_ITEMS))))
    return bisect_right(ends, BATCH_BYTES) or 1
