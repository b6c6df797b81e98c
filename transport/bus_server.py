"""The hub's end of the bus: one ROUTER, a :class:`Peer` for each client that said hello."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from types import MappingProxyType
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
from transport.errors import CodecError, ConnectionLost, HeliographError
from transport.link import Liveness
from transport.messages import Hello
from transport.poller import NOBLOCK, NOBLOCK_MORE, Monitor, Poller, send

_log = logging.getLogger(__name__)
_PROBE_AGAIN = 0.02  # seconds; zmq reports a disconnect a moment before the ROUTER forgets the identity
_UNBIND_TIMEOUT = 0.5


class Handler(Protocol):
    """What the owner of a :class:`BusServer` does with it; called on the loop's thread, and must not block.

    Each ``on_peer`` is followed by exactly one ``on_gone``, and nothing about that peer comes after it.
    """

    def on_peer(self, peer: Peer, /) -> None:
        """A client said hello: a new process, or a known one that lost its link and begins anew."""

    def on_batch(self, peer: Peer, items: list[Any], /) -> None:
        """Messages in the order in which the peer sent them."""

    def on_window(self, peer: Peer, is_open: bool, /) -> None:
        """The peer's window closed (it is behind) or opened again."""

    def on_gone(self, peer: Peer, reason: str, /) -> None:
        """The link ended; what was in flight has an unknown outcome."""


