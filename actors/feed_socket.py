"""What a feed's connection needs of a socket, and which one a URL's scheme asks for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final, NoReturn, Protocol

from websockets.exceptions import ConnectionClosed

from actors.feed import FeedSpec
from actors.upstream_socket import upstream_socket

REDIS_SCHEMES: Final = ("redis:", "rediss:")
CLOSED: Final = (ConnectionClosed, ConnectionError)
"""What :meth:`FeedSocket.send` and :meth:`FeedSocket.ping` raise at the end; :meth:`FeedSocket.ended` says why."""


class FeedSocket(Protocol):
    """An open connection to an upstream, whatever it speaks."""

    def deliver(self, take: Callable[[bytes], None]) -> None:
        """Give ``take`` each message from here on, in order, those first that have come already. It must not raise."""

    def rest(self, resting: bool) -> None:
        """Read no more, so that the upstream has to wait, or again."""

    async def send(self, message: str | bytes) -> None:
        """Raises one of :data:`CLOSED`."""

    async def ping(self) -> Awaitable[object]:
        """Send a ping; what is returned is done with its pong. Both raise one of :data:`CLOSED`."""

    async def ended(self) -> NoReturn:
        """Wait for the end, which raises why: what :func:`actors.diagnosis.classify` knows."""

    def abort(self) -> None:
        """End it at once, without a farewell."""


def open_socket(spec: FeedSpec, url: str, token: str | None) -> AbstractAsyncContextManager[FeedSocket]:
    """An open connection to ``url`` for the time of the block.

    Raises:
        OSError, websockets.exceptions.WebSocketException, UpstreamRefused: when it is entered.
    """
    if url.startswith(REDIS_SCHEMES):
        from actors.redis_socket import redis_socket  # its library is an extra

        return redis_socket(spec, url, token)
    return upstream_socket(spec, url, token)
