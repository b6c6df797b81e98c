"""What sockets, TLS and the websockets library really raise, and what is made of it."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import struct
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import pytest
import uvloop
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import InvalidURI, ProtocolError, ProxyError, SecurityError

from actors.diagnosis import RETRY_AFTER_MAX_S, classify, retry_after
from actors.failure import POLICIES, Failure, FailureKind, UpstreamRefused
from actors.feed import FeedSpec, Tls
from actors.feed_protocol import FeedProtocol, ProtocolSpec
from actors.upstream_socket import upstream_socket

DEADLINE_S = 10.0
NOW = datetime(2024, 1, 1, tzinfo=UTC)
K = FailureKind
Talk: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def run(main: Coroutine[Any, Any, Failure]) -> Failure:
    return uvloop.run(asyncio.wait_for(main, DEADLINE_S))


async def failure_of(url: str, **spec: Any) -> Failure:
    """What became of a connection that reads until it ends."""
    protocol = ProtocolSpec(FeedProtocol)
    try:
        async with upstream_socket(FeedSpec("f", (url,), protocol, **spec), url, "TOKEN") as connection:
            while True:
                await connection.recv(decode=False)
    except Exception as error:
        return classify(error, NOW)


@asynccontextmanager
async def tcp(talk: Talk, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server of bytes; its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except (OSError, EOFError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def http(answer: bytes, **spec: Any) -> Failure:
    """The failure of a handshake that is answered so."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    async def main() -> Failure:
        async with tcp(talk) as port:
            return await failure_of(f"ws://user:PASSWORD@127.0.0.1:{port}/p?key=SECRET", **spec)

    return run(main())


def status(code: int, *headers: str) -> bytes:
    lines = (f"HTTP/1.1 {code} No", *headers, "Content-Length: 0", "", "")
    return "\r\n".join(lines).encode()


def upstream(play: Callable[[ServerConnection], Awaitable[None]], **spec: Any) -> Failure:
    """The failure of a connection to a server that plays so once it is open."""

    async def main() -> Failure:
        async with serve(play, "127.0.0.1", 0, ping_interval=None, close_timeout=0.2) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            return await failure_of(f"ws://127.0.0.1:{port}/", **spec)

    return run(main())


def sending(frame: bytes, **spec: Any) -> Failure:
    """The failure of a connection on which these bytes come, and then nothing."""

    async def play(connection: ServerConnection) -> None:
        connection.transport.write(frame)
        await connection.wait_closed()

    return upstream(play, **spec)


def closing(code: int | None, reason: str = "") -> Failure:
    body = b"" if code is None else struct.pack("!H", code) + reason.encode()
    return sending(b"\x88" + bytes([len(body)]) + body)


# the way there -------------------------------------------------------------------------------------------------------


def test_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but it does not listen
        failure = run(failure_of(f"ws://user:PASSWORD@127.0.0.1:{unused.getsockname()[1]}/?key=SECRET"))
    assert failure.kind is K.REFUSED
    assert "SECRET" not in failure.detail and "PASSWORD" not in failure.detail


def test_a_name_that_is_none() -> None:
    with pytest.raises(socket.gaierror) as unknown:
        socket.getaddrinfo("nonexistent.invalid", 80, flags=socket.AI_NUMERICHOST)  # asks no resolver
    assert classify(unknown.value).kind is K.DNS
    assert run(failure_of("ws://a..b/")).kind is K.DNS  # not even a name that can be asked for


def test_a_server_that_does_not_answer_the_handshake() -> None:
    async def talk(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async def main() -> Failure:
        async with tcp(talk) as port:
            return await failure_of(f"ws://127.0.0.1:{port}/", handshake_timeout_s=0.05)

    assert run(main()).kind is K.TIMEOUT


def test_a_timeout_of_the_network_itself() -> None:
    assert classify(TimeoutError(110, "Connection timed out")).kind is K.TIMEOUT


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 101 Swit"])
def test_a_server_that_ends_the_connection_during_the_handshake(answer: bytes) -> None:
    assert http(answer).kind is K.ABNORMAL


def test_a_reset_during_the_handshake() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async def main() -> Failure:
        async with tcp(talk) as port:
            return await failure_of(f"ws://127.0.0.1:{port}/")

    assert run(main()).kind is K.ABNORMAL


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 101 OK\r\nConnection: \xff\r\n\r\n",
        b"HTTP/1.1 101 OK\r\n\r\n",
        b"HTTP/1.1 101 OK\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n",
        b"HTTP/1.1 101 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n",
    ],
)
def test_a_server_of_something_else(answer: bytes) -> None:
    assert http(answer).kind is K.PROTOCOL


