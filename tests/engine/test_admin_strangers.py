"""The admin port and those who mean it no good: guesses, silence, garbage, and TLS before all of it."""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from engine import admin, http_server
from engine.admin import AdminServer
from engine.admin_dashboard import ClientPort
from engine.auth_config import Auth
from engine.config import Config
from tests.engine.test_admin import FakeBackend, bound, run
from tests.transport.test_tls import certify
from transport.errors import ConfigError

PATIENCE = 20.0  # s


# keys -----------------------------------------------------------------------------------------------------------------


def test_refusals_are_counted_and_logged_without_what_was_given() -> None:
    counted: dict[str, int] = {}

    async def test(backend: FakeBackend, client: httpx.AsyncClient) -> None:
        for headers in ({"X-API-Key": "nearly-the-key"}, {}, {"host": "evil.example"}):
            assert (await client.get("/stats", headers=headers)).status_code in (401, 403)
        key = {"Authorization": "Bearer the-key-itself-of-22", "content-type": "application/json"}
        assert (await client.get("/stats", headers=key)).status_code == 200
        assert (await client.post("/api/drain", headers=key)).status_code == 200

    with capture_logs() as lines:
        run(test, admin={"api_key": "the-key-itself-of-22"}, refused=counted)
    assert counted == {"unauthorized": 2, "forbidden": 1}
    refusals = [line for line in lines if line["event"] == "admin_refused"]
    assert [(line["code"], line["field"]) for line in refusals] == [
        ("unauthorized", "Authorization"),
        ("unauthorized", "Authorization"),
        ("forbidden", "Host"),
    ]
    assert refusals[0]["address"] == "127.0.0.1"
    [operation] = [line for line in lines if line["event"] == "admin_operation"]
    assert (operation["key"], operation["method"], operation["path"]) == ("api_key", "POST", "/api/drain")
    assert not any(secret in str(lines) for secret in ("the-key", "nearly", "evil"))


def test_short_keys_and_a_public_port_without_tls_are_warned_of() -> None:
    async def test(backend: FakeBackend, client: httpx.AsyncClient) -> None:
        pass

    with capture_logs() as lines:
        run(test, admin={"api_key": "hush", "host": "0.0.0.0"})
    warned = {line["event"]: line for line in lines if line["log_level"] == "warning"}
    assert warned["admin_key_is_short"]["key"] == "api_key"
    assert warned["admin_without_tls"]["host"] == "0.0.0.0"
    assert "hush" not in str(lines)


# TLS ------------------------------------------------------------------------------------------------------------------


def test_https_and_another_certificate_by_reload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "HANDSHAKE_TIMEOUT", 0.2)
    cert, key = certify(tmp_path, "one")
    other, other_key = certify(tmp_path, "two")
    trusted = {path: ssl.create_default_context(cafile=str(path)) for path in (other,)}
    table = {"tls_cert_file": str(cert), "tls_key_file": str(key), "api_key": "a-key-of-16-characters"}

    async def main() -> None:
        config = msgspec.convert({"admin": table}, Config)
        backend, sock = FakeBackend(), bound()
        port = sock.getsockname()[1]
        server = AdminServer(backend, config, sock)
        await server.start()

        async def health(context: ssl.SSLContext) -> int:
            async with httpx.AsyncClient(verify=context, trust_env=False) as client:
                return (await client.get(f"https://127.0.0.1:{port}/health")).status_code

        old = ssl.create_default_context(cafile=str(cert))
        assert await health(old) == 200
        with pytest.raises(httpx.ConnectError):
            await health(trusted[other])
        plain = await asyncio.open_connection("127.0.0.1", port)
        plain[1].write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"HTTP" not in await asyncio.wait_for(plain[0].read(), PATIENCE)
        silent = await asyncio.open_connection("127.0.0.1", port)
        assert await asyncio.wait_for(silent[0].read(), PATIENCE) == b""  # it shakes no hands
        for _, writer in (plain, silent):
            writer.close()

        written = cert.read_bytes()
        cert.write_text("broken")
        with pytest.raises(ConfigError, match=r"admin\.tls_cert_file"):
            server.reload(msgspec.structs.replace(config.admin, api_key="another-key-of-16-characters"))
        async with httpx.AsyncClient(verify=old, trust_env=False) as client:  # nothing has changed
            headers = {"X-API-Key": "a-key-of-16-characters"}
            assert (await client.get(f"https://127.0.0.1:{port}/stats", headers=headers)).status_code == 200
        assert written != other.read_bytes()
        cert.write_bytes(other.read_bytes())
        key.write_bytes(other_key.read_bytes())
        server.reload(config.admin)
        assert await health(trusted[other]) == 200
        await server.stop()

    uvloop.run(main())


