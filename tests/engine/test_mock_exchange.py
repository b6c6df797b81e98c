from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Coroutine
from decimal import Decimal
from typing import Any

import pytest
import uvloop
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus

from engine.mock_exchange import MockExchange
from engine.mock_faults import BadFrame, Fault, FaultOptions, Phase, Share, malformed, padded
from engine.mock_market import Market, Unknown
from transport.errors import ConfigError, HeliographError

DEADLINE_S = 10.0
BTC, ETH = "BTC-USD", "ETH-USD"


def run(main: Coroutine[Any, Any, None]) -> None:
    """On both loops' code: uvloop here, asyncio's own in the threaded exchange."""
    uvloop.run(asyncio.wait_for(main, DEADLINE_S))


async def ask(client: ClientConnection, method: str, params: Any = None, request_id: Any = 1) -> dict[str, Any]:
    await client.send(json.dumps({"method": method, "params": params, "id": request_id}))
    answer = json.loads(await client.recv())
    assert isinstance(answer, dict)
    return answer


async def subscribed(exchange: MockExchange, *symbols: str, **options: Any) -> ClientConnection:
    client = await connect(exchange.url, compression=None, proxy=None, **options)
    assert await ask(client, "SUBSCRIBE", list(symbols or ["*"])) == {"result": None, "id": 1}
    return client


async def numbers(client: ClientConnection, count: int) -> list[tuple[str, int]]:
    ticks = [json.loads(await client.recv()) for _ in range(count)]
    return [(tick["s"], tick["n"]) for tick in ticks]


async def closed(client: ClientConnection) -> tuple[int | None, int]:
    """The code that the server sent and the one that the client closed with, once the connection has ended."""
    try:
        async for _ in client:
            pass
    except ConnectionClosed:
        pass
    await client.wait_closed()
    assert client.close_code is not None
    return (client.protocol.close_rcvd.code if client.protocol.close_rcvd else None), client.close_code


def still(**arguments: Any) -> MockExchange:
    """One whose ticks the test makes."""
    return MockExchange(rate=0, **arguments)


# the pure parts ------------------------------------------------------------------------------------------------------


def test_a_market_numbers_its_ticks_and_has_eight_decimals() -> None:
    market, same = Market([BTC, ETH], seed=7), Market([BTC, ETH], seed=7)
    ticks = [market.tick(5) for _ in range(5)]
    assert [(tick.symbol, tick.number) for tick in ticks] == [(BTC, 1), (ETH, 1), (BTC, 2), (ETH, 2), (BTC, 3)]
    assert ticks == [same.tick(5) for _ in range(5)]
    assert ticks != [Market([BTC, ETH], seed=8).tick(5) for _ in range(5)]
    first = json.loads(ticks[0].text)
    assert list(first) == ["e", "s", "p", "q", "T", "n"]
    assert (first["e"], first["T"], first["n"]) == ("tick", 5, 1)
    assert all(Decimal(first[name]) > 0 and len(first[name].partition(".")[2]) == 8 for name in "pq")


def test_a_market_remembers_so_much_and_says_so() -> None:
    market = Market([BTC], seed=0, history=3)
    assert market.after(BTC, 0) == []
    ticks = [market.tick(0) for _ in range(5)]
    assert market.after(BTC, 2) == ticks[2:]
    assert market.after(BTC, 5) == []
    for since in (1, 6):
        with pytest.raises(Unknown, match="goes from 3 to 5"):
            market.after(BTC, since)
    with pytest.raises(Unknown, match="known: BTC-USD"):
        market.after("DOGE", 0)
    market.restart()
    assert market.tick(0).number == 1


@pytest.mark.parametrize(
    ("share", "due"),
    [(0.25, [0, 0, 0, 1] * 3), (0.1, [*[0] * 9, 1, 0, 0]), (1, [1] * 12), (0, [0] * 12), (1.5, [1, 2] * 6)],
)
def test_a_share_is_spread_evenly(share: float, due: list[int]) -> None:
    spread = Share()
    assert [spread.take(share) for _ in range(12)] == due


