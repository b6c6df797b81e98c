from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from engine.alert import Alert
from engine.alert_subscription import AlertSubscription
from engine.alerts import IN_FLIGHT, Alerts
from engine.client import Client
from engine.market_alerts import MarketAlert, PatternAlert
from engine.preferences import Preferences
from tests.engine.fake_engine import FakeEngine, fake_engine
from transport.codes import ErrorCode, Priority
from transport.errors import CodecError, RequestError
from transport.event import Event
from transport.position import Position

PATTERNS = "alert.pattern.*"


def run(test: Callable[[FakeEngine, Client], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with fake_engine() as engine, asyncio.timeout(10), Client(engine.url) as client:
            await test(engine, client)

    asyncio.run(main())


def flag(symbol: str = "AAPL", confidence: float = 0.5, **fields: Any) -> PatternAlert:
    return PatternAlert(pattern="bull_flag", symbol=symbol, tier="daily", confidence=confidence, **fields)


async def symbols(subscription: AlertSubscription[PatternAlert], count: int) -> list[str]:
    return [(await anext(subscription)).symbol for _ in range(count)]


def test_one_call_publishes_and_the_subscriber_has_the_alert_again() -> None:
    async def test(engine: FakeEngine, client: Client) -> None:
        alerts = Alerts(client)
        async with alerts.subscribe(PatternAlert, snapshot=True) as found:
            assert await alerts.publish(flag(confidence=0.95)) == Position("e1", 1)
            alert = await anext(found)
            assert alert == flag(confidence=0.95, priority=Priority.HIGH)
            assert found.event is not None
            assert (found.event.topic, found.event.offset, found.event.priority) == ("alert.pattern.daily", 1, "high")
            assert (found.delivered, found.capped, found.invalid, found.missed, found.skipped) == (1, 0, 0, 0, 0)
        subscribed = next(request for request in engine.requests if request["op"] == "subscribe")
        assert subscribed["topics"] == [PATTERNS]
        assert subscribed["where"] == [{"@type": "pattern_alert"}]
        assert subscribed["snapshot"] is True
        assert engine.requests[-1]["op"] == "unsubscribe"

    run(test)


def test_several_kinds_come_in_one_subscription() -> None:
    async def test(engine: FakeEngine, client: Client) -> None:
        alerts = Alerts(client)
        halt = MarketAlert(kind="halt", severity="emergency", message="stop", priority=Priority.CRITICAL)
        found: AlertSubscription[Alert]
        async with alerts.subscribe(PatternAlert, MarketAlert) as found:
            await alerts.publish(flag(priority=Priority.LOW))
            await alerts.publish(halt)
            assert [await anext(found), await anext(found)] == [flag(priority=Priority.LOW), halt]

    run(test)


def test_many_are_published_in_order() -> None:
    async def test(engine: FakeEngine, client: Client) -> None:
        alerts, count = Alerts(client), IN_FLIGHT + 5
        async with alerts.subscribe(PatternAlert) as found:
            positions = await alerts.publish_many(flag(f"S{i}") for i in range(count))
            assert positions == [Position("e1", i + 1) for i in range(count)]
            assert await symbols(found, count) == [f"S{i}" for i in range(count)]

    run(test)


def test_of_many_none_is_published_where_one_is_wrong() -> None:
    async def test(engine: FakeEngine, client: Client) -> None:
        with pytest.raises(RequestError) as error:
            await Alerts(client).publish_many([flag(), flag(), flag(confidence=2)])
        assert (error.value.code, error.value.field) == (ErrorCode.BAD_REQUEST, "alerts[2].confidence")
        assert engine.requests == []

    run(test)


def test_a_refusal_by_the_engine_is_raised() -> None:
    async def test(engine: FakeEngine, client: Client) -> None:
        engine.refusals["publish"] = {"code": "rate_limited", "message": "wait"}
        with pytest.raises(RequestError) as error:
            await Alerts(client).publish_many([flag(), flag()])
        assert error.value.code == ErrorCode.RATE_LIMITED

    run(test)


@pytest.mark.parametrize("told", ["sync", "async", "logged"])
def test_an_event_that_is_no_alert_is_told_and_the_rest_goes_on(told: str, caplog: pytest.LogCaptureFixture) -> None:
    said: list[tuple[int, str]] = []

    def note(event: Event, error: CodecError) -> None:
        said.append((event.offset, str(error)))

    async def note_later(event: Event, error: CodecError) -> None:
        note(event, error)

    on_invalid: Any = {"sync": note, "async": note_later, "logged": None}[told]

    async def test(engine: FakeEngine, client: Client) -> None:
        alerts = Alerts(client)
        async with alerts.subscribe(PatternAlert, on_invalid=on_invalid) as found:
            await engine.publish("alert.pattern.daily", '{"symbol": "SECRET"}', type="pattern_alert")
            await alerts.publish(flag())
            assert await symbols(found, 1) == ["AAPL"]
            assert (found.invalid, found.delivered) == (1, 1)

    with caplog.at_level(logging.WARNING, "heliograph.alerts"):
        run(test)
    texts = [text for _, text in said] if on_invalid else [record.getMessage() for record in caplog.records]
    assert len(texts) == 1
    assert "alert.pattern.daily at 1: no PatternAlert" in texts[0]
    assert "SECRET" not in texts[0]


def test_what_comes_for_an_overlapping_subscription_is_not_taken_for_wanted() -> None:
    async def test(engine: FakeEngine, client: Client) -> None:
        alerts = Alerts(client)
        wanted = Preferences(symbols=("SPY",))
        async with (
            client.subscribe("alert.>") as everything,
            alerts.subscribe(PatternAlert, preferences=wanted) as some,
        ):
            await engine.publish("alert.pattern.daily", '{"user": "alice"}', type="join")
            await alerts.publish_many([flag("AAPL"), flag("SPY")])
            assert await symbols(some, 1) == ["SPY"]
            assert (some.delivered, some.invalid) == (1, 0)
            assert [(await anext(everything)).offset for _ in range(3)] == [1, 2, 3]

    run(test)


def test_beyond_the_cap_alerts_are_counted_but_for_critical_ones() -> None:
    now = 1_000.0

    async def test(engine: FakeEngine, client: Client) -> None:
        nonlocal now
        alerts = Alerts(client)
        wanted = Preferences(symbols=("A", "B", "C", "D", "E", "F"), per_hour=2)
        async with AlertSubscription(client, (PatternAlert,), wanted, None, {}, clock=lambda: now) as found:
            await alerts.publish_many([flag("unwanted")] * 5)
            await alerts.publish_many([flag("A"), flag("B"), flag("C")])
            await alerts.publish(flag("D", priority=Priority.CRITICAL))
            assert await symbols(found, 3) == ["A", "B", "D"]
            assert (found.delivered, found.capped) == (3, 1)
            now += 3_599.0
            await alerts.publish_many([flag("C"), flag("D", priority=Priority.CRITICAL)])
            assert await symbols(found, 1) == ["D"]
            assert (found.delivered, found.capped) == (4, 2)
            now += 1.0  # the window is half-open: A and B have left it
            await alerts.publish_many([flag("E"), flag("F"), flag("A"), flag("D", priority=Priority.CRITICAL)])
            assert await symbols(found, 3) == ["E", "F", "D"]
            assert (found.delivered, found.capped) == (7, 3)

    run(test)


def test_preferences_that_cannot_match_are_refused_before_anything_is_sent() -> None:
    async def test(engine: FakeEngine, client: Client) -> None:
        with pytest.raises(RequestError) as error:
            Alerts(client).subscribe(PatternAlert, preferences=Preferences(tiers=("dayly",)))
        assert error.value.field == "tiers[0]"
        with pytest.raises(RequestError) as error:
            Alerts(client).subscribe()
        assert error.value.field == "kinds"
        assert engine.requests == []

    run(test)


def test_two_preferences_for_one_kind_need_two_clients() -> None:
    async def test(engine: FakeEngine, client: Client) -> None:
        alerts = Alerts(client)
        async with alerts.subscribe(PatternAlert, preferences=Preferences(symbols=("A",))):
            with pytest.raises(RequestError) as error:
                async with alerts.subscribe(PatternAlert, preferences=Preferences(symbols=("B",))):
                    pass
            assert error.value.code == ErrorCode.CONFLICT

    run(test)


def test_a_gap_is_told_as_that_of_any_subscription() -> None:
    gaps: list[Any] = []

    async def test(engine: FakeEngine, client: Client) -> None:
        alerts = Alerts(client)
        async with alerts.subscribe(PatternAlert, on_gap=gaps.append) as found:
            await alerts.publish(flag())
            gap = '{"op":"gap","topic":"alert.pattern.daily","epoch":"e1","from":2,"to":4,"reason":"slow"}'
            await engine.send("alert.pattern.daily", gap)
            engine.offsets["alert.pattern.daily"] = 4
            await alerts.publish(flag("SPY"))
            assert await symbols(found, 2) == ["AAPL", "SPY"]
            assert found.missed == 3

    run(test)
    assert [(gap.first, gap.last) for gap in gaps] == [(2, 4)]
