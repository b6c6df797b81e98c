"""The eight scenarios of the testing guide (``tests/data/websocket_guide.md``), with all clients that it is for."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from fx.pairs import DEFAULT_PAIRS
from tests.feeds.redis_server import RedisServer
from tests.fx.clients import Client, ask, expect
from tests.fx.conftest import CONFIG, KINDS, Fx, Machine, Site
from tests.integration.harness import EngineProcess

ALL = list(DEFAULT_PAIRS)
_cents = itertools.count(1)


def quote() -> tuple[dict[str, str], float]:
    """A bid and an ask that no other price here has, and what is between them."""
    cents = next(_cents)
    return {"bid": f"1.{cents:04d}0", "ask": f"1.{cents:04d}2"}, float(f"1.{cents:04d}1")


async def price_of(client: Client, pair: str, mid: float) -> dict[str, Any]:
    """The update of a pair with that mid; earlier ones must be of the same pair."""
    after = 0
    while True:
        found: dict[str, Any] = await expect(client, "price_update", after)
        if (found["instrument"], found["price"]["mid"]) == (pair, mid):
            return found
        names = [event[1] if event[0] == "price_update" else None for event in client.events]
        after = names.index(found, after) + 1


def test_1_basic_connection(fx: Fx) -> None:
    (client,) = fx.clients(1)
    welcome = fx.run(fx.connect(client))
    assert re.fullmatch(r"\S{8,}", welcome["client_id"])
    assert (welcome["pair_count"], welcome["pairs"], welcome["max_clients"]) == (20, ALL, 1000)
    assert welcome["active_clients"] >= 1


def test_2_subscribe_to_pairs(fx: Fx) -> None:
    (client,) = fx.clients(1)

    async def scenario() -> None:
        await fx.connect(client)
        one = await ask(client, "subscribe", {"pairs": ["EUR_USD"]}, answer="subscription_confirmed")
        assert (one["pairs"], one["pair_count"], one["total"]) == (["EUR_USD"], 1, 1)
        three = ["EUR_USD", "GBP_USD", "USD_JPY"]
        more = await ask(client, "subscribe", {"pairs": three}, answer="subscription_confirmed")
        assert (more["pairs"], more["pair_count"], more["total"]) == (three, 3, 3)
        every = await ask(client, "subscribe", {"pairs": "*"}, answer="subscription_confirmed")
        assert (every["pairs"], every["pair_count"], every["total"]) == (ALL, 20, 20)

        error = await ask(client, "subscribe", {"pairs": ["INVALID_PAIR"]}, answer="subscription_error")
        assert error["message"] == "Invalid pair: INVALID_PAIR"
        assert (error["invalid_pairs"], error["field"]) == (["INVALID_PAIR"], "pairs")
        wrongs: list[Any] = [{"pairs": []}, {"pairs": 7}, {}, "EUR_USD", None]
        for wrong in wrongs:
            error = await ask(client, "subscribe", wrong, answer="subscription_error")
            assert error["field"] == "pairs", wrong

    fx.run(scenario())


def test_valid_pairs_are_confirmed_and_others_are_named(fx: Fx) -> None:
    (client,) = fx.clients(1)

    async def scenario() -> None:
        await fx.connect(client)
        pairs = ["EUR_USD", "EUR_XXX", "GBP_USD", "gbp_usd"]
        (answer,) = await client.call("subscribe", {"pairs": pairs})
        assert answer["pairs"] == ["EUR_USD", "GBP_USD"]
        assert answer["invalid_pairs"] == ["EUR_XXX", "gbp_usd"]
        error = await expect(client, "subscription_error")
        assert error["message"] == "Invalid pairs: EUR_XXX, gbp_usd"
        assert (await expect(client, "subscription_confirmed")) == answer

    fx.run(scenario())


def test_3_request_current_price(fx: Fx) -> None:
    (client,) = fx.clients(1)

    async def scenario() -> None:
        await fx.connect(client)
        none = await ask(client, "request_price", {"instrument": "CHF_JPY"}, answer="price_error")
        assert none["instrument"] == "CHF_JPY" and none["message"] == "No price of CHF_JPY yet"
        wrong = await ask(client, "request_price", {"instrument": "XXX"}, answer="price_error")
        assert wrong["message"] == "Invalid pair: XXX" and wrong["field"] == "instrument"

        await ask(client, "subscribe", {"pairs": ["EUR_CHF"]}, answer="subscription_confirmed")
        time = "2025-11-18T10:00:00Z"
        assert fx.site.publish("price_updates", instrument="EUR_CHF", time=time, bid=0.9310, ask=0.9312) == 1
        await price_of(client, "EUR_CHF", 0.9311)
        price = await ask(client, "request_price", {"instrument": "EUR_CHF"}, answer="price_response")
        quote = {"bid": 0.931, "ask": 0.9312, "mid": 0.9311}
        assert price == {"instrument": "EUR_CHF", "time": time, "price": quote, **quote}

        every = await ask(client, "request_all_prices", answer="all_prices_response")
        assert list(every["prices"]) == ALL
        assert (every["prices"]["EUR_CHF"], every["prices"]["CHF_JPY"]) == (price, None)
        assert every["count"] == sum(price is not None for price in every["prices"].values())
        assert await client.call("request_price", {"instrument": "EUR_CHF"}) == [price]

    fx.run(scenario())


def test_4_unsubscribe_from_pairs(fx: Fx) -> None:
    (client,) = fx.clients(1)

    async def scenario() -> None:
        await fx.connect(client)
        await ask(client, "subscribe", {"pairs": ["EUR_USD", "GBP_USD"]}, answer="subscription_confirmed")
        one = await ask(client, "unsubscribe", {"pairs": ["EUR_USD"]}, answer="unsubscription_confirmed")
        assert (one["pairs"], one["total"]) == (["EUR_USD"], 1)
        left = await ask(client, "get_subscriptions", answer="subscriptions_info")
        assert (left["pairs"], left["pair_count"], left["rooms"]) == (["GBP_USD"], 1, ["price_GBP_USD"])

        (other, _), (mine, mid) = quote(), quote()
        fx.site.publish("price_updates", instrument="EUR_USD", **other)
        fx.site.publish("price_updates", instrument="GBP_USD", **mine)
        await price_of(client, "GBP_USD", mid)
        assert not [e for e in client.events if e[0] == "price_update" and e[1]["instrument"] == "EUR_USD"]

        error = await ask(client, "unsubscribe", {"pairs": ["NO_PAIR"]}, answer="unsubscription_error")
        assert error["invalid_pairs"] == ["NO_PAIR"]
        every = await ask(client, "unsubscribe", {"pairs": "*"}, answer="unsubscription_confirmed")
        assert (every["pairs"], every["total"]) == (ALL, 0)
        left = await ask(client, "get_subscriptions", answer="subscriptions_info")
        assert (left["pairs"], left["pair_count"]) == ([], 0)

    fx.run(scenario())


def test_5_multiple_concurrent_clients(fx: Fx) -> None:
    clients = fx.clients(6)
    pairs = ["EUR_USD", "GBP_USD"] * 3

    async def scenario() -> None:
        welcomes = await asyncio.gather(*map(fx.connect, clients))
        assert len({welcome["client_id"] for welcome in welcomes}) == 6
        for client, pair in zip(clients, pairs, strict=True):
            await ask(client, "subscribe", {"pairs": [pair]}, answer="subscription_confirmed")
        prices = {pair: quote() for pair in ("EUR_USD", "GBP_USD")}
        for pair, (price, _) in prices.items():
            fx.site.publish(f"price:{pair}", **price)
        for client, pair in zip(clients, pairs, strict=True):
            await price_of(client, pair, prices[pair][1])
            assert {e[1]["instrument"] for e in client.events if e[0] == "price_update"} == {pair}
        await counted(clients[0], 6, 6)

    fx.run(scenario())


async def counted(client: Client, clients: int, subscriptions: int) -> dict[str, Any]:
    """The statistics, once clients of earlier tests have gone."""
    async with asyncio.timeout(20):
        while True:
            stats: dict[str, Any] = await ask(client, "get_server_stats", answer="server_stats")
            if (stats["active_clients"], stats["total_subscriptions"]) == (clients, subscriptions):
                return stats
            await asyncio.sleep(0.02)


def test_7_server_statistics(fx: Fx) -> None:
    clients = fx.clients(3)

    async def scenario() -> None:
        await asyncio.gather(*map(fx.connect, clients))
        for client, pairs in zip(clients, (["EUR_USD"], ["EUR_USD", "GBP_USD", "EUR_USD"], "*"), strict=True):
            await ask(client, "subscribe", {"pairs": pairs}, answer="subscription_confirmed")
        stats = await counted(clients[0], 3, 23)
        assert (stats["max_clients"], stats["average_subs_per_client"]) == (1000, 7.67)
        assert stats["cache"]["total_pairs"] == 20

    fx.run(scenario())


def test_8_latency_measurement(fx: Fx) -> None:
    (client,) = fx.clients(1)

    async def scenario() -> None:
        await fx.connect(client)
        times = [(await ask(client, "ping", answer="pong"))["timestamp"] for _ in range(5)]
        assert times == sorted(times)

    fx.run(scenario())


def test_alerts_reach_those_whom_they_concern(fx: Fx) -> None:
    clients = fx.clients(2)

    async def scenario() -> None:
        await asyncio.gather(*map(fx.connect, clients))
        await ask(clients[0], "subscribe", {"pairs": ["USD_CAD"]}, answer="subscription_confirmed")
        fx.site.publish("volatility_alerts", instrument="USD_CAD", volatility=0.21)
        fx.site.publish("correlation_alerts", pair1="EUR_USD", pair2="USD_CHF", correlation=-0.95)
        fx.site.publish("data_ready", granularity="H1", pairs=["USD_CAD"])
        for client in clients:
            assert (await expect(client, "correlation_alert"))["correlation"] == -0.95
            assert (await expect(client, "data_ready"))["granularity"] == "H1"
        assert await expect(clients[0], "volatility_alert") == {"instrument": "USD_CAD", "volatility": 0.21}
        assert not [event for event in clients[1].events if event[0] == "volatility_alert"]

    fx.run(scenario())


def test_what_there_is_not_is_an_error(fx: Fx) -> None:
    (client,) = fx.clients(1)

    async def scenario() -> None:
        await fx.connect(client)
        assert "no event 'make_money'" in (await ask(client, "make_money", answer="error"))["message"]

    fx.run(scenario())


def test_6_populate_data_and_stream(site: Site, machine: Machine, tmp_path: Path) -> None:
    fxs = [Fx(site, machine, kind) for kind in KINDS]
    clients = [fx.clients(1)[0] for fx in fxs]
    file = tmp_path / "nzdjpy.csv"
    file.write_text("timestamp,bid,ask\n2020-01-01 17:00:00+00:00,72.10,72.12\n2020-01-01 17:00:05+00:00,72.20,72.22\n")

    async def scenario() -> None:
        for fx, client in zip(fxs, clients, strict=True):
            await fx.connect(client)
            await ask(client, "subscribe", {"pairs": ["NZD_JPY"]}, answer="subscription_confirmed")
        await job(site, "fx.load", f"NZD_JPY={file}", "--until", "now")
        await job(site, "fx.hourly", "--url", site.engine.url)
        for client in clients:
            update = await expect(client, "price_update")
            assert (update["instrument"], update["price"]) == ("NZD_JPY", {"bid": 72.2, "ask": 72.22, "mid": 72.21})

    try:
        machine.run(scenario())
    finally:
        for fx in fxs:
            fx.close()


async def job(site: Site, module: str, *arguments: str) -> None:
    """Run a module of the application by hand; it must go well."""
    environ = os.environ | {"FX_DSN": site.store}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments, cwd=CONFIG.parent, env=environ, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()


def test_prices_flow_again_when_redis_is_back(site: Site, machine: Machine) -> None:
    fx = Fx(site, machine, "python")
    (client,) = fx.clients(1)

    async def scenario() -> None:
        await fx.connect(client)
        await ask(client, "subscribe", {"pairs": ["EUR_AUD"]}, answer="subscription_confirmed")
        site.redis.stop()
        try:
            await healthy(site, {"status": "degraded", "components": {"feed:redis": {"status": "degraded"}}})
            await ask(client, "ping", answer="pong")
        finally:
            site.redis.start()
        async with asyncio.timeout(30):
            while not site.publish("price_updates", instrument="EUR_AUD", bid="1.6", ask="1.7"):
                await asyncio.sleep(0.02)
        await price_of(client, "EUR_AUD", 1.65)
        await healthy(site, {"status": "ok", "components": {}})
        assert not [event for event in client.events if event[0] == "disconnect"]

    try:
        machine.run(scenario())
    finally:
        fx.close()


async def healthy(site: Site, wanted: dict[str, Any]) -> None:
    """Wait until the client port says so; each worker does."""
    async with asyncio.timeout(30):
        while [await asyncio.to_thread(site.health) for _ in range(4)] != [wanted] * 4:
            await asyncio.sleep(0.05)


def test_client_number_1001_is_told_why(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FX_DSN", f"sqlite:///{tmp_path / 'fx.db'}")
    engine = EngineProcess(CONFIG, 1, socketio__clients=1, redis__url="redis://127.0.0.1:1")
    fx = Fx(Site(engine, cast(RedisServer, None), ""), machine, "node")
    first, second = fx.clients(2)

    async def scenario() -> None:
        assert (await fx.connect(first))["max_clients"] == 1
        await second.open(fx.site.url)
        assert "1 client" in await expect(second, "connect_error")

    try:
        machine.run(scenario())
    finally:
        fx.close()
        engine.stop()
        engine.destroy()
