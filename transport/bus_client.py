"""A worker's, feed's or daemon's end of the bus: one DEALER that finds its server again, whatever happens to it."""

from __future__ import annotations

import asyncio
import logging
import os
from enum import Enum
from typing import Any, Protocol

import zmq

from transport import codec, curve
from transport.bus import (
    HEARTBEAT_INTERVAL,
    HEARTBEAT_TIMEOUT,
    LINGER_MS,
    WINDOW_BYTES,
    Header,
    Kind,
    Link,
    new_incarnation,
    unpack_body,
    unpack_header,
)
from transport.errors import CodecError, ConnectionLost
from transport.link import Liveness
from transport.messages import Hello
from transport.poller import NOBLOCK, Monitor, Poller, events, send

_log = logging.getLogger(__name__)
STOPPED = "stopped"
"""Reason of the ``on_lost`` that follows :meth:`BusClient.stop`."""
RECONNECT_MS = 20
RECONNECT_MAX_MS = 200


class Handler(Protocol):
    """What the owner of a :class:`BusClient` does with it; called on the loop's thread, and must not block.

    ``on_server`` and ``on_lost`` alternate.
    """

    def on_server(self, incarnation: str, /) -> None:
        """The link is up. The server knows nothing of an earlier link, not even if its incarnation is the same."""

    def on_batch(self, items: list[Any], /) -> None:
        """Messages in the order in which the server sent them."""

    def on_window(self, is_open: bool, /) -> None:
        """The server is behind, or has caught up again."""

    def on_lost(self, reason: str, /) -> None:
        """The link ended; what was in flight has an unknown outcome."""


class State(Enum):
    """Where a client's link stands."""

    STOPPED = "stopped"
    CONNECTING = "connecting"
    CONNECTED = "connected"


