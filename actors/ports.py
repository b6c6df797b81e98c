"""What those on the events' way need of the world: somebody to tell, a pipe to the hub."""

from __future__ import annotations

from typing import Any, Protocol


class Ref(Protocol):
    """Where messages go; an actor's is :class:`actors.ref.Ref`."""

    def tell(self, message: Any, /) -> None: ...


class Next(Ref, Protocol):
    """Who comes next on an event's way."""

    def hand(self, message: Any, /) -> None: ...


class Uplink(Protocol):
    """The pipe to the hub (see :class:`transport.bus_client.BusClient`)."""

    @property
    def connected(self) -> bool: ...
    @property
    def window_open(self) -> bool: ...
    def send(self, packed: bytes) -> None: ...
