"""One process of the flood of :mod:`bench.flood`: connects, and looks at what it is answered.

    python -m bench.flooder HOST PORT RATE SECONDS

From the address :data:`SOURCE`, of its own. Sockets do not block, and are reset when they have been answered: one core
makes about 15,000 connections a second. Prints counts as JSON: ``attempts``, ``took`` (seconds), HTTP statuses,
``closed`` (without an answer), ``unanswered`` (in :data:`PATIENCE_S`, or while :data:`WAITING` later ones came) and
errors by their names.
"""

from __future__ import annotations

import errno
import json
import select
import socket
import struct
import sys
import time
from collections import Counter

SOURCE = "127.0.0.9"  # all of 127/8 is this machine
WAITING = 5_000  # connections at once; the oldest makes way
PATIENCE_S = 3.0  # for the last answers
BATCH = 32  # connections between two looks at answers
REQUEST = b"GET /ws HTTP/1.1\r\nHost: here\r\n\r\n"  # 426 for who is let in
_BIND_NO_PORT = 24  # IP_BIND_ADDRESS_NO_PORT: else the kernel looks for a port that is free for any destination
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() resets, and no port stays in TIME_WAIT
_UNDER_WAY = (0, errno.EINPROGRESS)


class Flooder:
    """Its sockets; ``counts`` says what came of them."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._poll = select.epoll()
        self._waiting: dict[int, socket.socket] = {}  # the oldest first
        self.counts: Counter[str] = Counter()

    def flood(self, rate: float, seconds: float) -> float:
        """Connect so often, or as often as it can; how long that took."""
        began = now = time.monotonic()
        while now < began + seconds:
            due = int((now - began) * rate) + 1 - self.counts["attempts"]
            for _ in range(min(due, BATCH)):
                self._connect()
            self._look(0.0 if due > BATCH else 0.001)
            now = time.monotonic()
        took, until = now - began, now + PATIENCE_S
        while self._waiting and time.monotonic() < until:
            self._look(0.1)
        while self._waiting:
            self._drop_oldest()
        return took

    def _connect(self) -> None:
        self.counts["attempts"] += 1
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_IP, _BIND_NO_PORT, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        sock.bind((SOURCE, 0))
        error = sock.connect_ex(self._address)
        if error not in _UNDER_WAY:
            self.counts[errno.errorcode[error]] += 1
            sock.close()
            return
        try:
            sock.send(REQUEST)
        except OSError:  # refused already, or not connected yet: what there is to read says it
            pass
        self._waiting[sock.fileno()] = sock
        self._poll.register(sock, select.EPOLLIN)
        if len(self._waiting) > WAITING:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        self.counts["unanswered"] += 1
        self._waiting.pop(next(iter(self._waiting))).close()

    def _look(self, patience: float) -> None:
        for number, _ in self._poll.poll(patience):
            sock = self._waiting.pop(number)
            try:
                said = sock.recv(12)
            except OSError:
                said = b""
            self.counts[said[9:12].decode("latin-1") or "closed"] += 1
            sock.close()


def main() -> None:
    """The command."""
    host, port, rate, seconds = sys.argv[1:]
    flooder = Flooder(host, int(port))
    took = flooder.flood(float(rate), float(seconds))
    print(json.dumps({"took": took, "counts": flooder.counts}))


if __name__ == "__main__":
    main()
