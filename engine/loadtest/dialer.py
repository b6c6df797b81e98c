"""TCP and TLS connections to the target: its name is resolved once, and ports of ours do not run out."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import ssl
from typing import Final

from websockets.uri import WebSocketURI

from transport.errors import ConfigError

PER_ADDRESS: Final = 20_000
"""Connections from one address of ours to one port: the system has some 28,000 ports for them."""


class Dialer:
    """One for all connections of a process; on its loop. TLS as ``context`` has it, for ``wss://``."""

    def __init__(self, uri: WebSocketURI, context: ssl.SSLContext | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._uri, self._context = uri, context
        self._addresses: list[str] = []

    async def resolve(self) -> None:
        """Find the host's addresses: 10,000 connects shall not ask for them.

        Raises:
            ConfigError: it has none.
        """
        try:
            infos = await self._loop.getaddrinfo(self._uri.host, self._uri.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise ConfigError(f"{self._uri.host}: {error.strerror or error}", "target.url") from None
        self._addresses = list(dict.fromkeys(str(info[4][0]) for info in infos))

    async def connect(self, protocol: asyncio.Protocol, number: int) -> None:
        """Make the connection of client ``number``, to the first address that takes it.

        Raises:
            OSError: none does; of the last one.
        """
        failure: OSError | None = None
        for address in list(self._addresses):
            try:
                await self._loop.create_connection(
                    lambda: protocol,
                    address,
                    self._uri.port,
                    ssl=self._context,
                    server_hostname=self._uri.host if self._context is not None else None,
                    local_addr=source(address, number),
                )
            except OSError as error:
                failure = error
                continue
            if address != self._addresses[0]:
                self._addresses.sort(key=address.__ne__)  # the next ones begin with it
            return
        raise failure or OSError("no address")


def words(error: OSError) -> str:
    """Why there is no connection; the same on all loops."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate: {error.verify_message}"
    if isinstance(error, ssl.SSLError) or not error.errno:
        return f"TLS: {error}" if isinstance(error, ssl.SSLError) else str(error) or type(error).__name__
    return os.strerror(error.errno)


def source(address: str, number: int) -> tuple[str, int] | None:
    """Where client ``number`` calls from; ``None``: as the system likes. Only on loopback there is a choice."""
    group = number // PER_ADDRESS
    if not group or not address.startswith("127.") or not ipaddress.ip_address(address).is_loopback:
        return None
    return f"127.0.1.{group}", 0
