"""Typed alerts over an engine: publish with one call, subscribe by preferences.

alerts = Alerts(client)
await alerts.publish(PatternAlert(pattern="bull_flag", symbol="AAPL", tier="daily", confidence=0.93))
async with alerts.subscribe(PatternAlert, preferences=Preferences(symbols=["AAPL"], per_hour=20)) as found:
    async for alert in found:
        print(alert.symbol, alert.confidence)
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from engine.alert import Alert
from engine.alert_subscription import AlertSubscription, OnInvalid
from engine.client import Client
from engine.preferences import Preferences
from transport.codes import ErrorCode
from transport.errors import RequestError
from transport.event import Event
from transport.position import Position

if TYPE_CHECKING:
    from engine.embedded import Engine

IN_FLIGHT = 500  # publishes unanswered at once; the engine takes 1,000 of a session

AlertT = TypeVar("AlertT", bound=Alert)


class Alerts:
    """The high-level side of a client, or of the engine of this program. Has no life of its own.

    Args:
        engine: where to publish and subscribe. A :class:`Client` has one set of options per pattern, so one
            subscription per kind of alerts; of an :class:`~engine.embedded.Engine` each gets a client of its own.
    """

    def __init__(self, engine: Client | Engine) -> None:
        self._engine = engine

    async def publish(self, alert: Alert) -> Position | None:
        """Publish one alert; its position once the engine has accepted it, or ``None`` as :meth:`Client.publish` says.

        Raises:
            ConnectionLost: the outcome is unknown.
            RequestError: nothing was published; ``field`` names what is wrong with the alert.
        """
        return await self._send(alert.to_event())

    async def publish_many(self, alerts: Iterable[Alert]) -> list[Position | None]:
        """Publish many, in order, without waiting for each; their positions.

        All are checked before the first is sent.

        Raises:
            ConnectionLost: the outcome of all is unknown.
            RequestError: ``field`` is like ``alerts[3].confidence``, and nothing was published; without it the engine
                refused one, and the others may or may not have been published.
        """
        events = iter([_checked(i, alert) for i, alert in enumerate(alerts)])
        positions: list[Position | None] = []
        while some := list(islice(events, IN_FLIGHT)):
            outcomes = await asyncio.gather(*map(self._send, some), return_exceptions=True)
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    raise outcome
                positions.append(outcome)
        return positions

    def subscribe(
        self,
        *kinds: type[AlertT],
        preferences: Preferences | None = None,
        on_invalid: OnInvalid | None = None,
        **options: Any,
    ) -> AlertSubscription[AlertT]:
        """Subscribe to these kinds of alerts, as far as they are wanted: a context manager and iterator of alerts.

        ``per_hour`` is kept by the subscription that is returned, from when it is made; all else by the engine.

        Args:
            preferences: ``None`` wants all.
            on_invalid: called with an event that should be an alert and is none, and why; sync or async.
            options: of :meth:`Client.subscribe`: ``snapshot``, ``on_gap``, …

        Raises:
            RequestError: preferences that no alert of a kind can satisfy; ``field`` names which.
        """
        if not kinds:
            raise RequestError(ErrorCode.BAD_REQUEST, "name at least one kind of alerts", "kinds")
        return AlertSubscription(self._engine, kinds, preferences or Preferences(), on_invalid, options)

    async def _send(self, event: Event) -> Position | None:
        data = msgspec.Raw(event.payload)
        return await self._engine.publish(event.topic, data, type=event.type, key=event.key, priority=event.priority)


def _checked(i: int, alert: Alert) -> Event:
    try:
        return alert.to_event()
    except RequestError as error:
        field = f"alerts[{i}].{error.field}" if error.field else f"alerts[{i}]"
        raise RequestError(error.code, error.message, field) from None