@pytest.fixture
def certificate(tmp_path: Path, missing: Callable[[str], NoReturn]) -> tuple[Path, Path]:
    """A self-signed one for another name, and its key."""
    openssl = shutil.which("openssl") or missing("openssl")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = "req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -days 2 -subj /CN=x"
    subprocess.run([openssl, *command.split(), "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


@pytest.mark.parametrize(
    ("trusted", "named", "kind"),
    [(False, True, K.TLS), (True, False, K.TLS), (True, True, K.PROTOCOL)],
)
def test_a_certificate_that_nobody_vouches_for_or_of_another_name(
    certificate: tuple[Path, Path], trusted: bool, named: bool, kind: FailureKind
) -> None:
    cert, key = certificate
    server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_tls.load_cert_chain(cert, key)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"no WebSocket\r\n")  # who gets here has no complaint about TLS
        await writer.drain()

    async def main() -> Failure:
        tls = Tls(ca_file=str(cert) if trusted else None, server_name="x" if named else None)
        async with tcp(talk, server_tls) as port:
            return await failure_of(f"wss://127.0.0.1:{port}/", tls=tls)

    assert run(main()).kind is kind


def test_tls_with_a_server_that_speaks_none() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 This is plain HTTP\r\n\r\n")
        await writer.drain()

    async def main() -> Failure:
        async with tcp(talk) as port:
            return await failure_of(f"wss://127.0.0.1:{port}/")

    assert run(main()).kind is K.TLS


# answers of HTTP -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (200, K.REJECTED),
        (301, K.REJECTED),
        (401, K.UNAUTHORIZED),
        (403, K.UNAUTHORIZED),
        (404, K.REJECTED),
        (429, K.THROTTLED),
        (500, K.REJECTED),
        (503, K.UNAVAILABLE),
    ],
)
def test_an_http_status(code: int, kind: FailureKind) -> None:
    assert http(status(code)) == Failure(kind, f"HTTP {code}")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        (["Retry-After: 7"], 7),
        (["Retry-After: Mon, 01 Jan 2024 00:01:30 GMT"], 90),
        (["Retry-After: soon"], None),
        (["Retry-After: 7", "Retry-After: 9", "Retry-After: soon"], 9),
        (["Retry-After: Mon, 01 Jan 99999999999999 00:00:00 GMT"], None),
    ],
)
@pytest.mark.parametrize(("code", "kind"), [(429, K.THROTTLED), (503, K.UNAVAILABLE)])
def test_the_pause_that_a_busy_upstream_asks_for(
    code: int, kind: FailureKind, headers: list[str], seconds: float | None
) -> None:
    assert http(status(code, *headers)) == Failure(kind, f"HTTP {code}", seconds)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("1.5", 1.5),
        (" 120 ", 120),
        ("-5", 0),
        ("1e9", RETRY_AFTER_MAX_S),
        ("inf", RETRY_AFTER_MAX_S),
        ("9" * 400, RETRY_AFTER_MAX_S),
        ("nan", None),
        ("", None),
        ("tomorrow", None),
        ("Sun, 31 Dec 2023 23:59:00 GMT", 0),  # is over
        ("Mon, 01 Jan 2024 00:00:30 -0000", 30),  # no zone: UTC
        ("Mon, 01 Jan 2024 01:00:30 +0100", 30),
        ("Fri, 31 Dec 9999 23:59:59 GMT", RETRY_AFTER_MAX_S),
        ("Mon, 01 Jan 2024 00:00:00 +99999999999999", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_within_an_hour(value: str, seconds: float | None) -> None:
    assert retry_after(value, NOW) == seconds


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d{1,20} Jan \d{1,20} \d{1,9}:\d{1,9}:\d{1,9} [+-]\d{1,20}"))
@example("Mon, 01 Jan 99999999999999 00:00:00 GMT")
def test_no_retry_after_is_too_strange(value: str) -> None:
    seconds = retry_after(value, NOW)
    assert seconds is None or 0 <= seconds <= RETRY_AFTER_MAX_S


# the end of an open connection ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (1000, K.CLOSED),
        (1001, K.GOING_AWAY),
        (1002, K.PROTOCOL),
        (1003, K.CLOSED),
        (1007, K.PROTOCOL),
        (1008, K.POLICY),
        (1009, K.TOO_BIG),
        (1010, K.CLOSED),
        (1011, K.INTERNAL),
        (1012, K.RESTART),
        (1013, K.TRY_LATER),
        (4000, K.CLOSED),
        (4001, K.CLOSED),
        (4999, K.CLOSED),
    ],
)
def test_a_close_code(code: int, kind: FailureKind) -> None:
    assert closing(code, "so it is") == Failure(kind, f"closed with {code} (so it is)")


