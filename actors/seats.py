"""The seats of Socket.IO clients, in the hub: how many there are in all workers, and who gets the next one.

Pure but for the answers that it puts into a peer's queue; part of the router's loop.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from transport.codec import pack
from transport.messages import AskSeat, Occupied, Seat


class Peer(Protocol):
    """A worker at the other end of the bus."""

    out: list[bytes]

    def __hash__(self) -> int: ...


class _Row:
    """What one worker has."""

    __slots__ = ("clients", "given", "subscriptions")

    def __init__(self) -> None:
        self.clients = self.subscriptions = 0
        self.given = 0  # over this link, in all

    def heard(self, said: Occupied) -> None:
        # Seats that it had not heard of when it said so are taken, until it says otherwise.
        self.clients = said.clients + self.given - said.heard
        self.subscriptions = said.subscriptions


class Seats:
    """Seats are given one by one, so there are never more than ``most``, whatever workers do at the same time.

    A worker's seats go with its link. A hub that begins does not know who sits where: it gives no seat before as many
    workers as there are have said it, or ``patience`` has passed. Cost: O(workers) a question.

    Args:
        most: of the whole engine; ``None``: any number.
        workers: of the engine.
        patience: seconds to wait for their word.
        clock: seconds that never fall.

    Attributes:
        handlers: what a peer may say, by the type of it. The answer goes to ``peer.out``.
    """

    def __init__(
        self, most: int | None, workers: int, patience: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most, self._workers, self._clock = most, workers, clock
        self._begins: float | None = clock() + patience  # until then it listens; None: it gives
        self._rows: dict[Any, _Row] = {}
        self._waiting: deque[tuple[Peer, AskSeat]] = deque()
        self.handlers: Mapping[type, Callable[[Any, Any], None]] = {
            Occupied: self.on_occupied,
            AskSeat: self.on_ask_seat,
        }

    @property
    def clients(self) -> int:
        """Seats that are taken."""
        return sum(row.clients for row in self._rows.values())

    @property
    def subscriptions(self) -> int:
        """As the workers have said."""
        return sum(row.subscriptions for row in self._rows.values())

    def on_occupied(self, peer: Peer, item: Occupied) -> None:
        """A worker says what it has."""
        self._rows.setdefault(peer, _Row()).heard(item)
        if self._begins is not None and len(self._rows) >= self._workers:
            self._begin()

    def on_ask_seat(self, peer: Peer, item: AskSeat) -> None:
        """Answered at once, or when the hub knows enough."""
        if self._begins is not None and self._clock() >= self._begins:
            self._begin()
        if self._begins is None:
            self._answer(peer, item)
        else:
            self._waiting.append((peer, item))

    def tick(self) -> None:
        """To be called now and then: a worker that never comes is not waited for any longer."""
        if self._begins is not None and self._clock() >= self._begins:
            self._begin()

    def gone(self, peer: Any) -> None:
        """A worker is dead, or has no link."""
        self._rows.pop(peer, None)
        if any(asker is peer for asker, _ in self._waiting):
            self._waiting = deque((asker, item) for asker, item in self._waiting if asker is not peer)

    def _begin(self) -> None:
        self._begins = None
        waiting, self._waiting = self._waiting, deque()
        for peer, item in waiting:
            self._answer(peer, item)

    def _answer(self, peer: Peer, item: AskSeat) -> None:
        clients = self.clients
        given = item.take and (self._most is None or clients < self._most)
        if given:
            row = self._rows.setdefault(peer, _Row())
            row.clients += 1
            row.given += 1
        peer.out.append(pack(Seat(item.ref, given, clients + given, self.subscriptions)))
