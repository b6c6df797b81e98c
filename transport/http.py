"""The little HTTP that the client port speaks: heads of requests, the WebSocket handshake, whole answers. No loop, no
socket.

Parsed here and not by the WebSocket library because that refuses every method but GET before one could answer, and
because its handshake takes 35 µs and leaves 5 KiB behind, against 6 to 12 µs and nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Collection
from http import HTTPStatus
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

from transport.codes import ErrorCode
from transport.errors import HeliographError, RequestError
from transport.topics import USER, check_user

MAX_HEAD_BYTES: Final = 16_384  # cookies of a shared domain included
MAX_HEADERS: Final = 100
TOKEN: Final = "token"  # the parameter
_SWITCHING: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
)
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"  # RFC 9110 section 5.6.2
_LINE = re.compile(rb"([A-Z]{1,20}) (/[\x21-\x7e]*+|\*) HTTP/(1\.[01])")
_HEADERS = re.compile(rb"(?:\r\n" + _TOKEN + rb":[\t\x20-\x7e\x80-\xff]*+)*+")


_KEY_NAME: Final = "sec-websocket-key"
_KEY: Final = b"\r\nSec-WebSocket-Key: "  # as browsers and most libraries write it
_NONCE = re.compile(rb"[A-Za-z0-9+/]{22}==")
_PRIVATE: Final = frozenset({"authorization", "cookie", "proxy-authorization"})
_KNOWN: Final = 64  # heads
_KNOWN_BYTES: Final = 1_024  # of each

Headers = tuple[tuple[str, str], ...]  # names and values

_PORT = re.compile(r":\d{1,5}$")
_LOCAL = re.compile(r"(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d{1,5})?", re.IGNORECASE)

_TOO_LARGE: Final = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
_CODES: Final[dict[int, ErrorCode]] = {
    HTTPStatus.NOT_FOUND: ErrorCode.NOT_FOUND,
    HTTPStatus.FORBIDDEN: ErrorCode.FORBIDDEN,
    HTTPStatus.TOO_MANY_REQUESTS: ErrorCode.RATE_LIMITED,
    HTTPStatus.INTERNAL_SERVER_ERROR: ErrorCode.INTERNAL,
}


class HttpError(HeliographError):
    """A request that gets ``status`` instead of what it asked for; ``headers`` go with the answer."""

    def __init__(self, status: int, message: str, headers: Headers = ()) -> None:
        self.status, self.message, self.headers = status, message, headers
        super().__init__(f"{int(status)}: {message}")

    def response(self) -> bytes:
        """The whole answer, with the error as JSON."""
        code = _CODES.get(self.status, ErrorCode.BAD_REQUEST)
        body = json.dumps({"error": {"code": code, "message": self.message}}).encode()
        return response(self.status, "application/json", body, self.headers)


class Request(NamedTuple):
    """A request's head.

    Attributes:
        path: without the query.
        version: ``1.0`` or ``1.1``.
        headers: names in lower case; what came twice is joined by ``", "``.
    """

    method: str
    path: str
    query: str
    version: str
    headers: dict[str, str]

    @property
    def upgrade(self) -> bool:
        """Whether the client asks to change to the WebSocket protocol."""
        return _has(self.headers.get("upgrade"), "websocket") and _has(self.headers.get("connection"), "upgrade")


def parse(received: bytes | bytearray) -> tuple[Request, int] | None:
    """Read the request at the start of ``received``.

    Returns:
        The request and how many bytes its head took; None while the head is not complete.

    Raises:
        HttpError: 431, larger than :data:`MAX_HEAD_BYTES` or more than :data:`MAX_HEADERS`; 400, not HTTP/1; found at
            the first byte where possible, so that a TLS client on this port does not wait for the handshake timeout.
    """
    end = received.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES)
    if end < 0:
        if not received[:1].isalpha():
            raise HttpError(HTTPStatus.BAD_REQUEST, "this is not an HTTP request")
        if len(received) >= MAX_HEAD_BYTES:
            raise HttpError(_TOO_LARGE, f"the request's head has at most {MAX_HEAD_BYTES} bytes")
        return None
    line = _LINE.match(received, 0, end)
    if line is None or _HEADERS.fullmatch(received, line.end(), end) is None:
        raise HttpError(HTTPStatus.BAD_REQUEST, "this is not an HTTP/1.1 request")
    fields = received[line.end() + 2 : end].decode("latin-1").split("\r\n") if line.end() < end else []
    if len(fields) > MAX_HEADERS:
        raise HttpError(_TOO_LARGE, f"a request has at most {MAX_HEADERS} headers")
    headers: dict[str, str] = {}
    for field in fields:
        name, _, value = field.partition(":")
        name, value = name.lower(), value.strip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    method, target, version = (part.decode("ascii") for part in line.groups())
    path, _, query = target.partition("?")
    return Request(method, path, query, version, headers), end + 4


class Heads:
    """:func:`parse` for handshakes: clients of one kind say the same but for the key, and come by the thousand.

    A head that was parsed before, with another key in its place, takes 3 µs instead of 10. Remembered are few, and none
    with a query, token or cookie.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, bytes], Request] = {}

    def parse(self, received: bytes) -> tuple[Request, int] | None:
        """As the function, with the same errors."""
        at = received.find(_KEY)
        if at < 0 or len(received) > _KNOWN_BYTES:
            return parse(received)
        at += len(_KEY)
        end = at + 24
        key = received[at:end]
        if _NONCE.fullmatch(key) is None:
            return parse(received)
        around = received[:at], received[end:]
        request = self._known.get(around)
        if request is not None:
            return request._replace(headers={**request.headers, _KEY_NAME: key.decode("ascii")}), len(received)
        parsed = parse(received)
        if parsed is not None and parsed[1] == len(received) and _is_common(parsed[0], key):
            if len(self._known) >= _KNOWN:
                self._known.clear()
            self._known[around] = parsed[0]
        return parsed


