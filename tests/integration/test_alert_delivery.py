"""Alerts through the engine: its filters deliver what preferences want and nothing else."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

from heliograph import (
    Alert,
    AlertBook,
    Alerts,
    Engine,
    MarketAlert,
    PatternAlert,
    PreferenceRule,
    Preferences,
    Priority,
)
from tests.integration.harness import RawClient

ALERTS = 400
TOPICS = ("alert.pattern.*", "alert.market.*")
WANTED = {
    "everything": Preferences(),
    "daily": Preferences(tiers=("daily",)),
    "tiers": Preferences(tiers=("combo", "intraday"), min_confidence=0.5),
    "symbols": Preferences(symbols=("BRK.B", "SPY"), patterns=("doji",)),
    "sure": Preferences(min_confidence=0.9),
    "urgent": Preferences(min_priority=Priority.HIGH),
    "either": Preferences(
        tiers=("daily",),
        min_confidence=0.8,
        or_else=(PreferenceRule(symbols=("SPY",), min_priority=Priority.MEDIUM), PreferenceRule(patterns=("flag",))),
    ),
    "markets only": Preferences(symbols=("NONE",)),
}
Eventually = Callable[..., Awaitable[None]]


def run(test: Callable[[Engine], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(30), Engine(workers=0, port=0, admin_port=0) as engine:
            await test(engine)

    asyncio.run(main())


def some_alerts(chance: random.Random) -> list[Alert]:
    kinds: list[Alert] = []
    for _ in range(ALERTS):
        if chance.random() < 0.1:
            severity: Any = chance.choice(("info", "notice", "warning", "emergency"))
            kinds.append(MarketAlert(kind=chance.choice(("halt", "regime")), severity=severity, message="m"))
        else:
            tier: Any = chance.choice(("daily", "intraday", "combo"))
            kinds.append(
                PatternAlert(
                    pattern=chance.choice(("doji", "flag", "hammer")),
                    symbol=chance.choice(("AAPL", "BRK.B", "SPY", "TSLA")),
                    tier=tier,
                    confidence=chance.choice((0.0, 0.5, 0.8, 0.9, 1.0, round(chance.random(), 2))),
                    priority=chance.choice((None, None, None, *Priority)),
                )
            )
    return kinds


def test_the_engine_delivers_exactly_what_preferences_want(eventually: Eventually) -> None:
    async def test(engine: Engine) -> None:
        alerts = some_alerts(random.Random(4))
        published = [(type(alert), alert.to_event()) for alert in alerts]
        async with AsyncExitStack() as stack:
            clients = {name: await stack.enter_async_context(RawClient(engine.url)) for name in WANTED}
            for name, client in clients.items():
                await client.subscribe(*TOPICS, where=WANTED[name].where(PatternAlert, MarketAlert))
            positions = await Alerts(engine).publish_many(alerts)
            expected = {
                name: sorted(
                    (event.topic, position.offset)
                    for (kind, event), position in zip(published, positions, strict=True)
                    if wanted.accepts(kind.of(event))
                )
                for name, wanted in WANTED.items()
            }
            for name, client in clients.items():
                await eventually(lambda client=client, name=name: len(client.of("event")) >= len(expected[name]))
            # What is wanted by nobody but should come all the same would be here before this one.
            await engine.publish("alert.pattern.end", {"confidence": 1})
            for client in clients.values():
                await client.subscribe("alert.pattern.end", snapshot=True)
                await eventually(lambda client=client: client.offsets("alert.pattern.end"))
            for name, client in clients.items():
                got = sorted((event["topic"], event["offset"]) for event in client.of("event"))
                assert [each for each in got if each[0] != "alert.pattern.end"] == expected[name], name
                assert not client.of("gap")
        counts = {name: len(found) for name, found in expected.items()}
        assert counts["everything"] == ALERTS
        assert sum(0 < count < ALERTS for count in counts.values()) == len(WANTED) - 1, counts  # each tells something

    run(test)


def test_each_subscription_of_an_engine_has_preferences_of_its_own() -> None:
    async def test(engine: Engine) -> None:
        alerts = Alerts(engine)
        spy, tesla = (alerts.subscribe(PatternAlert, preferences=Preferences(symbols=(s,))) for s in ("SPY", "TSLA"))
        async with spy, tesla:
            for symbol in ("TSLA", "SPY", "TSLA"):
                await alerts.publish(PatternAlert(pattern="doji", symbol=symbol, tier="daily", confidence=0.5))
            assert (await anext(spy)).symbol == "SPY"
            assert [(await anext(tesla)).symbol for _ in range(2)] == ["TSLA", "TSLA"]

    run(test)


def test_a_book_subscribes_the_sessions_of_a_user(eventually: Eventually) -> None:
    async def test(engine: Engine) -> None:
        book = AlertBook({"alice": Preferences(symbols=("SPY",))})
        alerts = Alerts(engine)

        async def publish(*symbols: str) -> None:
            found = [PatternAlert(pattern="doji", symbol=s, tier="daily", confidence=0.5) for s in symbols]
            await alerts.publish_many(found)

        def got(client: RawClient) -> list[str]:
            return [event["data"]["symbol"] for event in client.of("event")]

        async def apply() -> int:
            return await book.apply("alice", PatternAlert, MarketAlert, admin_url=engine.admin_url)

        assert await apply() == 0  # nobody is there
        async with (
            RawClient(f"{engine.url}?user=alice") as one,
            RawClient(f"{engine.url}?user=alice") as two,
            RawClient(f"{engine.url}?user=bob") as bob,
        ):
            for client in (one, two, bob):
                await client.request("ping")
            assert await apply() == 2
            await eventually(lambda: all(TOPICS[0] in str(client.of("subscribed")) for client in (one, two)))
            await publish("TSLA", "SPY")
            await eventually(lambda: got(one) == got(two) == ["SPY"])
            book.set("alice", Preferences(symbols=("TSLA",)))
            assert await apply() == 2
            await eventually(lambda: all(str(client.of("subscribed")).count(TOPICS[0]) >= 2 for client in (one, two)))
            await publish("SPY", "TSLA")
            await eventually(lambda: got(one) == got(two) == ["SPY", "TSLA"])
            book.remove("alice")
            assert await apply() == 2
            await eventually(lambda: one.of("unsubscribed") and two.of("unsubscribed"))
            await publish("TSLA")
            await one.subscribe("end")
            await engine.publish("end", {"symbol": "end"})
            await eventually(lambda: "end" in got(one))
            assert (got(one), got(bob)) == (["SPY", "TSLA", "end"], [])

    run(test)
