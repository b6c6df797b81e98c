from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest
import uvloop
from structlog.testing import capture_logs

from engine import admin, admin_http, http_server
from engine.admin import AdminServer, publishes
from engine.config import Config
from transport.codes import ErrorCode
from transport.errors import ConfigError, HeliographError, RequestError
from transport.messages import Publish
from transport.position import Position

HEALTH = {"status": "degraded", "version": "0.1.0", "node": "n", "components": {"hub": {"status": "down"}}}
FEED = {"state": "disconnected", "held": True}
EVENT = {"topic": "price.EUR_USD", "data": {"bid": 1}}


class FakeBackend:
    def __init__(self) -> None:
        self.reason: str | None = None
        self.failure: Exception | None = None
        self.published: list[Publish] = []
        self.config: Config | None = None
        self.drained = False
        self.operated: list[tuple[str, str]] = []
        self.hang = asyncio.Event()
        self.hangs = False

    def health(self) -> dict[str, Any]:
        return HEALTH

    def ready(self) -> str | None:
        return self.reason

    async def stats(self) -> dict[str, Any]:
        if self.hangs:
            await self.hang.wait()
        return {"connections": 3}

    async def metrics(self) -> bytes:
        return b"heliograph_connections 3\n"

    def feeds(self) -> dict[str, Any]:
        return {"fx": FEED}

    async def operate_feed(self, name: str, action: str) -> dict[str, Any]:
        if self.failure is not None:
            raise self.failure
        self.operated.append((name, action))
        return FEED

    async def ask_workers(self, order: dict[str, Any]) -> list[Any]:
        raise AssertionError(order)

    async def topics(self, after: str, limit: int, containing: str) -> list[dict[str, Any]]:
        raise AssertionError(after)

    async def users(self, topic: str) -> list[str]:
        raise AssertionError(topic)

    def owned_topics(self) -> set[str]:
        return {"parameters.engine"}

    async def publish(self, batch: list[Publish]) -> list[Position]:
        if self.failure is not None:
            raise self.failure
        self.published += batch
        return [Position("e", offset) for offset, _ in enumerate(batch, 1)]

    async def reload(self, config: Config) -> list[str]:
        self.config = config
        return ["server.port"]

    def restart(self) -> dict[str, Any]:
        if self.failure:
            raise self.failure
        return {**self.restart_state(), "state": "starting"}

    def restart_state(self) -> dict[str, Any]:
        return {"state": "none", "workers": 2, "gone": 0, "reason": None}

    async def drain(self) -> None:
        self.drained = True


def bound() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[tuple[FakeBackend, httpx.AsyncClient]]:
    """The API over a fake backend, and a client of it."""
    config = msgspec.convert({"admin": options.pop("admin", {})}, Config)
    backend, sock = FakeBackend(), bound()
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    server = AdminServer(backend, config, sock, **options)
    await server.start()
    try:
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            yield backend, client
    finally:
        await server.stop()