def test_malformed_messages_are_of_many_kinds_and_none_is_a_tick() -> None:
    tick = Market([BTC], 0).tick(1).text
    ways = [malformed(tick, turn) for turn in range(7)]
    assert len({way.what for way in ways}) == 7
    assert malformed(tick, 7) == ways[0]
    broken = 0
    for way in ways:
        try:
            fields = json.loads(way.text)
        except ValueError:
            broken += 1
        else:
            assert fields["e"] == "tick"
            assert fields != json.loads(tick)
    assert broken == 2


def test_padding_gives_the_size() -> None:
    tick = Market([BTC], 0).tick(1).text
    assert len(padded(tick, 5_000)) == 5_000
    assert json.loads(padded(tick, 5_000)) | {"pad": ""} == json.loads(tick) | {"pad": ""}


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"share": 1.1}, "share"),
        ({"size": 1 << 40}, "size"),
        ({"close_code": 99}, "close_code"),
        ({"delay": -1}, "delay"),
        ({"bytes_per_second": 0}, "bytes_per_second"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_bad_options_name_the_field(options: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        still().inject(Fault.GAPS, **options)
    assert caught.value.field == field


def test_bad_arguments_name_the_field() -> None:
    for arguments, field in (
        ({"symbols": ()}, "symbols"),
        ({"symbols": (BTC, BTC)}, "symbols"),
        ({"rate": -1}, "rate"),
    ):
        with pytest.raises(ConfigError) as caught:
            MockExchange(**arguments)  # type: ignore[arg-type]
        assert caught.value.field == field


# an exchange that does nothing wrong ---------------------------------------------------------------------------------


def test_ticks_come_to_who_subscribed_numbered_by_symbol() -> None:
    async def main() -> None:
        async with still() as exchange:
            exchange.tick(4)  # nobody sees them
            both, one = await subscribed(exchange), await subscribed(exchange, ETH)
            made = exchange.tick(4)
            assert await numbers(both, 4) == [(BTC, 3), (ETH, 3), (BTC, 4), (ETH, 4)]
            assert await numbers(one, 2) == [(ETH, 3), (ETH, 4)]
            assert exchange.ticks == {BTC: 4, ETH: 4}
            assert [sent.text for sent in exchange.sent if sent.connection == 1][1:] == [tick.text for tick in made]
            assert await ask(one, "UNSUBSCRIBE", ["*"], 2) == {"result": None, "id": 2}
            exchange.tick(1, ETH)
            assert await ask(one, "PING", None, None) == {"method": "PONG"}
            assert [tick.number for tick in exchange.tick(2, BTC)] == [5, 6]
            assert (exchange.attempts, exchange.connections) == (2, 2)

    run(main())


def test_ticks_happen_by_the_clock_whether_anybody_listens_or_not() -> None:
    async def main() -> None:
        async with MockExchange(rate=2_000) as exchange:
            await exchange.wait_until(lambda exchange: sum(exchange.ticks.values()) >= 20)
            client = await subscribed(exchange)
            (first,) = await numbers(client, 1)
            assert first[1] >= 10
            exchange.rate = 0
            stands = exchange.ticks
            await asyncio.sleep(0.02)
            assert exchange.ticks == stands

    run(main())


@pytest.mark.parametrize(
    ("request_", "request_id", "why"),
    [
        ("{", None, "truncated"),
        (b"\xff", None, "JSON"),
        ("[" * 50_000, None, "object"),
        ('{"x":' + "[" * 50_000, None, "recursion"),
        ('{"method":"BUY","id":"a"}', "a", "BUY"),
        ('{"method":"SUBSCRIBE","id":8}', 8, "params: a list of BTC-USD, ETH-USD"),
        ('{"method":"SUBSCRIBE","params":["NO"],"id":9}', 9, "unknown symbol 'NO'; known: BTC-USD"),
        ('{"method":"RESUME","params":["BTC-USD"],"id":1}', 1, '"since"'),
        ('{"method":"RESUME","params":{"symbol":"BTC-USD","since":"x"},"id":1}', 1, "since: a number, not 'x'"),
        ('{"method":"RESUME","params":{"symbol":"BTC-USD","since":7},"id":1}', 1, "goes from 1 to 0"),
    ],
)
def test_a_bad_request_is_answered_and_the_connection_goes_on(request_: str | bytes, request_id: Any, why: str) -> None:
    async def main() -> None:
        async with still(resume=True) as exchange, connect(exchange.url, proxy=None) as client:
            await client.send(request_)
            answer = json.loads(await client.recv())
            assert (answer["error"]["code"], answer["id"]) == (2, request_id)
            assert why in answer["error"]["msg"]
            assert await ask(client, "PING", None, "p") == {"method": "PONG", "id": "p"}
            assert len(exchange.requests) == 2

    run(main())


def test_resume_leaves_no_hole_and_repeats_nothing() -> None:
    async def main() -> None:
        async with still(resume=True) as exchange:
            client = await subscribed(exchange, BTC)
            exchange.tick(3, BTC)
            assert await numbers(client, 3) == [(BTC, n) for n in (1, 2, 3)]
            exchange.disconnect(1012)
            assert (await closed(client))[0] == 1012
            exchange.tick(4, BTC)
            client = await connect(exchange.url, proxy=None)
            resume = {"symbol": BTC, "since": "3"}  # as text too: templates of a configuration make texts
            assert await ask(client, "RESUME", resume, 5) == {"result": None, "id": 5}
            exchange.tick(2, BTC)
            assert await numbers(client, 6) == [(BTC, n) for n in range(4, 10)]

        async with still() as exchange, connect(exchange.url, proxy=None) as client:
            assert "RESUME is not offered" in (await ask(client, "RESUME", resume))["error"]["msg"]

    run(main())


def test_a_restarted_exchange_begins_at_one() -> None:
    async def main() -> None:
        async with still() as exchange:
            client = await subscribed(exchange)
            exchange.tick(10)
            exchange.restart()
            assert (await closed(client))[0] == 1012
            client = await subscribed(exchange)
            exchange.tick(2)
            assert await numbers(client, 2) == [(BTC, 1), (ETH, 1)]

    run(main())


def test_it_keeps_headers_and_requests_in_order() -> None:
    async def main() -> None:
        async with still() as exchange:
            waiting = asyncio.create_task(exchange.wait_request("PING", 2))
            async with connect(exchange.url, additional_headers={"X-Key": "k"}, proxy=None) as client:
                await exchange.wait_connected()
                for request_id in (1, 2):
                    await ask(client, "PING", None, request_id)
                await client.send("not json")
                assert (await waiting).message == {"method": "PING", "params": None, "id": 2}
                await exchange.wait_request(count=3)
            await exchange.wait_disconnected()
            assert [received.message for received in exchange.requests][2:] == ["not json"]
            (handshake,) = exchange.handshakes
            assert (handshake.connection, handshake.path, handshake.headers["x-key"]) == (1, "/ws", "k")
            with pytest.raises(TimeoutError, match=r"1 connected; the exchange has 0 open connections, saw 1 attempts"):
                await exchange.wait_connected(timeout=0.01)

    run(main())


def test_a_token_is_demanded_and_can_be_changed() -> None:
    async def main() -> None:
        async with still(token="old") as exchange:

            async def status(**headers: str) -> int:
                try:
                    async with connect(exchange.url, additional_headers=headers, proxy=None):
                        return 101
                except InvalidStatus as error:
                    return error.response.status_code

            assert await status() == 401
            assert await status(Authorization="Bearer old") == 101
            exchange.token = "new"
            assert await status(Authorization="Bearer old") == 401
            assert await status(Authorization="Bearer new") == 101
            exchange.token = None
            assert await status() == 101
            assert len(exchange.handshakes) == 5

    run(main())


# faults of the handshake ---------------------------------------------------------------------------------------------


def test_refuse_closes_the_port_and_gives_it_back() -> None:
    async def main() -> None:
        async with still() as exchange:
            client, port = await subscribed(exchange), exchange.port
            for _ in range(3):
                exchange.fault = Fault.REFUSE
                assert await closed(client) == (None, 1006)
                with pytest.raises(ConnectionRefusedError):
                    await connect(exchange.url, proxy=None)
                exchange.fault = Fault.NONE
                assert exchange.port == port
                client = await subscribed(exchange)
            assert exchange.attempts == 4  # the refused ones reach nobody

    run(main())


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Fault.UNAUTHORIZED, 401),
        (Fault.FORBIDDEN, 403),
        (Fault.NOT_FOUND, 404),
        (Fault.THROTTLED, 429),
        (Fault.UNAVAILABLE, 503),
        (Fault.NOT_WEBSOCKET, 200),
    ],
)
def test_a_handshake_is_refused_with_a_status_and_open_connections_go_on(fault: Fault, status: int) -> None:
    async def main() -> None:
        async with still() as exchange:
            client = await subscribed(exchange, BTC)
            exchange.fault = fault
            with pytest.raises(InvalidStatus) as caught:
                await connect(exchange.url, proxy=None)
            response = caught.value.response
            assert response.status_code == status
            assert response.headers.get("Retry-After") == ("1" if status in (429, 503) else None)
            exchange.inject(fault, retry_after="Wed, 21 Oct 2026 07:28:00 GMT")
            with pytest.raises(InvalidStatus) as caught:
                await connect(exchange.url, proxy=None)
            if status in (429, 503):
                assert caught.value.response.headers["Retry-After"] == "Wed, 21 Oct 2026 07:28:00 GMT"
            exchange.tick(1, BTC)
            assert await numbers(client, 1) == [(BTC, 1)]

    run(main())