def test_a_close_frame_without_a_code() -> None:
    assert closing(None).kind is K.CLOSED


@pytest.mark.parametrize("code", [999, 1004, 1005, 1006, 1015, 2000])
def test_a_close_code_that_must_not_be_sent_is_a_bad_frame(code: int) -> None:
    assert closing(code).kind is K.PROTOCOL


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"\x83\x00", id="reserved opcode"),
        pytest.param(b"\xc1\x01a", id="reserved bit"),
        pytest.param(b"\x81\x81abcda", id="masked by the server"),
        pytest.param(b"\x80\x01a", id="continues nothing"),
        pytest.param(b"\x89\x7e\x00\x80" + b"a" * 128, id="ping of 128 bytes"),
        pytest.param(b"\x88\x01a", id="close of one byte"),
    ],
)
def test_bad_frames(frame: bytes) -> None:
    assert sending(frame).kind is K.PROTOCOL


def test_a_message_that_is_too_big() -> None:
    assert sending(b"\x82\x7e\x04\x00", message_bytes=1_000).kind is K.TOO_BIG


@pytest.mark.parametrize("how", ["abort", "eof", "reset"])
def test_an_end_without_a_close_frame(how: str) -> None:
    async def play(connection: ServerConnection) -> None:
        if how == "reset":
            line = connection.transport.get_extra_info("socket")
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if how == "eof":
            connection.transport.write_eof()
        else:
            connection.transport.abort()
        await connection.wait_closed()

    assert upstream(play).kind is K.ABNORMAL


# what is no socket's -------------------------------------------------------------------------------------------------


def test_what_a_protocol_refuses_is_what_it_says() -> None:
    assert classify(UpstreamRefused(K.INVALID, "no such stream")) == Failure(K.INVALID, "no such stream")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ProtocolError("x"), K.PROTOCOL),
        (ProxyError("x"), K.REFUSED),
        (BrokenPipeError(), K.ABNORMAL),
        (OSError(113, "No route to host"), K.REFUSED),
        (ssl.SSLCertVerificationError("x"), K.TLS),
    ],
)
def test_other_errors(error: Exception, kind: FailureKind) -> None:
    failure = classify(error)
    assert failure.kind is kind
    assert failure.detail, "an error without a text has its name"


def test_every_kind_has_a_policy_and_only_two_orderly_ends_do_not_count() -> None:
    assert set(POLICIES) == set(FailureKind)
    assert {kind for kind, policy in POLICIES.items() if not policy.counts} == {K.GOING_AWAY, K.RESTART}
    assert {kind for kind, policy in POLICIES.items() if policy.needs_token} == {K.UNAUTHORIZED}
    assert all(policy.patience >= 1 for policy in POLICIES.values())


# secrets -------------------------------------------------------------------------------------------------------------


def test_a_redirect_is_a_refusal_that_shows_nothing_of_its_target() -> None:
    assert http(status(302, "Location: ws://u:PASSWORD@h/p?key=SECRET#x")) == Failure(K.REJECTED, "HTTP 302")


@pytest.mark.parametrize("proxy", ["ftp://u:PASSWORD@h:1/?key=SECRET", "http://u:PASSWORD@"])
def test_a_proxy_that_is_none_shows_no_secret(proxy: str) -> None:
    failure = run(failure_of("ws://127.0.0.1:1/", proxy=proxy))
    assert "SECRET" not in failure.detail and "PASSWORD" not in failure.detail
    assert "isn't a valid proxy" in failure.detail


@pytest.mark.parametrize(
    "error",
    [
        InvalidURI("wss://u:PASSWORD@h/p?key=SECRET", "why"),
        SecurityError("cannot follow redirect to non-secure URI ws://u:PASS@PASSWORD@h/p?key=SECRET"),
        UpstreamRefused(K.REJECTED, "no stream at wss://h/p?key=SECRET#SECRET, nor at wss://PASSWORD@h/p?key=SECRET"),
    ],
)
def test_a_url_in_a_text_is_without_user_query_and_fragment(error: Exception) -> None:
    detail = classify(error).detail
    assert "SECRET" not in detail and "PASSWORD" not in detail
    assert "://h/p" in detail


def test_a_failure_reads_as_its_kind_and_its_detail() -> None:
    assert str(Failure(K.DNS, "no such name")) == "dns: no such name"
    assert str(Failure(K.STALE, "")) == "stale"
