"""One HTTP request that gives and does not ask: a POST, of whose answer only the status counts.

A connection of its own, no redirects (they would take secrets in headers to whom they name), no cookies, no proxy.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Final, NamedTuple, Self
from urllib.parse import urlsplit

from transport.errors import HeliographError

HEAD_LINES: Final = 200
"""Of an answer, those of interim answers included."""
LINE_BYTES: Final = 16_384
"""The longest one."""
OURS: Final = frozenset({"host", "content-length", "content-type", "connection", "transfer-encoding", "expect"})
"""Headers that are not the caller's to choose, in lower case."""


class BadAnswer(HeliographError):
    """What came back is no answer in HTTP."""


class Target(NamedTuple):
    """Where to send it. Its text may hold a secret: it is not for logs."""

    tls: bool
    host: str
    port: int
    authority: str
    path: str

    @classmethod
    def of(cls, url: str) -> Self:
        """The parts of a URL.

        Raises:
            ValueError: it is none, without the URL in the text.
        """
        if not (url.isascii() and url.isprintable()) or " " in url:
            raise ValueError("has characters that a URL has not: percent-encode them")
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be like https://host/path")
        if parts.username is not None or parts.password is not None:
            raise ValueError("must not hold user and password: give them as a header, Authorization")
        try:
            parts.hostname.encode("idna")  # as the look-up of the name will do
        except UnicodeError:
            raise ValueError("has a host name with a label that is empty or above 63 characters") from None
        tls = parts.scheme == "https"
        try:
            port = parts.port or (443 if tls else 80)
        except ValueError:
            raise ValueError("has a port that is none") from None
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(tls, parts.hostname, port, parts.netloc, path)


async def post(target: Target, headers: Mapping[str, str], body: bytes, tls: ssl.SSLContext | None) -> int:
    """Send JSON; the status of the answer. It may take for ever: the caller has a deadline.

    Args:
        headers: none of :data:`OURS`, and valid.
        tls: who is trusted, where the target wants it.

    Raises:
        OSError: nobody is there, or not who is trusted, or it went.
        BadAnswer: see there.
    """
    reader, writer = await asyncio.open_connection(
        target.host, target.port, ssl=tls if target.tls else None, limit=LINE_BYTES
    )
    try:
        lines = [
            f"POST {target.path} HTTP/1.1",
            f"Host: {target.authority}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            "Connection: close",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
        return await _status(reader)
    finally:
        writer.transport.abort()  # nothing more is wanted of it; a goodbye could take for ever


async def _status(reader: asyncio.StreamReader) -> int:
    """Of the final answer: those before it (1xx) are passed over."""
    status = 0
    for _ in range(HEAD_LINES):
        try:
            line = await reader.readline()
        except ValueError:
            raise BadAnswer(f"a line of the answer is above {LINE_BYTES} bytes") from None
        if not line.endswith(b"\n"):
            raise BadAnswer("the connection ended before the answer")
        if not status:
            version, _, rest = line.partition(b" ")
            code = rest[:3]
            if not (version.startswith(b"HTTP/1.") and len(code) == 3 and code.isdigit()):
                raise BadAnswer("the answer is not HTTP/1")
            status = int(code)
            if status >= 200:
                return status
        elif line in (b"\r\n", b"\n"):
            status = 0
    raise BadAnswer(f"the answer's head has more than {HEAD_LINES} lines")