def test_hang_accepts_and_says_nothing() -> None:
    async def main() -> None:
        async with still() as exchange:
            exchange.fault = Fault.HANG
            with pytest.raises(TimeoutError):
                await connect(exchange.url, open_timeout=0.05, proxy=None)
            assert (exchange.attempts, len(exchange.handshakes), exchange.connections) == (1, 1, 0)

    run(main())


def test_a_slow_handshake_comes() -> None:
    async def main() -> None:
        async with still() as exchange:
            exchange.inject(Fault.SLOW_HANDSHAKE, delay=0.1)
            with pytest.raises(TimeoutError):
                await connect(exchange.url, open_timeout=0.02, proxy=None)
            exchange.inject(Fault.SLOW_HANDSHAKE, delay=0.02)
            await subscribed(exchange)

    run(main())


# faults of open connections ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1000, 1001, 1008, 1011, 1012, 1013, None])
def test_disconnect_closes_live_and_new_connections_with_the_code(code: int | None) -> None:
    async def main() -> None:
        async with still() as exchange:
            client = await subscribed(exchange)
            exchange.inject(Fault.DISCONNECT, close_code=code, close_reason="why")
            assert await closed(client) == (code or 1005, code or 1005)
            assert client.close_reason == ("why" if code else "")
            late = await connect(exchange.url, proxy=None)
            assert (await closed(late))[0] == (code or 1005)
            exchange.fault = Fault.NONE
            await subscribed(exchange)

    run(main())


