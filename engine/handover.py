"""A listening socket goes from a worker to its successor, so that a restart of the workers refuses nobody.

Both have the same socket then, and so the same queue of connections in the kernel: when the old one closes its
descriptor nothing of the queue is lost. With a socket of its own instead, what waits in the old one's queue would be
reset. The descriptor goes over a Unix socket in the runtime directory, ``dINDEX.sock``.
"""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

from engine.log import get_logger

TIMEOUT = 5.0  # s that a successor waits for a predecessor that is there
WAITING = 4  # successors that may wait; there is one


def _path(directory: str, index: int) -> Path:
    return Path(directory, f"d{index}.sock")  # short: a Unix socket has 107 bytes for its path


class Handover:
    """The old worker's end: whoever asks gets the socket. All on one loop.

    Args:
        directory: the runtime directory.
        index: the worker's number.
        sock: listening, when somebody asks; stays the caller's.
    """

    def __init__(self, directory: str, index: int, sock: socket.socket) -> None:
        self._path, self._given = _path(directory, index), sock
        self._door: socket.socket | None = None

    def start(self) -> None:
        """Answer from now on; raises :class:`OSError` where that is impossible."""
        self._path.unlink(missing_ok=True)  # of a life that was killed
        self._door = socket.socket(socket.AF_UNIX)
        self._door.setblocking(False)
        self._door.bind(os.fspath(self._path))
        self._door.listen(WAITING)
        asyncio.get_running_loop().add_reader(self._door, self._give)

    def stop(self) -> None:
        """Answer no more. Idempotent."""
        door, self._door = self._door, None
        if door is not None:
            asyncio.get_running_loop().remove_reader(door)
            door.close()
            self._path.unlink(missing_ok=True)

    def _give(self) -> None:
        assert self._door is not None, "the reader goes with it"
        try:
            asking, _ = self._door.accept()
        except OSError:
            return  # it has gone again
        with asking:
            try:
                socket.send_fds(asking, [b"s"], [self._given.fileno()])
            except OSError as error:
                get_logger().error("handover_failed", error=str(error))


def take_over(directory: str, index: int) -> socket.socket | None:
    """The listening socket of worker ``index``; ``None`` if there is no such worker, or it does not answer.

    Blocks the thread, for milliseconds; for :data:`TIMEOUT` where the worker hangs.
    """
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(TIMEOUT)
        try:
            asking.connect(os.fspath(_path(directory, index)))
            _, descriptors, _, _ = socket.recv_fds(asking, 1, 1)
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except OSError as error:
            get_logger().warning("handover_missed", predecessor=index, error=str(error))
            return None
    if not descriptors:
        return None
    taken = socket.socket(fileno=descriptors[0])
    taken.setblocking(False)
    return taken