# connections ----------------------------------------------------------------------------------------------------------


def test_silent_connections_do_not_keep_an_operator_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "CONNECTIONS", 4)

    async def test(backend: FakeBackend, client: httpx.AsyncClient) -> None:
        port = client.base_url.port
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(12)]
        assert (await client.get("/health")).status_code == 200
        gone = [asyncio.create_task(reader.read()) for reader, _ in silent]
        await asyncio.wait_for(asyncio.gather(*gone[:8], return_exceptions=True), PATIENCE)
        assert (await client.get("/health")).status_code == 200
        for _, writer in silent:
            writer.close()
        await asyncio.gather(*gone, return_exceptions=True)

    run(test)


def test_busy_connections_are_not_cut_off_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "CONNECTIONS", 3)

    async def test(backend: FakeBackend, client: httpx.AsyncClient) -> None:
        backend.hangs = True
        waiting = [asyncio.create_task(client.get("/stats")) for _ in range(3)]
        async with asyncio.timeout(PATIENCE):
            while backend.asked < 3:
                await asyncio.sleep(0.001)
        async with httpx.AsyncClient(base_url=client.base_url, trust_env=False) as late:
            assert (await late.get("/health")).status_code == 503
        backend.hang.set()
        assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [200] * 3

    class Asked(FakeBackend):
        asked = 0

        async def stats(self) -> dict[str, Any]:
            self.asked += 1
            return await super().stats()

    monkeypatch.setattr("tests.engine.test_admin.FakeBackend", Asked)
    run(test)  # type: ignore[arg-type]


def test_who_does_not_read_the_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "HEAD_TIMEOUT", 0.05)
    monkeypatch.setattr(admin, "ANSWER_TIMEOUT", 0.05)
    size = 64 << 20  # more than kernels take

    class Talkative(FakeBackend):
        async def metrics(self) -> bytes:
            return b"x" * size

    async def main() -> None:
        listening = bound()
        server = AdminServer(Talkative(), Config(), listening)
        await server.start()
        connections = server._http._server.server_state.connections
        with socket.create_connection(listening.getsockname(), timeout=PATIENCE) as sock:
            async with asyncio.timeout(PATIENCE):
                while not connections:
                    await asyncio.sleep(0.001)
                sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
                while connections:
                    await asyncio.sleep(0.001)
            received = 0
            try:
                while data := await asyncio.to_thread(sock.recv, 1 << 20):
                    received += len(data)
            except ConnectionResetError:
                pass
            assert received < size
        await server.stop()

    uvloop.run(main())


# garbage --------------------------------------------------------------------------------------------------------------

STATUSES = {200, 400, 401, 403, 404, 409, 429, 501, 503}
CODES = {str(code) for code in admin.STATUS}


