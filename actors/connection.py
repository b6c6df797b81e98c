"""One upstream feed: connects, subscribes, reads, maps and publishes; reconnects with backoff for ever.

A message that cannot be mapped is counted and left out; it never ends the connection. While the way to the hub is
not writable the socket is not read, so that the upstream's TCP window closes: nothing piles up here.

Not promised: that nothing was missed between two connections, nor that the batch in hand survives a crash.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from actors.backoff import Backoff, BackoffPolicy
from actors.loop_actor import LoopActor
from actors.mapping import FeedMap, Mapper, MappingError
from transport.errors import ConnectionLost
from transport.messages import Publish

PING_INTERVAL_S = 20.0
PING_TIMEOUT_S = 20.0
SEND_TIMEOUT_S = 10.0  # for all subscribe messages together
CLOSE_TIMEOUT_S = 1.0  # for the closing handshake
MESSAGE_BYTES = 1 << 20  # a longer message ends the connection
RECEIVE_QUEUE = 64  # frames read ahead; also the longest batch
SAMPLE_BYTES = 256  # of the last bad message, for the operator
_REASON_CHARS = 200

_log = logging.getLogger(__name__)
_socket_log = _log.getChild("websocket")
_socket_log.setLevel(logging.WARNING)  # what it says of opening and closing is in our own lines; its debug has headers


class Publisher(Protocol):
    """The way to the hub, on this loop's thread."""

    def publish(self, batch: list[Publish]) -> None:
        """Pass on a batch, in order. It takes any batch that was begun while :meth:`writable`; never blocks."""

    async def writable(self) -> None:
        """Return when a batch may be published, without a suspension if that is now."""


class FeedState(StrEnum):
    """disconnected → connecting → connected → reconnecting → connecting …"""

    DISCONNECTED = "disconnected"  # not started, or stopped
    CONNECTING = "connecting"
    CONNECTED = "connected"
    RECONNECTING = "reconnecting"  # waits for its next attempt
    FAILED = "failed"  # crashed too often; set by the feed supervisor, which tries again later


_NEXT = {
    FeedState.DISCONNECTED: {FeedState.CONNECTING},
    FeedState.CONNECTING: {FeedState.CONNECTED, FeedState.RECONNECTING},
    FeedState.CONNECTED: {FeedState.RECONNECTING},
    FeedState.RECONNECTING: {FeedState.CONNECTING},
    FeedState.FAILED: {FeedState.CONNECTING},
}
_ALWAYS = {FeedState.DISCONNECTED, FeedState.FAILED}


