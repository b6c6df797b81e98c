"""Sessions of Engine.IO over real sockets."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import engineio as library
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.transport.engine_place import CALM, DEADLINE, LIMITS, POLLING, QUICK, WEBSOCKET, place, run
from tests.transport.test_tls import certify
from transport import engine_server, engineio
from transport.engine_server import EngineOptions
from transport.engine_socket import EngineSocket
from transport.polling import Stage
from transport.tls import ServerTls

Eventually = Callable[..., Awaitable[None]]


async def received(client: ClientConnection) -> str | bytes:
    return await asyncio.wait_for(client.recv(), DEADLINE)


async def closed(client: ClientConnection) -> int:
    """The close code, after whatever comes before it."""
    try:
        while True:
            await received(client)
    except ConnectionClosed:
        assert client.close_code is not None
        return client.close_code


# The handshake.


def test_a_polling_client_is_told_its_session_and_nothing_else() -> None:
    async def test() -> None:
        async with place(QUICK) as here:
            answer = await here.ask("GET", POLLING)
            assert answer.status == 200
            assert answer.headers["content-type"] == "text/plain; charset=UTF-8"
            assert "set-cookie" not in answer.headers
            (sid,) = here.server.sessions
            assert json.loads(answer.body[1:]) == {
                "sid": sid,
                "upgrades": ["websocket"],
                "pingInterval": 150,
                "pingTimeout": 100,
                "maxPayload": 1_000_000,
            }
            assert here.echoes[0].socket.transport == "polling"
            assert here.echoes[0].socket.host == "127.0.0.1"

    run(test)


def test_a_websocket_is_told_the_same_first() -> None:
    async def test() -> None:
        async with place() as here, connect(here.url() + "&user=alice&token=secret") as client:
            opened = json.loads(str(await received(client))[1:])
            socket = here.echoes[0].socket
            assert (opened["sid"], opened["upgrades"]) == (socket.sid, [])
            assert (socket.user, socket.token, socket.token_in_query) == ("alice", "secret", True)
            assert socket._connection is not None
            assert socket._connection.token is None
            assert socket.transport == "websocket"
            assert socket.address == "{}:{}".format(*client.local_address)

    run(test)


@pytest.mark.parametrize(
    ("method", "target", "code"),
    [
        ("GET", "/engine.io?transport=polling", 5),
        ("GET", "/engine.io/?EIO=3&transport=polling", 5),
        ("GET", "/engine.io/?EIO=4", 0),
        ("GET", "/engine.io/?EIO=4&transport=flashsocket", 0),
        ("GET", "/engine.io/?EIO=4&transport=websocket", 3),
        ("GET", f"{POLLING}&j=0", 3),
        ("POST", POLLING, 2),
        ("PUT", POLLING, 2),
        ("GET", f"{POLLING}&sid=nobody", 1),
        ("POST", f"{POLLING}&sid=", 1),
    ],
)
def test_a_request_that_makes_no_sense_is_told_why(method: str, target: str, code: int) -> None:
    async def test() -> None:
        async with place() as here:
            answer = await here.ask(method, target, None if method == "GET" else b"")
            assert answer.status == 400
            assert answer.headers["connection"] == "close"
            body = json.loads(answer.body)
            assert body["code"] == code
            assert body["message"]
            assert not here.server.sessions

    run(test)


def test_a_websocket_that_makes_no_sense_is_told_why() -> None:
    async def test() -> None:
        async with place() as here:
            for target in (WEBSOCKET[:-1], "/engine.io/?transport=websocket", f"{WEBSOCKET}&sid=nobody"):
                with pytest.raises(InvalidStatus) as caught:
                    await connect(here.url(target))
                assert caught.value.response.status_code == 400
            assert not here.server.sessions

    run(test)


def test_who_is_not_let_in_hears_so() -> None:
    async def test() -> None:
        async with place() as here:
            here.refuse = True
            assert (await here.ask("GET", POLLING)).status == 503
            assert await closed(await connect(here.url())) == 1013
            assert not here.server.sessions

    run(test)


def test_an_application_that_fails_at_the_door_costs_one_client(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with place() as here:
            here.accept = None  # type: ignore[method-assign,assignment]
            assert (await here.ask("GET", POLLING)).status == 500
            assert await closed(await connect(here.url())) == 1011
            assert not here.server.sessions

    run(test)


# Messages.


@pytest.mark.parametrize("asyncio_loop", [False, True])
def test_a_polling_client_talks(asyncio_loop: bool) -> None:
    async def test() -> None:
        async with place() as here:
            address, echo, client = await here.poll()
            assert await client.ask("POST", address, b"4one\x1ebAQID\x1e4\xc3\xa4") == (
                200,
                {"content-type": "text/plain; charset=UTF-8", "content-length": "2", "cache-control": "no-store"},
                b"ok",
            )
            assert echo.heard == [b"one", b"\1\2\3", "ä".encode()]
            assert (await client.ask("GET", address)).body == b"4one\x1ebAQID\x1e4\xc3\xa4"
            client.send("GET", address)
            other = await here.http()
            assert (await other.ask("POST", address, b"4late")).body == b"ok"
            assert (await client.answer()).body == b"4late"

    run(test, asyncio_loop)


def test_what_is_written_in_one_turn_is_one_answer() -> None:
    async def test() -> None:
        async with place() as here:
            address, echo, client = await here.poll()
            client.send("GET", address)
            await here.ask("POST", address, b"3")  # it waits now
            for n in range(20):
                echo.socket.write(engineio.message_frame(b"%d" % n, False))
            # More than 16 packets in an answer are too many for clients in Python.
            assert (await client.answer()).body.count(b"\x1e") == 15
            assert (await client.ask("GET", address)).body == b"416\x1e417\x1e418\x1e419"

    run(test)


def test_a_websocket_talks() -> None:
    async def test() -> None:
        async with place() as here, connect(here.url()) as client:
            await received(client)
            await client.send("4hello")
            await client.send(b"\1\2")
            assert [await received(client), await received(client)] == ["4hello", b"\1\2"]
            await client.send("4" + "x" * 100_000)
            assert await closed(client) == 1009

    run(test)


@pytest.mark.parametrize("body", [b"abc", b"", b"bAQ", b"4\xff", b"2", b"4one\x1e0", b"4\x1e" * 5_000])
def test_a_payload_that_is_none_ends_the_session(body: bytes, eventually: Eventually) -> None:
    async def test() -> None:
        async with place() as here:
            address, echo, client = await here.poll()
            client.send("GET", address)
            await eventually(lambda: echo.socket._polling.get is not None)
            answer = await here.ask("POST", address, body)
            assert (answer.status, json.loads(answer.body)["code"]) == (400, 3)
            assert (await client.answer()).body.endswith(b"1")
            await eventually(lambda: echo.heard[-1] == ("closed", 1002))
            assert (await here.ask("GET", address)).status == 400

    run(test)


@pytest.mark.parametrize("packet", ["abc", "", "2", "0", "5"])
def test_a_packet_that_is_none_ends_a_websocket(packet: str) -> None:
    async def test() -> None:
        async with place() as here, connect(here.url()) as client:
            await client.send(packet)
            assert await closed(client) == 1002

    run(test)


def test_an_application_that_fails_ends_that_session(eventually: Eventually, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with place() as here, connect(here.url()) as websocket:
            address, echo, client = await here.poll()
            for each in here.echoes:
                each.on = lambda data: 1 / 0  # type: ignore[assignment,return-value]
            assert (await client.ask("POST", address, b"4one\x1e4two")).body == b"ok"
            await eventually(lambda: echo.heard == [b"one", ("closed", 1011)])
            await websocket.send("4one")
            assert await closed(websocket) == 1011

    run(test)


# Requests at a time.


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_two_requests_at_a_time_end_the_session(method: str, eventually: Eventually) -> None:
    async def test() -> None:
        async with place() as here:
            address, echo, client = await here.poll()
            echo.on = lambda data: echo.socket.pause_reading()
            body = b"4wait" if method == "POST" else None
            client.send(method, address, body)
            polling = echo.socket._polling
            await eventually(lambda: polling.get is not None or polling.post is not None)
            assert (await here.ask(method, address, body)).status == 400
            assert (await client.answer()).body == (b"1" if method == "GET" else b"ok")
            await eventually(lambda: echo.heard[-1] == ("closed", 1002))
            assert (await here.ask("GET", address)).status == 400

    run(test)


def test_a_get_that_is_given_up_ends_the_session(eventually: Eventually) -> None:
    async def test() -> None:
        async with place() as here:
            address, echo, client = await here.poll()
            client.send("GET", address)
            await eventually(lambda: echo.socket._polling.get is not None)
            client.writer.close()
            await eventually(lambda: echo.heard == [("closed", 1006)])
            assert (await here.ask("GET", address)).status == 400

    run(test)


def test_an_answer_that_cannot_be_sent_ends_the_session(eventually: Eventually) -> None:
    async def test() -> None:
        async with place() as here:
            address, echo, client = await here.poll()
            echo.socket.write(engineio.message_frame(bytes(12_000_000), True))
            client.send("GET", address)
            await eventually(lambda: echo.heard == ["paused", "resumed"])
            client.writer.transport.abort()  # type: ignore[attr-defined]
            await eventually(lambda: echo.heard[-1] == ("closed", 1006))

    run(test)


# Heartbeats.


def test_a_polling_client_is_pinged_and_dropped_when_silent(eventually: Eventually) -> None:
    async def test() -> None:
        async with place(QUICK) as here:
            address, echo, client = await here.poll()
            for _ in range(3):
                assert (await client.ask("GET", address)).body == b"2"
                assert (await client.ask("POST", address, b"3")).body == b"ok"
            assert (await client.ask("GET", address)).body == b"2"
            assert (await client.ask("GET", address)).body == b"6"  # polling is no sign of life
            await eventually(lambda: echo.heard == [("closed", 1001)])
            _, never, _ = await here.poll()
            await eventually(lambda: never.heard == [("closed", 1001)])

    run(test)


def test_a_websocket_is_pinged_whatever_else_goes_on_and_dropped_when_silent() -> None:
    async def test() -> None:
        async with place(QUICK) as here, connect(here.url(), ping_interval=None) as client:
            await received(client)
            pings = 0
            while pings < 3:
                echo = here.echoes[0]
                echo.write(engineio.message_frame(b"tick", False))
                assert await received(client) == "4tick"
                if (packet := await asyncio.wait_for(client.recv(), DEADLINE)) == "2":
                    pings += 1
                    await client.send("3")
                else:
                    assert packet == "4tick"
            assert await closed(client) == 1001
            assert here.echoes[0].heard == [("closed", 1001)]

    run(test)


def test_a_client_that_is_not_read_is_not_silent(eventually: Eventually) -> None:
    async def test() -> None:
        async with place(QUICK) as here:
            address, echo, client = await here.poll()
            echo.on = lambda data: echo.socket.pause_reading()
            client.send("POST", address, b"4one")
            keepalive, began = here.server.keepalive, here.server.keepalive.now
            await eventually(lambda: keepalive.now > began + 2 * (here.server.beat + here.server.patience))
            assert echo.heard == [b"one"]
            echo.socket.resume_reading()
            assert (await client.answer()).body == b"ok"

    run(test)


# The end.


def test_a_polling_client_says_goodbye(eventually: Eventually) -> None:
    async def test() -> None:
        async with place() as here:
            for early in (True, False):
                address, echo, client = await here.poll()
                other = await here.http()
                if early:
                    client.send("GET", address)
                    await eventually(lambda echo=echo: echo.socket._polling.get is not None)  # type: ignore[misc]
                assert (await other.ask("POST", address, b"1")).body == b"ok"
                if not early:  # it was on its way through another worker
                    client.send("GET", address)
                assert (await client.answer()).body == b"6"
                await eventually(lambda echo=echo: echo.heard == [("closed", 1005)])  # type: ignore[misc]
                assert (await here.ask("GET", address)).status == 400

    run(test)


def test_a_websocket_says_goodbye() -> None:
    async def test() -> None:
        async with place() as here, connect(here.url()) as client:
            await client.send("1")
            assert await closed(client) == 1000
            assert here.echoes[0].heard == [("closed", 1000)]

    run(test)


def test_last_words_wait_for_a_polling_client(eventually: Eventually) -> None:
    async def test() -> None:
        async with place() as here:
            address, echo, client = await here.poll()
            echo.socket.write(engineio.message_frame(b"bye", False))
            echo.socket.close(1012, "")
            echo.socket.close(1000)
            echo.write(engineio.message_frame(b"never", False))
            await eventually(lambda: echo.heard == [("closed", 1012)])
            assert (await client.ask("POST", address, b"4late")).body == b"ok"
            assert (await client.ask("GET", address)).body == b"4bye\x1e6"
            assert (await here.ask("GET", address)).status == 400
            assert echo.heard == [("closed", 1012)]

    run(test)


def test_last_words_wait_for_so_long(eventually: Eventually) -> None:
    async def test() -> None:
        async with place(limits=replace(LIMITS, close_timeout=0.1)) as here:
            _, echo, _ = await here.poll()
            echo.socket.close(1012, "")
            await eventually(lambda: not here.server.sessions)

    run(test)


def test_a_drain_sends_everybody_away(eventually: Eventually) -> None:
    async def test() -> None:
        async with place(limits=replace(LIMITS, close_timeout=0.2)) as here:
            websocket = await connect(here.url())
            address, waiting, client = await here.poll()
            client.send("GET", address)
            idle = await here.http()
            assert (await idle.ask("POST", address, b"4x")).status == 200
            await client.answer()
            client.send("GET", address)
            _, away, other = await here.poll()
            await eventually(lambda: waiting.socket._polling.get is not None)
            await here.listener.stop_accepting()
            here.listener.drop_unfinished()
            gone = asyncio.ensure_future(here.listener.wait_closed(DEADLINE))
            assert (await other.ask("GET", POLLING)).status == 503
            last = await client.answer()
            # No close packet: python's client would not come back.
            assert (last.body, last.headers["connection"]) == (b"6", "close")
            client.writer.close()
            assert await closed(websocket) == 1012
            assert await idle.to_eof() == b""
            idle.writer.close()
            await asyncio.wait_for(gone, DEADLINE)
            await eventually(lambda: all(echo.heard[-1] == ("closed", 1012) for echo in here.echoes))
            assert away.heard == [("closed", 1012)]

    run(test)


def test_once_nothing_is_accepted_connections_stay_for_sessions_that_poll(eventually: Eventually) -> None:
    async def test() -> None:
        async with place() as here:
            address, polling, client = await here.poll()
            other, late, amid, pool = [await here.http() for _ in range(4)]
            await amid.ask("OPTIONS", POLLING)
            amid.writer.write(b"OPTIONS ")
            await eventually(
                lambda: any(getattr(each, "_stage", None) is Stage.HEAD for each in here.listener.connections)
            )
            assert (await pool.ask("OPTIONS", POLLING)).status == 200
            await here.listener.stop_accepting()
            assert await pool.to_eof() == b""  # nobody comes back on it
            # The listening socket is gone: who polls could not come for the rest on another connection.
            with pytest.raises(OSError, match="refused"):
                await here.http()
            amid.writer.write(f"{POLLING} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            for answer in (await amid.answer(), await late.ask("OPTIONS", POLLING)):
                assert answer.headers["connection"] == "close"
            for _ in range(2):
                client.send("GET", address)
                await eventually(lambda: polling.socket._polling.get is not None)
                assert "connection" not in (await other.ask("POST", address, b"4x")).headers
                assert "connection" not in (await client.answer()).headers
            for _ in range(20):  # more than goes in one answer
                polling.write(engineio.message_frame(b"y", False))
            polling.socket.close(1012)
            first, last = await client.ask("GET", address), await client.ask("GET", address)
            assert (first.headers.get("connection"), last.headers.get("connection")) == (None, "close")
            assert last.body.endswith(b"4y\x1e6")
            assert await client.to_eof() == b""
            assert await other.to_eof() == b""

    run(test)


# The change to a WebSocket.


def test_a_polling_client_changes_over(eventually: Eventually) -> None:
    async def test() -> None:
        async with place() as here:
            address, echo, client = await here.poll()
            former = echo.write
            client.send("GET", address)
            async with connect(here.url(address)) as websocket:
                await websocket.send("2probe")
                assert await received(websocket) == "3probe"
                assert (await client.answer()).body == b"6"
                assert (await client.ask("GET", address)).body == b"6"  # until it has changed over
                echo.socket.write(engineio.message_frame(b"kept", False))
                echo.socket.write(engineio.message_frame(b"\1", True))
                await websocket.send("5")
                assert [await received(websocket), await received(websocket)] == ["4kept", b"\1"]
                assert echo.heard == ["rewired"]
                assert echo.socket.transport == "websocket"
                former(engineio.message_frame(b"by a copy of the former write", False))
                assert await received(websocket) == "4by a copy of the former write"
                await websocket.send("4hello")
                assert await received(websocket) == "4hello"
                for method, body in (("GET", None), ("POST", b"4x")):
                    assert (await here.ask(method, address, body)).status == 400
                second = await connect(here.url(address))
                assert await closed(second) == 1013
                await websocket.send("4still")
                assert await received(websocket) == "4still"
            await eventually(lambda: echo.heard[-1] == ("closed", 1000))
            assert (await here.ask("GET", address)).status == 400

    run(test)


def test_packets_of_one_read_change_over_at_once() -> None:
    async def test() -> None:
        async with place() as here:
            address, _, _ = await here.poll()
            async with connect(here.url(address)) as websocket:
                for packet in ("2probe", "5", "4hello"):
                    websocket.protocol.send_text(packet.encode())
                websocket.transport.write(b"".join(websocket.protocol.data_to_send()))
                assert [await received(websocket), await received(websocket)] == ["3probe", "4hello"]

    run(test)


def test_a_session_that_ends_takes_the_websocket_that_it_tries_with_it(eventually: Eventually) -> None:
    async def test() -> None:
        async with place() as here:
            address, echo, _ = await here.poll()
            async with connect(here.url(address)) as websocket:
                await websocket.send("2probe")
                assert await received(websocket) == "3probe"
                echo.socket.close(1012)
                assert await closed(websocket) == 1000
                await eventually(lambda: echo.heard == [("closed", 1012)])

    run(test)


@pytest.mark.parametrize("packets", [["5"], ["2"], ["2probe", "4x"], ["2probe", "2probe"], [b"2probe"], []])
def test_a_websocket_that_does_not_take_over_is_closed_and_polling_goes_on(packets: list[Any]) -> None:
    async def test() -> None:
        options = replace(CALM, upgrade_timeout=0.1)
        async with place(options) as here:
            address, echo, client = await here.poll()
            async with connect(here.url(address)) as websocket:
                other = await connect(here.url(address))
                assert await closed(other) == 1013  # one tries at a time
                for packet in packets:
                    await websocket.send(packet)
                assert await closed(websocket) == (1002 if packets else 1008)
            assert (await client.ask("POST", address, b"4hello")).body == b"ok"
            assert (await client.ask("GET", address)).body == b"4hello"
            client.send("GET", address)
            assert (await here.ask("POST", address, b"4waits again")).body == b"ok"
            assert (await client.answer()).body == b"4waits again"
            assert "rewired" not in echo.heard

    run(test)


def test_backpressure_changes_over_too(eventually: Eventually) -> None:
    async def test() -> None:
        async with place() as here:
            address, echo, client = await here.poll()
            echo.socket.write(engineio.message_frame(bytes(20_000), True))
            echo.on = lambda data: echo.socket.pause_reading()
            client.send("POST", address, b"4stop")
            await eventually(lambda: echo.heard == ["paused", b"stop"])
            echo.on = lambda data: None
            async with connect(here.url(address)) as websocket:
                for packet in ("2probe", "5", "4next"):
                    await websocket.send(packet)
                assert (await client.answer()).body == b"ok"  # the client changes over once its requests are answered
                assert await received(websocket) == "3probe"
                assert await received(websocket) == bytes(20_000)
                await eventually(lambda: echo.heard[2:4] == ["rewired", "resumed"])
                assert not echo.socket._heeded()
                echo.on = None
                await websocket.send("4last")
                echo.socket.resume_reading()
                while await received(websocket) != "4last":
                    pass

    run(test)


# Bounds.


def test_a_client_that_does_not_poll_is_not_written_to_for_ever(eventually: Eventually) -> None:
    async def test() -> None:
        async with place() as here:
            address, echo, client = await here.poll()
            frame = engineio.message_frame(bytes(6_000), True)
            echo.socket.write(frame)
            assert echo.heard == []
            echo.socket.write(frame)
            assert echo.heard == ["paused"]
            assert echo.socket.buffered == 2 * len(frame)
            answer = await client.ask("GET", address)
            assert base64.b64decode(answer.body.split(b"\x1e")[1][1:]) == bytes(6_000)
            assert echo.heard == ["paused", "resumed"]
            for _ in range(8):
                echo.socket.write(frame)
            assert here.server.sessions == {}
            await eventually(lambda: echo.heard == ["paused", "resumed", "paused", ("closed", 4008)])

    run(test)


def test_a_client_that_sends_too_much_waits_for_its_answer() -> None:
    async def test() -> None:
        async with place(limits=replace(LIMITS, message_rate=50.0)) as here:
            address, echo, client = await here.poll()
            loop = asyncio.get_running_loop()
            began = loop.time()
            assert (await client.ask("POST", address, b"\x1e".join([b"4x"] * 60))).body == b"ok"
            assert loop.time() - began >= 0.19
            assert len(echo.heard) == 60

    run(test)


def test_what_a_client_owes_is_not_forgiven_by_a_websocket_and_ends_with_it(eventually: Eventually) -> None:
    async def test() -> None:
        async with place(limits=replace(LIMITS, message_rate=10.0)) as here:
            address, echo, client = await here.poll()
            polling = echo.socket._polling
            client.send("POST", address, b"\x1e".join([b"4x"] * 600))
            await eventually(lambda: polling._debt)
            owed = polling._debt
            async with connect(here.url(f"{address}&token=secret")) as websocket:
                await websocket.send("2probe")
                assert await received(websocket) == "3probe"
                assert (await client.answer()).body == b"ok"  # the client waits for it in order to change over
                client.send("POST", address, b"4x")
                await eventually(lambda: len(echo.heard) == 601)
                assert owed.cancelled()
                assert polling.post is not None
                assert echo.socket._probe.token is None  # nobody asks for it any more
                owed = polling._debt
                echo.socket.abort()
                assert owed.cancelled()

    run(test)


def test_sessions_whose_client_never_comes_back_are_few(
    monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    monkeypatch.setattr(engine_server, "FRESH", 3)

    async def test() -> None:
        async with place() as here:
            address, _, client = await here.poll()
            assert (await client.ask("POST", address, b"4x")).status == 200
            for _ in range(5):
                await here.poll()
            await eventually(lambda: len(here.server.sessions) == 4)
            assert (await client.ask("GET", address)).status == 200
            assert [len(echo.heard) for echo in here.echoes] == [1, 1, 1, 0, 0, 0]

    run(test)


def test_what_has_ended_is_freed_without_the_collector(eventually: Eventually) -> None:
    def alive() -> int:
        return sum(isinstance(each, EngineSocket) for each in gc.get_objects())

    async def test() -> None:
        async with place() as here:
            gc.collect()
            before = alive()
            address, _, client = await here.poll()
            async with connect(here.url(address)) as websocket:
                for packet in ("2probe", "5", "4x"):
                    await websocket.send(packet)
                while await received(websocket) != "4x":
                    pass
                assert alive() == before + 1
            address, _, client = await here.poll()
            assert (await client.ask("POST", address, b"1")).body == b"ok"
            assert (await client.ask("GET", address)).body == b"6"
            client.writer.close()
            await eventually(lambda: all(isinstance(echo.heard[-1], tuple) for echo in here.echoes))
            await eventually(lambda: len(here.listener.connections) <= 1)
            here.clients[0].writer.close()
            await eventually(lambda: not here.listener.connections)
            here.echoes.clear()
            del _
            assert alive() == before

    gc.disable()
    try:
        run(test)
    finally:
        gc.enable()


# Other workers.


class Elsewhere:
    """Takes what it is given; knows the sessions that begin with `other`."""

    token = "token"

    def __init__(self) -> None:
        self.given: list[bytes] = []

    def owns(self, sid: str) -> bool:
        return sid.startswith(self.token)

    def pass_on(self, sid: str, transport: asyncio.Transport, peer: tuple[str, int], received: bytes) -> bool:
        if not sid.startswith("other"):
            return False
        self.given.append(received)
        transport.abort()
        return True


def test_requests_of_another_worker_s_session_go_there(eventually: Eventually) -> None:
    async def test() -> None:
        elsewhere = Elsewhere()
        async with place(handoff=elsewhere) as here:
            address, _, client = await here.poll()
            assert "sid=token" in address
            client.send("POST", POLLING + "&sid=other", b"4x")  # on a connection that has been used here
            assert await client.to_eof() == b""
            assert elsewhere.given[0].endswith(b"\r\n\r\n4x")
            client = await here.http()
            client.send("GET", WEBSOCKET + "&sid=other", Upgrade="websocket", Connection="Upgrade")
            assert await client.to_eof() == b""
            assert elsewhere.given[1].startswith(b"GET " + WEBSOCKET.encode())
            assert (await here.ask("GET", POLLING + "&sid=none")).status == 400
            await eventually(lambda: len(here.listener.connections) == 1)
            assert (await here.ask("POST", address, b"4x")).body == b"ok"

    run(test)


# Other people's clients, and TLS.


def test_python_s_client_over_both_transports(eventually: Eventually) -> None:
    def talk(port: int, transports: list[str] | None) -> tuple[list[Any], str]:
        heard: list[Any] = []
        done = library.Client()
        done.on("message", heard.append)
        done.connect(f"http://127.0.0.1:{port}", transports=transports, engineio_path="engine.io")
        for n in range(40):
            done.send(b"%d" % n if n % 2 else str(n))
        while len(heard) < 40:
            done.sleep(0.005)
        transport = done.transport()
        done.disconnect()
        done.wait()
        return heard, transport

    async def test() -> None:
        async with place() as here:
            for transports, used in ((None, "websocket"), (["polling"], "polling"), (["websocket"], "websocket")):
                talking = asyncio.to_thread(talk, here.listener.port, transports)
                heard, transport = await asyncio.wait_for(talking, DEADLINE)
                assert heard == [b"%d" % n if n % 2 else str(n) for n in range(40)]
                assert transport == used
            await eventually(lambda: not here.server.sessions)

    run(test)


def test_a_session_under_tls(tmp_path: Path) -> None:
    async def test() -> None:
        certificate, key = certify(tmp_path, "served")
        theirs = ssl.create_default_context(cafile=str(certificate))
        async with place(tls=(ServerTls(certificate, key, "server").context, theirs)) as here:
            address, echo, client = await here.poll()
            assert (await client.ask("POST", address, b"4hello")).body == b"ok"
            assert (await client.ask("GET", address)).body == b"4hello"
            assert echo.heard == [b"hello"]

    run(test)


def test_times_are_named_and_paths_too() -> None:
    async def test() -> None:
        async with place(EngineOptions("/engine.io")) as here:
            assert here.server.paths == ("/engine.io", "/engine.io/")
            assert here.server.keepalive.ticks(20.0) == here.server.patience
            assert here.server.beat * here.server.keepalive.tick <= 25.0

    run(test)
