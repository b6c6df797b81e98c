"""A POST against servers that answer in all ways."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from tests.transport.test_tls import certify
from transport.http_post import BadAnswer, Target, post


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://a.example", (True, "a.example", 443, "a.example", "/")),
        ("http://A.example:81/x/y?z=1#top", (False, "a.example", 81, "A.example:81", "/x/y?z=1")),
        ("http://[::1]:80/%20", (False, "::1", 80, "[::1]:80", "/%20")),
    ],
)
def test_the_parts_of_a_url(url: str, target: tuple[object, ...]) -> None:
    assert tuple(Target.of(url)) == target


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://secret.example", "https://host/path"),
        ("https:///secret", "https://host/path"),
        ("https://secret:word@a.example", "user and password"),
        ("https://a.example/secret word", "percent-encode"),
        ("https://a.example/secret\r\nX: y", "percent-encode"),
        ("https://secrät.example", "percent-encode"),
        ("https://a.example:secret", "port"),
        ("https://a.example:99999/secret", "port"),
        ("https://[secret", "URL"),
        ("https://secret..example", "label"),
        (f"https://{64 * 'secret'}.example", "label"),
    ],
)
def test_what_is_no_url_is_refused_without_showing_it(url: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as refused:
        Target.of(url)
    assert "secr" not in str(refused.value)


def asked(answer: bytes, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    """The status, and what the server got."""

    async def scenario() -> tuple[int, bytes]:
        got = bytearray()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            got.extend(await reader.readuntil(b"\r\n\r\n"))
            got.extend(await reader.readexactly(2))
            writer.write(answer)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server, asyncio.timeout(20):
            port = server.sockets[0].getsockname()[1]
            return await post(Target.of(f"http://127.0.0.1:{port}/in?a=b"), headers or {}, b"{}", None), bytes(got)

    return asyncio.run(scenario())


def test_what_is_sent_and_the_status() -> None:
    status, got = asked(b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n", {"Authorization": "Bearer x"})
    head, body = got.split(b"\r\n\r\n")
    line, *headers = head.split(b"\r\n")
    assert (status, line, body) == (204, b"POST /in?a=b HTTP/1.1", b"{}")
    assert headers[0].startswith(b"Host: 127.0.0.1:")
    assert headers[1:] == [
        b"Content-Type: application/json",
        b"Content-Length: 2",
        b"Connection: close",
        b"Authorization: Bearer x",
    ]


def test_over_tls_only_who_is_trusted_is_told(tmp_path: Path) -> None:
    cert, key = certify(tmp_path, "localhost")

    async def scenario() -> None:
        came = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            came.append(await reader.readline())
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            writer.close()

        theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        theirs.load_cert_chain(cert, key)
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=theirs)
        async with server, asyncio.timeout(20):
            port = server.sockets[0].getsockname()[1]
            target = Target.of(f"https://localhost:{port}/in")
            with pytest.raises(ssl.SSLCertVerificationError):
                await post(target, {}, b"{}", ssl.create_default_context())
            assert came == []
            assert await post(target, {}, b"{}", ssl.create_default_context(cafile=cert)) == 200

    asyncio.run(scenario())


def test_interim_answers_and_redirects_are_what_they_are() -> None:
    assert asked(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.0 200\r\n")[0] == 200
    assert asked(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n")[0] == 302


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"", "ended before"),
        (b"HTTP/1.1 200", "ended before"),
        (b"hello\r\n", "not HTTP"),
        (b"HTTP/1.1 2x0 OK\r\n", "not HTTP"),
        (b"HTTP/1.1 " + b"x" * 100_000, "16384 bytes"),
        (b"HTTP/1.1 100 Continue\r\n" + b"A: b\r\n" * 300, "200 lines"),
    ],
)
def test_what_is_no_answer(answer: bytes, says: str) -> None:
    with pytest.raises(BadAnswer, match=says):
        asked(answer)
