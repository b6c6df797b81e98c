"""Peers that are behind the log: they get nothing live, but what they lack, until they have all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, Final, Protocol

from actors.history import Accepted, Expired
from actors.interests import Peer
from transport.codec import pack, unpack
from transport.codes import GapReason
from transport.messages import Mark, Missed, Publication
from transport.topics import RESERVED

READ_EVENTS: Final = 512  # of the log at a time
TURN_BYTES: Final = 1 << 20  # for a peer per turn of the loop
EVERYTHING: Final = (">", *(f"{token}{rest}" for token in RESERVED for rest in ("", ".>")))  # > is not for those
FAR_BEHIND: Final = 64 << 20  # bytes of the log; a peer that lacks more is told what it missed, and goes on


class Log(Protocol):
    """What is needed of the log (:class:`actors.topic_log.TopicLog`)."""

    @property
    def mark(self) -> int: ...
    @property
    def position(self) -> str: ...
    def mark_of(self, position: str) -> int: ...
    def has_mark(self, topic: str) -> bool: ...
    def where(self, name: str) -> tuple[str, int]: ...
    def tail(self, mark: int, limit: int) -> list[tuple[int, bytes]]: ...
    def topics_behind(self, mark: int) -> dict[str, tuple[str, int]]: ...
    def bytes_behind(self, mark: int) -> int: ...
    def last(self, pattern: str) -> list[Publication]: ...


class _Cursor:
    """``mark``: what the peer has; ``None``: it has not said. ``waiting``: requests to be answered when it is level."""

    __slots__ = ("mark", "waiting")

    def __init__(self, mark: int | None) -> None:
        self.mark = mark
        self.waiting: list[Any] = []


class CatchUp:
    """Cursors of those who are behind.

    Args:
        interested: the peers that want a topic.
        answer: called for each request that has waited, when its peer is level.

    Attributes:
        behind: by peer; to be read only.
    """

    def __init__(
        self,
        log: Log,
        interested: Callable[[str], tuple[Peer, ...]],
        answer: Callable[[Peer, Any], None],
    ) -> None:
        self._log, self._interested, self._answer = log, interested, answer
        self.behind: dict[Peer, _Cursor] = {}

    def expect(self, peer: Peer) -> None:
        """A new peer: it gets nothing before it has said where it is."""
        self.behind[peer] = _Cursor(None)

    def begin(self, peer: Peer, position: str | None) -> None:
        """The peer has everything up to ``position``, or wants only what comes from now on."""
        cursor = self.behind.get(peer)
        if cursor is None or cursor.mark is not None:
            return  # it has said so already
        cursor.mark = self._log.mark
        if position is not None:
            try:
                cursor.mark = self._log.mark_of(position)
            except Expired:
                self._tell_lost(peer)

    def lag(self, peer: Peer, mark: int) -> None:
        """The peer gets nothing behind ``mark`` for now."""
        self.behind[peer] = _Cursor(mark)

    def stop_at(self, peer: Peer, event: Accepted) -> None:
        """The peer's window has closed; it is given this event, and what follows, when it opens."""
        topic, epoch, offset = event.publication[:3]
        if not epoch:
            return  # it comes again, when it has its place
        if self._log.has_mark(topic):
            self.lag(peer, event.mark - 1)
        else:
            self.lag(peer, event.mark)
            peer.out.append(pack(Missed(topic, epoch, offset, offset, GapReason.OVERFLOW.value)))

    def restart(self, peers: Iterable[Peer], topics: Iterable[str]) -> None:
        """The log has begun anew; nobody can be given what came before. ``topics``: those that were known."""
        for peer in peers:
            for topic in topics:
                if peer in self._interested(topic):
                    epoch, offset = self._log.where(topic)
                    peer.out.append(pack(Missed(topic, epoch, 0, offset, GapReason.OVERFLOW.value)))
        for cursor in self.behind.values():
            if cursor.mark is not None:
                cursor.mark = self._log.mark

    def wait(self, peer: Peer, request: Any) -> bool:
        """Whether a request has to wait until its peer is level; then it does."""
        cursor = self.behind.get(peer)
        if cursor is None:
            return False
        cursor.waiting.append(request)
        return True

    def gone(self, peer: Peer) -> None:
        """The peer is dead."""
        self.behind.pop(peer, None)

    def advance(self, peer: Peer) -> bool:
        """Give the peer a part of what it lacks; whether there is more to do in the loop's next turn.

        While its window is closed there is nothing to do: call it again when it has opened.
        """
        cursor = self.behind.get(peer)
        if cursor is None or cursor.mark is None or not peer.window_open:
            return False
        if self._log.bytes_behind(cursor.mark) > FAR_BEHIND:
            self._skip(peer, cursor)
        room = TURN_BYTES
        while room > 0:
            try:
                events = self._log.tail(cursor.mark, READ_EVENTS)
            except Expired:
                self._tell_lost(peer)
                cursor.mark = self._log.mark
                continue
            if not events:
                return self._level(peer, cursor)
            for _, packed in events:
                topic: str = unpack(packed)[1]
                if peer in self._interested(topic):
                    peer.out.append(packed)
                    room -= len(packed)
            cursor.mark = events[-1][0]
            room -= READ_EVENTS
        return True

    def _level(self, peer: Peer, cursor: _Cursor) -> bool:
        del self.behind[peer]
        peer.out.append(pack(Mark(self._log.position)))
        for n, request in enumerate(cursor.waiting):
            self._answer(peer, request)
            if (again := self.behind.get(peer)) is not None:  # the answers were large
                again.waiting += cursor.waiting[n + 1 :]
                return True
        return False

    def _skip(self, peer: Peer, cursor: _Cursor) -> None:
        """Too far behind: what is live matters more to its clients than what is old."""
        assert cursor.mark is not None, "it has said where it is"
        try:
            lost = self._log.topics_behind(cursor.mark)
        except Expired:
            self._tell_lost(peer)
        else:
            for topic, (epoch, first) in lost.items():
                if peer in self._interested(topic):
                    present, head = self._log.where(topic)
                    missed = Missed(topic, present, first, head, GapReason.OVERFLOW.value)
                    if present != epoch:
                        missed = missed._replace(first=1, reason=GapReason.EPOCH_CHANGED.value)
                    peer.out.append(pack(missed))
        cursor.mark = self._log.mark

    def _tell_lost(self, peer: Peer) -> None:
        """The log does not reach back: of each topic the peer may lack what came after the last it has seen."""
        for last in chain.from_iterable(map(self._log.last, EVERYTHING)):
            if peer in self._interested(last.topic):
                missed = Missed(last.topic, last.epoch, 0, last.offset, GapReason.OVERFLOW.value)
                peer.out.append(pack(missed))
