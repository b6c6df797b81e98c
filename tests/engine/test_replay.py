from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from engine import replay
from engine.recording import Instrument, Quote, Trade
from engine.replay import ReplayExchange, message_of, serve
from transport.errors import ConfigError

DEADLINE_S = 10.0


def run(main: Coroutine[Any, Any, None]) -> None:
    uvloop.run(asyncio.wait_for(main, DEADLINE_S))


def quotes(symbol: str, count: int, gap_ms: int = 10) -> Instrument:
    return Instrument(symbol, lambda: (Quote(symbol, i * gap_ms, f"1.{i}0", "2.0") for i in range(count)))


async def ask(socket: ClientConnection, method: str, *params: str, request_id: Any = 1) -> dict[str, Any]:
    await socket.send(json.dumps({"method": method, "params": params, "id": request_id}))
    while "stream" in (answer := json.loads(await socket.recv())):
        pass
    assert isinstance(answer, dict)
    return answer


async def ticks(socket: ClientConnection, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while len(found) < count:
        message = json.loads(await socket.recv())
        if "stream" in message:
            found.append(message)
    return found


def test_a_quote_and_a_trade_on_the_wire() -> None:
    assert json.loads(message_of(Quote("EUR_USD", 5, "1.1200", "1.1210"), 3, 7)) == {
        "stream": "EUR_USD@tick",
        "data": {"e": "tick", "s": "EUR_USD", "b": "1.1200", "a": "1.1210", "T": 5, "E": 7, "n": 3},
    }
    assert json.loads(message_of(Trade("XBT_USDT", 5, "10.0", "0.10", "buy", "42"), 1, 7)) == {
        "stream": "XBT_USDT@trade",
        "data": {
            "e": "trade", "s": "XBT_USDT", "t": "42", "p": "10.0", "q": "0.10", "side": "buy", "T": 5, "E": 7, "n": 1,
        },
    }  # fmt: skip


def test_at_the_demo_pace_all_four_instruments_come_within_two_seconds() -> None:
    async def main() -> None:
        async with ReplayExchange(pace="demo") as exchange, connect(exchange.url) as socket:
            assert await ask(socket, "SUBSCRIBE", "*") == {"result": None, "id": 1}
            seen: dict[str, int] = {}
            until = time.monotonic() + 2
            while len(seen) < 4 or min(seen.values()) < 2:
                (tick,) = await ticks(socket, 1)
                seen[tick["data"]["s"]] = tick["data"]["n"]
                assert time.monotonic() < until + 1.5, seen
            assert sorted(seen) == exchange.symbols

    run(main())


def test_a_client_gets_what_it_subscribed_to_and_every_tick_of_it_in_order() -> None:
    async def main() -> None:
        play = [quotes("A", 200), quotes("B", 200)]
        async with ReplayExchange(pace=10, play=play) as exchange, connect(exchange.url) as socket:
            await ask(socket, "SUBSCRIBE", "A")
            got = await ticks(socket, 300)
            await ask(socket, "UNSUBSCRIBE", "A", request_id=2)  # who leaves in a flood may wait long
            assert {tick["stream"] for tick in got} == {"A@tick"}
            assert [tick["data"]["n"] for tick in got] == list(range(1, 301))
            assert [tick["data"]["b"] for tick in got[198:202]] == ["1.1980", "1.1990", "1.00", "1.10"]

    run(main())


def test_unsubscribe_and_list() -> None:
    async def main() -> None:
        play = [quotes("A", 10_000), quotes("B", 10_000)]
        async with ReplayExchange(pace=5, play=play) as exchange, connect(exchange.url) as socket:
            await ask(socket, "SUBSCRIBE", "*")
            assert await ask(socket, "LIST_SUBSCRIPTIONS", request_id="x") == {"result": ["A", "B"], "id": "x"}
            assert await ask(socket, "UNSUBSCRIBE", "A", request_id=2) == {"result": None, "id": 2}
            assert {tick["stream"] for tick in await ticks(socket, 20)} == {"B@tick"}

    run(main())


@pytest.mark.parametrize(
    ("request_", "request_id", "why"),
    [
        ("{", None, "truncated"),
        (b"\xff", None, "JSON"),
        ("[]", None, "object"),
        ('{"id":7}', 7, "method"),
        ('{"method":"PING","id":"a"}', "a", "PING"),
        ('{"method":"SUBSCRIBE","params":"A","id":8}', 8, "params"),
        ('{"method":"SUBSCRIBE","id":8}', 8, "params: name instruments of A"),
        ('{"method":"SUBSCRIBE","params":["A","NO"],"id":9}', 9, "params[1]: unknown instrument 'NO'; known: A"),
        ('{"method":"SUBSCRIBE","params":["A"],"id":[1]}', None, "id"),
        (json.dumps({"method": "SUBSCRIBE", "params": ["A"] * 1001, "id": 1}), 1, "at most 1000"),
    ],
)
def test_a_bad_request_is_answered_and_the_connection_goes_on(request_: str | bytes, request_id: Any, why: str) -> None:
    async def main() -> None:
        async with ReplayExchange(play=[quotes("A", 1)]) as exchange, connect(exchange.url) as socket:
            await socket.send(request_)
            answer = json.loads(await socket.recv())
            assert (answer["error"]["code"], answer["id"]) == (2, request_id)
            assert why in answer["error"]["msg"]
            assert await ask(socket, "LIST_SUBSCRIPTIONS", request_id=5) == {"result": [], "id": 5}

    run(main())


def test_the_play_waits_for_the_first_subscriber_and_then_ends() -> None:
    async def main() -> None:
        async with ReplayExchange(pace=100, play=[quotes("A", 50)], loop=False) as exchange:
            socket = await connect(exchange.url)
            await ask(socket, "LIST_SUBSCRIPTIONS")
            assert exchange.sent == 0
            await ask(socket, "SUBSCRIBE", "A")
            assert len(await ticks(socket, 50)) == 50
            await exchange.wait_ended()
        with pytest.raises(ConnectionClosed) as caught:
            await socket.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1001

    run(main())


def test_time_without_subscribers_is_not_caught_up() -> None:
    async def main() -> None:
        play = [quotes("A", 3, gap_ms=200)]
        async with ReplayExchange(play=play) as exchange, connect(exchange.url) as socket:
            await asyncio.sleep(0.5)  # longer than the play
            await ask(socket, "SUBSCRIBE", "A")
            first, second = await ticks(socket, 2)
            assert second["data"]["E"] - first["data"]["E"] >= 190

    run(main())


def test_a_client_that_does_not_read_is_dropped_and_the_others_get_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "WRITE_LIMIT_BYTES", 64 << 10)

    async def main() -> None:
        # Long, to fill the kernel's buffers of one connection soon: they grow to some MB before ours is used.
        long = Instrument("A", lambda: (Quote("A", i, "1." + "0" * 16_000, "2") for i in range(100)))
        async with ReplayExchange(pace=1, play=[long]) as exchange, connect(exchange.url) as reader:
            lazy = await connect(exchange.url, max_queue=1)
            await lazy.send('{"method":"SUBSCRIBE","params":["A"],"id":1}')
            await ask(reader, "SUBSCRIBE", "A")
            expected = None
            while exchange.connections > 1:
                for tick in await ticks(reader, 50):
                    assert expected in (None, tick["data"]["n"])
                    expected = tick["data"]["n"] + 1
            lazy.transport.abort()

    run(main())


