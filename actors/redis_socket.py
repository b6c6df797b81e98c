"""Opens the connection to a Redis and reads what it pushes; the library does the protocol, we the reconnecting."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, NoReturn
from urllib.parse import unquote, urlsplit

from redis import exceptions
from redis.asyncio import Connection

from actors.failure import FailureKind, UpstreamRefused
from actors.feed import FeedSpec
from actors.redis_protocol import RedisMessage, command
from actors.upstream_socket import ssl_context

PORT: Final = 6379
TURN: Final = 256
"""Messages taken from what was read before anybody else on the loop has a turn: some milliseconds of work."""

NO_REDIS: Final = (ValueError, RecursionError)
"""What bytes raise that no Redis sends: numbers that are none, lists in lists in lists, pushes of other things."""

_PING: Final = command("PING")


class _Connection(Connection):
    """The library's, with our own TLS, so that ``tls_*`` mean the same for all feeds.

    Tests hold the library to the names that this relies on: they are not in its documented interface.
    """

    def __init__(self, tls: Mapping[str, Any], **options: Any) -> None:
        super().__init__(**options)
        self._tls = tls

    def _connection_arguments(self) -> Mapping[str, Any]:
        return {**super()._connection_arguments(), **self._tls}

    @property
    def is_open(self) -> bool:
        """Whether it can be written to."""
        return self._writer is not None and not self._writer.is_closing()

    def abort(self) -> None:
        """End it at once."""
        if self._writer is not None:
            self._writer.transport.abort()


class RedisSocket:
    """A connection in subscriber mode (:class:`actors.feed_socket.FeedSocket`). It is read in :meth:`ended`.

    What is not read yet waits in the library's stream, at most some 100 KB, and then in the socket: Redis ends the
    connection of a subscriber that is too far behind (``client-output-buffer-limit pubsub``).
    """

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._take: Callable[[bytes], None] = lambda message: None
        self._reading = asyncio.Event()
        self._reading.set()
        self._over = False
        self._pongs: deque[asyncio.Future[None]] = deque()  # one at a time: a ping waits for its pong, or ends it all

    def deliver(self, take: Callable[[bytes], None]) -> None:
        """Give ``take`` each message from here on, as :class:`~actors.redis_protocol.RedisMessage`."""
        self._take = take

    def rest(self, resting: bool) -> None:
        """Read no more, or again."""
        if resting:
            self._reading.clear()
        else:
            self._reading.set()

    async def send(self, message: str | bytes) -> None:
        """Send a command (:func:`actors.redis_protocol.command`). Raises ConnectionError."""
        if self._over or not self._connection.is_open:  # the library would connect anew
            raise ConnectionResetError("the connection has ended")
        try:
            await self._connection.send_packed_command(message, check_health=False)
        except exceptions.RedisError as error:
            raise ConnectionResetError(str(error)) from None

    async def ping(self) -> Awaitable[None]:
        """Send a PING; what is returned is done with its answer."""
        pong: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pongs.append(pong)
        await self.send(_PING)
        return pong

    async def ended(self) -> NoReturn:
        """Read until the end; raises why."""
        taken = 0
        try:
            while True:
                await self._reading.wait()
                self._on_push(await self._connection.read_response(disable_decoding=True, disconnect_on_error=False))
                taken += 1
                if taken % TURN == 0:
                    await asyncio.sleep(0)
        except (exceptions.RedisError, *NO_REDIS) as error:
            raise _translated(error) from None
        finally:
            self._over = True
            for pong in self._pongs:
                if not pong.done():
                    pong.set_exception(ConnectionResetError("the connection has ended"))
                    pong.exception()  # whoever waits gets it, and nobody has to

    def _on_push(self, push: Any) -> None:
        if type(push) is not list or push[:1] == [b"pong"]:  # without any subscription yet, it is a plain answer
            if self._pongs and not (pong := self._pongs.popleft()).done():
                pong.set_result(None)
        else:
            self._take(RedisMessage.of(push))

    def abort(self) -> None:
        """End it at once."""
        self._connection.abort()


@asynccontextmanager
async def redis_socket(spec: FeedSpec, url: str, token: str | None) -> AsyncIterator[RedisSocket]:
    """An open connection that has authenticated; ``token`` is the password.

    The URL's database is not selected: channels have nothing to do with databases.

    Raises:
        OSError: as :func:`actors.diagnosis.classify` knows it.
        UpstreamRefused: it did not let us in, or is not ready; a TLS file cannot be used.
    """
    parts = urlsplit(url)
    tls: dict[str, Any] = {}
    if parts.scheme == "rediss":
        tls = {"ssl": ssl_context(spec.tls), "server_hostname": spec.tls.server_name or parts.hostname}
    connection = _Connection(
        tls,
        host=parts.hostname or "",
        port=parts.port or PORT,
        username=unquote(parts.username) if parts.username else None,
        password=token or (unquote(parts.password) if parts.password else None),
        protocol=2,  # all that pub/sub needs, and known to every server
        socket_timeout=None,  # deadlines are ours
        socket_connect_timeout=None,
    )
    try:
        try:
            async with asyncio.timeout(spec.connect_timeout_s):
                await connection.connect()  # type: ignore[no-untyped-call]
        except (exceptions.RedisError, *NO_REDIS) as error:
            raise _translated(error) from None
        except TimeoutError as error:
            if str(error):
                raise  # the network's own, with its reason
            raise TimeoutError(f"no connection within {spec.connect_timeout_s:g} s") from None
        yield RedisSocket(connection)
    finally:
        connection.abort()
        await connection.disconnect(nowait=True)


def _translated(error: Exception) -> Exception:
    """What the library raises, as :func:`actors.diagnosis.classify` knows it."""
    text = str(error).rstrip(".")
    match error:
        case exceptions.AuthenticationError():
            return UpstreamRefused(FailureKind.UNAUTHORIZED, text)
        case exceptions.BusyLoadingError() | exceptions.MasterDownError() | exceptions.ClusterDownError():
            return UpstreamRefused(FailureKind.UNAVAILABLE, text)
        case exceptions.ResponseError():
            is_away = text.startswith(("BUSY", "MASTERDOWN", "CLUSTERDOWN"))
            return UpstreamRefused(FailureKind.UNAVAILABLE if is_away else FailureKind.REJECTED, text)
        case exceptions.InvalidResponse() | ValueError() | RecursionError():
            return UpstreamRefused(FailureKind.PROTOCOL, text)
    if "max number of clients" in text:
        return UpstreamRefused(FailureKind.UNAVAILABLE, text)
    cause = error.__cause__ or error.__context__
    if isinstance(cause, (OSError, UnicodeError)):
        return cause
    return ConnectionResetError(text)
