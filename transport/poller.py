"""A ZeroMQ socket on an asyncio or uvloop loop by its file descriptor, without a future per message.

ZeroMQ's descriptor is edge-triggered and any call on the socket may swallow its edge (zmq_getsockopt(3), ZMQ_FD): so
reading goes on until EVENTS says that nothing is left, and whoever sends must :meth:`Poller.kick` afterwards.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import Callable
from typing import Final

import zmq
import zmq.backend

TURN_MESSAGES = 32
TURN_BYTES = 256 << 10

# zmq's options are enums, whose arithmetic is done in Python.
NOBLOCK: Final = int(zmq.NOBLOCK)
NOBLOCK_MORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)
_EVENTS: Final = int(zmq.EVENTS)
_POLLIN: Final = int(zmq.POLLIN)
_RCVMORE: Final = int(zmq.RCVMORE)

send: Final[Callable[[zmq.Socket[bytes], bytes, int], object]] = zmq.backend.Socket.send
"""Of one frame. That of :class:`zmq.Socket` looks for arguments of other kinds of sockets first: 1 µs."""


def events(sock: zmq.Socket[bytes]) -> int:
    """What ``sock`` is ready for, ``zmq.POLLIN | zmq.POLLOUT``; asking also lets zmq take note of new connections."""
    flags: int = sock.getsockopt(_EVENTS)  # type: ignore[assignment]  # bytes only for other options
    return flags


class Poller:
    """Calls ``on_readable(frames)`` for each multipart message that arrives on ``sock``, on the loop's thread.

    After ``TURN_MESSAGES`` messages or ``TURN_BYTES`` bytes it gives way to the loop and goes on in its next turn. The
    callback may send, kick and close; if it raises, the loop's exception handler is told and reading goes on.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: zmq.Socket[bytes], on_readable: Callable[[list[bytes]], None]
    ) -> None:
        self._loop, self._sock, self._on_readable = loop, sock, on_readable
        self._fd = int(sock.getsockopt(zmq.FD))
        self._closed = False
        self._scheduled = False
        loop.add_reader(self._fd, self._drain)
        self.kick()  # what arrived before the reader was added raises no edge any more

    def kick(self) -> None:
        """Make sure that what is readable will be read. Call it after every send."""
        if not self._scheduled and not self._closed and events(self._sock) & _POLLIN:
            self._scheduled = True
            self._loop.call_soon(self._drain)

    def close(self) -> None:
        """Stop reading. Call it before the socket is closed; no callback comes after it."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._fd)

    def _drain(self) -> None:
        sock, size, more = self._sock, 0, True
        self._scheduled = True  # a kick from within the callback is this very loop
        try:
            for taken in range(TURN_MESSAGES):
                # Each question costs zmq three system calls; its descriptor was readable, so mostly one is there.
                more = not self._closed and (not taken or bool(events(sock) & _POLLIN))
                if not more:
                    return
                try:
                    frames = [sock.recv(NOBLOCK)]
                except zmq.Again:
                    more = False
                    return
                while sock.getsockopt(_RCVMORE):
                    frames.append(sock.recv(NOBLOCK))
                self._on_readable(frames)
                size += len(frames[-1])
                if size >= TURN_BYTES:
                    break
        finally:
            self._scheduled = False
            if more:
                self.kick()


class Monitor:
    """Calls ``on_event(event)`` with zmq's event number when a socket connects, disconnects or closes.

    In-process endpoints have no such events.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: zmq.Socket[bytes], events: int, on_event: Callable[[int], None]
    ) -> None:
        # pyzmq's own get_monitor_socket() names the endpoint by descriptor, which a closing socket may still hold.
        address = f"inproc://monitor.{secrets.token_hex(8)}"
        sock.monitor(address, events)
        self._sock, self._on_event = sock, on_event
        self._pair: zmq.Socket[bytes] = sock.context.socket(zmq.PAIR)
        self._pair.linger = 0
        self._pair.connect(address)
        self._poller = Poller(loop, self._pair, self._on_frames)

    def wait(self, event: int, timeout: float) -> bool:
        """Block until ``event`` comes, for at most ``timeout`` seconds; other events are dropped. For closing only."""
        self._poller.close()
        while self._pair.poll(int(timeout * 1000)):
            if _event(self._pair.recv_multipart()) == event:
                return True
        return False

    def close(self) -> None:
        """Stop watching; call it before the watched socket is closed."""
        self._poller.close()
        self._sock.disable_monitor()
        self._pair.close()

    def _on_frames(self, frames: list[bytes]) -> None:
        self._on_event(_event(frames))


def _event(frames: list[bytes]) -> int:
    return int.from_bytes(frames[0][:2], sys.byteorder)  # zmq_socket_monitor(3): 16 bits of event, 32 of value
