"""A service: code of the user's own beside the events' way, which gets events, keeps what it makes of them, publishes.

    class Audit(Service):
        async def on_events(self, batch: list[Event]) -> None:
            await self.database.insert(batch)

:mod:`actors.service_runner` feeds it, and begins anew where it fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import msgspec

from actors.called_methods import Handler
from actors.inner_client import InnerClient
from transport.client_messages import Gap
from transport.event import Event
from transport.meter import Condition

Status = Literal["ok", "degraded", "down"]
MethodT = TypeVar("MethodT", bound=Callable[..., Any])


def callable_on(*topics: str) -> Callable[[MethodT], MethodT]:
    """Clients may call this method of a :class:`Service`, by its name, on each of these topics::

        @callable_on("backtest.main")
        async def cancel(self, params: Any, caller: str | None) -> Any:

    ``params`` is what the caller gave, ``caller`` its user (``None``: it is nobody's), the result anything that has a
    JSON form; a :class:`RequestError` that it raises is the caller's. It has 30 s, and does not end the service's life
    where it fails.
    """

    def mark(method: MethodT) -> MethodT:
        method.__callable_on__ = topics  # type: ignore[attr-defined]
        return method

    return mark


def callable_methods(service: Service) -> dict[str, dict[str, Handler]]:
    """Per topic what clients may call."""
    found: dict[str, dict[str, Handler]] = {}
    for name in dir(type(service)):
        for topic in getattr(getattr(type(service), name), "__callable_on__", ()):
            found.setdefault(topic, {})[name] = getattr(service, name)
    return found


class Service:
    """Base of users' services. All methods are called on one loop, one at a time, in the order of the events; other
    services share that loop: what blocks belongs in :func:`asyncio.to_thread`. What clients may call, see
    :func:`callable_on`, takes its turn as well.

    **At least once, from a position on.** ``position`` returns what ``on_position`` was given in an earlier life, which
    the service has kept beside what it made of the events: then each event that the engine's log still has is given to
    ``on_events``, whatever dies meanwhile; those behind that position may come again, told apart by topic, epoch and
    offset. Order is kept per topic and priority. What the log has no longer is told as a gap.

    **A service that is slow** costs nobody else anything: what its session cannot hold is read from the log when it has
    come so far.

    **An error, or a hook that takes too long, ends this life of the service**: ``on_stop`` is called, and after a
    pause, which grows with failures in a row, another object is made, which begins at its ``position``. Nothing but
    this service notices.

    Args:
        name: ``NAME`` of ``[services.NAME]``.
        options: its table ``options``.
        engine: the engine's other side: ``publish``, ``snapshot``, ``history``, ``subscribe``, ``call``, ``serve``.
    """

    def __init__(self, *, name: str, options: Mapping[str, Any], engine: InnerClient) -> None:
        self.name, self.options, self.engine = name, options, engine
        self._reported = Condition()
        self._until: float | None = None

    async def on_start(self) -> None:
        """Before all else: open what is needed. 30 s."""

    async def on_stop(self) -> None:
        """At last, also after a failure, one of ``on_start`` included: let go what is open. 3 s."""

    async def position(self) -> str | None:
        """After ``on_start``: where to begin, one that was given to ``on_position`` and kept; ``None``: now. 30 s."""
        return None

    async def on_events(self, batch: list[Event]) -> None:
        """Events of its topics, at most 1,000. 30 s."""

    async def on_gap(self, gap: Gap) -> None:
        """Events that it will not get: the engine's log has them no longer. 30 s."""

    async def on_position(self, position: str) -> None:
        """Everything up to here was given to ``on_events``, and those calls have returned. At the beginning, then about
        once a second while events come, and now and then without. 30 s."""

    def report(self, status: Status, reason: str | None = None, retry_in: float | None = None) -> None:
        """What ``/health`` says of this service until it is called again: say why it does less than it should.

        Args:
            reason: for people; one that is ok needs none.
            retry_in: seconds until it tries again.
        """
        self._reported = Condition(None if status == "ok" else reason or status, down=status == "down")
        self._until = None if retry_in is None else time.monotonic() + retry_in

    @property
    def condition(self) -> Condition:
        """What it has reported, as it holds now."""
        left = None if self._until is None else max(0.0, self._until - time.monotonic())
        return msgspec.structs.replace(self._reported, retry_in=left)