def run(test: Callable[[FakeBackend, httpx.AsyncClient], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with serving(**options) as (backend, client):
            await test(backend, client)

    uvloop.run(main())


def refused(answer: httpx.Response, status: int, code: str, field: str | None = None) -> str:
    """Check an answer for the contract's error shape; its message."""
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["field"]) == (status, code, field), answer.text
    assert set(error) == {"code", "message", "field"}
    assert answer.headers["content-type"] == "application/json"
    return str(error["message"])


# what it answers ------------------------------------------------------------------------------------------------------


def test_reading() -> None:
    async def test(backend: FakeBackend, client: httpx.AsyncClient) -> None:
        health = await client.get("/health")
        assert (health.status_code, health.json()) == (200, HEALTH)
        assert health.headers["cache-control"] == "no-store"
        assert (await client.get("/ready")).status_code == 200
        assert (await client.get("/stats")).json() == {"connections": 3}
        metrics = await client.get("/metrics")
        assert metrics.content == b"heliograph_connections 3\n"
        assert metrics.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"

    run(test)


def test_not_ready_says_why() -> None:
    async def test(backend: FakeBackend, client: httpx.AsyncClient) -> None:
        backend.reason = "draining"
        assert refused(await client.get("/ready"), 503, "unavailable") == "draining"

    run(test)


def test_feeds_and_what_an_operator_does_to_them() -> None:
    async def test(backend: FakeBackend, client: httpx.AsyncClient) -> None:
        assert (await client.get("/api/feeds")).json() == {"feeds": {"fx": FEED}}
        for action in ("reset", "disconnect", "connect"):
            answer = await client.post(f"/api/feeds/fx/{action}", json={})
            assert (answer.status_code, answer.json()) == (200, {"feed": "fx", **FEED})
        await client.post("/api/feeds/a%20b/reset", json={})
        assert backend.operated == [("fx", "reset"), ("fx", "disconnect"), ("fx", "connect"), ("a b", "reset")]
        for code, status in (("not_found", 404), ("conflict", 409), ("unavailable", 503)):
            backend.failure = RequestError(code, "as told")
            refused(await client.post("/api/feeds/fx/connect", json={}), status, code)
        refused(await client.post("/api/feeds/fx/connect"), 400, "bad_request", "Content-Type")
        wrong = await client.get("/api/feeds/fx/connect")
        assert (wrong.status_code, wrong.headers["allow"]) == (404, "POST")
        assert len(backend.operated) == 4

    with capture_logs() as lines:
        run(test)
    told = [(line["event"], line["feed"], line["action"], line.get("code")) for line in lines if "feed" in line]
    assert told == [
        ("feed_operated", "fx", "reset", None),
        ("feed_operated", "fx", "disconnect", None),
        ("feed_operated", "fx", "connect", None),
        ("feed_operated", "a b", "reset", None),
        *(("feed_operation_refused", "fx", "connect", code) for code in ("not_found", "conflict", "unavailable")),
    ]


def test_publish_one_and_many() -> None:
    async def test(backend: FakeBackend, client: httpx.AsyncClient) -> None:
        one = await client.post(
            "/api/publish",
            content=b'{"topic":"a.b","type":"t","data":{"p": 1.10, "n":12345678901234567890.0},'
            b'"key":"k","priority":"high","source_ts":1.5}',
            headers={"content-type": "application/json; charset=utf-8"},
        )
        assert (one.status_code, one.json()) == (200, {"epoch": "e", "offset": 1})
        payload = b'{"p": 1.10, "n":12345678901234567890.0}'  # digit for digit
        assert backend.published == [Publish(0, "a.b", "t", payload, "k", "high", 1.5)]

        many = await client.post("/api/publish", json=[EVENT, EVENT])
        assert many.json() == {"results": [{"epoch": "e", "offset": 1}, {"epoch": "e", "offset": 2}]}
        assert backend.published[1:] == [Publish(0, "price.EUR_USD", "message", b'{"bid":1}')] * 2

    run(test)


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        (b"", 400, "bad_request", None),
        (b"{", 400, "bad_request", None),
        (b"3", 400, "bad_request", None),
        (b"[]", 400, "bad_request", None),
        (b'{"topic":"a"}', 400, "bad_request", "data"),
        (b'{"topic":"a","data":NaN}', 400, "bad_request", None),
        (b'{"topic":"a","data":"\xff"}', 400, "bad_request", None),
        (b'{"topic":"a","data":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "bad_request", None),
        (b'{"topic":7,"data":1}', 400, "bad_request", "topic"),
        (b'{"topic":"a","data":1,"colour":2}', 400, "bad_request", "colour"),
        (b'{"topic":"a","data":1,"priority":"urgent"}', 400, "bad_request", "priority"),
        (b'{"topic":"a","data":1,"source_ts":true}', 400, "bad_request", "source_ts"),
        (b'{"topic":"a b","data":1}', 400, "invalid_topic", "topic"),
        (b'{"topic":"a.*","data":1}', 400, "invalid_topic", "topic"),
        (b'{"topic":"system.x","data":1}', 403, "forbidden", "topic"),
        (b'{"topic":"a","data":1,"idempotency_key":""}', 400, "bad_request", "idempotency_key"),
        (b'[{"topic":"a","data":1},{"topic":"a"}]', 400, "bad_request", "[1].data"),
        (b'[{"topic":"a","data":1},{"topic":"a","data":1,"x":1}]', 400, "bad_request", "[1].x"),
        (b'[{"topic":"a","data":1},{"topic":"","data":1}]', 400, "invalid_topic", "[1].topic"),
        (b'[{"topic":"a","data":1},3]', 400, "bad_request", "[1]"),
    ],
)
def test_what_cannot_be_published_is_named(body: bytes, status: int, code: str, field: str | None) -> None:
    with pytest.raises(RequestError) as caught:
        publishes(body)
    assert (caught.value.code, caught.value.field) == (code, field)
    assert admin.STATUS[caught.value.code] == status