def _is_common(request: Request, key: bytes) -> bool:
    headers = request.headers
    return not request.query and not headers.keys() & _PRIVATE and headers[_KEY_NAME].encode() == key  # once, and alone


def accept(request: Request, subprotocols: Collection[str]) -> tuple[bytes, str | None]:
    """Complete the opening handshake, RFC 6455 section 4.2.

    Args:
        request: one whose :attr:`Request.upgrade` is true.
        subprotocols: those that the server speaks; the client's first among them is chosen, in the client's order.

    Returns:
        The 101 answer and the chosen subprotocol; None if nothing was offered or nothing known.

    Raises:
        HttpError: 400; 405 or 426 with what to do instead. Extensions are not accepted, none is an error. Whether the
            page may connect at all is :class:`transport.gate.Gate`'s decision.
    """
    headers = request.headers
    if request.method != "GET":
        raise HttpError(HTTPStatus.METHOD_NOT_ALLOWED, "a WebSocket handshake is a GET", (("Allow", "GET"),))
    if request.version != "1.1" or "," in headers.get("host", ","):  # a comma: it came twice
        raise HttpError(HTTPStatus.BAD_REQUEST, "a WebSocket handshake is HTTP/1.1 with one Host")
    if headers.get("sec-websocket-version") != "13":
        raise HttpError(
            HTTPStatus.UPGRADE_REQUIRED, "Sec-WebSocket-Version must be 13", (("Sec-WebSocket-Version", "13"),)
        )
    key = headers.get("sec-websocket-key", "").encode("latin-1")
    try:
        nonce = base64.b64decode(key, validate=True)
    except binascii.Error:
        nonce = b""
    if len(nonce) != 16:
        raise HttpError(HTTPStatus.BAD_REQUEST, "Sec-WebSocket-Key must be 16 bytes in base64")
    digest = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
    answer = _SWITCHING + digest
    offered = headers.get("sec-websocket-protocol")
    if offered is not None:
        for name in offered.split(","):
            if (name := name.strip()) in subprotocols:
                return answer + b"\r\nSec-WebSocket-Protocol: " + name.encode("ascii") + b"\r\n\r\n", name
    return answer + b"\r\n\r\n", None


def parameters(request: Request) -> dict[str, str]:
    """Those of the query, as they are written; of what is given twice the last. Costs 1 µs."""
    return {name: value for name, _, value in (part.partition("=") for part in request.query.split("&"))}


def credentials(request: Request) -> tuple[str | None, str | None, bool]:
    """Who the head of a handshake says the client is; nothing of it is checked, other parameters are not read.

    Returns:
        ``?user=ID``, a valid name; the token of ``Authorization: Bearer`` or ``?token=``; whether it is the latter.

    Raises:
        HttpError: 400, something is given twice, or the user is not what :func:`transport.topics.check_user` takes.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    token = token.strip(" ") if scheme.lower() == "bearer" else ""
    given: dict[str, str] = {}
    if request.query:
        try:
            for name, value in parse_qsl(request.query, keep_blank_values=True, errors="strict"):
                if name in (USER, TOKEN):
                    if name in given or (name == TOKEN and token):
                        raise HttpError(HTTPStatus.BAD_REQUEST, f"one connection has one {name}")
                    given[name] = value
            if USER in given:
                check_user(given[USER])
        except (RequestError, ValueError) as error:  # ValueError: not UTF-8, or too many parameters
            raise HttpError(HTTPStatus.BAD_REQUEST, getattr(error, "message", str(error))) from None
    return given.get(USER), token or given.get(TOKEN), TOKEN in given


def same_site(origin: str, host: str) -> bool:
    """Whether a page of ``origin`` may use the server that it calls ``host``: the same host and port, or both local.

    Args:
        origin: the header's value, ``https://shop.example:8443`` or ``null``.
        host: the Host header's value.
    """
    _, separator, site = origin.partition("://")
    if not separator:
        return False
    return site.lower() == host.lower() or (is_local(site) and is_local(host))


def same_host(origin: str, port: int, host: str) -> bool:
    """Whether a page of ``origin`` is from ``port`` of the machine that the Host header calls ``host``."""
    _, separator, site = origin.partition("://")
    return bool(separator) and site.lower() == f"{_PORT.sub('', host.lower())}:{port}"


def is_local(host: str) -> bool:
    """Whether a Host names this machine, whatever the port."""
    return _LOCAL.fullmatch(host) is not None


def response(
    status: int,
    content_type: str | None,
    body: bytes,
    headers: Headers = (),
    last: bool = True,
) -> bytes:
    """A whole answer; ``last``: the connection is closed after it; ``content_type``: none: it can have no body, 304.

    Nobody may keep it, unless ``headers`` say otherwise.
    """
    lines = [
        f"HTTP/1.1 {int(status)} {HTTPStatus(status).phrase}",
        *(() if content_type is None else (f"Content-Type: {content_type}", f"Content-Length: {len(body)}")),
        *(() if any(name == "Cache-Control" for name, _ in headers) else ("Cache-Control: no-store",)),
        *(("Connection: close",) if last else ()),
        *(f"{name}: {value}" for name, value in headers),
    ]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def _has(value: str | None, token: str) -> bool:
    # The whole value first: nearly every client sends just that.
    return value is not None and (
        value.lower() == token or any(part.strip().lower() == token for part in value.split(","))
    )
