"""Tier-pattern alerts: patterns × symbols × tiers × confidence, and each user gets what its preferences say.

    python examples/tier_patterns.py

starts an engine in this program and connects three users, whose preferences come from the templates below. An alert is
published for every pattern, symbol and tier, a random confidence each, and a table says who got what, beside what comes
of asking each user about each alert.
"""

import asyncio
import random
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from decimal import Decimal
from itertools import product
from typing import Literal

from heliograph import (
    Alert,
    AlertBook,
    Alerts,
    AlertSubscription,
    Engine,
    MarketAlert,
    MarketContext,
    PatternAlert,
    PreferencesBuilder,
)

PATTERNS = ("bear_flag", "bull_flag", "doji", "hammer", "head_and_shoulders", "volume_spike")
SYMBOLS = ("AAPL", "AMZN", "BRK.B", "GOOG", "MSFT", "NVDA", "SPY", "TSLA")
TIERS: tuple[Literal["daily", "intraday", "combo"], ...] = ("daily", "intraday", "combo")
HALT = MarketAlert(kind="halt", severity="emergency", message="trading is halted", symbols=("TSLA",))
BELL = MarketAlert(kind="bell", severity="emergency", message="the market has closed")
DEADLINE_S = 30.0


# Templates: what users of a kind usually want, to begin with.


def day_trader(*symbols: str) -> PreferencesBuilder:
    """What moves now, in the symbols that one trades."""
    return PreferencesBuilder().tiers("intraday", "combo").symbols(*symbols).min_confidence(0.7)


def swing_trader() -> PreferencesBuilder:
    """The big picture, or what is almost certain on any scale; at most 20 an hour."""
    return PreferencesBuilder().tiers("daily").min_confidence(0.8).or_else().min_confidence(0.97).per_hour(20)


def risk_manager() -> PreferencesBuilder:
    """All that is urgent."""
    return PreferencesBuilder().min_priority("high")


def users() -> AlertBook:
    """Who wants what; a service keeps it in a file, with ``save`` and ``load``."""
    return AlertBook(
        {
            "alice": day_trader("AAPL", "BRK.B", "TSLA").build(),
            "bob": swing_trader().build(),
            "carol": risk_manager().patterns("doji", "hammer", "volume_spike").build(),
        }
    )


def found_patterns(chance: random.Random, rounds: int = 2) -> Iterator[PatternAlert]:
    """What a pattern detector would find."""
    for _, pattern, symbol, tier in product(range(rounds), PATTERNS, SYMBOLS, TIERS):
        yield PatternAlert(
            pattern=pattern,
            symbol=symbol,
            tier=tier,
            confidence=round(chance.random(), 2),
            price=Decimal(chance.randrange(10_000, 50_000)).scaleb(-2),
            context=MarketContext(regime="bull", session="regular", relative_volume=round(chance.uniform(0.5, 3), 2)),
        )


async def listen(subscription: AlertSubscription[Alert]) -> None:
    """A user's program: takes what comes, until the bell."""
    async for alert in subscription:
        if isinstance(alert, MarketAlert) and alert.kind == BELL.kind:
            break


def table(rows: list[tuple[object, ...]]) -> str:
    """The first column to the left, figures to the right."""
    return "\n".join(f"{row[0]!s:<8}" + "".join(f"{cell!s:>13}" for cell in row[1:]) for row in rows)


async def main(seed: int = 25) -> int:
    """Publish, listen, compare; 0 if each user got what brute force says."""
    book = users()
    found = [*found_patterns(random.Random(seed)), HALT]
    # As it is published: with its priority. Asking each user is the definition; the engine has an index for it.
    published = [type(alert).of(alert.to_event()) for alert in found]
    wanted = {user: sum(user in book.wanting(alert) for alert in published) for user in book}
    rows: list[tuple[object, ...]] = [("user", "published", "wanted", "got", "over the cap")]
    right = True
    async with asyncio.timeout(DEADLINE_S), AsyncExitStack() as stack:
        alerts = Alerts(await stack.enter_async_context(Engine(workers=0, port=0, admin_port=0)))
        subscriptions: dict[str, AlertSubscription[Alert]] = {
            user: await stack.enter_async_context(
                alerts.subscribe(PatternAlert, MarketAlert, preferences=book.get(user))
            )
            for user in book
        }
        async with asyncio.TaskGroup() as listeners:
            for subscription in subscriptions.values():
                listeners.create_task(listen(subscription))
            await alerts.publish_many(found)
            # The bell is critical and overtakes what waits: ring it when all is there.
            while any(  # noqa: ASYNC110  nothing tells of an alert beyond the cap
                each.delivered + each.capped < wanted[user] for user, each in subscriptions.items()
            ):
                await asyncio.sleep(0.01)
            await alerts.publish(BELL)
    for user, subscription in subscriptions.items():
        got = subscription.delivered - 1  # the bell
        rows.append((user, len(found), wanted[user], got, subscription.capped))
        right = right and got + subscription.capped == wanted[user]
    print(table(rows))
    print("the engine and brute force agree" if right else "the index and brute force DISAGREE")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