class Peer:
    """A client of the bus, from its hello to its end.

    Attributes:
        name, incarnation, pid: from its hello.
        identity: its ZeroMQ identity, ``name.incarnation``.
        out: packed messages that wait for the end of this turn. On the hot path append to it and call
            :meth:`BusServer.wake` once; the list object never changes.
        window_open: whether it may be sent events. While it is closed ``out`` waits, unbounded: append only control.
    """

    __slots__ = ("_server", "gone", "identity", "incarnation", "link", "name", "out", "pid", "window_open")

    def __init__(self, server: BusServer, identity: bytes, hello: Hello, link: Link) -> None:
        self._server = server
        self.identity, self.link, self.out = identity, link, link.out
        self.name, self.incarnation, self.pid = hello
        self.window_open = True
        self.gone = False

    def __repr__(self) -> str:
        return f"<Peer {self.identity.decode()} pid {self.pid}>"

    def send(self, packed: bytes) -> None:
        """Queue one packed message for the end of this turn; never blocks.

        Raises:
            ConnectionLost: the link has ended.
        """
        if self.gone:
            raise ConnectionLost(f"{self.name} left the bus")
        self.out.append(packed)
        self._server.wake()

    def processed(self, sequence: int | None = None) -> None:
        """With ``auto_ack=False``: everything up to batch ``sequence``, or all so far, is done with."""
        self._server.processed(self, sequence)

    @property
    def received(self) -> int:
        """Sequence number of the last batch handed to ``on_batch``."""
        return self.link.intake.received

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait in ``out``; costs one pass over it."""
        return sum(map(len, self.out))

    @property
    def unacknowledged_bytes(self) -> int:
        """Bytes sent that the peer has not processed yet."""
        return self.link.window.unacknowledged


class BusServer:
    """Binds ``endpoint`` and keeps a :class:`Peer` for each client. All on the thread of ``loop``.

    Args:
        context: not terminated here.
        endpoint: ``ipc://``, ``inproc://`` or ``tcp://`` (port ``*`` picks one, see :attr:`endpoint`).
        window: unacknowledged bytes per peer at which ``window_open`` turns false.
        heartbeat_interval, heartbeat_timeout: seconds; a peer silent for the timeout is gone.
        auto_ack: acknowledge when ``on_batch`` returns; else :meth:`Peer.processed` does.
        keys: who may join; needed for ``tcp://``.

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
        incarnation: str | None = None,
        window: int = WINDOW_BYTES,
        heartbeat_interval: float = HEARTBEAT_INTERVAL,
        heartbeat_timeout: float = HEARTBEAT_TIMEOUT,
        auto_ack: bool = True,
        keys: curve.ServerKeys | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        curve.check_endpoint(endpoint, keys)
        self.name = name
        self.incarnation = incarnation or new_incarnation()
        self.endpoint = endpoint
        self.stale = 0
        """Messages dropped because they belong to another incarnation."""
        self.malformed = 0
        """Messages dropped because they could not be decoded."""
        self._context, self._handler = context, handler
        self._window, self._auto_ack, self._keys = window, auto_ack, keys
        self._authenticator: curve.Authenticator | None = None
        self._interval, self._timeout = heartbeat_interval, heartbeat_timeout
        self._loop = loop or asyncio.get_running_loop()
        self._by_identity: dict[bytes, Peer] = {}
        self._peers: dict[str, Peer] = {}
        self._waking = False
        self._hurried = 0.0
        self._running = False

    @property
    def peers(self) -> Mapping[str, Peer]:
        """The peers by name, live and read-only."""
        return MappingProxyType(self._peers)

    def start(self) -> None:
        """Bind and begin; raises :class:`HeliographError` if the endpoint cannot be had."""
        if self._keys is not None:
            self._authenticator = curve.Authenticator(self._loop, self._context, self._keys.clients)
        sock = self._context.socket(zmq.ROUTER)
        sock.linger = LINGER_MS
        sock.sndhwm = sock.rcvhwm = 0  # the windows bound what is queued, in bytes; a HWM would count messages
        sock.router_mandatory = 1
        sock.maxmsgsize = codec.MAX_BODY_BYTES
        if self._keys is not None:
            curve.secure_server(sock, self._keys)
        self._sock: zmq.Socket[bytes] = sock
        self._monitor = Monitor(self._loop, sock, zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED, self._on_event)
        try:
            sock.bind(self.endpoint)
        except zmq.ZMQError as error:
            self._monitor.close()
            sock.close(0)
            self._close_authenticator()
            raise HeliographError(f"the bus cannot listen on {self.endpoint}: {error}") from None
        self.endpoint = sock.getsockopt_string(zmq.LAST_ENDPOINT)
        self._running = True
        self._poller = Poller(self._loop, sock, self._on_frames)
        self._timer = self._loop.call_later(self._interval / 4, self._tick)

    def stop(self) -> None:
        """Send what waits and a BYE to every peer, and close. Each peer's ``on_gone`` is called."""
        if not self._running:
            return
        self.flush()
        for peer in tuple(self._peers.values()):
            self.drop(peer, "the bus stopped")
        self._running = False
        self._timer.cancel()
        self._poller.close()
        self._sock.unbind(self.endpoint)
        if not self.endpoint.startswith("inproc:"):
            # zmq's own thread closes the listener: wait for it, so that a successor can have the endpoint at once.
            self._monitor.wait(zmq.EVENT_CLOSED, _UNBIND_TIMEOUT)
        self._monitor.close()
        self._sock.close()
        self._close_authenticator()

    def _close_authenticator(self) -> None:
        if self._authenticator is not None:
            self._authenticator.close()

    def wake(self) -> None:
        """Flush at the end of this turn. After appending to any number of ``peer.out``, call it once."""
        if not self._waking:
            self._waking = True
            self._loop.call_soon(self.flush)

    def hurry(self) -> None:
        """As :meth:`wake`, but at once if nothing was sent in this millisecond: who waits for one event waits less, and
        what is sent together under load stays together. For the end of a callback."""
        now = self._loop.time()  # uvloop's is that of the turn, in whole ms
        if now != self._hurried and not self._waking:
            self._hurried = now
            self.flush()
        else:
            self.wake()

    def flush(self) -> None:
        """Send now what waits, as far as the windows are open."""
        self._waking = False
        if not self._running:
            return
        for peer in tuple(self._peers.values()):
            if peer.out and peer.window_open:
                for frame in peer.link.batches():
                    if not self._send(peer, frame):
                        break
                else:
                    self._note_window(peer)
        self._poller.kick()

    def drop(self, peer: Peer, reason: str) -> None:
        """End a peer's link: a BYE to it, ``on_gone`` here. The client begins anew if it lives."""
        if not peer.gone and self._send(peer, peer.link.header(Kind.BYE)):
            self._gone(peer, reason)

    def processed(self, peer: Peer, sequence: int | None = None) -> None:
        """See :meth:`Peer.processed`."""
        if not peer.gone and peer.link.intake.done(sequence):
            self._send(peer, peer.link.header(Kind.HEARTBEAT))
            self._poller.kick()

    def _on_frames(self, frames: list[bytes]) -> None:
        identity = frames[0]
        peer = self._by_identity.get(identity)
        try:
            if len(frames) != 2:
                raise CodecError(f"a bus message of {len(frames)} frames")
            frame = frames[1]
            header = unpack_header(frame)
            if header.kind == Kind.HELLO:
                self._on_hello(identity, header, frame)
                return
            if peer is None or header.mine != peer.incarnation or header.theirs != self.incarnation:
                self.stale += 1
                self._answer(identity, Header(Kind.HELLO, self.incarnation, "", 0, 0).packed())
                return
            if header.kind == Kind.BYE:
                self._gone(peer, "it said bye")
                return
            items = peer.link.receive(header, frame, self._loop.time())
        except CodecError as error:
            self.malformed += 1
            if peer is not None:
                self.drop(peer, f"protocol error: {error}")
            return
        self._note_window(peer)
        if header.kind == Kind.BATCH:
            try:
                self._handler.on_batch(peer, items)
            finally:
                if self._auto_ack:
                    self.processed(peer)

    def _on_hello(self, identity: bytes, header: Header, frame: bytes) -> None:
        messages = unpack_body(frame)
        hello = messages[0] if len(messages) == 1 else None
        if not isinstance(hello, Hello) or identity != f"{hello.name}.{header.mine}".encode():
            raise CodecError("a hello that does not fit its identity")
        if hello.incarnation != header.mine:
            raise CodecError("a hello with two incarnations")
        if identity in self._by_identity:
            return  # it has its answer
        former = self._peers.get(hello.name)
        if former is not None:
            self.drop(former, "replaced by a new incarnation")
        welcome = codec.join([codec.pack(Hello(self.name, self.incarnation, os.getpid()))])
        if not self._answer(identity, Header(Kind.HELLO, self.incarnation, hello.incarnation, 0, 0).packed() + welcome):
            return
        liveness = Liveness(self._interval, self._timeout, self._loop.time())
        peer = Peer(self, identity, hello, Link(self.incarnation, hello.incarnation, self._window, liveness))
        self._by_identity[identity] = self._peers[peer.name] = peer
        _log.debug("%s joined", peer)
        self._handler.on_peer(peer)

    def _note_window(self, peer: Peer) -> None:
        is_open = peer.link.window.open
        if is_open is not peer.window_open and not peer.gone:
            peer.window_open = is_open
            if is_open and peer.out:
                self.wake()
            self._handler.on_window(peer, is_open)

    def _on_event(self, event: int) -> None:
        if event == zmq.EVENT_DISCONNECTED:
            # It does not say who: the ROUTER refuses to send to whoever has gone.
            self._probe()
            self._loop.call_later(_PROBE_AGAIN, self._probe)

    def _probe(self) -> None:
        if self._running:
            for peer in tuple(self._peers.values()):
                self._send(peer, peer.link.header(Kind.HEARTBEAT))
            self._poller.kick()

    def _tick(self) -> None:
        now = self._loop.time()
        for peer in tuple(self._peers.values()):
            liveness = peer.link.liveness
            if liveness.due(now):
                self._send(peer, peer.link.header(Kind.HEARTBEAT))
            if liveness.dead(now):
                self.drop(peer, f"silent for {self._timeout:g} s")
        self._poller.kick()
        self._timer = self._loop.call_later(self._interval / 4, self._tick)

    def _send(self, peer: Peer, frame: bytes) -> bool:
        # False if the peer turned out to be gone, which is then said.
        try:
            send(self._sock, peer.identity, NOBLOCK_MORE)
            send(self._sock, frame, NOBLOCK)
        except zmq.ZMQError as error:
            self._gone(peer, "disconnected" if error.errno == zmq.EHOSTUNREACH else str(error))
            return False
        return True

    def _answer(self, identity: bytes, frame: bytes) -> bool:
        try:
            send(self._sock, identity, NOBLOCK_MORE)
            send(self._sock, frame, NOBLOCK)
        except zmq.ZMQError:
            return False  # it has gone already
        return True

    def _gone(self, peer: Peer, reason: str) -> None:
        if peer.gone:
            return
        peer.gone = True
        peer.window_open = False
        del self._by_identity[peer.identity], self._peers[peer.name]
        peer.out.clear()
        _log.debug("%s gone: %s", peer, reason)
        self._handler.on_gone(peer, reason)
