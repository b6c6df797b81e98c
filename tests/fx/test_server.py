"""What an FxServer says, without a network. Real clients are in ``test_scenarios.py``."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from engine.config import Config
from fx.pairs import DEFAULT_PAIRS
from fx.server import FxServer
from tests.actors.socketio_visits import FakeEngineSocket, House, config, run, until
from transport.messages import Publication

ROOT = Path(__file__).parents[2]
README = (ROOT / "examples/fx/README.md").read_text(encoding="utf-8")
TIME = "2025-11-18T10:00:00Z"
EURO = {"bid": 1.1213, "ask": 1.1217, "time": TIME}


def server(**options: Any) -> FxServer:
    return FxServer(options=options, engine=None)


def settings(more: str = "", workers: int = 1) -> Config:
    """``more`` comes behind ``[socketio]``. The hub waits for the word of as many workers as are configured."""
    return config(f"{more}\n[server]\nworkers = {workers}\n", FxServer)


def event(topic: str, data: bytes) -> Publication:
    return Publication(topic, "e", 1, 1_763_460_000.0, "message", data)


@pytest.mark.parametrize(
    ("topic", "data", "sent"),
    [
        (
            "price.EUR_USD",
            b'{"bid":1.121340,"ask":1.121720}',
            b'["price_update",{"instrument":"EUR_USD","price":{"bid":1.121340,"ask":1.121720,"mid":1.121530},'
            b'"time":"2025-11-18T10:00:00Z"}]',
        ),
        ("alert.volatility.EUR_USD", b'{"volatility":0.10}', b'["volatility_alert",{"volatility":0.10}]'),
        ("alert.correlation", b"7", b'["correlation_alert",7]'),
        ("alert.correlation.EUR_USD.USD_CHF", b'{"n":1}', b'["correlation_alert",{"n":1}]'),
        ("data.ready", b"{}", b'["data_ready",{}]'),
        ("data.ready.H1", b"{}", b'["data_ready",{}]'),
    ],
)
def test_events_as_clients_get_them(topic: str, data: bytes, sent: bytes) -> None:
    assert server().encode(event(topic, data)) == sent


def test_what_is_no_price_is_left_out_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    fx, good = server(), b'{"bid":1,"ask":2}'
    for data in (b'{"bid":1}', b'"x"', good, b"{}"):
        with caplog.at_level(logging.WARNING):
            assert (fx.encode(event("price.EUR_USD", data)) is not None) is (data == good)
    assert [record.getMessage() for record in caplog.records] == [
        "what is published on price.EUR_USD is no price: ask: is missing",
        "what is published on price.EUR_USD is no price: bid: is missing",
    ]


def test_an_option_that_there_is_not_is_named() -> None:
    with pytest.raises(ValueError, match=r"^pair: there is no such option"):
        server(pair=["EUR_USD"])


async def subscribed(house: House, *pairs: str, worker: int = 0) -> FakeEngineSocket:
    client = await house.enter(worker)
    client.emit("subscribe", {"pairs": list(pairs)})
    await client.until('42["subscription_confirmed"')
    return client


def test_a_connection_begins_with_who_it_is() -> None:
    async def test(house: House) -> None:
        client = house.visit()
        client.say("0")
        connected = await client.until("40")
        about = await client.event("connection_established")
        assert about["client_id"] in connected
        assert (about["pair_count"], about["pairs"]) == (20, list(DEFAULT_PAIRS))
        assert (about["active_clients"], about["max_clients"]) == (1, 7)

    run(test, settings("clients = 7"))


def test_the_confirmation_comes_before_the_first_price_and_nothing_after_the_last() -> None:
    async def test(house: House) -> None:
        client = await house.enter()
        client.take()
        client.emit("subscribe", {"pairs": ["EUR_USD"]})
        for n in range(50):
            await house.publish("price.EUR_USD", EURO)
            if n == 40:
                client.emit("unsubscribe", {"pairs": ["EUR_USD"]})
        await client_has(client, '42["unsubscription_confirmed"')
        names = [text.split('"', 2)[1] for text in client.got if isinstance(text, str) and text.startswith("42[")]
        names = [name for name in names if name != "connection_established"]
        assert names[0] == "subscription_confirmed" and names[-1] == "unsubscription_confirmed", names
        assert set(names[1:-1]) == {"price_update"}

    run(test, settings())


async def client_has(client: FakeEngineSocket, begin: str) -> None:
    await until(lambda: any(isinstance(text, str) and text.startswith(begin) for text in client.got))


def test_the_last_price_is_kept_behind_what_is_none() -> None:
    async def test(house: House) -> None:
        client = await house.enter()
        for data in (EURO, {"bid": 1}, "x"):
            await house.publish("price.EUR_USD", data)
        await house.publish("price.GBP_USD", "x")
        client.emit("request_all_prices", ack=1)
        (answer,) = await client.ack(1)
        assert answer["prices"]["EUR_USD"]["bid"] == EURO["bid"]
        assert answer["prices"]["GBP_USD"] is None

    run(test, settings())


def test_statistics_count_pairs_over_all_workers() -> None:
    async def test(house: House) -> None:
        one = await subscribed(house, "EUR_USD", "GBP_USD")
        await subscribed(house, "EUR_USD", worker=1)
        await house.publish("price.EUR_USD", EURO)
        one.emit("get_server_stats", ack=1)
        (stats,) = await one.ack(1)
        assert (stats["active_clients"], stats["total_subscriptions"]) == (2, 3)
        assert stats["average_subs_per_client"] == 1.5
        assert stats["cache"] == {"cached_pairs": 1, "total_pairs": 20, "newest": TIME}

    run(test, settings(workers=2), workers=2)


def test_without_a_hub_it_says_so() -> None:
    async def test(house: House) -> None:
        client = await subscribed(house, "EUR_USD")
        await house.hub.stop()
        for name in ("request_price", "request_all_prices", "subscribe"):
            client.emit(name, {"instrument": "EUR_USD", "pairs": ["GBP_USD"]})
        for answer in ("price_error", "all_prices_error", "subscription_error"):
            await client_has(client, f'42["{answer}",{{"message":"')
        client.emit("get_subscriptions")
        assert (await client.event("subscriptions_info"))["pairs"] == ["EUR_USD"]

    run(test, settings("[limits]\nrequest_timeout = 0.2"))


def test_the_readme_has_every_event() -> None:
    source = (ROOT / "examples/fx/fx/server.py").read_text(encoding="utf-8")
    taken = set(re.findall(r'@on\("(\w+)"\)', source))
    emitted = set(re.findall(r'_emitted\(client, "(\w+)"', source))
    assert {"subscribe", "ping"} < taken and {"pong", "server_stats"} < emitted
    for name in taken | emitted | {"connection_established", "price_update", "volatility_alert"}:
        assert f"`{name}`" in README, name


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)h][^)#]*)", README))))
def test_a_link_of_the_readme_leads_somewhere(link: str) -> None:
    assert (ROOT / "examples/fx" / link).exists()