class Idle(FakeBackend):
    """Answers everything, for an engine of no workers."""

    async def ask_workers(self, order: dict[str, Any]) -> list[Any]:
        return []

    def client_port(self) -> ClientPort:
        return ClientPort(8765, False, Auth())

    async def topics(self, after: str, limit: int, containing: str) -> list[dict[str, Any]]:
        return []

    async def users(self, topic: str) -> list[str]:
        return []


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The API with keys, served by another thread."""
    started, loop = threading.Event(), uvloop.new_event_loop()
    sock = bound()
    number: int = sock.getsockname()[1]

    async def serve() -> None:
        table = {"api_key": "k", "keys": {"p": {"key": "p", "scopes": ["publish"]}}}
        server = AdminServer(Idle(), msgspec.convert({"admin": table}, Config), sock)
        await server.start()
        stop = asyncio.Event()
        stops.append(stop)
        started.set()
        await stop.wait()
        await server.stop()

    stops: list[asyncio.Event] = []
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert started.wait(PATIENCE)
    yield number
    loop.call_soon_threadsafe(stops[0].set)
    thread.join(PATIENCE)
    loop.close()


PATHS = st.sampled_from(
    [
        "/health",
        "/stats",
        "/metrics",
        "/api/publish",
        "/api/explain",
        "/api/feeds/fx/reset",
        "/api/reload",
        "/api/drain",
        "/api/sessions",
        "/api/index?check=2",
        "/api/sessions/x/subscribe",
        "/api/topics?limit=0",
        "/api/presence?topic=",
    ]
)
latin = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30)
BODIES = st.one_of(
    st.binary(max_size=200),
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(
                st.one_of(st.sampled_from(["topic", "data", "type", "topics", "where", "limit"]), st.text(max_size=5)),
                inner,
                max_size=4,
            ),
        ),
        max_leaves=8,
    ).map(msgspec.json.encode),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["GET", "POST", "DELETE", "HEAD", "PUT", "OPTIONS", "x"]),
    st.one_of(PATHS, latin.map("/".__add__)),
    st.sampled_from([None, "k", "p", "wrong"]),
    BODIES,
    st.lists(st.tuples(st.sampled_from(["Host", "Origin", "Content-Type", "Accept", "X-A"]), latin), max_size=2),
)
def test_any_request_has_a_documented_answer(
    port: int, method: str, path: str, key: str | None, body: bytes, more: list[tuple[str, str]]
) -> None:
    headers = {"Host": "localhost", "Content-Type": "application/json"} | dict(more)
    if key is not None:
        headers["X-API-Key"] = key
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    assert answer.status in STATUSES
    if answer.status >= 400 and method != "HEAD" and answer.getheader("content-type") == "application/json":
        error = msgspec.json.decode(content)["error"]
        assert error["code"] in CODES
        assert set(error) == {"code", "message", "field"}
    if answer.status == 200 and path.partition("?")[0] not in ("/health", "/"):
        assert key in ("k", "p")


PIECES = [
    b"GET /health HTTP/1.1\r\n",
    b"POST /api/publish HTTP/1.1\r\n",
    b"GET /%ff%00 HTTP/1.0\r\n",
    b"GET http://x/ HTTP/1.1\r\n",
    b"PRI * HTTP/2.0",
    b"Host: localhost\r\n",
    b"Content-Length: 3\r\n",
    b"Content-Length: -1\r\n",
    b"Content-Length: " + b"9" * 40 + b"\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket\r\n",
    b"\r\n",
    b"\r\n\r\n",
    b"abc",
    b"ffffffffffff\r\n",
    b"0\r\n\r\n",
    b"X: y",
]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.binary(max_size=60), st.sampled_from(PIECES)), max_size=8))
def test_any_bytes_leave_it_serving(port: int, parts: list[bytes]) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as sock:
        try:
            sock.sendall(b"".join(parts))
            sock.shutdown(socket.SHUT_WR)
            answer = b""
            while data := sock.recv(65_536):
                answer += data
        except (ConnectionResetError, BrokenPipeError):
            answer = b""  # more was sent than is read of what is refused
    for line in answer.split(b"\r\n"):
        if line.startswith(b"HTTP/1.1 "):
            assert int(line[9:12]) in STATUSES
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("GET", "/health")
    assert connection.getresponse().status == 200
    connection.close()


@pytest.mark.parametrize("head", [b"X: " + b"y" * 200_000, b"X: y\r\n" * 50_000], ids=["line", "lines"])
def test_a_head_has_a_limit(port: int, head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as sock:
        try:
            sock.sendall(b"GET /health HTTP/1.1\r\n" + head)
            answer = sock.recv(65_536)
        except (ConnectionResetError, BrokenPipeError):
            return
    assert answer.startswith(b"HTTP/1.1 400 ")