def test_reset_is_a_reset() -> None:
    async def main() -> None:
        async with still() as exchange:
            client = await subscribed(exchange)
            plain = socket.create_connection(("127.0.0.1", exchange.port))  # who looks at the socket itself
            await exchange.wait_until(lambda exchange: exchange.attempts == 2)
            await asyncio.sleep(0)
            exchange.fault = Fault.RESET
            assert await closed(client) == (None, 1006)
            with pytest.raises(ConnectionResetError):
                await asyncio.to_thread(plain.recv, 1)
            plain.close()
            with pytest.raises((ConnectionResetError, InvalidHandshake, InvalidMessage)):
                await connect(exchange.url, proxy=None)
            assert exchange.attempts == 3
            assert len(exchange.handshakes) == 1

    run(main())


def test_abort_ends_without_a_close_frame() -> None:
    async def main() -> None:
        async with still() as exchange:
            client = await subscribed(exchange)
            exchange.fault = Fault.ABORT
            assert await closed(client) == (None, 1006)
            assert await closed(await connect(exchange.url, proxy=None)) == (None, 1006)
            assert exchange.connections == 0

    run(main())


def test_a_client_that_says_something_more_after_the_end_of_the_stream_is_no_error() -> None:
    async def main() -> None:
        errors: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        async with still() as exchange:
            client = await subscribed(exchange)
            exchange.abort()
            await client.ping()  # before it can know
            assert await closed(client) == (None, 1006)
            await exchange.wait_until(lambda exchange: exchange.connections == 0)
        assert not errors

    run(main())


