"""A client over all its connections: it comes, and comes back when it is lost."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from actors.backoff import Backoff, BackoffPolicy
from engine.loadtest.client_socket import ClientSocket, State
from engine.loadtest.dialect import Heard
from engine.loadtest.dialer import words
from engine.loadtest.sequences import Sequences, Strays

BACKOFF: Final = BackoffPolicy(first_s=0.1, cap_s=2.0, stable_s=1.0)
"""Of who comes back: nearly at once, and not all together."""
CUT: Final = "cut by the tester"


class Company(Protocol):
    """Those among whom a client is.

    Attributes:
        connect_timeout: seconds until a subscription must stand.
        recovers: whether who comes back gets what was missed.
        answers: whether subscriptions are answered.
        nothing_yet: whether nothing was published yet.
    """

    connect_timeout: float
    recovers: bool
    answers: bool

    @property
    def nothing_yet(self) -> bool: ...

    def socket(self, member: Member) -> ClientSocket:
        """A connection that is not made yet."""
        ...

    async def dial(self, socket: ClientSocket, number: int) -> None:
        """Make it. Raises :class:`OSError`."""
        ...

    def came(self, member: Member, away: float | None) -> None:
        """Its subscription stands; ``away``: again, after so many seconds, ``None`` while that is not known."""
        ...

    def went(self, member: Member, reason: str) -> None:
        """It has lost its connection, and comes back."""
        ...

    def recovered(self, away: float) -> None:
        """One that had come back has got its first message, so many seconds after its loss."""
        ...

    def failed(self, reason: str) -> None:
        """It could not come back; it tries again."""
        ...

    def strays(self, strays: Strays) -> None:
        """Messages that came twice or late."""
        ...

    def heard(self, socket: ClientSocket, heard: Heard) -> None:
        """An answer to a request, or a gap."""
        ...


class Member:
    """One client. What its connections tell, they tell it.

    Attributes:
        number: among all processes.
        sequences: what it has got.
        socket: the connection it has, if its subscription stands.
        opened_in: seconds that its first connection took; ``None`` before.
        there: whether it is open, and something has shown that it is served: the answer to its subscription, or, of who
            came back where none is given, a message.
    """

    def __init__(self, company: Company, number: int) -> None:
        self._company, self.number = company, number
        self._loop = asyncio.get_running_loop()
        self.sequences = Sequences()
        self.socket: ClientSocket | None = None
        self.opened_in: float | None = None
        self.there = False
        self._backoff = Backoff(BACKOFF)
        self._came_at = 0.0
        self._lost_at: float | None = None
        self._trying: ClientSocket | None = None  # the attempt that is going on; earlier ones have no say any more
        self._outcome: asyncio.Future[str | None] = self._loop.create_future()  # of that

    async def connect(self) -> str | None:
        """One attempt; ``None``, or why there is no subscription."""
        began = self._loop.time()
        self._outcome = self._loop.create_future()
        socket = self._trying = self._company.socket(self)
        try:
            async with asyncio.timeout(self._company.connect_timeout):
                await self._company.dial(socket, self.number)
                reason = await self._outcome
        except TimeoutError:
            reason = f"{socket.state.value} within {self._company.connect_timeout:g} s"
        except OSError as error:
            reason = words(error)
        finally:
            self._trying = None
            if socket.state is not State.JOINED:
                socket.abort("given up")
        if socket.state is not State.JOINED:
            return reason or "lost as soon as it was open"
        self.socket = socket
        if self.opened_in is None:
            self.opened_in = self._came_at - began
        away = None
        if self._lost_at is not None and self._company.answers:
            away, self._lost_at = self._came_at - self._lost_at, None
        self.there = self._lost_at is None
        self._company.came(self, away)
        return None

    async def come_back(self) -> None:
        """Try until it is back."""
        lasted = self._loop.time() - self._came_at
        while True:
            await asyncio.sleep(self._backoff.failed(lasted))
            reason = await self.connect()
            if reason is None:
                return
            self._company.failed(reason)
            lasted = 0.0

    def cut(self) -> None:
        """Break its connection."""
        assert self.socket is not None
        self.socket.abort(CUT)

    # What its connections tell

    def on_joined(self, socket: ClientSocket) -> None:
        if socket is not self._trying:
            return
        self._came_at = self._loop.time()
        if self.opened_in is None and self._company.nothing_yet:
            self.sequences.start(sure=self._company.answers)
        if not self._outcome.done():
            self._outcome.set_result(None)

    def on_first(self, socket: ClientSocket) -> None:
        if self._lost_at is not None:
            self._company.recovered(self._loop.time() - self._lost_at)
            self._lost_at, self.there = None, True

    def on_gone(self, socket: ClientSocket, reason: str) -> None:
        if socket in (self._trying, self.socket):
            self.there = False
        if socket is self._trying:
            if not self._outcome.done():
                self._outcome.set_result(reason)
        elif socket is self.socket:
            self.socket = None
            if self._lost_at is None:  # else nothing had shown that it was back
                self._lost_at = self._loop.time()
            if not self._company.recovers:
                self.sequences.interrupt()
            self._company.went(self, reason)

    def on_strays(self, strays: Strays) -> None:
        self._company.strays(strays)

    def on_heard(self, socket: ClientSocket, heard: Heard) -> None:
        self._company.heard(socket, heard)
