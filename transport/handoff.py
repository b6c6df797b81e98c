"""A client's connection goes to the worker that has its session.

The kernel spreads connections over the workers, and a client of Engine.IO makes several for one session. The session's
name begins with its worker's token, and the token names a Unix socket in the runtime directory. Whoever reads a request
of another's session gives away the connection's descriptor with the bytes that it has read; under TLS, whose keys stay
here, one end of a pair of sockets (:mod:`transport.relay`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import socket
import string
from collections.abc import Callable
from pathlib import Path
from typing import Final

from transport.arrival import RECEIVED, Arrival, pack
from transport.descriptors import highest_descriptor
from transport.relay import BUFFER, Relay

TOKEN_LENGTH: Final = 8  # characters
BACKLOG: Final = 1024  # connections that wait for a worker that hangs; the next ones are refused
ACCEPTS: Final = 32  # a turn of the loop
UNFINISHED: Final = 64  # connections of whose bytes the kernel has not taken all, and as many that did not all come
TIMEOUT: Final = 5.0  # s for their rest
GOODBYE: Final = 1.0  # s for the client of a relay to take what is left and to answer TLS's end; a pool may not
FULL_PAUSE: Final = 1.0  # s without accepting when descriptors run out
# So much of a request waits in the kernel for a worker that hangs; the rest waits here.
_SEND_BUFFER: Final = 8 * 1024  # the kernel doubles it
_SMALL: Final = 4 * 1024  # bytes that it takes at once

_ALPHABET: Final = string.ascii_letters + string.digits
_TOKEN: Final = re.compile(rf"[A-Za-z0-9]{{{TOKEN_LENGTH}}}")

_log = logging.getLogger(__name__)

Adopt = Callable[[socket.socket, tuple[str, int], bytes], None]


def _path(directory: str, token: str) -> str:
    return os.path.join(directory, f"{token}.sock")


class Handoff:
    """Passes connections on, and takes those that others pass on. All on one loop.

    Args:
        directory: the runtime directory, open to this user only: whoever can open it is believed.
        adopt: is given a connection that another worker has accepted, the peer's host and port, and the bytes read.

    Attributes:
        token: what the name of every session of this worker begins with; unguessable is only what follows.
        relays: connections under TLS that another worker serves.
    """

    def __init__(self, directory: str, adopt: Adopt, loop: asyncio.AbstractEventLoop) -> None:
        self.token = "".join(secrets.choice(_ALPHABET) for _ in range(TOKEN_LENGTH))
        self.relays: set[Relay] = set()
        self._directory, self._adopt, self._loop = directory, adopt, loop
        self._path = _path(directory, self.token)
        self._door: socket.socket | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._arrivals: dict[Arrival, asyncio.TimerHandle] = {}  # those that are not whole, in order
        self._sending: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()
        self._ended.set()

    def start(self) -> None:
        """Take connections from now on; raises :class:`OSError` where that is impossible."""
        self._door = socket.socket(socket.AF_UNIX)
        self._door.setblocking(False)
        self._door.bind(self._path)
        self._door.listen(BACKLOG)
        self._loop.add_reader(self._door, self._accept)

    def stop(self) -> None:
        """Take no more: for the others this worker's sessions are unknown. Idempotent."""
        door, self._door = self._door, None
        if self._retry is not None:
            self._retry.cancel()
        if door is not None:
            self._loop.remove_reader(door)
            door.close()
            Path(self._path).unlink(missing_ok=True)
        for arrival in tuple(self._arrivals):
            self._drop(arrival)

    async def end(self, patience: float) -> None:
        """Stop, and close the relays behind what was written; what is left after ``patience`` seconds, or after
        :data:`GOODBYE`, is cut."""
        self.stop()
        for relay in tuple(self.relays):
            relay.close()
        cut = self._loop.call_later(min(patience, GOODBYE), self._cut)
        try:
            await self._ended.wait()
            if self._sending:
                await asyncio.wait(self._sending)
        finally:
            cut.cancel()

    def owns(self, sid: str) -> bool:
        """Whether a session of this name would be here."""
        return sid.startswith(self.token)

    def pass_on(self, sid: str, transport: asyncio.Transport, peer: tuple[str, int], received: bytes) -> bool:
        """Give a connection to the worker that has the session ``sid``. Costs 20 µs here and as much there.

        Args:
            transport: TCP, TLS, or what :attr:`adopt` got. Once given away it is not the caller's any more: its
                protocol hears ``connection_lost(None)`` in a later turn and nothing else.
            peer: the client's host and port.
            received: what was read and not answered.

        Returns:
            False: all is as it was, and the session is unknown. There is no such worker, or it does not keep up, or
            something that was written has not been sent yet, or descriptors have run out here.
        """
        token = _TOKEN.match(sid)
        if token is None or transport.is_closing():
            return False
        if len(received) > RECEIVED or (len(received) > _SMALL and len(self._sending) >= UNFINISHED):
            return False
        message = pack(peer, received)
        if transport.get_extra_info("ssl_object") is not None:
            return self._relay(token[0], transport, message)
        if transport.get_write_buffer_size():
            return False
        if not self._give(token[0], transport.get_extra_info("socket").fileno(), message):
            return False
        # With nothing pending, and without a shutdown(2), this closes our descriptor; the peer notices nothing.
        transport.abort()
        return True

    # giving ----------------------------------------------------------------------------------------------------------

    def _give(self, token: str, descriptor: int, message: bytes) -> bool:
        path = _path(self._directory, token)
        asking = None
        try:
            asking = socket.socket(socket.AF_UNIX)
            asking.setblocking(False)
            asking.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            asking.connect(path)
            sent = socket.send_fds(asking, [message], [descriptor])
        except OSError as error:
            if asking is not None:
                asking.close()
            if isinstance(error, ConnectionRefusedError):
                Path(path).unlink(missing_ok=True)  # of a worker that was killed
            elif not isinstance(error, FileNotFoundError):  # BlockingIOError: BACKLOG wait already
                _log.debug("a worker does not take connections: %s", error, extra={"token": token})
            return False
        if sent == len(message):
            asking.close()
        else:
            task = self._loop.create_task(self._send(asking, message[sent:]), name="handoff")
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)
        return True

    def _relay(self, token: str, transport: asyncio.Transport, message: bytes) -> bool:
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            _log.warning("a connection cannot be passed on: %s", error)
            return False
        with theirs:
            for end in (ours, theirs):
                end.setblocking(False)
                # As on TCP: else the kernel takes much for a client that does not read, before anybody notices.
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
            if theirs.fileno() >= highest_descriptor() or not self._give(token, theirs.fileno(), message):
                ours.close()
                return False
        self.relays.add(Relay(self._loop, transport, ours, self._relayed))
        self._ended.clear()
        return True

    async def _send(self, sock: socket.socket, rest: bytes) -> None:
        with sock:
            try:
                async with asyncio.timeout(TIMEOUT):
                    await self._loop.sock_sendall(sock, rest)
            except OSError as error:  # TimeoutError is one; the other side lets the client go
                _log.warning("a worker has not taken the whole of a request: %s", str(error) or "it hangs")

    def _relayed(self, relay: Relay) -> None:
        self.relays.discard(relay)
        if not self.relays:
            self._ended.set()

    def _cut(self) -> None:
        for relay in tuple(self.relays):
            relay.abort()
        for task in self._sending:
            task.cancel()

    # taking ----------------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        assert self._door is not None, "the reader goes with it"
        for _ in range(ACCEPTS):
            try:
                sock, _ = self._door.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                _log.warning("taking connections from other workers pauses: %s", error)
                self._loop.remove_reader(self._door)
                self._retry = self._loop.call_later(FULL_PAUSE, self._loop.add_reader, self._door, self._accept)
                return
            sock.setblocking(False)
            self._read(Arrival(sock))

    def _read(self, arrival: Arrival) -> None:
        try:
            found = arrival.read()
        except OSError as error:
            _log.warning("a connection from another worker is lost: %s", error)
            self._forget(arrival)
            return
        if found is not None:
            self._forget(arrival)
            self._adopt(*found)
        elif arrival not in self._arrivals:
            self._arrivals[arrival] = self._loop.call_later(TIMEOUT, self._drop, arrival)
            self._loop.add_reader(arrival.sock, self._read, arrival)
            if len(self._arrivals) > UNFINISHED:
                self._drop(next(iter(self._arrivals)))

    def _drop(self, arrival: Arrival) -> None:
        _log.warning("a connection from another worker is dropped: its request did not come")
        self._forget(arrival)

    def _forget(self, arrival: Arrival) -> None:
        timer = self._arrivals.pop(arrival, None)
        if timer is not None:
            timer.cancel()
            self._loop.remove_reader(arrival.sock)
        arrival.close()
