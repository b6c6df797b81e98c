"""Opens the WebSocket to an upstream: TLS, proxy, limits, and deadlines of their own for connect and handshake."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, NoReturn

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidProxy
from websockets.frames import CloseCode, Opcode
from websockets.proxy import get_proxy, parse_proxy
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from actors.failure import FailureKind, UpstreamRefused
from actors.feed import FeedSpec, Tls, is_header
from transport.addresses import leads_here

EARLY: Final = 16
"""Messages kept that come before anybody takes them; then the socket rests. What one read brought comes on top."""
TURN_BYTES: Final = 1 << 16
"""A read that brought so much was one of many: the socket rests until the next turn of the loop. uvloop would read up
to 32 times 256 KB in one, which is seconds of work for us, and no other feed would have its turn."""
UNSENT_BYTES: Final = 16 << 20
"""What may wait to be sent: one message of ours, and answers to pings, which an upstream may send without reading."""

_DATA = frozenset({Opcode.CONT, Opcode.TEXT, Opcode.BINARY})

_log = logging.getLogger(__name__)
_log.setLevel(logging.WARNING)  # what it says of opening and closing is in our own lines; its debug has headers


class UpstreamSocket(ClientConnection):
    """A connection that hands over each message as it comes: half the cost of the library's ``recv()``.

    Tests hold the library to the calls that this relies on: they are not in its documented interface.
    """

    def __init__(self, *args: Any, on_transport: Callable[[], None], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._on_transport = on_transport  # from there on it is the handshake that is waited for
        self._early: list[bytes] = []
        self._take: Callable[[bytes], None] = self._keep
        self._parts = bytearray()  # not a list of fragments: a million empty ones must not take memory
        self._overdue: asyncio.TimerHandle | None = None
        self._resting = False

    def deliver(self, take: Callable[[bytes], None]) -> None:
        """Give ``take`` each message from here on, first those that have come already. It must not raise."""
        early, self._early, self._take = self._early, [], take
        for message in early:
            self._take(message)
        self.rest(False)

    def rest(self, resting: bool) -> None:
        """Read no more, or again."""
        self._resting = resting
        self._read_on(not resting)

    async def ended(self) -> NoReturn:
        """Wait for the end; raises why."""
        await self.wait_closed()
        await self.recv()
        raise AssertionError("a connection that is closed has no message")

    def abort(self) -> None:
        """End it without closing handshake."""
        self.transport.abort()

    def _read_on(self, wanted: bool = True) -> None:
        if not self.transport.is_closing():
            if wanted and not self._resting:
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()

    def _keep(self, message: bytes) -> None:
        self._early.append(message)
        if len(self._early) == EARLY:
            self.rest(True)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._on_transport()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
        super().connection_lost(exc)

    def process_event(self, event: Any) -> None:
        if self.response is None or event.opcode not in _DATA:
            super().process_event(event)
        elif event.fin and event.opcode is not Opcode.CONT:
            self._take(bytes(event.data))
        else:
            self._parts += event.data
            if event.fin:
                message = bytes(self._parts)
                self._parts.clear()
                self._take(message)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.get_write_buffer_size() > UNSENT_BYTES:
            self.protocol.fail(CloseCode.POLICY_VIOLATION, f"{UNSENT_BYTES} bytes wait to be sent")
            self.transport.abort()
        elif len(data) >= TURN_BYTES:
            self._read_on(False)
            self.loop.call_soon(self._read_on)
        if self._overdue is None and self.close_deadline is not None:
            # It is the peer who ends the TCP connection after both close frames; the library waits for that for ever.
            self._overdue = self.loop.call_at(self.close_deadline, self.transport.abort)


class _Connect(connect):
    """Follows no redirect: headers with keys would go to whom the upstream names."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


@asynccontextmanager
async def upstream_socket(spec: FeedSpec, url: str, token: str | None) -> AsyncIterator[UpstreamSocket]:
    """An open connection; at the end of the block it is closed with 1000, within ``close_timeout_s``.

    Raises:
        OSError, websockets.exceptions.WebSocketException: as :func:`actors.diagnosis.classify` knows them.
        UpstreamRefused: a file, header, token or proxy of ours cannot be used; secrets are not shown.
    """
    loop = asyncio.get_running_loop()
    headers = dict(spec.headers)
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    for name, value in headers.items():  # the library's own error would show the value
        if not is_header(name, value):
            raise UpstreamRefused(FailureKind.REJECTED, f"header {name!r} or its value holds what no header may")
    tls: dict[str, Any] = {}
    if url.startswith("wss:"):
        tls["ssl"] = ssl_context(spec.tls)
        if spec.tls.server_name is not None:  # a name of None would be none: through a proxy, any certificate would do
            tls["server_hostname"] = spec.tls.server_name
    waiting_for = f"connection within {spec.connect_timeout_s:g} s"
    try:
        async with asyncio.timeout(spec.connect_timeout_s) as deadline:

            def shaking_hands() -> None:
                nonlocal waiting_for
                waiting_for = f"handshake within {spec.handshake_timeout_s:g} s"
                deadline.reschedule(loop.time() + spec.handshake_timeout_s)

            socket: Any = await _Connect(
                url,
                additional_headers=headers,
                subprotocols=[Subprotocol(name) for name in spec.protocol.kind.subprotocols] or None,
                compression=None,
                proxy=_proxy_of(spec.proxy, url),
                open_timeout=None,
                close_timeout=spec.close_timeout_s,
                ping_interval=None,  # its pongs cannot be told late from unread
                max_size=spec.message_bytes,
                logger=_log,
                create_connection=partial(UpstreamSocket, on_transport=shaking_hands),  # type: ignore[arg-type]
                **tls,
            )
    except TimeoutError as error:
        if str(error):
            raise  # the network's own, with its reason
        raise TimeoutError(f"no {waiting_for}") from None
    except UnicodeError as error:  # of a proxy's host; the upstream's was looked at before
        raise UpstreamRefused(FailureKind.DNS, f"a host is no name: {error}") from None
    try:
        yield socket
    finally:
        try:
            async with asyncio.timeout(spec.close_timeout_s):
                await socket.close()
        except TimeoutError:
            pass  # the upstream does not even take what was to be sent before
        finally:
            socket.transport.abort()  # no socket is left behind, also by who is cancelled while it closes


def ssl_context(tls: Tls) -> ssl.SSLContext:
    """Made anew for each attempt, so that renewed files are used.

    Raises:
        UpstreamRefused: one of them cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
        if tls.cert_file is not None:
            context.load_cert_chain(tls.cert_file, tls.key_file, password="")  # else OpenSSL asks the terminal for one
    except OSError as error:  # an SSLError is one
        files = ", ".join(file for file in (tls.ca_file, tls.cert_file, tls.key_file) if file is not None)
        raise UpstreamRefused(FailureKind.TLS, f"cannot use {files}: {error.strerror or error}") from None
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _proxy_of(proxy: str | None, url: str) -> str | None:
    """The configured one, else the environment's, which is none for addresses of this machine."""
    if proxy is None and not leads_here(url):
        proxy = get_proxy(parse_uri(url))
    if not proxy:
        return None
    try:
        parse_proxy(proxy)
    except (InvalidProxy, ValueError):  # whose text holds the password
        wanted = "a URL of scheme http, https or socks5h with a host, and with a password if it has a user"
        raise UpstreamRefused(FailureKind.REFUSED, f"what is given isn't a valid proxy: {wanted}") from None
    return proxy
