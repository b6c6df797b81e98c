"""HTTP of long-polling clients, in literal bytes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from tests.transport.engine_place import LIMITS, POLLING, WEBSOCKET, Place, place, run
from transport import engine_server, engineio, polling
from transport.gate import GatePolicy
from transport.polling import PollingConnection

Eventually = Callable[..., Awaitable[None]]
PREFLIGHT = {"Origin": "http://page.example", "Access_Control_Request_Headers": "x-one,content-type"}


def connections(here: Place) -> list[PollingConnection]:
    return [each for each in here.listener.connections if isinstance(each, PollingConnection)]


# Requests.


def test_a_connection_serves_many_requests_also_byte_by_byte() -> None:
    async def test() -> None:
        async with place() as here:
            address, echo, client = await here.poll()
            whole = f"POST {address} HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\n4hello".encode()
            for byte in whole:
                client.writer.write(bytes((byte,)))
                await asyncio.sleep(0)
            assert (await client.answer()).body == b"ok"
            assert echo.heard == [b"hello"]
            assert len(here.listener.connections) == 1

    run(test)


def test_requests_that_do_not_wait_for_answers_are_answered_in_order() -> None:
    async def test() -> None:
        async with place() as here:
            address, _, client = await here.poll()
            for n in range(3):
                client.send("POST", address, b"4%d" % n)
                client.send("GET", address)
            answers = [(await client.answer()).body for _ in range(6)]
            assert answers == [b"ok", b"40", b"ok", b"41", b"ok", b"42"]

    run(test)


def test_what_comes_before_the_answer_is_bounded(eventually: Eventually) -> None:
    async def test() -> None:
        async with place() as here:
            address, echo, client = await here.poll()
            client.send("GET", address)
            await eventually(lambda: echo.socket._polling.get is not None)
            client.writer.write(bytes(polling.PIPELINED + 1))
            await eventually(lambda: echo.heard == [("closed", 1006)])

    run(test)


def test_answers_that_nobody_takes_are_bounded(eventually: Eventually) -> None:
    async def test() -> None:
        async with place() as here:
            client = await here.http()
            with pytest.raises(ConnectionError):
                for _ in range(4_000):  # 40 MB of answers
                    client.send("OPTIONS", POLLING, Access_Control_Request_Headers="x" * 10_000)
                    await client.writer.drain()
            await eventually(lambda: not here.listener.connections)

    run(test)


@pytest.mark.parametrize("asyncio_loop", [False, True])
def test_a_request_behind_an_answer_that_waits_is_answered_next(asyncio_loop: bool) -> None:
    async def test() -> None:
        async with place(limits=replace(LIMITS, write_buffer=20_000_000)) as here:
            address, echo, client = await here.poll()
            echo.write(engineio.message_frame(bytes(8_000_000), False))  # more than the kernel takes
            client.send("GET", address)
            client.send("OPTIONS", POLLING)
            assert len((await client.answer()).body) == 8_000_001
            assert (await client.answer()).status == 200

    run(test, asyncio_loop)


def test_the_client_decides_whether_the_connection_stays() -> None:
    async def test() -> None:
        async with place() as here:
            client = await here.http()
            assert (await client.ask("GET", POLLING, Connection="close")).headers["connection"] == "close"
            assert await client.to_eof() == b""
            client = await here.http()
            client.writer.write(f"GET {POLLING} HTTP/1.0\r\n\r\n".encode())
            assert (await client.answer()).headers["connection"] == "close"
            assert await client.to_eof() == b""

    run(test)


def test_other_paths_are_the_door_s_on_a_used_connection_too() -> None:
    async def test() -> None:
        async with place() as here:
            _, _, client = await here.poll()
            assert (await client.ask("GET", "/health")).body == b"well"
            assert await client.to_eof() == b""

    run(test)


def test_a_used_connection_may_become_a_websocket() -> None:
    async def test() -> None:
        async with place() as here:
            address, _, client = await here.poll()
            client.send(
                "GET",
                address.replace("=polling", "=websocket"),
                Upgrade="websocket",
                Connection="Upgrade",
                Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==",
                Sec_WebSocket_Version="13",
            )
            client.writer.write(b"\x81\x86\0\0\0\x002probe")
            assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            assert await client.reader.readexactly(8) == b"\x81\x063probe"

    run(test)


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ("", 411),
        ("Transfer-Encoding: chunked\r\n", 411),
        ("Transfer-Encoding: chunked\r\nContent-Length: 2\r\n", 411),
        ("Content-Length: -1\r\n", 400),
        ("Content-Length: 2, 2\r\n", 400),
        ("Content-Length: 2\r\nContent-Length: 2\r\n", 400),
        ("Content-Length: ²\r\n", 400),
        ("Content-Length: " + "1" * 5_000 + "\r\n", 400),
        ("Content-Length: 100001\r\n", 413),
        ("Bad Header: x\r\n", 400),
    ],
)
def test_a_wrong_length_is_refused_before_the_body_and_ends_the_session(
    lines: str, status: int, eventually: Eventually
) -> None:
    async def test() -> None:
        async with place() as here:
            address, echo, client = await here.poll()
            client.writer.write(f"POST {address} HTTP/1.1\r\n{lines}\r\n".encode())
            answer = await client.answer()
            assert (answer.status, answer.headers["connection"]) == (status, "close")
            assert await client.to_eof() == b""
            if "Bad" in lines:  # it is nobody's request
                assert (await here.ask("POST", address, b"3")).body == b"ok"
            else:
                await eventually(lambda: echo.heard == [("closed", 1006)])

    run(test)


def test_a_stranger_s_body_is_not_read() -> None:
    async def test() -> None:
        async with place() as here:
            client = await here.http()
            client.writer.write(f"POST {POLLING}&sid=none HTTP/1.1\r\nContent-Length: 90000\r\n\r\n".encode())
            answer = await client.answer()
            assert (answer.status, json.loads(answer.body)["code"]) == (400, 1)

    run(test)


def test_a_stranger_s_mistake_on_a_shared_connection_is_not_the_last_one_s() -> None:
    async def test() -> None:
        async with place() as here:
            address, echo, client = await here.poll()
            assert (await client.ask("POST", POLLING + "&sid=none", b"4x")).status == 400
            assert await client.to_eof() == b""
            assert (await here.ask("POST", address, b"4x")).body == b"ok"
            assert echo.heard == [b"x"]

    run(test)


# Deadlines.


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        ("", b""),
        ("GET /eng", b"HTTP/1.1 408 "),
        ("POST {} HTTP/1.1\r\nContent-Length: 9\r\n\r\n4slo", b"HTTP/1.1 408 "),
    ],
)
def test_a_silent_connection_ends(
    sent: str, answer: bytes, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    monkeypatch.setattr(polling, "KEEP_ALIVE", 0.05)
    monkeypatch.setattr(polling, "BODY_TIMEOUT", 0.05)

    async def test() -> None:
        quick = replace(LIMITS, handshake_timeout=0.05, close_timeout=0.05)
        async with place(limits=quick) as here:
            address, echo, client = await here.poll()
            client.writer.write(sent.format(address).encode())
            assert (await client.to_eof()).startswith(answer)
            await eventually(lambda: not connections(here))
            assert echo.heard == ([("closed", 1006)] if "POST" in sent else [])

    run(test)


def test_a_request_that_waits_for_news_does_not_end(monkeypatch: pytest.MonkeyPatch, eventually: Eventually) -> None:
    monkeypatch.setattr(polling, "KEEP_ALIVE", 0.02)
    monkeypatch.setattr(polling, "BODY_TIMEOUT", 0.02)

    async def test() -> None:
        async with place(limits=replace(LIMITS, handshake_timeout=0.02, close_timeout=0.02)) as here:
            address, echo, client = await here.poll()
            client.send("GET", address)
            keepalive, began = here.server.keepalive, here.server.keepalive.now
            await eventually(lambda: keepalive.now > began + 4 * keepalive.ticks(0.02))
            echo.socket.write(engineio.message_frame(b"news", False))
            assert (await client.answer()).body == b"4news"

    run(test)


def test_idle_connections_are_few(monkeypatch: pytest.MonkeyPatch, eventually: Eventually) -> None:
    monkeypatch.setattr(engine_server, "IDLE", 2)

    async def test() -> None:
        async with place() as here:
            first, second = [(await here.poll())[2] for _ in range(2)]
            first.writer.write(b"GET")
            await eventually(lambda: not all(each.open for each in connections(here)))
            await here.poll()
            assert await first.to_eof() == b""
            assert (await second.ask("OPTIONS", POLLING)).status == 200
            first.writer.close()
            await eventually(lambda: len(connections(here)) == 2)

    run(test)


# Pages.


@pytest.mark.parametrize(
    ("origins", "origin", "allowed", "credentials"),
    [
        (("*",), "http://page.example", "*", None),
        (("http://page.example",), "http://page.example", "http://page.example", "true"),
        (("http://page.example",), "http://other.example", None, None),
        (None, "http://localhost:3000", "http://localhost:3000", "true"),
        (None, "http://page.example", None, None),
    ],
)
def test_a_page_may_read_what_the_gate_lets_it(
    origins: tuple[str, ...] | None, origin: str, allowed: str | None, credentials: str | None
) -> None:
    async def test() -> None:
        async with place(policy=GatePolicy(origins=origins)) as here:
            for method, target in (("GET", POLLING), ("OPTIONS", POLLING), ("GET", POLLING + "&sid=none")):
                answer = await here.ask(method, target, Origin=origin)
                assert (answer.status == 403) == (allowed is None)
                assert answer.headers.get("access-control-allow-origin") == allowed
                assert answer.headers.get("access-control-allow-credentials") == credentials
            assert len(here.server.sessions) == (allowed is not None)
            assert "access-control-allow-origin" not in (await here.ask("GET", POLLING)).headers

    run(test)


def test_a_browser_asks_beforehand() -> None:
    async def test() -> None:
        async with place(policy=GatePolicy(origins=("http://page.example",))) as here:
            client = await here.http()
            answer = await client.ask("OPTIONS", POLLING, **PREFLIGHT)
            assert (answer.status, answer.body) == (200, b"")
            assert answer.headers["access-control-allow-methods"] == "GET, POST"
            assert answer.headers["access-control-allow-headers"] == "x-one,content-type"
            assert answer.headers["vary"] == "Origin"
            assert (await client.ask("GET", POLLING, Origin="http://page.example")).status == 200

    run(test)


def test_a_proxy_s_clients_are_counted_by_session_not_by_request() -> None:
    async def test() -> None:
        policy = GatePolicy(trusted_proxies=("127.0.0.1",), connect_rate=1.0)
        async with place(policy=policy) as here:
            client = await here.http()
            assert (await client.ask("GET", POLLING, X_Forwarded_For="10.0.0.1")).status == 200
            (socket,) = here.server.sessions.values()
            assert (socket.host, socket.address) == ("10.0.0.1", "10.0.0.1")
            address = f"{POLLING}&sid={socket.sid}"
            for _ in range(5):
                assert (await client.ask("POST", address, b"3", X_Forwarded_For="10.0.0.1")).status == 200
            for target in (POLLING, POLLING + "&xsid=1"):
                refused = await here.ask("GET", target, X_Forwarded_For="10.0.0.1")
                assert (refused.status, refused.headers["retry-after"]) == (429, "1")

    run(test)


def test_sessions_that_begin_on_one_connection_are_counted_too() -> None:
    async def test() -> None:
        async with place(policy=GatePolicy(connect_rate=2.0)) as here:
            client = await here.http()
            assert [(await client.ask("GET", POLLING)).status for _ in range(3)] == [200, 200, 429]

    run(test)


def test_websockets_of_pages_that_may_not_are_refused() -> None:
    async def test() -> None:
        async with place() as here:
            refused = await here.ask(
                "GET", WEBSOCKET, Upgrade="websocket", Connection="Upgrade", Origin="http://page.example"
            )
            assert refused.status == 403

    run(test)
