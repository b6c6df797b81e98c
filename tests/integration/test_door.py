"""The client port and strangers: floods, limits, proxies, certificates, and no descriptors left."""

from __future__ import annotations

import asyncio
import resource
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from bench.flood import arguments, flooded
from engine.client import Client
from tests.integration.harness import EngineProcess, RawClient
from tests.transport.test_tls import certify, der

Start = Callable[..., EngineProcess]
Eventually = Callable[..., Awaitable[None]]
DEADLINE = 20.0


@pytest.mark.skipif(sys.platform != "linux", reason="epoll, and the bench's server is pinned to a core")
def test_a_flood_from_one_address_gets_429_and_others_notice_nothing() -> None:
    row, wrong = flooded(arguments(["--rate", "10000", "--seconds", "2", "--clients", "10", "--allowed", "50"]))
    assert wrong == []
    assert row["429"] > 1_000, row
    assert row["let in"] >= 50, row
    assert row["closed"] == row["unanswered"] == 0, "the refused can read why, and are not reset"


def _knock(engine: EngineProcess, *headers: str) -> str:
    """The answer's status line."""
    with socket.create_connection(("127.0.0.1", engine.port), timeout=DEADLINE) as sock:
        lines = ["GET /health HTTP/1.1", "Host: here", *headers]
        sock.sendall("\r\n".join(lines).encode() + b"\r\n\r\n")
        return sock.recv(100).split(b"\r\n")[0].decode()


async def _turned_away(url: str, **options: object) -> tuple[int | None, dict[str, object]]:
    """Close code and `bye`."""
    client = RawClient(url)
    async with client:
        async with asyncio.timeout(DEADLINE):
            await client._connection.wait_closed()
            await client._reader
    return client.closed, client.of("bye")[0]


def test_limits_per_address_and_user_are_said_in_a_way_that_browsers_can_read(engine_process: Start) -> None:
    engine = engine_process(limits__connections_per_ip=3, limits__sessions_per_user=1)

    async def test() -> None:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(RawClient(f"{engine.url}?user=ann"))
            closed, bye = await _turned_away(f"{engine.url}?user=ann")
            assert (closed, bye["code"], bye["reason"], bye["reconnect"]) == (4009, 4009, "limit", True)
            for user in ("bob", "eve"):
                await stack.enter_async_context(RawClient(f"{engine.url}?user={user}"))
            closed, bye = await _turned_away(engine.url)
            assert (closed, bye["code"], bye["reason"]) == (4009, 4009, "limit")
        async with RawClient(f"{engine.url}?user=ann") as again:
            assert (await again.request("ping"))["op"] == "ok"

    asyncio.run(test())


def test_behind_a_trusted_proxy_the_forwarded_address_counts(engine_process: Start) -> None:
    engine = engine_process('[server]\ntrusted_proxies = ["127.0.0.0/8"]\n[limits]\nconnect_rate = 1\n')

    async def test() -> None:
        headers = {"X-Forwarded-For": "6.6.6.6, 203.0.113.7"}
        async with connect(engine.url, additional_headers=headers, proxy=None):
            assert [each["address"] for each in engine.admin("/api/sessions")[1]["sessions"]] == ["203.0.113.7"]

    asyncio.run(test())
    assert _knock(engine, "X-Forwarded-For: 203.0.113.8").startswith("HTTP/1.1 200 ")
    answers = [_knock(engine, "X-Forwarded-For: 203.0.113.9") for _ in range(5)]
    assert any(answer.startswith("HTTP/1.1 429 ") for answer in answers), answers
    assert all(_knock(engine, "X-Forwarded-For: nonsense").startswith("HTTP/1.1 200 ") for _ in range(5))


def test_pages_that_may_connect(engine_process: Start) -> None:
    engine = engine_process('[server]\norigins = ["https://app.example"]\n')

    async def test() -> None:
        async with connect(engine.url, additional_headers={"Origin": "https://app.example"}, proxy=None) as client:
            assert "welcome" in str(await client.recv())
        for origin in ("https://evil.example", "http://localhost"):
            with pytest.raises(InvalidStatus) as caught:
                await connect(engine.url, additional_headers={"Origin": origin}, proxy=None).__aenter__()
            assert caught.value.response.status_code == 403

    asyncio.run(test())


