"""Where published messages go: a WebSocket to the target, or a Redis that it reads."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, Protocol
from urllib.parse import SplitResult, unquote, urlsplit

from websockets.uri import parse_uri

from actors.backoff import Backoff
from actors.redis_protocol import command
from engine.loadtest.chunk_reader import ChunkReader
from engine.loadtest.client_socket import ClientSocket
from engine.loadtest.dialect import FIRST_REQUEST, Heard, Means, dialect_of
from engine.loadtest.dialer import Dialer, words
from engine.loadtest.frames import frame
from engine.loadtest.member import BACKOFF, Member
from engine.loadtest.reasons import Reasons
from engine.loadtest.sequences import Strays
from engine.loadtest.target import Target
from transport.errors import ConfigError

UNSENT_BYTES: Final = 1 << 14
"""Above it the other side does not take what it is given: it is blocked."""
ANSWERS_S: Final = 0.02
"""Between two reads of what a server answers."""
REDIS_PORT: Final = 6379


class Sink(Protocol):
    """A connection that comes back by itself.

    Attributes:
        writable: set while the other side takes messages.
        answered: publishes that were accepted, where publishes are answered.
        errors: answers that refuse, and why the connection went; whoever tells them on empties it.
    """

    writable: asyncio.Event
    answered: int
    errors: Reasons

    async def open(self) -> None:
        """Raises :class:`ConfigError` where there is no connection to be had."""
        ...

    def send(self, first: int, data: Sequence[bytes]) -> None:
        """Publish these, the first one with this sequence; while not :attr:`writable` it is lost."""
        ...

    async def close(self) -> None:
        """For good."""
        ...


class _PublisherSocket(ClientSocket):
    __slots__ = ("_writable",)

    def __init__(self, writable: asyncio.Event, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._writable = writable

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.set_write_buffer_limits(high=UNSENT_BYTES)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Answers are counted, not timed: many are read at once, for a read costs as much as publishing does."""
        super().data_received(data)
        if not self._transport.is_closing():
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(ANSWERS_S, self._read_on)

    def _read_on(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()


class WebSocketSink:
    """Publishes as the target's clients do."""

    recovers = answers = nothing_yet = False

    def __init__(self, target: Target, connect_timeout: float) -> None:
        self.connect_timeout = connect_timeout
        self._dialect = dialect_of(target, publisher=True)
        self._uri = parse_uri(target.full_url)
        self._dialer = Dialer(self._uri, target.ssl_context())
        self._reader = ChunkReader(self._dialect, lambda stamps, times: None)
        self._member = Member(self, 0)
        self._returning: asyncio.Task[None] | None = None
        self._closing = False
        self.writable = asyncio.Event()
        self.answered, self.errors = 0, Reasons()

    async def open(self) -> None:
        await self._dialer.resolve()
        reason = await self._member.connect()
        if reason is not None:
            raise ConfigError(f"the publisher gets no connection: {reason}", "target.url")

    def send(self, first: int, data: Sequence[bytes]) -> None:
        if (socket := self._member.socket) is not None:
            publication, begin = self._dialect.publication, first + FIRST_REQUEST
            socket.write(b"".join([frame(publication(begin + n, one)) for n, one in enumerate(data)]))
            self._reader.drain()

    async def close(self) -> None:
        self._closing = True
        if self._returning is not None:
            self._returning.cancel()
        if self._member.socket is not None:
            self._member.socket.close()
        await asyncio.sleep(0)  # asyncio's transports close in the next turn

    # engine.loadtest.member.Company

    def socket(self, member: Member) -> ClientSocket:
        return _PublisherSocket(self.writable, member, self._dialect, self._reader, self._uri, member.sequences)

    async def dial(self, socket: ClientSocket, number: int) -> None:
        await self._dialer.connect(socket, number)

    def came(self, member: Member, away: float | None) -> None:
        self.writable.set()

    def went(self, member: Member, reason: str) -> None:
        self.writable.clear()
        if not self._closing:
            self.errors.say(f"connection lost: {reason}")
            self._returning = asyncio.create_task(member.come_back())

    def failed(self, reason: str) -> None:
        self.errors.say(reason)

    def recovered(self, away: float) -> None:
        pass

    def strays(self, strays: Strays) -> None:
        pass

    def heard(self, socket: ClientSocket, heard: Heard) -> None:
        if heard.means is Means.ANSWERED:
            self.answered += 1
        elif heard.means is Means.FAILED:
            self.errors.say(heard.text)


class RedisSink(asyncio.Protocol):
    """PUBLISH to a channel; Redis answers with how many listen, which is told as an error where nobody does."""

    def __init__(self, url: str, channel: str, connect_timeout: float) -> None:
        self._parts = _redis_url(url)
        self._channel, self._timeout = channel, connect_timeout
        self._transport: Any = None  # asyncio.Transport, while connected
        self._logins, self._refusal = 0, ""
        self._ready: asyncio.Future[None] | None = None
        self._rest = b""
        self._backoff = Backoff(BACKOFF)
        self._returning: asyncio.Task[None] | None = None
        self._closing = False
        self.writable = asyncio.Event()
        self.answered, self.errors = 0, Reasons()

    async def open(self) -> None:
        try:
            await self._connect()
        except OSError as error:
            where = f"{self._parts.hostname}:{self._parts.port or REDIS_PORT}"
            raise ConfigError(f"no Redis at {where}: {words(error)}", "publish.redis_url") from None

    async def _connect(self) -> None:
        parts = self._parts
        loop = asyncio.get_running_loop()
        self._ready, self._refusal, self._rest = loop.create_future(), "", b""
        async with asyncio.timeout(self._timeout):
            await loop.create_connection(
                lambda: self, parts.hostname or "", parts.port or REDIS_PORT, ssl=parts.scheme == "rediss" or None
            )
            await self._ready

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._transport.set_write_buffer_limits(high=UNSENT_BYTES)
        logins = [command("PING")]
        if self._parts.password is not None:
            user = [unquote(self._parts.username)] if self._parts.username else []
            logins.insert(0, command("AUTH", *user, unquote(self._parts.password)))
        if database := self._parts.path.strip("/"):
            logins.append(command("SELECT", database))
        self._logins = len(logins)
        self._transport.write(b"".join(logins))

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\r\n")
        for line in lines:
            if self._logins:
                self._logins -= 1
                self._refusal = self._refusal or (line[1:].decode(errors="replace") if line[:1] == b"-" else "")
                if not self._logins:
                    self._logged_in()
            elif line[:1] == b"-":
                self.errors.say(line[1:200].decode(errors="replace"))
            elif line == b":0":
                self.errors.say(f"nobody listens to the channel {self._channel}")
            else:
                self.answered += 1

    def _logged_in(self) -> None:
        assert self._ready is not None
        if self._ready.done():
            return
        if self._refusal:
            self._ready.set_exception(OSError(self._refusal))
            self._transport.abort()
        else:
            self._ready.set_result(None)
            self.writable.set()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.writable.clear()
        self._transport = None
        reason = str(exc or "closed by Redis")
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(OSError(reason))
        elif not self._refusal and not self._closing:
            self.errors.say(f"connection lost: {reason}")
            self._returning = asyncio.create_task(self._come_back())

    async def _come_back(self) -> None:
        while True:
            await asyncio.sleep(self._backoff.failed())
            try:
                await self._connect()
                self._backoff.reset()
                return
            except OSError as error:  # timeouts, too
                self.errors.say(words(error))

    def send(self, first: int, data: Sequence[bytes]) -> None:
        if self._transport is not None:
            channel = self._channel.encode()
            head = b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%b\r\n" % (len(channel), channel)
            self._transport.write(b"".join([b"%b$%d\r\n%b\r\n" % (head, len(one), one) for one in data]))

    async def close(self) -> None:
        self._closing = True
        if self._returning is not None:
            self._returning.cancel()
        if self._transport is not None:
            self._transport.close()
        await asyncio.sleep(0)


def _redis_url(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        if parts.scheme in ("redis", "rediss") and parts.hostname and parts.port != 0:
            return parts
    except ValueError:
        pass
    raise ConfigError("must be redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE] or rediss://…", "publish.redis_url")