def test_publish_is_validated_whole() -> None:
    async def test(backend: FakeBackend, client: httpx.AsyncClient) -> None:
        answer = await client.post("/api/publish", json=[EVENT, EVENT | {"topic": ">"}])
        refused(answer, 400, "invalid_topic", "[1].topic")
        refused(await client.post("/api/publish", json=[EVENT] * 1_001), 400, "limit_exceeded")
        assert backend.published == []
        assert len((await client.post("/api/publish", json=[EVENT] * 1_000)).json()["results"]) == 1_000

    run(test)


def test_publish_without_hub() -> None:
    async def test(backend: FakeBackend, client: httpx.AsyncClient) -> None:
        backend.failure = RequestError(ErrorCode.UNAVAILABLE, "the hub is away")
        assert refused(await client.post("/api/publish", json=EVENT), 503, "unavailable") == "the hub is away"

    run(test)


def test_a_bug_is_told_apart_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def test(backend: FakeBackend, client: httpx.AsyncClient) -> None:
        backend.failure = ZeroDivisionError("inner workings")
        assert "inner" not in refused(await client.post("/api/publish", json=EVENT), 500, "internal")
        assert (await client.get("/health")).status_code == 200

    run(test)
    assert any(record.exc_info and record.exc_info[0] is ZeroDivisionError for record in caplog.records)


def test_a_body_has_a_limit() -> None:
    async def test(backend: FakeBackend, client: httpx.AsyncClient) -> None:
        big = json.dumps(EVENT | {"data": "x" * (4 << 20)}).encode()
        head = {"content-type": "application/json"}
        refused(await client.post("/api/publish", content=big, headers=head), 400, "limit_exceeded")

        async def chunks() -> AsyncIterator[bytes]:  # of unknown length
            for i in range(0, len(big), 1 << 16):
                yield big[i : i + (1 << 16)]

        refused(await client.post("/api/publish", content=chunks(), headers=head), 400, "limit_exceeded")
        fits = json.dumps(EVENT | {"data": "x" * (1000 << 10)}).encode()
        assert (await client.post("/api/publish", content=fits, headers=head)).status_code == 200

    run(test)


def test_a_body_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_http, "BODY_TIMEOUT", 0.05)

    async def test(backend: FakeBackend, client: httpx.AsyncClient) -> None:
        port = client.base_url.port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"POST /api/publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
        writer.close()

    run(test)


def test_an_answer_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "ANSWER_TIMEOUT", 0.05)

    async def test(backend: FakeBackend, client: httpx.AsyncClient) -> None:
        backend.hangs = True
        refused(await client.get("/stats"), 503, "unavailable")

    run(test)


def test_reload_and_drain() -> None:
    new = Config()

    async def test(backend: FakeBackend, client: httpx.AsyncClient) -> None:
        answer = await client.post("/api/reload", json={})
        assert answer.json() == {"status": "reloaded", "needs_restart": ["server.port"]}
        assert backend.config is new
        assert (await client.post("/api/drain", json={})).json() == {"status": "draining"}
        assert backend.drained

    run(test, load=lambda: new)


def test_reload_that_cannot_be() -> None:
    def load() -> Config:
        raise ConfigError("must be below 65536", "server.port", 3)

    async def wrong(backend: FakeBackend, client: httpx.AsyncClient) -> None:
        refused(await client.post("/api/reload", json={}), 400, "bad_request", "server.port")
        assert backend.config is None

    async def nothing(backend: FakeBackend, client: httpx.AsyncClient) -> None:
        refused(await client.post("/api/reload", json={}), 409, "conflict")

    run(wrong, load=load)
    run(nothing)


# what it refuses ------------------------------------------------------------------------------------------------------


def test_paths_that_are_not_there() -> None:
    async def test(backend: FakeBackend, client: httpx.AsyncClient) -> None:
        for path in ("/nothing", "/api", "/health/", "/api/feeds/x/explode"):
            refused(await client.get(path), 404, "not_found")
        wrong = await client.get("/api/drain")
        refused(wrong, 404, "not_found")
        assert wrong.headers["allow"] == "POST"
        assert not backend.drained

    run(test)