def test_a_taken_port_and_a_wrong_speed_are_named() -> None:
    async def main() -> None:
        async with ReplayExchange(play=[quotes("A", 1)]) as exchange:
            with pytest.raises(ConfigError, match=f"{exchange.port} is taken") as caught:
                await ReplayExchange(port=exchange.port, play=[quotes("A", 1)]).__aenter__()
            assert caught.value.field == "port"
        for speed in (0, -1, float("nan"), float("inf"), "fast"):
            with pytest.raises(ConfigError) as caught:
                ReplayExchange(pace=speed, play=[quotes("A", 1)])  # type: ignore[arg-type]
            assert caught.value.field == "speed"

    run(main())


def test_serve_plays_a_file_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "eurusd.csv"
    path.write_text("timestamp,bid,ask\n2020-01-01 00:00:00,1.10,1.20\n2020-01-01 00:00:01,1.30,1.40\n")

    async def main() -> None:
        ready: asyncio.Future[ReplayExchange] = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(serve([path], port=0, speed=100, on_ready=ready.set_result))
        async with connect((await ready).url) as socket:
            await ask(socket, "SUBSCRIBE", "EUR_USD")
            assert [tick["data"]["b"] for tick in await ticks(socket, 2)] == ["1.10", "1.30"]
            await serving

    run(main())


def test_serve_reports_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "eurusd.csv"
    path.write_text("timestamp,bid,ask\n2020-01-01 00:00:00,1.10,1.20\n2020-01-01 00:00:01,1.10,cheap\n")
    with pytest.raises(ConfigError, match="'cheap' is not a number"):
        run(serve([path], port=0))


def test_a_play_that_fails_says_so_and_the_exchange_still_closes() -> None:
    def broken() -> Iterator[Quote]:
        yield Quote("A", 0, "1", "2")
        raise ConfigError("no number", "a.csv", 2)

    async def main() -> None:
        async with ReplayExchange(play=[Instrument("A", broken)]) as exchange, connect(exchange.url) as socket:
            await ask(socket, "SUBSCRIBE", "A")
            with pytest.raises(ConfigError, match="line 2"):
                await exchange.wait_ended()

    run(main())
