"""Stand-ins at the edges of one hop: they take everything and cost next to nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from actors.session import Session
from transport.messages import Fence, Publication
from transport.wire_forms import WireForm


class Connection:
    """A client's socket; counts writes and keeps the last one."""

    subprotocol: str | None = None
    user: str | None = None
    token: str | None = None
    token_in_query = False
    address = "bench"
    buffered = 0

    def __init__(self) -> None:
        self.writes = 0
        self.last = b""

    @property
    def direct(self) -> Callable[[bytes], None]:
        """There is no socket."""
        return self.write

    def write(self, data: bytes) -> None:
        """Never full."""
        self.writes += 1
        self.last = data

    def close(self, code: int, reason: str = "") -> None:
        """Nothing to close."""

    def pause_reading(self) -> None:
        """Nothing is read."""

    def resume_reading(self) -> None:
        """Nothing is read."""


class Ref:
    """Where messages end; keeps the last one."""

    def __init__(self) -> None:
        self.last: Any = None

    def tell(self, message: Any) -> None:
        """As a ref's."""
        self.last = message

    hand = tell


class Uplink:
    """A pipe to a hub that takes everything and says nothing."""

    connected = True
    window_open = True

    def send(self, packed: bytes) -> None:
        """As a bus client's."""


class Clients:
    """Owner of a session that has no troubles."""

    def check_room(self, session: Session, topics: list[str]) -> None:
        """There is room for everything."""


class BusEnd:
    """A publisher's or a worker's end of the bus; ``complete`` is set once ``events`` were received, ``answered`` by a
    fence."""

    def __init__(self, events: int) -> None:
        self._events = events
        self.received = 0
        self.complete = asyncio.Event()
        self.answered = asyncio.Event()

    def on_server(self, incarnation: str) -> None:
        """Nothing to tell it."""

    def on_batch(self, items: list[Any]) -> None:
        """As a bus client's handler."""
        self.received += sum(type(item) is Publication for item in items)
        if any(type(item) is Fence for item in items):
            self.answered.set()
        if self.received >= self._events:
            self.complete.set()

    def on_window(self, is_open: bool) -> None:
        """Nobody waits for it."""

    def on_lost(self, reason: str) -> None:
        """The bench ends it."""


def session(form: WireForm) -> tuple[Session, Connection]:
    """A session that may ask for anything and has nobody to tell of its troubles."""
    connection = Connection()
    return Session("bench", cast(Any, connection), form, cast(Any, Clients())), connection
