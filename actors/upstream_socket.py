"""Opens the WebSocket to an upstream: TLS, proxy, limits, and deadlines of their own for connect and handshake."""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, NoReturn

from websockets.asyncio.client import ClientConnection
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidProxy
from websockets.frames import CloseCode, Frame, Opcode
from websockets.proxy import get_proxy, parse_proxy
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from actors.failure import FailureKind, UpstreamRefused
from actors.feed import FeedSpec, Tls, is_header
from transport.addresses import leads_here
from transport.connector import QUIET, Connect
from transport.reassembly import BadMessage, Reassembly, check_text

EARLY: Final = 16
"""Messages kept that come before anybody takes them; then the socket rests. What one read brought comes on top."""
TURN_BYTES: Final = 1 << 16
"""A read that brought so much was one of many: the socket rests until the next turn of the loop. uvloop would read up
to 32 times 256 KB in one, which is seconds of work for us, and no other feed would have its turn."""
UNSENT_BYTES: Final = 16 << 20
"""What may wait to be sent: one message of ours, and answers to pings, which an upstream may send without reading."""

_DATA = frozenset({Opcode.CONT, Opcode.TEXT, Opcode.BINARY})


class UpstreamSocket(ClientConnection):
    """A connection that hands over each message as it comes: half the cost of the library's ``recv()``.

    Text that is not UTF-8 ends the connection with 1007. Tests hold the library to the calls that this relies on: they
    are not in its documented interface.

    Attributes:
        binary: whether the message that is being handed over came as a binary one.
    """

    def __init__(self, *args: Any, on_transport: Callable[[], None], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _let_close_at_any_time(self.protocol)
        self._on_transport = on_transport  # from there on it is the handshake that is waited for
        self._early: list[tuple[bytes, bool]] = []
        self._take: Callable[[bytes], None] = self._keep
        self._partial: Reassembly | None = None
        self.binary = False
        self._overdue: asyncio.TimerHandle | None = None
        self._resting = False

    def deliver(self, take: Callable[[bytes], None]) -> None:
        """Give ``take`` each message from here on, first those that have come already. It must not raise."""
        early, self._early, self._take = self._early, [], take
        for message, self.binary in early:
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
        self._early.append((message, self.binary))
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
        else:
            try:
                self._join(event)
            except BadMessage as error:
                self._take = _ignore  # also what came with it
                self.protocol.fail(error.code, error.message)
                self.send_data()
                self.close_deadline = self.loop.time() + (self.close_timeout or 0.0)

    def _join(self, frame: Frame) -> None:
        data = bytes(frame.data)
        if frame.opcode is not Opcode.CONT:
            binary = frame.opcode is Opcode.BINARY
            if frame.fin:
                if not binary:
                    check_text(data)
                self.binary = binary
                self._take(data)
                return
            self._partial = Reassembly(binary, self.protocol.max_message_size or sys.maxsize)
        partial = self._partial
        assert partial is not None, "the library lets no stray continuation through"
        message = partial.add(data, frame.fin)
        if message is not None:
            self.binary, self._partial = partial.binary, None
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


def _ignore(message: bytes) -> None:
    """What ``_take`` is once the connection has failed."""


def _let_close_at_any_time(protocol: ClientProtocol) -> None:
    """Amid fragments, too, as any control frame (RFC 6455 section 5.4); to the library that is an error."""
    receive = protocol.recv_frame

    def recv_frame(frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE:
            protocol.current_size = None
        receive(frame)

    protocol.recv_frame = recv_frame  # type: ignore[method-assign]


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

            socket: Any = await Connect(
                url,
                additional_headers=headers,
                subprotocols=[Subprotocol(name) for name in spec.protocol.kind.subprotocols] or None,
                compression=None,
                proxy=_proxy_of(spec.proxy, url),
                open_timeout=None,
                close_timeout=spec.close_timeout_s,
                ping_interval=None,  # its pongs cannot be told late from unread
                max_size=spec.message_bytes,
                logger=QUIET,
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
