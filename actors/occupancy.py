"""How many Socket.IO clients there are: this worker's word to the hub, and the hub's about the whole engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from actors.ports import Uplink
from transport.codec import pack
from transport.messages import AskSeat, Occupied, Seat

REFS = 2**32
"""Questions of a worker's life; their numbers on the bus also say over which link."""
Told = Callable[[bool], None]


class Census(NamedTuple):
    """Socket.IO clients of the whole engine, what those in applications' namespaces are subscribed to, and how many
    clients there may be (``None``: any number)."""

    clients: int
    subscriptions: int
    limit: int | None = None


class Occupancy:
    """One per worker, on its loop.

    The hub is told of changes together, once a turn of the loop, and all again when it is a new one; then it is also
    asked again what it has not answered. All of it on the loop.

    Args:
        uplink: the pipe to the hub.

    Attributes:
        limit: seats of the whole engine; ``None``: they need not be asked for.
        known: the engine's figures, as last heard.
    """

    def __init__(self, uplink: Uplink) -> None:
        self._uplink = uplink
        self.limit: int | None = None
        self.known = Census(0, 0)
        self._clients = self._subscriptions = 0  # here
        self._heard = 0  # seats that this hub has given over this link
        self._links = 0
        self._asked: dict[int, tuple[bool, Told]] = {}
        self._next_ref = 0
        self._changed = self._used = False

    def take(self, told: Told) -> int:
        """Ask for a seat. ``told`` learns whether there was one: at once where seats are not limited.

        Whoever was given one has to :meth:`leave`. Returns what :meth:`withdraw` wants.
        """
        if self.limit is not None:
            return self._ask(True, told)
        self._count(1, 0)
        told(True)
        return 0

    def leave(self) -> None:
        """One that was given a seat has gone."""
        self._count(-1, 0)

    def subscribed(self, more: int) -> None:
        """The clients here have so many subscriptions more."""
        if more:
            self._count(0, more)

    def ask(self, told: Callable[[Census], None]) -> int:
        """Have the hub count; what was said before is in it."""
        return self._ask(False, lambda _: told(self.known))

    def withdraw(self, ref: int) -> None:
        """Who asked wants it no more; a seat that is still given goes back."""
        if ref in self._asked and self._uplink.connected:
            take, _ = self._asked[ref]
            self._asked[ref] = (take, self._give_back)
        else:  # no hub has heard it that could still answer
            self._asked.pop(ref, None)

    def answered(self, seat: Seat) -> None:
        """The hub's answer; one of a former hub, which may wait in a mailbox, is void."""
        link, ref = divmod(seat.ref, REFS)
        if link != self._links or ref not in self._asked:  # or who asked went when the hub had gone
            return
        _, told = self._asked.pop(ref)
        self.known = Census(seat.clients, seat.subscriptions, self.limit)
        if seat.given:
            self._heard += 1
            self._count(1, 0)
        told(seat.given)

    def again(self) -> None:
        """A hub has appeared that knows nobody."""
        self._heard = 0
        self._links += 1
        if self._used:
            self._uplink.send(pack(Occupied(self._clients, self._subscriptions, 0)))
        for ref, (take, _) in self._asked.items():
            self._send(ref, take)

    def begin(self, limit: int | None) -> None:
        """There will be Socket.IO clients here: the hub waits for this worker's word."""
        self.limit, self._used = limit, True
        self._changed = True
        self._tell()

    def _ask(self, take: bool, told: Told) -> int:
        self._next_ref += 1
        self._asked[self._next_ref] = (take, told)
        if self._uplink.connected:  # else it is asked when it is found
            self._tell()
            self._send(self._next_ref, take)
        return self._next_ref

    def _send(self, ref: int, take: bool) -> None:
        self._uplink.send(pack(AskSeat(self._links * REFS + ref, take)))

    def _give_back(self, given: bool) -> None:
        if given:
            self.leave()

    def _count(self, clients: int, subscriptions: int) -> None:
        self._clients += clients
        self._subscriptions += subscriptions
        if not self._changed:
            self._changed = True
            asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        if self._changed:
            self._changed = False
            if self._uplink.connected:  # else it is told when it is found
                self._uplink.send(pack(Occupied(self._clients, self._subscriptions, self._heard)))