def test_the_key() -> None:
    async def test(backend: FakeBackend, client: httpx.AsyncClient) -> None:
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/ready")).status_code == 200
        for headers in ({}, {"Authorization": "Bearer s3cre"}, {"X-API-Key": "s3cret2"}, {"Authorization": "s3cret"}):
            answer = await client.get("/metrics", headers=headers)
            message = refused(answer, 401, "unauthorized", "Authorization")
            assert answer.headers["www-authenticate"] == "Bearer"
            assert "s3cret" not in message
        refused(await client.post("/api/publish", json=EVENT), 401, "unauthorized", "Authorization")
        for headers in (
            {"Authorization": "Bearer s3cret"},
            {"authorization": "bearer s3cret"},
            {"X-API-Key": "s3cret"},
        ):
            assert (await client.get("/metrics", headers=headers)).status_code == 200
        assert backend.published == []

    run(test, admin={"api_key": "s3cret"})


def test_names_and_pages_of_others() -> None:
    async def test(backend: FakeBackend, client: httpx.AsyncClient) -> None:
        port = client.base_url.port
        for host in ("evil.example", f"evil.example:{port}", "localhost.evil.example", "10.0.0.1", "[2001:db8::1]:80"):
            refused(await client.get("/health", headers={"host": host}), 403, "forbidden", "Host")
        for host in ("localhost", f"LOCALHOST:{port}", "127.0.0.1", "127.1.2.3:1", "[::1]:80"):
            assert (await client.get("/health", headers={"host": host})).status_code == 200
        for origin in ("https://evil.example", "null", "http://localhost:3000"):
            answer = await client.post("/api/publish", json=EVENT, headers={"origin": origin})
            refused(answer, 403, "forbidden", "Origin")
        own = {"origin": f"http://127.0.0.1:{port}"}
        assert (await client.post("/api/publish", json=EVENT, headers=own)).status_code == 200
        assert len(backend.published) == 1

    run(test)


def test_what_a_foreign_form_could_send() -> None:
    async def test(backend: FakeBackend, client: httpx.AsyncClient) -> None:
        body = json.dumps(EVENT).encode()
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
            answer = await client.post("/api/publish", content=body, headers={"content-type": kind})
            refused(answer, 400, "bad_request", "Content-Type")
        refused(await client.post("/api/drain"), 400, "bad_request", "Content-Type")
        assert not backend.published
        assert not backend.drained

    run(test)


# life -----------------------------------------------------------------------------------------------------------------


def test_signals_stay_the_owners_and_nothing_is_left() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, lambda: None)
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        for _ in range(3):
            async with serving() as (_backend, client):
                assert (await client.get("/health")).status_code == 200
                assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
        assert asyncio.all_tasks() == {asyncio.current_task()}
        loop.remove_signal_handler(signal.SIGTERM)

    uvloop.run(main())


def test_stop_cuts_off_what_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "GRACE", 0)

    async def main() -> None:
        backend, sock = FakeBackend(), bound()
        backend.hangs = True
        server = AdminServer(backend, Config(), sock)
        await server.start()
        _, hung = await asyncio.open_connection(*sock.getsockname())
        hung.write(b"GET /stats HTTP/1.1\r\nHost: localhost\r\n\r\n")
        reader, silent = await asyncio.open_connection(*sock.getsockname())
        await server.stop()
        await server.stop()
        assert await reader.read() == b""
        assert sock.fileno() == -1
        assert {task.get_name() for task in asyncio.all_tasks() - {asyncio.current_task()}} == set()
        hung.close()
        silent.close()

    uvloop.run(main())


def test_the_owner_learns_of_its_death() -> None:
    async def main() -> None:
        died: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        server = AdminServer(FakeBackend(), Config(), bound(), on_death=died.set_result)
        await server.start()
        [task] = [task for task in asyncio.all_tasks() if task.get_name() == "http"]
        task.cancel()
        assert "cancelled" in await asyncio.wait_for(died, 5)
        await server.stop()

    uvloop.run(main())


def test_a_socket_that_cannot_listen() -> None:
    async def main() -> None:
        sock = bound()
        sock.close()
        server = AdminServer(FakeBackend(), Config(), sock)
        with pytest.raises(HeliographError, match="HTTP server"):
            await server.start()

    uvloop.run(main())


def test_a_connection_that_asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "HEAD_TIMEOUT", 0.05)

    async def test(backend: FakeBackend, client: httpx.AsyncClient) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
        writer.write(b"GET /hea")
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()

    run(test)