@dataclass(frozen=True, slots=True)
class FeedSpec:
    """What a feed is; equal specs are the same feed, so that a reload knows what changed.

    Attributes:
        url: ``ws://`` or ``wss://``; its user, password and query are never logged.
        subscribe: text messages sent after each connect, in this order.
        headers: HTTP headers of the handshake; never logged.
        connect_timeout_s: from connect to a complete handshake.
        idle_timeout_s: silence after which the connection is renewed; ``None``: never, pings alone decide.
    """

    name: str
    url: str = field(repr=False)
    map: FeedMap
    subscribe: tuple[str, ...] = field(default=(), repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    backoff: BackoffPolicy = field(default_factory=BackoffPolicy)
    connect_timeout_s: float = 10.0
    idle_timeout_s: float | None = 30.0

    @property
    def address(self) -> str:
        """The URL without user, password, query and fragment, for logs."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


@dataclass(slots=True)
class FeedStatus:
    """How a feed is and what it has done. Kept by whoever outlives the connection actor, so that counters never fall.

    Attributes:
        messages: received; each is published, ignored or bad.
        reconnects: attempts to connect after a connection was lost or refused.
        bad: by :class:`~actors.mapping.BadMessage`.
        last_bad: the last bad message's error and beginning; it may hold what the upstream sent, so it is not logged.
        next_attempt_at: Unix seconds; ``None`` when no attempt is due.
        since: Unix seconds of the last change of state.
    """

    state: FeedState = FeedState.DISCONNECTED
    reason: str | None = None
    since: float = 0.0
    next_attempt_at: float | None = None
    messages: int = 0
    published: int = 0
    ignored: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    last_bad: str | None = None
    last_error: str | None = None
    reconnects: int = 0

    def enter(self, state: FeedState, name: str, reason: str | None = None, retry_in: float | None = None) -> None:
        """The one place where a feed's state changes."""
        assert state in _ALWAYS or state in _NEXT[self.state], f"feed {name}: {self.state} -> {state}"
        now = time.time()
        if state is not self.state:
            level = logging.WARNING if state in (FeedState.RECONNECTING, FeedState.FAILED) else logging.INFO
            why = f": {reason}" if reason else ""
            _log.log(level, "feed %s: %s -> %s%s", name, self.state, state, why, extra={"feed": name})
            self.since = now
        self.state, self.reason = state, reason
        self.last_error = reason or self.last_error
        self.next_attempt_at = None if retry_in is None else now + retry_in

    def note_bad(self, error: MappingError, raw: bytes, name: str) -> None:
        """Count a message that could not be mapped; the first of its reason is logged, without its content."""
        self.bad[error.reason.value] += 1
        self.last_bad = f"{error}: {raw[:SAMPLE_BYTES].decode('utf-8', 'replace')}"
        if self.bad[error.reason.value] == 1:
            where = f" at {error.path}" if error.path else ""
            _log.warning("feed %s: first bad message, %s%s", name, error.reason, where, extra={"feed": name})

    def snapshot(self) -> dict[str, Any]:
        """Plain values; ``retry_in`` is seconds from now or ``None``."""
        due = self.next_attempt_at
        return {
            "state": self.state.value,
            "reason": self.reason,
            "retry_in": None if due is None else round(max(0.0, due - time.time()), 3),
            "since": self.since,
            "messages": self.messages,
            "published": self.published,
            "ignored": self.ignored,
            "bad": dict(self.bad),
            "last_bad": self.last_bad,
            "last_error": self.last_error,
            "reconnects": self.reconnects,
        }


# What a connection tells itself. A mailbox outlives its actor, so each names its sender: what a predecessor still had
# to say is ignored.


class Attempt(NamedTuple):
    """Connect now."""

    sender: object


class Opened(NamedTuple):
    """The handshake is complete and the subscribe messages are sent."""

    sender: object


class Mapped(NamedTuple):
    """A batch waits; told once per turn of the loop."""


class Lost(NamedTuple):
    """The connection ended after ``lasted_s`` (0: it never opened)."""

    sender: object
    reason: str
    lasted_s: float


class FeedConnection(LoopActor):
    """See the module.

    Args:
        spec: the feed.
        publisher: where events go.
        backoff, status: kept by the owner, so that they outlive a crash of this actor.

    Raises:
        ConfigError: the spec's map cannot work.
    """

    def __init__(
        self, spec: FeedSpec, publisher: Publisher, backoff: Backoff | None = None, status: FeedStatus | None = None
    ) -> None:
        super().__init__()
        self._spec = spec
        self._publisher = publisher
        self._backoff = backoff or Backoff(spec.backoff)
        self._status = status or FeedStatus()
        self._mapper = Mapper(spec.map)
        self._batch: list[Publish] = []

    def on_start(self) -> None:
        if self._status.state is not FeedState.FAILED:
            self._become(FeedState.DISCONNECTED)  # a predecessor may have crashed in any state
        self.actor_ref.tell(Attempt(self))

    def on_stop(self) -> None:
        self.on_mapped(Mapped())
        self._become(FeedState.DISCONNECTED)

    def on_failure(self, exception_type: Any, exception_value: Any, traceback: Any) -> None:
        self._become(FeedState.DISCONNECTED, f"crashed: {exception_type.__name__}")

    def on_attempt(self, attempt: Attempt) -> None:
        if attempt.sender is self:
            self._become(FeedState.CONNECTING)
            self.spawn(self._connection(), name=f"feed {self._spec.name}")

    def on_opened(self, opened: Opened) -> None:
        if opened.sender is self:
            self._become(FeedState.CONNECTED)

    def on_mapped(self, _: Mapped) -> None:
        batch, self._batch = self._batch, []
        if batch:
            self._publisher.publish(batch)
            self._status.published += len(batch)

    def on_lost(self, lost: Lost) -> None:
        if lost.sender is not self:
            return
        delay = self._backoff.failed(lost.lasted_s)
        self._status.reconnects += 1
        self._become(FeedState.RECONNECTING, lost.reason, delay)
        self.later(delay, Attempt(self))

    def _become(self, state: FeedState, reason: str | None = None, retry_in: float | None = None) -> None:
        self._status.enter(state, self._spec.name, reason, retry_in)

    async def _connection(self) -> None:
        """One connection from its attempt to its end; what an upstream may do to us ends in :class:`Lost`."""
        spec = self._spec
        opened_at: float | None = None
        try:
            await self._publisher.writable()
            async with connect(
                spec.url,
                additional_headers=dict(spec.headers),
                compression=None,
                proxy=None,
                open_timeout=spec.connect_timeout_s,
                close_timeout=CLOSE_TIMEOUT_S,
                ping_interval=PING_INTERVAL_S,
                ping_timeout=PING_TIMEOUT_S,
                max_size=MESSAGE_BYTES,
                max_queue=RECEIVE_QUEUE,
                logger=_socket_log,
            ) as socket:
                async with asyncio.timeout(SEND_TIMEOUT_S):
                    for message in spec.subscribe:
                        await socket.send(message)
                opened_at = self.loop.time()
                self.actor_ref.tell(Opened(self))
                await self._pump(socket)
        except (OSError, WebSocketException, ConnectionLost) as error:  # a TimeoutError is an OSError
            lasted_s = 0.0 if opened_at is None else self.loop.time() - opened_at
            self.actor_ref.tell(Lost(self, self._describe(error), lasted_s))

    async def _pump(self, socket: ClientConnection) -> None:
        """Read until the connection ends, which raises. recv() does not suspend while frames wait, so that what one
        turn of the loop brought becomes one batch."""
        idle_s = self._spec.idle_timeout_s
        while True:
            await self._publisher.writable()
            try:
                async with asyncio.timeout(idle_s):
                    raw = await socket.recv(decode=False)
            except TimeoutError:
                raise ConnectionLost(f"silent for {idle_s:g} s") from None
            self._take(raw)

    def _take(self, raw: bytes) -> None:
        self._status.messages += 1
        try:
            event = self._mapper.map(raw)
        except MappingError as error:
            self._status.note_bad(error, raw, self._spec.name)
            return
        if event is None:
            self._status.ignored += 1
            return
        if not self._batch:
            self.actor_ref.tell(Mapped())
        self._batch.append(event)

    def _describe(self, error: Exception) -> str:
        text = str(error) or type(error).__name__
        return text.replace(self._spec.url, self._spec.address)[:_REASON_CHARS]
