"""The bookkeeping of one direction of a bus link, and of its life: pure, no socket, no clock but one passed in.

The sender numbers its batches and stops when too many bytes are unacknowledged; the receiver insists on the next
number and says when an acknowledgement is due. Nothing is sent again on the same link: a hole means that the link is
broken, and both sides begin anew under a new incarnation.
"""

from __future__ import annotations

from collections import deque

from transport.errors import CodecError

ACKS_PER_WINDOW = 16


class Window:
    """The sending side: numbers batches, closes at ``limit`` unacknowledged bytes, opens again at half of it.

    The limit is soft by one batch. The gap between closing and opening keeps a full pipe from flapping.
    """

    __slots__ = ("_flying", "limit", "open", "sequence", "unacknowledged")

    def __init__(self, limit: int) -> None:
        if limit < ACKS_PER_WINDOW:
            raise ValueError(f"a window has at least {ACKS_PER_WINDOW} bytes, not {limit}")
        self.limit = limit
        self.open = True
        self.sequence = 0
        self.unacknowledged = 0
        self._flying: deque[tuple[int, int]] = deque()

    def sent(self, nbytes: int) -> int:
        """Count a batch of ``nbytes``; returns its sequence number, the first is 1."""
        self.sequence += 1
        self._flying.append((self.sequence, nbytes))
        self.unacknowledged += nbytes
        if self.unacknowledged >= self.limit:
            self.open = False
        return self.sequence

    def acknowledged(self, sequence: int) -> None:
        """The peer is done with everything up to ``sequence``; repeating an old number changes nothing.

        Raises:
            CodecError: it acknowledges what was never sent.
        """
        if sequence > self.sequence:
            raise CodecError(f"batch {sequence} acknowledged, but only {self.sequence} were sent")
        flying = self._flying
        while flying and flying[0][0] <= sequence:
            self.unacknowledged -= flying.popleft()[1]
        if self.unacknowledged <= self.limit // 2:
            self.open = True


class Intake:
    """The receiving side: insists on the next sequence number and knows when an acknowledgement is due.

    ``limit`` is the peer's window; a sixteenth of it, processed, makes an acknowledgement due.
    """

    __slots__ = ("_due", "_owed", "_waiting", "processed", "received")

    def __init__(self, limit: int) -> None:
        self.received = 0
        self.processed = 0
        self._due = limit // ACKS_PER_WINDOW
        self._owed = 0
        self._waiting: deque[tuple[int, int]] = deque()

    def arrived(self, sequence: int, nbytes: int) -> None:
        """Take batch ``sequence``. Raises :class:`CodecError` if it is not the next one."""
        if sequence != self.received + 1:
            raise CodecError(f"batch {sequence} arrived where {self.received + 1} was due")
        self.received = sequence
        self._waiting.append((sequence, nbytes))

    def level(self, sequence: int) -> None:
        """The peer says that it has sent ``sequence`` batches. Raises :class:`CodecError` if any is missing."""
        if sequence != self.received:
            raise CodecError(f"{sequence} batches were sent, {self.received} arrived")

    def done(self, sequence: int | None = None) -> bool:
        """Everything up to ``sequence`` (``None``: all that arrived) is processed; returns whether an ack is due."""
        upto = self.received if sequence is None else min(sequence, self.received)
        waiting = self._waiting
        while waiting and waiting[0][0] <= upto:
            self.processed, nbytes = waiting.popleft()
            self._owed += nbytes
        return self._owed >= self._due

    def ack(self) -> int:
        """The number to acknowledge, which must now be sent."""
        self._owed = 0
        return self.processed


class Liveness:
    """Heartbeats: when the next is due, and whether the peer has been silent for too long. All in seconds.

    Call :meth:`due` about every ``interval``. Time in which this process itself did not run (stopped, swapped out) is
    not held against the peer.
    """

    __slots__ = ("_heard", "_next", "interval", "timeout")

    def __init__(self, interval: float, timeout: float, now: float) -> None:
        if not 0 < interval < timeout:
            raise ValueError(f"heartbeat interval {interval} must be above 0 and below the timeout {timeout}")
        self.interval, self.timeout = interval, timeout
        self._heard = now
        self._next = now + interval

    def heard(self, now: float) -> None:
        """Something came from the peer."""
        self._heard = now

    def due(self, now: float) -> bool:
        """Whether a heartbeat must be sent now; if so the next is due an interval later."""
        if now < self._next:
            return False
        overslept = now - self._next
        if overslept > self.interval:
            self._heard = min(now, self._heard + overslept)
        self._next = now + self.interval
        return True

    def dead(self, now: float) -> bool:
        """Whether the peer has been silent for the whole timeout."""
        return now - self._heard >= self.timeout
