"""The clients of one process: they come in batches, are asked in turns, cut, and waited for."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Final

from websockets.uri import parse_uri

from engine.descriptors import HEADROOM, raise_descriptor_limit
from engine.loadtest.chunk_reader import ChunkReader
from engine.loadtest.client_socket import ClientSocket, State
from engine.loadtest.commands import PhaseFigures, Ramped
from engine.loadtest.dialect import FIRST_REQUEST, Heard, Means, dialect_of
from engine.loadtest.dialer import Dialer
from engine.loadtest.latency import Latency
from engine.loadtest.ledger import Ledger
from engine.loadtest.member import CUT, Member
from engine.loadtest.reasons import Reasons
from engine.loadtest.sequences import NONE_YET, Strays
from engine.loadtest.target import Target
from transport.errors import ConfigError

UNANSWERED: Final = 10_000
"""Pings that wait for their answers; above that none is sent."""
LOOK_S: Final = 0.05
"""Between looks whether everything has come."""
LEAVE_S: Final = 2.0
"""For connections to close."""
_US: Final = 1_000  # ns


class Crowd:
    """All connections of a process, on its loop.

    Attributes:
        ledger: what they have counted.
        recoveries: seconds that those were away who have come back; whoever tells them on empties it.
        lost, gaps_told, problems: connections that went unasked, messages that the server said it would not send, and
            why connections went or could not come back, since they were told on.
        losses, gaps: why connections went unasked, and messages not sent by the server's reasons, from the start.

    Raises:
        ConfigError: the target cannot be used.
    """

    def __init__(self, target: Target, connect_timeout: float) -> None:
        self._loop = asyncio.get_running_loop()
        self.connect_timeout, self.recovers = connect_timeout, target.recovers
        self._dialect = dialect_of(target)
        self.answers = not self._dialect.joins_at_once
        self._uri = parse_uri(target.full_url)
        self._dialer = Dialer(self._uri, target.ssl_context())
        self.ledger = Ledger()
        self._reader = ChunkReader(self._dialect, self.ledger.received)
        self._members: list[Member] = []
        self._pinged: deque[Member] = deque()
        self._cut: deque[Member] = deque()
        self._returning: set[asyncio.Task[None]] = set()
        self._unanswered: dict[int, tuple[int, ClientSocket]] = {}
        self._request = FIRST_REQUEST
        self._leaving = False
        self.lost = self.gaps_told = 0
        self.recoveries: list[float] = []
        self.problems, self.losses, self.gaps = Reasons(), Reasons(), Reasons()

    @property
    def open(self) -> int:
        """How many are there now."""
        return sum(member.there for member in self._members)

    async def find(self) -> None:
        """Raises :class:`ConfigError` where the target's host is unknown."""
        await self._dialer.resolve()

    async def ramp_up(self, first: int, connections: int, batch: int) -> Ramped:
        """Open so many, ``batch`` at a time: the next ones when these are open or refused.

        Raises:
            ConfigError: this process may not have so many open files.
        """
        limit = raise_descriptor_limit()
        if connections + HEADROOM > limit:
            raise ConfigError(
                f"{connections} connections in one process need {connections + HEADROOM} open files, and {limit} are "
                "allowed: raise that (ulimit -n), or set more processes",
                "connections",
            )
        begun, times, reasons = self._loop.time(), Latency(), Reasons()
        for start in range(first, first + connections, batch):
            members = [Member(self, number) for number in range(start, min(start + batch, first + connections))]
            for reason in await asyncio.gather(*(member.connect() for member in members)):
                if reason is not None:
                    reasons.say(reason)
            for member in members:
                if member.opened_in is not None:
                    times.record(round(member.opened_in * 1e6))
            self._members += [member for member in members if member.opened_in is not None]
        self._pinged, self._cut = deque(self._members), deque(self._members)
        return Ramped(
            attempted=connections,
            opened=len(self._members),
            failed=connections - len(self._members),
            reasons=dict(reasons),
            seconds=self._loop.time() - begun,
            times=times.encode(),
        )

    def ping(self) -> None:
        """Ask the next one that is there."""
        if len(self._unanswered) >= UNANSWERED:
            return
        for _ in range(len(self._pinged)):
            self._pinged.rotate(-1)
            if (socket := self._pinged[-1].socket) is not None:
                self._request += 1
                self._unanswered[self._request] = time.monotonic_ns(), socket
                socket.write(self._dialect.ping(self._request))
                return

    def cut(self, connections: int) -> int:
        """Break so many, of those that were not cut for longest; how many there were."""
        victims = [member for member in self._cut if member.socket is not None][:connections]
        chosen = set(victims)
        self._cut = deque([*(member for member in self._cut if member not in chosen), *victims])
        for member in victims:
            member.cut()
        return len(victims)

    def settle(self) -> None:
        """Count what was read since the last time."""
        self._reader.drain()

    async def drain(self, last: int, seconds: float) -> int:
        """Wait until all have this sequence, at most so long; how many lack it."""
        self.settle()
        self.ledger.hush(time.monotonic_ns())
        waiting = self._members
        for _ in range(max(1, round(seconds / LOOK_S))):
            waiting = [member for member in waiting if self._waits(member, last)]
            if not waiting:
                break
            await asyncio.sleep(LOOK_S)
        self.settle()
        return sum(self._waits(member, last) for member in waiting)

    def figures(self, last: int) -> list[PhaseFigures]:
        """What was counted, ``last`` being the last sequence published. Pings without answer count with their age."""
        self.settle()
        now = time.monotonic_ns()
        for sent, socket in self._unanswered.values():
            if socket.state is State.JOINED:
                self.ledger.answered((now - sent) // _US)
        self._unanswered.clear()
        return self.ledger.figures((member.sequences for member in self._members), last)

    async def leave(self) -> None:
        """Close everything."""
        self._leaving = True
        for task in self._returning:
            task.cancel()
        for member in self._members:
            if member.socket is not None:
                member.socket.close()
        for _ in range(round(LEAVE_S / LOOK_S)):
            if not self.open:
                return
            await asyncio.sleep(LOOK_S)

    # What members tell: engine.loadtest.member.Company

    @property
    def nothing_yet(self) -> bool:
        return not self.ledger.begun

    def socket(self, member: Member) -> ClientSocket:
        return ClientSocket(member, self._dialect, self._reader, self._uri, member.sequences)

    async def dial(self, socket: ClientSocket, number: int) -> None:
        await self._dialer.connect(socket, number)

    def came(self, member: Member, away: float | None) -> None:
        if away is not None:
            self.recoveries.append(away)

    def recovered(self, away: float) -> None:
        self.recoveries.append(away)

    def went(self, member: Member, reason: str) -> None:
        if self._leaving:
            return
        if reason != CUT:
            self.lost += 1
            self.losses.say(reason)
            self.problems.say(reason)
        task = asyncio.create_task(member.come_back())
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)

    def failed(self, reason: str) -> None:
        self.problems.say(reason)

    def strays(self, strays: Strays) -> None:
        self.ledger.strays(strays)

    def heard(self, socket: ClientSocket, heard: Heard) -> None:
        match heard.means:
            case Means.ANSWERED if heard.id in self._unanswered:
                sent, _ = self._unanswered.pop(heard.id)
                self.ledger.answered((time.monotonic_ns() - sent) // _US)
            case Means.FAILED:
                self._unanswered.pop(heard.id, None)
                self.problems.say(f"a ping was refused: {heard.text}")
            case Means.GAP:
                self.gaps_told += max(1, heard.messages)  # the server may not know how many
                self.gaps.say(heard.text, max(1, heard.messages))

    def _waits(self, member: Member, last: int) -> bool:
        """Whether it may still get that."""
        sequence = member.sequences.next
        return sequence <= last and (self.recovers or sequence != NONE_YET)