def test_once_disconnected_reset_or_aborted_the_next_connection_is_served() -> None:
    async def main() -> None:
        async with still() as exchange:
            for end, code in ((exchange.disconnect, 1001), (exchange.reset, None), (exchange.abort, None)):
                client = await subscribed(exchange)
                end()
                assert (await closed(client))[0] == code
            await subscribed(exchange)

    run(main())


def test_malformed_messages_come_between_and_every_tick_all_the_same() -> None:
    async def main() -> None:
        async with still() as exchange:
            client = await subscribed(exchange, BTC)
            exchange.inject(Fault.MALFORMED, share=0.5)
            made = exchange.tick(20, BTC)
            exchange.fault = Fault.NONE
            got = [await client.recv() for _ in range(40)]
            assert [text for text in got if text in {tick.text for tick in made}] == [tick.text for tick in made]
            exchange.inject(Fault.MALFORMED, share=1)
            (hidden,) = exchange.tick(1, BTC)
            assert await client.recv() != hidden.text

    run(main())


@pytest.mark.parametrize("kind", BadFrame)
def test_a_bad_frame_makes_the_client_close(kind: BadFrame) -> None:
    async def main() -> None:
        async with still() as exchange:
            client = await subscribed(exchange)
            exchange.inject(Fault.BAD_FRAMES, bad_frame=kind)
            exchange.tick(2)
            assert await closed(client) == (None, 1006) or client.protocol.close_sent is not None
            assert client.protocol.close_sent is not None
            assert client.protocol.close_sent.code == (1007 if kind is BadFrame.UTF8 else 1002)

    run(main())


def test_bad_frames_differ_from_connection_to_connection() -> None:
    async def main() -> None:
        async with still() as exchange:
            exchange.fault = Fault.BAD_FRAMES
            codes = []
            for _ in BadFrame:
                client = await connect(exchange.url, proxy=None)
                await closed(client)
                assert client.protocol.close_sent is not None
                codes.append(client.protocol.close_sent.code)
            assert codes == [1002] * 5 + [1007]

    run(main())


def test_fragmented_messages_are_the_same_messages() -> None:
    async def main() -> None:
        async with still() as exchange:
            client = await subscribed(exchange)
            frames: list[bool] = []
            receive = client.protocol.recv_frame
            client.protocol.recv_frame = lambda frame: (frames.append(frame.fin), receive(frame))[1]  # type: ignore[method-assign]
            exchange.fault = Fault.FRAGMENTED
            made = exchange.tick(20)
            assert [await client.recv() for _ in made] == [tick.text for tick in made]
            assert frames.count(False) > 20
            made = exchange.tick(5)
            exchange.fault = Fault.NONE  # what is half written comes first
            made += exchange.tick(5)
            assert [await client.recv() for _ in made] == [tick.text for tick in made]

    run(main())


def test_slow_trickles() -> None:
    async def main() -> None:
        async with still() as exchange:
            client = await subscribed(exchange)
            exchange.inject(Fault.SLOW, bytes_per_second=200)
            made = exchange.tick(5)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.recv(), 0.1)
            exchange.inject(Fault.SLOW, bytes_per_second=20_000)
            assert [await client.recv() for _ in made] == [tick.text for tick in made]

    run(main())


def test_silent_answers_pings_and_nothing_else() -> None:
    async def main() -> None:
        async with still() as exchange:
            client = await subscribed(exchange)
            exchange.fault = Fault.SILENT
            exchange.tick(2)
            await client.send('{"method":"PING"}')
            await exchange.wait_request("PING")
            await (await client.ping())
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.recv(), 0.05)
            exchange.fault = Fault.NONE
            exchange.tick(2)
            assert await numbers(client, 2) == [(BTC, 2), (ETH, 2)]

    run(main())


def test_dead_answers_nothing_and_goes_on_when_it_lives_again() -> None:
    async def main() -> None:
        async with still() as exchange:
            client = await subscribed(exchange)
            exchange.fault = Fault.DEAD
            pong = await client.ping()
            exchange.tick(2)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(pong), 0.05)
            late = await connect(exchange.url, proxy=None, ping_interval=None, close_timeout=0.05)
            pong_too = await late.ping()
            await late.close()  # unanswered
            with pytest.raises(ConnectionClosed):
                await pong_too
            await exchange.wait_until(lambda exchange: exchange.connections == 1)
            exchange.fault = Fault.NONE
            await pong
            exchange.tick(2)
            assert await numbers(client, 2) == [(BTC, 2), (ETH, 2)]

    run(main())


