"""Connections that are refused before anything is read, without a transport each.

That is two thirds of the CPU: 45 to 54 µs instead of 64 to 82, of which the loop's own turn is a part; of 10,000 a
second (``python -m bench.flood``) each costs 28 to 36.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from typing import Final

LINGERING: Final = 256  # refused sockets at once; beyond them the oldest is closed at once
LINGER: Final = 1.0  # seconds that a refused socket stays
READ: Final = 65_536  # bytes


class Refusals:
    """Answers, ends our side, and closes a little later.

    To close with bytes unread would reset the connection and destroy the answer, and the request of who has just
    connected is still on its way.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lingering: deque[tuple[float, socket.socket]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def refuse(self, sock: socket.socket, answer: bytes) -> None:
        """Send ``answer`` as far as the kernel takes it at once, and be done with ``sock``, a non-blocking one."""
        try:
            sock.send(answer)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            sock.close()
            return
        self._lingering.append((self._loop.time() + LINGER, sock))
        if len(self._lingering) > LINGERING:
            self._close_oldest()
        if self._timer is None:
            self._timer = self._loop.call_later(LINGER, self._sweep)

    def stop(self) -> None:
        """Close all."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._lingering:
            self._close_oldest()

    def _sweep(self) -> None:
        now = self._loop.time()
        while self._lingering and self._lingering[0][0] <= now:
            self._close_oldest()
        self._timer = self._loop.call_later(LINGER, self._sweep) if self._lingering else None

    def _close_oldest(self) -> None:
        _, sock = self._lingering.popleft()
        try:
            sock.recv(READ)
        except OSError:
            pass
        sock.close()
