"""What goes with a connection from one worker to another: its descriptor, who the peer is, and what was read of it."""

from __future__ import annotations

import os
import socket
import struct
from typing import Final

RECEIVED: Final = 512 * 1024  # bytes read of a connection that is passed on; a head and one read of the loop are less
_READ: Final = 64 * 1024  # bytes at once
_HEAD: Final = struct.Struct("!HBI")  # the peer's port, the length of its host, that of the bytes; then these two


def pack(peer: tuple[str, int], received: bytes) -> bytes:
    """The message that goes with the descriptor, which goes with its first byte."""
    host = peer[0].encode()
    return _HEAD.pack(peer[1], len(host), len(received)) + host + received


class Arrival:
    """A connection that another worker is giving away.

    Args:
        sock: where it comes from, non-blocking; belongs to the arrival.
    """

    __slots__ = ("_data", "_descriptor", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._descriptor: int | None = None
        self._data = bytearray()

    def read(self) -> tuple[socket.socket, tuple[str, int], bytes] | None:
        """Read what is there.

        Returns:
            Once it is whole: the client's socket, the peer's host and port, and what was read; ``None`` before.

        Raises:
            OSError: whoever gives has gone, or something else came.
        """
        try:
            while True:
                if self._descriptor is None:
                    data, descriptors, _, _ = socket.recv_fds(self.sock, _READ, 1)
                    if not descriptors:
                        raise OSError("no descriptor came")  # nothing at all, or there is no number left for it
                    self._descriptor = descriptors[0]
                    os.set_inheritable(self._descriptor, False)
                else:
                    data = self.sock.recv(_READ)
                if not data:
                    raise OSError("it ended too soon")
                self._data += data
                if (size := self._size()) is not None and len(self._data) >= size:
                    return self._whole()
        except (BlockingIOError, InterruptedError):
            return None

    def close(self) -> None:
        """Let go of all that was not taken."""
        self.sock.close()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _size(self) -> int | None:
        if len(self._data) < _HEAD.size:
            return None
        _, host, received = _HEAD.unpack_from(self._data)
        if received > RECEIVED:
            raise OSError("it is too large")
        return _HEAD.size + int(host) + int(received)

    def _whole(self) -> tuple[socket.socket, tuple[str, int], bytes]:
        assert self._descriptor is not None, "it comes with the first byte"
        client = socket.socket(fileno=self._descriptor)
        self._descriptor = None
        client.setblocking(False)
        port, size, _ = _HEAD.unpack_from(self._data)
        begin = _HEAD.size + size
        return client, (self._data[_HEAD.size : begin].decode(), port), bytes(self._data[begin:])
