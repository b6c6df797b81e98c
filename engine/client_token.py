"""Who a client says it is: a token, or a function that gives one, which is asked again before the last one ends."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from engine.client_connection import ClientConnection
from transport.client_messages import Authenticated, Pong
from transport.errors import ConnectionLost, RequestError
from transport.requests import Auth, Ping

RENEWAL = 0.8  # of a token's life; then a function is asked for another
RENEWAL_LEAST_S = 0.5

Token: TypeAlias = str | Callable[[], str | Awaitable[str]]
_log = logging.getLogger("heliograph.client")


class ClientToken:
    """The token of one client, ``None`` or empty: none."""

    def __init__(self, token: Token | None) -> None:
        self._token = token

    @property
    def renewable(self) -> bool:
        """Whether another may be had."""
        return callable(self._token)

    async def current(self) -> str:
        """The token to show now.

        Raises:
            ConnectionLost: the function failed. Most likely the service that mints tokens is away, which passes as a
                lost connection does.
        """
        if not callable(self._token):
            return self._token or ""
        try:
            token = self._token()
            return await token if inspect.isawaitable(token) else token
        except Exception as error:
            raise ConnectionLost(f"the token function raised {type(error).__name__}") from error

    async def renew(self, connection: ClientConnection, expires: float) -> None:
        """Send another token before the present one ends, at ``expires``, Unix seconds; and so on. What fails is tried
        again; at the end the engine closes.

        Raises:
            ConnectionLost: of this connection.
        """
        while True:
            left = expires - (await connection.request(Ping(id=0), Pong)).ts  # by the engine's clock
            await asyncio.sleep(max(RENEWAL_LEAST_S, RENEWAL * left))
            try:
                request = Auth(id=0, token=await self.current())
            except ConnectionLost as error:  # not this connection's: see there
                _log.warning("no new token: %s", error)
                continue
            try:
                expires = (await connection.request(request, Authenticated)).expires
            except RequestError as error:
                _log.warning("a new token was refused: %s", error)
