"""Who keeps a client connected: opens one connection after another, reads it, and looks whether it lives."""

from __future__ import annotations

import asyncio
import logging
import random

from actors.backoff import Backoff
from engine.client_connection import ClientConnection
from engine.client_link import ClientLink, State
from engine.client_served import ClientServed
from engine.client_subscriptions import ClientSubscriptions
from engine.client_token import ClientToken
from transport.client_messages import CallMessage, Pong, Slow
from transport.codes import ErrorCode
from transport.errors import ConnectionLost, HeliographError, RequestError
from transport.requests import Ping

_log = logging.getLogger("heliograph.client")


class ClientKeeper:
    """From :meth:`start` to :meth:`close`; a refusal for good ends it, and with it the client.

    Args:
        link: what it keeps.
        subscriptions: get what is read.
        served: are called.
        token: shown to each connection.
        tls_ca_file: see :class:`engine.client.Client`, as the next two.
        open_timeout: seconds.
        connect_within: seconds.
    """

    def __init__(
        self,
        link: ClientLink,
        subscriptions: ClientSubscriptions,
        served: ClientServed,
        *,
        token: ClientToken,
        tls_ca_file: str | None,
        open_timeout: float,
        connect_within: float,
    ) -> None:
        self._link, self._subscriptions, self._served = link, subscriptions, served
        self._token, self._tls_ca_file = token, tls_ca_file
        self._open_timeout, self._connect_within = open_timeout, connect_within
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to connect, once."""
        self._link.connecting()
        self._task = asyncio.create_task(self._keep(), name="heliograph-client")

    async def close(self) -> None:
        """End what is in flight, cancel handlers of calls, close the connection."""
        self._end(None)
        await self._served.end()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None

    async def _keep(self) -> None:
        try:
            await self._stay_connected()
        except HeliographError as error:
            self._end(error)
        except Exception as error:
            _log.exception("the client failed")
            self._end(ConnectionLost(f"the client failed: {error!r}"))

    def _end(self, failure: HeliographError | None) -> None:
        if self._link.state is not State.CLOSED:
            self._link.end(failure)
            self._subscriptions.end(failure)

    async def _stay_connected(self) -> None:
        clock = asyncio.get_running_loop().time
        backoff = Backoff(self._link.reconnect)
        give_up: float | None = clock() + self._connect_within
        token = ""
        refused: RequestError | None = None  # of the last token: the one after it is another, and the last try
        while True:
            lasted, bye_delay = 0.0, None
            try:
                before, token = token, await self._token.current()
                if refused is not None and token == before:
                    raise refused
                connection = await ClientConnection.open(
                    self._link.url, token or None, self._open_timeout, self._tls_ca_file
                )
                give_up, refused = None, None
                opened = clock()
                why = await self._serve(connection)
                lasted = clock() - opened
                if (refusal := connection.refusal()) is not None:
                    raise refusal
                bye_delay = connection.bye.reconnect_in if connection.bye is not None else None
            except ConnectionLost as error:
                if give_up is not None and clock() >= give_up:
                    raise
                why = str(error)
            except RequestError as error:
                if refused is not None or error.code is not ErrorCode.UNAUTHORIZED or not self._token.renewable:
                    raise
                refused = error
                why = str(error)  # another token may be let in, once
            delay = backoff.failed(lasted)
            if bye_delay is not None and backoff.failures == 1:
                delay = bye_delay * random.random()  # the engine knows when it will be back
            self._link.connecting(f"{why}; reconnecting in {delay:.1f} s")
            await asyncio.sleep(delay)

    async def _serve(self, connection: ClientConnection) -> str:
        """Until the connection is lost; returns why."""

        def lost() -> None:
            self._link.lost()
            self._subscriptions.room_made()

        connection.on_request, connection.on_lost = self._subscriptions.room_made, lost
        self._link.opened(connection)
        why = ""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._watch(connection), name="heliograph-client-watch")
                if self._token.renewable and connection.welcome.expires is not None:
                    renewal = self._token.renew(connection, connection.welcome.expires)
                    tasks.create_task(renewal, name="heliograph-client-token")
                self._subscriptions.again(connection, tasks)
                self._served.again(connection, tasks)
                await self._read(connection)
        except* ConnectionLost as losses:
            why = str(losses.exceptions[0])
        finally:
            await connection.close()
        return why

    async def _read(self, connection: ClientConnection) -> None:
        while True:
            while connection.quiet and self._subscriptions.blocking:
                await self._subscriptions.room()
            message = await connection.receive()
            if isinstance(message, Slow):
                _log.warning(
                    "this client reads too slowly: %d of %d queued in the engine", message.queued, message.limit
                )
            elif isinstance(message, CallMessage):
                self._served.called(connection, message)
            else:
                self._subscriptions.deliver(message)

    async def _watch(self, connection: ClientConnection) -> None:
        # Liveness by requests, while reading: a stopped reader would not see the answer, and blames nobody.
        while True:
            received = connection.received
            await asyncio.sleep(connection.welcome.ping_interval)
            if connection.received == received and not self._subscriptions.blocking:
                try:
                    async with asyncio.timeout(self._link.request_timeout):
                        await connection.request(Ping(id=0), Pong)
                except TimeoutError:
                    raise ConnectionLost(f"{self._link.url} is silent") from None
                except RequestError as error:
                    _log.debug("ping was refused: %s", error)  # an answer, so the engine lives
