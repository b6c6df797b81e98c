"""What waits for the next GET of a long-polling client, and that client's requests that wait here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from transport import engineio
from transport.token_bucket import TokenBucket

if TYPE_CHECKING:
    import asyncio

    from transport.polling import PollingConnection


class LongPoll:
    """The polling side of one session.

    Args:
        loop: where answers are given: what is written in one turn goes in one answer.
        emptied: called when what waited has gone.

    Attributes:
        get: the request that waits for something to be written.
        post: the one that sends something, from its head to its answer; held back, the client sends no more.
        hasty: a GET is answered at once, with nothing if need be: the client waits for it in order to change over.
    """

    __slots__ = ("_allowance", "_debt", "_emptied", "_loop", "_scheduled", "_waiting", "get", "hasty", "post")

    def __init__(self, loop: asyncio.AbstractEventLoop, emptied: Callable[[], None]) -> None:
        self._loop, self._emptied = loop, emptied
        self._waiting = bytearray()  # frames
        self._scheduled = self.hasty = False
        self._allowance: TokenBucket | None = None
        self._debt: asyncio.TimerHandle | None = None
        self.get: PollingConnection | None = None
        self.post: PollingConnection | None = None

    @property
    def size(self) -> int:
        """Bytes that wait."""
        return len(self._waiting)

    def add(self, frames: bytes) -> None:
        """Frames of packets for the next answer."""
        self._waiting += frames
        self._schedule()

    def ask(self, connection: PollingConnection) -> None:
        """The client's GET; there is no other."""
        self.get = connection
        if self.hasty:
            self.answer()
        else:
            self._schedule()

    def answer(self) -> None:
        """Answer the GET, if there is one: with the packets that wait, as many as go in an answer, or a noop."""
        connection, self.get = self.get, None
        if connection is None:
            return
        if not self._waiting:
            connection.respond(engineio.encode_payload(engineio.NOOP)[0])
            return
        body, size = engineio.encode_payload(self._waiting)
        del self._waiting[:size]
        connection.respond(body)
        if not self._waiting:
            self._emptied()

    def take(self) -> bytes:
        """All that waits; it waits no longer."""
        frames = bytes(self._waiting)
        self._waiting.clear()
        return frames

    def release(self, at_once: bool = False) -> None:
        """Answer the POST that is held; one whose client has sent too much only ``at_once``, else when that is paid."""
        if self._debt is None or at_once:
            connection, self.post = self.post, None
            if connection is not None:
                connection.respond(b"ok")

    def charge(self, packets: int, rate: float, paid: Callable[[], None]) -> None:
        """Count packets of the client; beyond ``rate`` a second its POST is to be held until ``paid`` is called."""
        now = self._loop.time()
        if self._allowance is None:
            self._allowance = TokenBucket(rate, now)
        wait = max(self._allowance.charge(rate, now) for _ in range(packets))
        if wait:
            self._forgive()  # of what was answered at once
            self._debt = self._loop.call_later(wait, self._settle, paid)

    def _forgive(self) -> None:
        if self._debt is not None:
            self._debt.cancel()
            self._debt = None

    def _settle(self, paid: Callable[[], None]) -> None:
        self._debt = None
        paid()

    def forget(self, connection: PollingConnection) -> bool:
        """The connection has gone: whether it had the GET."""
        if self.post is connection:
            self.post = None
        if self.get is not connection:
            return False
        self.get = None
        return True

    def end(self) -> None:
        """Nobody is told any more that what waited has gone; so the collector is not needed to free both."""
        self._emptied = _nothing
        self._forgive()

    def _schedule(self) -> None:
        if self.get is not None and self._waiting and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        if self._waiting:
            self.answer()


def _nothing() -> None: ...