def test_gaps_and_duplicates_are_a_share_of_the_numbers() -> None:
    async def main() -> None:
        async with still(resume=True) as exchange:
            client = await subscribed(exchange, BTC)
            exchange.inject(Fault.GAPS, share=0.25)
            exchange.tick(8, BTC)
            assert await numbers(client, 6) == [(BTC, n) for n in (1, 2, 3, 5, 6, 7)]
            exchange.inject(Fault.DUPLICATES, share=0.5)
            exchange.tick(4, BTC)
            assert await numbers(client, 6) == [(BTC, n) for n in (9, 10, 10, 11, 12, 12)]
            exchange.fault = Fault.NONE
            await ask(client, "RESUME", {"symbol": BTC, "since": 3})
            assert (await numbers(client, 9))[0] == (BTC, 4)  # what was skipped can be asked for

    run(main())


def test_huge_comes_once_per_connection_and_fault() -> None:
    async def main() -> None:
        async with still() as exchange:
            big, small = await subscribed(exchange, max_size=2 << 20), await subscribed(exchange, max_size=64 << 10)
            exchange.inject(Fault.HUGE, size=1 << 20)
            exchange.tick(2)
            assert [len(await big.recv()) > 1000 for _ in range(2)] == [True, False]
            exchange.inject(Fault.HUGE, size=1 << 20)
            exchange.tick(2)
            assert [len(await big.recv()) > 1000 for _ in range(2)] == [True, False]
            await closed(small)
            assert small.protocol.close_sent is not None
            assert small.protocol.close_sent.code == 1009
            assert max(len(sent.text) for sent in exchange.sent) < 200

    run(main())


# scripts and life ----------------------------------------------------------------------------------------------------


def test_a_script_is_played_to_its_end_and_ends_where_a_fault_is_set() -> None:
    async def main() -> None:
        async with still() as exchange:
            seen: list[Fault] = []

            def look(exchange: MockExchange) -> bool:
                if not seen or seen[-1] is not exchange.fault:
                    seen.append(exchange.fault)
                return not exchange.playing

            exchange.play([Phase(Fault.SILENT, 0.01), Phase(Fault.DISCONNECT, 0.01, {"close_code": 1013})])
            await exchange.wait_until(look)
            assert seen == [Fault.SILENT, Fault.DISCONNECT, Fault.NONE]
            exchange.during(Fault.THROTTLED, 0.01, retry_after=7)
            assert exchange.fault is Fault.THROTTLED
            await exchange.wait_until(lambda exchange: exchange.fault is Fault.NONE)
            exchange.play([Phase(Fault.SILENT, 0.01), Phase(Fault.NONE, 0.01)], loop=True)
            for fault in (Fault.NONE, Fault.SILENT, Fault.NONE):
                await exchange.wait_until(lambda exchange, fault=fault: exchange.fault is fault)  # type: ignore[misc]
            exchange.fault = Fault.DEAD
            assert not exchange.playing
            await asyncio.sleep(0.03)
            assert exchange.fault is Fault.DEAD
            with pytest.raises(ConfigError) as caught:
                exchange.play([Phase(Fault.SILENT, 0)], loop=True)
            assert caught.value.field == "seconds"

    run(main())


@pytest.mark.parametrize("fault", Fault)
def test_it_leaves_no_task_and_no_socket_whatever_its_fault_is(fault: Fault) -> None:
    async def main() -> None:
        before = asyncio.all_tasks()
        async with still() as exchange:
            client = await subscribed(exchange)
            exchange.inject(fault, bytes_per_second=1_000_000, delay=60)
            exchange.tick(4)
            port = exchange.port
            hanging = asyncio.create_task(connect(exchange.url, proxy=None).__aenter__())
            await asyncio.sleep(0.01)
        assert asyncio.all_tasks() - before - {hanging} <= {
            task for task in asyncio.all_tasks() if "websockets" in repr(task.get_coro())
        }
        await asyncio.wait([hanging])
        for one in (client, *([] if hanging.exception() else [hanging.result()])):
            await closed(one)
        with socket.create_server(("127.0.0.1", port)):  # it is free
            pass
        assert asyncio.all_tasks() == before
        with pytest.raises(HeliographError, match="not serving"):
            exchange.url  # noqa: B018
        with pytest.raises(HeliographError, match="not serving"):
            exchange.during(Fault.SILENT, 1)

    run(main())


