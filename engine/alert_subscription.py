"""A subscription to typed alerts: what its consumer iterates."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from engine.alert import Alert, form_of
from engine.client import Client
from engine.preferences import Preferences
from transport.codes import Priority
from transport.errors import CodecError
from transport.event import Event
from transport.sliding_window import SlidingWindow

if TYPE_CHECKING:
    from engine.client_subscription import Subscription
    from engine.embedded import Engine

HOUR_S = 3_600.0

AlertT = TypeVar("AlertT", bound=Alert)
OnInvalid = Callable[[Event, CodecError], Awaitable[None] | None]
_log = logging.getLogger("heliograph.alerts")


class AlertSubscription(Generic[AlertT]):
    """``async with alerts.subscribe(PatternAlert) as subscription: async for alert in subscription: …``.

    What :class:`engine.client_subscription.Subscription` promises holds here. An event that should be an alert and is
    none is no end: ``on_invalid`` is called with it, without ``on_invalid`` it is logged.

    Attributes:
        event: what carried the alert last taken: position, ``ts``, ``source_ts``; ``None`` before the first.
        delivered: alerts taken.
        capped: wanted alerts that came beyond ``per_hour``.
        invalid: events that were no alerts.
    """

    def __init__(
        self,
        source: Client | Engine,
        kinds: tuple[type[AlertT], ...],
        preferences: Preferences,
        on_invalid: OnInvalid | None,
        options: dict[str, Any],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.event: Event | None = None
        self.delivered = self.capped = self.invalid = 0
        self._source, self._preferences, self._options = source, preferences, options
        self._on_invalid, self._clock = on_invalid, clock
        self._kinds = {form_of(kind).type: kind for kind in kinds}
        self._topics = tuple(form_of(kind).pattern for kind in kinds)
        self._where = preferences.where(*kinds)
        limit = preferences.per_hour
        self._window = None if limit is None else SlidingWindow(limit, HOUR_S)
        self._events: Subscription | None = None
        self._held = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as held:
            source = self._source
            # A client has one set of options per pattern; of an engine each subscription has a client of its own.
            client = source if isinstance(source, Client) else await held.enter_async_context(source.client())
            subscription = client.subscribe(*self._topics, where=self._where, **self._options)
            self._events = await held.enter_async_context(subscription)
            self._held = held.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._held.aclose()

    def __aiter__(self) -> AsyncIterator[AlertT]:
        return self

    async def __anext__(self) -> AlertT:
        assert self._events is not None, "use `async with alerts.subscribe(…) as subscription`"
        while True:
            event = await anext(self._events)
            kind = self._kinds.get(event.type)
            if kind is None:  # for another, overlapping subscription of the same client
                continue
            try:
                alert = kind.of(event)
            except CodecError as error:
                told = self._tell_invalid(event, error)
                if inspect.isawaitable(told):
                    await told
                continue
            if self._wanted(alert, event):
                self.event = event
                self.delivered += 1
                return alert

    @property
    def missed(self) -> int:
        """Events lost so far, as far as known, whether this subscription wanted them or not."""
        return self._events.missed if self._events is not None else 0

    @property
    def skipped(self) -> int:
        """Events conflated away so far."""
        return self._events.skipped if self._events is not None else 0

    def _wanted(self, alert: Alert, event: Event) -> bool:
        # The engine filters; but what an overlapping subscription of this client asked for comes here, too.
        if not self._preferences.accepts(alert):
            return False
        if self._window is None or event.priority is Priority.CRITICAL:
            return True
        place = event.offset if event.epoch else hash(event.payload)
        if self._window.admit((event.topic, event.epoch, place), self._clock()):
            return True
        self.capped += 1
        return False

    def _tell_invalid(self, event: Event, error: CodecError) -> Awaitable[None] | None:
        self.invalid += 1
        if self._on_invalid is not None:
            return self._on_invalid(event, error)
        _log.warning("not an alert: %s", error)
        return None