def test_who_sends_too_much_is_read_no_faster_and_loses_nothing(engine_process: Start) -> None:
    engine = engine_process(limits__message_rate=50)

    async def test() -> None:
        loop = asyncio.get_running_loop()
        async with RawClient(engine.url) as eager, RawClient(engine.url) as other:
            began = loop.time()
            answers = [eager.send("ping") for _ in range(150)]
            assert (await other.request("ping"))["op"] == "ok"
            assert {(await answer)["op"] for answer in answers} == {"ok"}
            # The first read is answered at once; what it has sent beyond the rate is paid for with time.
            answers = [eager.send("ping") for _ in range(2)]
            assert {(await answer)["op"] for answer in answers} == {"ok"}
            assert loop.time() - began >= (150 - 50) / 50 - 0.1

    asyncio.run(test())


def test_tls_and_another_certificate_by_reload(engine_process: Start, eventually: Eventually, tmp_path: Path) -> None:
    cert, key = certify(tmp_path, "served")
    other, other_key = certify(tmp_path, "other")
    first, second = der(cert), der(other)
    engine = engine_process(server__tls_cert_file=cert, server__tls_key_file=key)
    assert engine.url.startswith("wss://")
    ca = tmp_path / "ca.pem"
    ca.write_bytes(cert.read_bytes() + other.read_bytes())

    def shown() -> bytes:
        context = ssl.create_default_context(cafile=ca)
        sock = socket.create_connection(("127.0.0.1", engine.port), timeout=DEADLINE)
        with context.wrap_socket(sock, server_hostname="127.0.0.1") as secure:
            return secure.getpeercert(True) or b""

    async def test() -> None:
        async with Client(engine.url, tls_ca_file=str(ca)) as client, client.subscribe("a.topic") as events:
            session = client.session
            assert await asyncio.to_thread(shown) == first
            cert.write_text("broken")
            status, answer = await asyncio.to_thread(engine.admin, "/api/reload", "POST", {})
            assert status == 400, answer
            assert "tls_cert_file" in str(answer)
            assert await asyncio.to_thread(shown) == first
            cert.write_bytes(other.read_bytes())
            key.write_bytes(other_key.read_bytes())
            status, answer = await asyncio.to_thread(engine.admin, "/api/reload", "POST", {})
            assert status == 200, answer
            assert await asyncio.to_thread(shown) == second
            await client.publish("a.topic", {"n": 1})
            async with asyncio.timeout(DEADLINE):
                assert (await anext(aiter(events))).data == {"n": 1}
            assert client.session == session

    asyncio.run(test())
    with socket.create_connection(("127.0.0.1", engine.port), timeout=DEADLINE) as plain:
        plain.sendall(b"GET /ws HTTP/1.1\r\nHost: here\r\n\r\n")
        assert not plain.recv(100).startswith(b"HTTP/")


def test_without_descriptors_it_serves_on_says_so_and_goes_on_accepting(
    engine_process: Start, eventually: Eventually
) -> None:
    engine = engine_process(server__heartbeat_interval=0.3)
    worker = engine.children()["worker-0"]
    before = resource.prlimit(worker, resource.RLIMIT_NOFILE)

    def health() -> str:
        return str(engine.admin("/health")[1]["components"]["worker-0"]["status"])

    async def test() -> None:
        async with RawClient(engine.url) as client:
            await client.subscribe("a.topic")
            resource.prlimit(worker, resource.RLIMIT_NOFILE, (16, before[1]))
            late = RawClient(engine.url)
            waiting = asyncio.create_task(late.__aenter__())
            await eventually(lambda: health() == "degraded", DEADLINE)
            assert (await client.request("publish", topic="a.topic", data=1))["op"] == "ok"
            await eventually(lambda: len(client.of("event")) == 1, DEADLINE)
            assert not late.messages
            resource.prlimit(worker, resource.RLIMIT_NOFILE, before)
            await asyncio.wait_for(waiting, DEADLINE)
            assert (await late.request("ping"))["op"] == "ok"
            await late.__aexit__(None, None, None)
            await eventually(lambda: health() == "ok", DEADLINE)

    asyncio.run(test())
    said = [line["event"] for line in engine.log() if "accepting" in line["event"]]
    assert said == ["accepting_pauses", "accepting_goes_on"]