class BusClient:
    """Keeps a link to the server at ``endpoint``, which may come and go. All on the thread of ``loop``.

    Args:
        context: not terminated here.
        name: of this process; one client at a time has it.
        window: unacknowledged bytes at which :meth:`writable` waits and ``on_window(False)`` is called.
        heartbeat_interval, heartbeat_timeout: seconds; a server silent for the timeout is lost.
        auto_ack: acknowledge when ``on_batch`` returns; else :meth:`processed` does.
        keys: who we are and who the server is; needed for ``tcp://``.

    Raises:
        ConfigError: ``endpoint`` needs keys.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        handler: Handler,
        *,
        name: str,
        window: int = WINDOW_BYTES,
        heartbeat_interval: float = HEARTBEAT_INTERVAL,
        heartbeat_timeout: float = HEARTBEAT_TIMEOUT,
        auto_ack: bool = True,
        keys: curve.ClientKeys | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        curve.check_endpoint(endpoint, keys)
        self.name = name
        self.endpoint = endpoint
        self.state = State.STOPPED
        self.stale = 0
        """Messages dropped because they belong to another incarnation."""
        self.malformed = 0
        """Messages dropped because they could not be decoded."""
        self._context, self._handler = context, handler
        self._window_bytes, self._auto_ack, self._keys = window, auto_ack, keys
        self._interval, self._timeout = heartbeat_interval, heartbeat_timeout
        self._loop = loop or asyncio.get_running_loop()
        self._waking = False
        self._window_open = True
        self._writable = asyncio.Event()
        self._sock: zmq.Socket[bytes] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._reopening: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to look for the server; ``on_server`` is called when it has been found."""
        if self.state is State.STOPPED:
            self._open()
            self._timer = self._loop.call_later(self._interval / 4, self._tick)

    def stop(self) -> None:
        """Send what waits and a BYE, and close; ``on_lost`` is called if the link was up."""
        if self.state is State.STOPPED:
            return
        if self.connected:
            self.flush()
        if self.connected:
            self._send(self._link.header(Kind.BYE))
        for timer in (self._timer, self._reopening):
            if timer is not None:
                timer.cancel()
        self._end(State.STOPPED, STOPPED, LINGER_MS)
        self._writable.set()  # its waiters learn that it has stopped

    @property
    def connected(self) -> bool:
        """Whether hello was exchanged and the link is up."""
        return self.state is State.CONNECTED

    @property
    def window_open(self) -> bool:
        """Whether the server keeps up."""
        return self._window_open

    @property
    def out(self) -> list[bytes]:
        """This link's queue, for the hot path: append packed messages, then :meth:`wake` once. Ask anew each turn."""
        return self._link.out

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait in ``out``; costs one pass over it."""
        return sum(map(len, self._link.out)) if self.connected else 0

    @property
    def received(self) -> int:
        """Sequence number of the last batch handed to ``on_batch``."""
        return self._link.intake.received

    def send(self, packed: bytes) -> None:
        """Queue one packed message for the end of this turn; never blocks. Await :meth:`writable` for backpressure.

        Raises:
            ConnectionLost: there is no server now.
        """
        if self.state is not State.CONNECTED:
            raise ConnectionLost(f"{self.name} has no server on the bus")
        self._link.out.append(packed)
        self.wake()

    async def writable(self) -> None:
        """Wait until the link is up and its window open; raises :class:`ConnectionLost` once the client is stopped."""
        while not (self.connected and self._window_open):
            if self.state is State.STOPPED:
                raise ConnectionLost(f"the bus client {self.name} is stopped")
            await self._writable.wait()

    def processed(self, sequence: int | None = None) -> None:
        """With ``auto_ack=False``: everything up to batch ``sequence``, or all so far, is processed and fanned out."""
        if self.connected and self._link.intake.done(sequence):
            self._heartbeat()

    def wake(self) -> None:
        """Flush at the end of this turn."""
        if not self._waking:
            self._waking = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send now what waits, as far as the window is open."""
        self._waking = False
        if not self.connected:
            return
        for frame in self._link.batches():
            if not self._send(frame):
                return
        self._note_window()
        self._poller.kick()

    def _open(self) -> None:
        # A new socket, identity and incarnation: a ROUTER does not find its way back to an identity it has lost, and
        # nothing of an earlier link can be mistaken for this one's.
        incarnation = new_incarnation()
        now = self._loop.time()
        self._reopening = None
        self._link = Link(incarnation, "", self._window_bytes, Liveness(self._interval, self._timeout, now))
        self._greeted = False
        self._window_open = True
        sock = self._sock = self._context.socket(zmq.DEALER)
        sock.linger = 0
        sock.sndhwm = sock.rcvhwm = 0  # the windows bound what is queued, in bytes; a HWM would count messages
        sock.immediate = 1  # nothing is queued for a server that is not there
        sock.reconnect_ivl, sock.reconnect_ivl_max = RECONNECT_MS, RECONNECT_MAX_MS
        sock.maxmsgsize = codec.MAX_BODY_BYTES
        if self._keys is not None:
            curve.secure_client(sock, self._keys)
        sock.identity = f"{self.name}.{incarnation}".encode()
        watched = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        self._monitor = Monitor(self._loop, sock, watched, self._on_event)
        sock.connect(self.endpoint)
        self._poller = Poller(self._loop, sock, self._on_frames)
        self.state = State.CONNECTING
        self._greet()  # in-process links are up at once and have no events

    def _greet(self) -> None:
        if self._sock is not None and not self._greeted and events(self._sock) & zmq.POLLOUT:
            self._greeted = True
            self._link.liveness.heard(self._loop.time())
            body = codec.join([codec.pack(Hello(self.name, self._link.mine, os.getpid()))])
            if self._send(self._link.header(Kind.HELLO) + body):
                self._poller.kick()

    def _on_event(self, event: int) -> None:
        if event == zmq.EVENT_DISCONNECTED:
            self._lose("disconnected")
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._greet()

    def _on_frames(self, frames: list[bytes]) -> None:
        link = self._link
        try:
            if len(frames) > 1:
                raise CodecError(f"a bus message of {len(frames)} frames")
            frame = frames[0]
            header = unpack_header(frame)
            if header.kind == Kind.HELLO:
                self._on_hello(header, frame)
                return
            if not self.connected or header.mine != link.theirs or header.theirs != link.mine:
                self.stale += 1
                return
            if header.kind == Kind.BYE:
                self._lose("the server said bye")
                return
            items = link.receive(header, frame, self._loop.time())
        except CodecError as error:
            self.malformed += 1
            self._lose(f"protocol error: {error}")
            return
        self._note_window()
        if header.kind == Kind.BATCH:
            try:
                self._handler.on_batch(items)
            finally:
                if self._auto_ack:
                    self.processed()

    def _on_hello(self, header: Header, frame: bytes) -> None:
        if self.connected and header.theirs == "":
            self._lose("the server does not know this client any more")
        elif self.connected or header.theirs != self._link.mine:
            self.stale += 1
        else:
            messages = unpack_body(frame)
            if len(messages) != 1 or not isinstance(messages[0], Hello) or messages[0].incarnation != header.mine:
                raise CodecError("not a welcome")
            self._link.theirs = header.mine
            self._link.liveness.heard(self._loop.time())
            self.state = State.CONNECTED
            self._writable.set()
            _log.debug("%s found server %s", self.name, header.mine)
            self._handler.on_server(header.mine)

    def _note_window(self) -> None:
        is_open = self._link.window.open
        if is_open is not self._window_open:
            self._window_open = is_open
            if is_open:
                self._writable.set()
                self.wake()
            else:
                self._writable.clear()
            self._handler.on_window(is_open)

    def _tick(self) -> None:
        self._timer = self._loop.call_later(self._interval / 4, self._tick)
        self._greet()
        if self._sock is None or not self._greeted:
            return
        if not events(self._sock) & zmq.POLLOUT:
            self._lose("disconnected")  # in-process links have no event for it
            return
        self._poller.kick()  # the question may have swallowed the descriptor's edge
        now = self._loop.time()
        liveness = self._link.liveness
        if liveness.due(now) and self.connected:
            self._heartbeat()
        if liveness.dead(now):
            self._lose(f"the server was silent for {self._timeout:g} s")

    def _heartbeat(self) -> None:
        if self._send(self._link.header(Kind.HEARTBEAT)):
            self._poller.kick()

    def _send(self, frame: bytes) -> bool:
        # False if there is no connection any more, which is then said. A socket without a high-water mark is never
        # full: EAGAIN means that it has nobody to send to.
        assert self._sock is not None
        try:
            send(self._sock, frame, NOBLOCK)
        except zmq.ZMQError as error:
            self._lose("disconnected" if error.errno == zmq.EAGAIN else str(error))
            return False
        return True

    def _lose(self, reason: str) -> None:
        if self._sock is None:
            return
        # The pause keeps a server that refuses every hello from being asked without end.
        self._reopening = self._loop.call_later(RECONNECT_MS / 1000, self._open)
        self._end(State.CONNECTING, reason, 0)

    def _end(self, state: State, reason: str, linger_ms: int) -> None:
        was_connected, self.state = self.connected, state
        if self._sock is not None:
            self._monitor.close()
            self._poller.close()
            self._sock.close(linger_ms)
            self._sock = None
        self._link.out.clear()
        self._writable.clear()
        if was_connected:
            _log.debug("%s lost its server: %s", self.name, reason)
            self._handler.on_lost(reason)