def test_a_fault_may_be_set_before_it_serves() -> None:
    async def main() -> None:
        exchange = still()
        exchange.fault = Fault.REFUSE
        async with exchange:
            with pytest.raises(ConnectionRefusedError):
                await connect(exchange.url, proxy=None)

    run(main())


def test_a_port_that_is_taken_is_an_error_that_names_it() -> None:
    async def main() -> None:
        async with still() as first, still() as other:
            del other
            with pytest.raises(ConfigError, match=str(first.port)) as caught:
                await still(port=first.port).__aenter__()
            assert caught.value.field == "port"
            with pytest.raises(HeliographError, match="already"):
                await first.__aenter__()
            await subscribed(first)

    run(main())


def test_the_threaded_one_serves_code_without_a_loop() -> None:
    with MockExchange.threaded(rate=0, symbols=("A",), token="t") as exchange:

        async def client(then: str | None = None) -> list[Any]:
            headers = {"Authorization": f"Bearer {exchange.token}"}
            async with connect(exchange.url, additional_headers=headers, proxy=None) as client:
                await ask(client, "SUBSCRIBE", ["*"])
                return [json.loads(await client.recv()) for _ in range(3)] if then is None else await closed(client)  # type: ignore[return-value]

        result: list[Any] = []
        thread = threading.Thread(target=lambda: result.append(asyncio.run(client())))
        thread.start()
        exchange.wait_connected()
        assert exchange.wait_request("SUBSCRIBE").message["params"] == ["*"]
        assert [tick.number for tick in exchange.tick(3)] == [1, 2, 3]
        thread.join(DEADLINE_S)
        assert [tick["n"] for tick in result[0]] == [1, 2, 3]
        exchange.wait_disconnected()
        assert (exchange.ticks, len(exchange.sent), len(exchange.handshakes)) == ({"A": 3}, 4, 1)

        thread = threading.Thread(target=lambda: result.append(asyncio.run(client("closed"))))
        thread.start()
        exchange.wait_request("SUBSCRIBE", 2)
        exchange.inject(Fault.DISCONNECT, close_code=1011)
        thread.join(DEADLINE_S)
        assert result[1][0] == 1011
        exchange.wait_until(lambda exchange: exchange.connections == 0)
        with pytest.raises(TimeoutError, match="its fault is disconnect"):
            exchange.wait_connected(timeout=0.01)
        with pytest.raises(HeliographError, match="already"):
            exchange.__enter__()
    assert not [thread for thread in threading.enumerate() if thread.name == "heliograph-mock-exchange"]
    with pytest.raises(HeliographError, match="not serving"):
        exchange.wait_connected()


def test_a_threaded_one_that_cannot_start_says_so_and_leaves_no_thread() -> None:
    with (
        MockExchange.threaded(rate=0) as first,
        pytest.raises(ConfigError, match=str(first.port)),
        MockExchange.threaded(port=first.port),
    ):
        pass
    assert not [thread for thread in threading.enumerate() if thread.name == "heliograph-mock-exchange"]


def test_the_feed_table_names_what_the_exchange_speaks() -> None:
    async def main() -> None:
        async with still(resume=True, token="t") as exchange:
            table = exchange.feed_config("fx", stale_timeout=0.5, token="other")
            assert list(table) == ["fx"]
            assert (table["fx"]["url"], table["fx"]["stale_timeout"]) == (exchange.url, 0.5)
            assert table["fx"]["token"] == "other"
            assert table["fx"]["resume"][0]["method"] == "RESUME"
            assert exchange.feed_config()["mock"]["token"] == "t"
        async with still() as exchange:
            assert not {"resume", "token"} & exchange.feed_config()["mock"].keys()

    run(main())


def test_default_options_are_valid() -> None:
    assert FaultOptions() == FaultOptions(close_code=1001)
