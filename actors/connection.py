"""One upstream feed's connection: connects, subscribes, reads and publishes; reconnects as its feed's recovery says.

A message that cannot be read is counted and left out; it never ends the connection, unless so configured. While the
way to the hub is not writable the socket is not read, so that the upstream's TCP window closes: nothing piles up here.

Not promised: that the batch in hand survives a crash.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, NamedTuple, cast

from websockets.exceptions import WebSocketException

from actors.diagnosis import CLOSE_CODES, classify
from actors.failure import Failure, FailureKind, UpstreamRefused
from actors.feed import Feed
from actors.feed_protocol import FeedGap, Repeated, checked_publish
from actors.feed_socket import CLOSED, FeedSocket, open_socket
from actors.feed_state import FeedState
from actors.loop_actor import LoopActor, Timer
from actors.mailbox_actor import ActorState
from actors.mapping import BadMessage, MappingError
from transport.codes import ErrorCode
from transport.errors import RequestError
from transport.event import Event
from transport.messages import Publish

SEND_TIMEOUT_S: Final = 10.0
"""For all messages that resume and subscribe together."""
TOKEN_POLL_S: Final = 5.0
"""Between looks for a new token after one was refused."""
OUTGOING: Final = 1_000
"""Messages of the protocol that may wait to be sent; an upstream that takes none of them is of no use."""
LOOKS_PER_TIMEOUT: Final = 4
"""How often within idle and stale timeout the watchdog looks: it bites at most a quarter late."""


class Connect(NamedTuple):
    """Ask: connect, if an operator disconnected it or it has failed; the answer is the feed's snapshot.

    While it waits for its next attempt it is left waiting: that attempt is this one. Raises RequestError ``conflict``
    while it is connecting or connected.
    """


class Disconnect(NamedTuple):
    """Ask: close, and stay disconnected until told; the answer, when that is done, is the feed's snapshot."""


class Reset(NamedTuple):
    """Ask: forget all failures, and make the attempt now that waits; the answer is the feed's snapshot."""


class Send(NamedTuple):
    """Ask: put a message in line for the upstream. Raises RequestError ``limit_exceeded``."""

    message: str | bytes


# What a connection tells itself. A mailbox outlives its actor, so each names the attempt that it is about: what an
# earlier one still had to say is ignored.


class Attempt(NamedTuple):
    """It is time to connect."""

    sender: object


class Opened(NamedTuple):
    """The handshake is complete and the protocol's first messages are sent."""

    attempt: object


class Received(NamedTuple):
    """Events wait to be published: one batch per turn of the loop."""


class Ended(NamedTuple):
    """An attempt is over. ``tried``: it got as far as to trouble the upstream."""

    attempt: object
    failure: Failure
    tried: bool = True


class Look(NamedTuple):
    """The watchdog's."""

    attempt: object


class Beat(NamedTuple):
    """A heartbeat is due."""

    attempt: object


class _Watch:
    """Since when a count has not risen."""

    def __init__(self, count: int, now: float) -> None:
        self._count, self._since = count, now

    def still(self, count: int, now: float) -> float:
        """Seconds for which ``count`` has been what it is."""
        if count != self._count:
            self._count, self._since = count, now
        return now - self._since


class FeedConnection(LoopActor):
    """See the module.

    Args:
        feed: what outlives this actor; belongs to the owner.
    """

    def __init__(self, feed: Feed) -> None:
        super().__init__()
        self._feed = feed
        self._attempt: object | None = None  # the present connection, or attempt to make one
        self._task: asyncio.Task[Any] | None = None
        self._due: Timer | None = None
        self._batch: list[Publish] = []
        self._events = 0  # how many of the batch are the upstream's
        self._began = 0  # Unix ns when the batch did, where it is traced
        self._taken = 0  # events of this connection
        self._invalid = (0, 0)  # messages in a row that could not be read, and `taken` then
        self._proven = False
        self._socket: FeedSocket | None = None  # while it is read
        self._paused = False
        self._full = asyncio.Event()  # the publisher takes no more
        self._opened_at: float | None = None
        # Why we ended the connection ourselves; what is not UpstreamRefused is a bug.
        self._verdict: Exception | None = None
        self._idle = self._stale = _Watch(0, 0.0)
        self._to_send = asyncio.Event()

    def on_start(self) -> None:
        feed = self._feed
        if feed.held or feed.state is FeedState.FAILED:
            return
        if feed.state in (FeedState.CONNECTING, FeedState.CONNECTED):  # a predecessor was killed
            self._failed(Failure(FailureKind.CRASHED, "killed"))
        elif feed.state is FeedState.DISCONNECTED and feed.due_in > 0:  # the wait of a process that is dead
            self._wait(feed.due_in, feed.failure)
        else:
            self._schedule(feed.due_in)

    def on_stop(self) -> None:
        self.on_received(Received())
        self._feed.end()

    def on_failure(self, exception_type: Any, exception_value: Any, traceback: Any) -> None:
        if self._feed.state in (FeedState.CONNECTING, FeedState.CONNECTED):
            self._failed(Failure(FailureKind.CRASHED, exception_type.__name__))
        elif self._feed.state is FeedState.DISCONNECTING:  # as the operator wanted, if not the way
            self._feed.end(self._feed.reason)

    # what operators ask ----------------------------------------------------------------------------------------------

    def on_connect(self, _: Connect) -> dict[str, Any]:
        feed = self._feed
        if feed.state in (FeedState.CONNECTING, FeedState.CONNECTED):
            raise RequestError(ErrorCode.CONFLICT, f"{feed.spec.name} is {feed.state} already")
        feed.held = False
        if feed.state is FeedState.FAILED:
            self._forget()
        feed.refused_token = None  # who says connect means: with what there is
        if feed.state is not FeedState.RECONNECTING:
            self._try()
        return feed.snapshot()

    async def on_disconnect(self, _: Disconnect) -> dict[str, Any]:
        feed = self._feed
        feed.held = True
        reason = "disconnected by an operator"
        if self._due is not None:
            self._due.cancel()
        if self._attempt is not None:
            self._attempt = None
            self.on_received(Received())
            feed.enter(FeedState.DISCONNECTING, reason=reason)
            feed.recovery.breaker.released()
            assert self._task is not None
            self._task.cancel()
            await asyncio.wait([self._task])  # its end is the closing handshake
        if feed.state is FeedState.DISCONNECTED:
            feed.reason = reason
        feed.end(reason)
        return feed.snapshot()

    def on_reset(self, _: Reset) -> dict[str, Any]:
        self._forget()
        if self._feed.state in (FeedState.RECONNECTING, FeedState.FAILED) and not self._feed.held:
            self._try()
        return self._feed.snapshot()

    def on_send(self, send: Send) -> None:
        self._feed.send(send.message)
        self._to_send.set()

    def _forget(self) -> None:
        self._feed.recovery.reset()
        self._feed.refused_token = None

    # the life of a connection ----------------------------------------------------------------------------------------

    def _wait(self, delay_s: float, failure: Failure | None = None) -> None:
        """The next attempt comes in ``delay_s``, and everybody is told."""
        self._feed.enter(FeedState.RECONNECTING, failure, delay_s)
        self._schedule(delay_s)

    def _schedule(self, delay_s: float) -> None:
        """The next attempt comes in ``delay_s``; one that was due before does not."""
        if self._due is not None:
            self._due.cancel()
        self._due = self.later(delay_s, Attempt(self))

    def on_attempt(self, attempt: Attempt) -> None:
        if attempt.sender is self and self._attempt is None and not self._feed.held:
            self._try()

    def _try(self) -> None:
        """Connect now, or when the breaker lets it."""
        feed, breaker = self._feed, self._feed.recovery.breaker
        if not breaker.admit():
            if feed.state is FeedState.RECONNECTING:  # the timer rang a little before the breaker's time
                self._schedule(breaker.wait_s)
            else:
                self._wait(breaker.wait_s, feed.failure)
            return
        if self._due is not None:
            self._due.cancel()
        self._attempt = object()
        self._proven, self._taken, self._invalid = False, 0, (0, 0)
        self._opened_at, self._verdict = None, None
        feed.enter(FeedState.CONNECTING)
        self._task = self.spawn(self._connection(self._attempt), name=f"feed {feed.spec.name}")

    def on_opened(self, opened: Opened) -> None:
        if opened.attempt is not self._attempt:
            return
        feed, spec = self._feed, self._feed.spec
        feed.enter(FeedState.CONNECTED)
        if feed.connected_before:
            feed.reconnects += 1
        feed.connected_before = True
        now = self.loop.time()
        self._idle, self._stale = _Watch(feed.messages, now), _Watch(self._taken, now)
        self._look_again(opened.attempt)
        if spec.heartbeat_interval_s is not None:
            self.later(spec.heartbeat_interval_s, Beat(opened.attempt))

    def on_ended(self, ended: Ended) -> None:
        if ended.attempt is not self._attempt:
            return
        self.on_received(Received())
        if ended.tried:
            self._failed(ended.failure)
        else:
            self._attempt = None
            self._feed.recovery.breaker.released()
            self._wait(TOKEN_POLL_S, ended.failure)

    def _failed(self, failure: Failure) -> None:
        """A connection is over that nobody wanted to end."""
        feed = self._feed
        lasted_s = 0.0 if self._opened_at is None else self.loop.time() - self._opened_at
        self._attempt = None
        verdict = feed.recovery.failed(failure, lasted_s=lasted_s, proven=self._proven)
        if verdict.needs_token and feed.spec.token.fixed:
            feed.enter(FeedState.FAILED, failure._replace(detail=f"{failure.detail}; there is no other token to try"))
        elif verdict.delay_s is None:
            times = feed.recovery.backoff.failures
            feed.enter(FeedState.FAILED, failure._replace(detail=f"{failure.detail}; gave up after {times} failures"))
        elif self._state is ActorState.RUNNING:
            self._wait(verdict.delay_s, failure)
        else:  # crashed: the successor waits
            feed.enter(FeedState.RECONNECTING, failure, verdict.delay_s)

    async def _connection(self, attempt: object) -> None:
        """One connection from its attempt to its end; what an upstream may do to us ends in :class:`Ended`."""
        feed, tell = self._feed, self.actor_ref.tell
        token: str | None = None
        try:
            await feed.publisher.writable()
            token = await feed.spec.token.get()
            if token is not None and token == feed.refused_token:
                tell(Ended(attempt, Failure(FailureKind.UNAUTHORIZED, "waits for a new token"), tried=False))
                return
            feed.attempts += 1
            async with open_socket(feed.spec, feed.url, token) as socket:
                self._opened_at = self.loop.time()
                await self._open(socket)
                feed.refused_token = None
                tell(Opened(attempt))
                await self._read(socket)
        except (OSError, EOFError, WebSocketException, UpstreamRefused) as error:  # a TimeoutError is an OSError
            self._tell_end(attempt, error, token)
        except asyncio.CancelledError:
            if self._verdict is None:
                raise
            self._tell_end(attempt, self._verdict, token)

    def _tell_end(self, attempt: object, error: Exception, token: str | None) -> None:
        feed, verdict = self._feed, self._verdict
        if verdict is not None:  # also where the upstream closed before our cancellation came
            if not isinstance(verdict, UpstreamRefused):
                raise verdict from None
            error = verdict
        failure = classify(error, close_codes={**CLOSE_CODES, **feed.protocol.close_codes})
        if failure.kind is FailureKind.UNAUTHORIZED:
            feed.refused_token = token
        self.actor_ref.tell(Ended(attempt, failure))

    async def _open(self, socket: FeedSocket) -> None:
        feed, protocol = self._feed, self._feed.protocol
        protocol.outgoing.clear()
        protocol.opened()
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                while protocol.outgoing:
                    await socket.send(protocol.outgoing.pop(0))
        except CLOSED:
            pass  # the reader says why, after what came before: it may be the upstream's own word for it
        if (gap := feed.missed()) is not None:
            self._add(feed.gap(gap))
        self._to_send.set()

    async def _send(self, socket: FeedSocket) -> None:
        """First what the protocol has to say, then what waits; a message leaves its line when it is sent."""
        pending, protocol = self._feed.pending, self._feed.protocol
        try:
            while await self._to_send.wait():
                self._to_send.clear()
                while line := cast(list[str | bytes], protocol.outgoing or pending):
                    await socket.send(line[0])
                    del line[0]
        except CLOSED:
            pass  # the reader says why

    async def _read(self, socket: FeedSocket) -> None:
        """Until the connection ends, which raises. What one read of the socket brought becomes one batch."""
        name = f"feed {self._feed.spec.name}"
        beside = [
            self.spawn(self._send(socket), name=f"{name} send"),
            self.spawn(self._hold(socket), name=f"{name} hold"),
            self.spawn(self._keep_alive(socket), name=f"{name} ping"),
        ]
        try:
            self._socket = socket
            socket.deliver(self._take)
            await socket.ended()
        finally:
            self._socket, self._paused = None, False
            socket.deliver(_ignore)  # and read on, for the peer's close frame
            for task in beside:
                task.cancel()

    async def _hold(self, socket: FeedSocket) -> None:
        """Whenever the publisher takes no more, the socket rests until it does."""
        while await self._full.wait():
            await self._feed.publisher.writable()
            self._full.clear()
            self._paused = False
            socket.rest(False)

    async def _keep_alive(self, socket: FeedSocket) -> None:
        """Pings; time in which we do not read, and would not see the pong, does not count."""
        interval_s, timeout_s = self._feed.spec.ping_interval_s, self._feed.spec.ping_timeout_s
        try:
            while interval_s is not None:
                await asyncio.sleep(interval_s)
                if timeout_s is None:
                    await socket.ping()
                    continue
                pong = asyncio.ensure_future(_ping(socket))
                try:
                    if not await self._is_answered(pong, timeout_s):
                        self._end(UpstreamRefused(FailureKind.STALE, "no answer to a ping"))
                        return
                finally:
                    pong.cancel()
        except CLOSED:
            pass  # the reader says why

    async def _is_answered(self, pong: asyncio.Future[None], timeout_s: float) -> bool:
        step_s = timeout_s / LOOKS_PER_TIMEOUT
        left_s = timeout_s
        while left_s > 0 and not pong.done():
            await asyncio.wait([pong], timeout=step_s)
            left_s -= 0.0 if self._paused else step_s
        if pong.done():
            await pong  # raises one of CLOSED if it will never come
        return pong.done()

    # messages --------------------------------------------------------------------------------------------------------

    def _take(self, raw: bytes) -> None:
        """A message, from the socket's own callback: nobody there could handle what is wrong."""
        try:
            self._receive(raw)
        except Exception as error:
            self._end(error)

    def _receive(self, raw: bytes) -> None:
        feed = self._feed
        feed.messages += 1
        items = feed.protocol.receive(raw)
        if not items:
            feed.ignored += 1
            if feed.spec.any_message_proves:
                self._proven = True
                feed.recovery.delivered(1)
        for item in items:
            if type(item) is Publish:
                self._event(item)
            else:
                self._note(item, raw)
        if feed.protocol.outgoing:
            self._send_soon()

    def _event(self, event: Publish) -> None:
        self._events += 1
        self._taken += 1
        self._add(event)

    def _add(self, event: Publish) -> None:
        if not self._batch:
            self.actor_ref.tell(Received())
            if self._feed.tracing is not None:
                self._began = self._feed.tracing.clock()
        self._batch.append(event)

    def _note(self, item: Any, raw: bytes) -> None:
        feed = self._feed
        if isinstance(item, FeedGap):
            self._add(feed.gap(item))
            feed.protocol.resync(item)
        elif isinstance(item, Repeated):
            feed.repeated += 1
        elif isinstance(item, Event):
            try:
                self._event(checked_publish(item))
            except RequestError as error:
                self._note(MappingError(BadMessage.BAD_EVENT, error.field or "", error.message), raw)
        else:
            assert isinstance(item, MappingError), item
            feed.note_bad(item, raw)
            times, taken = self._invalid
            self._invalid = (times + 1 if taken == self._taken else 1, self._taken)
            if feed.spec.max_invalid is not None and self._invalid[0] >= feed.spec.max_invalid:
                raise UpstreamRefused(FailureKind.INVALID, f"{self._invalid[0]} messages in a row; the last: {item}")

    def _send_soon(self) -> None:
        if len(self._feed.protocol.outgoing) > OUTGOING:
            raise UpstreamRefused(FailureKind.STALE, f"{OUTGOING} messages wait to be sent")
        self._to_send.set()

    def on_received(self, _: Received) -> None:
        feed = self._feed
        batch, self._batch = self._batch, []
        events, self._events = self._events, 0
        if not batch:
            return
        if feed.tracing is not None:
            batch = feed.tracing.chosen("feed", batch, self._began, feed=feed.spec.name)
        feed.publisher.publish(batch)
        if feed.tracing is not None:
            feed.tracing.published()
        feed.published += events
        if events:
            self._proven = True
            feed.note_lag(batch)
            feed.recovery.delivered(events)
        if not feed.publisher.is_writable and self._socket is not None and not self._paused:
            self._paused = True
            self._socket.rest(True)
            self._full.set()

    def on_look(self, look: Look) -> None:
        """Without idle and stale timeout nobody sends it."""
        if look.attempt is not self._attempt:
            return
        spec, now, messages = self._feed.spec, self.loop.time(), self._feed.messages
        if self._paused:  # it is us who do not read
            self._idle, self._stale = _Watch(messages, now), _Watch(self._taken, now)
        for watch, count, limit_s, what in (
            (self._idle, messages, spec.idle_timeout_s, "message"),
            (self._stale, self._taken, spec.stale_timeout_s, "event"),
        ):
            if limit_s is not None and watch.still(count, now) >= limit_s:
                self._end(UpstreamRefused(FailureKind.STALE, f"no {what} for {limit_s:g} s"))
                return
        self._look_again(look.attempt)

    def _end(self, verdict: Exception) -> None:
        """End the present connection ourselves; what is not UpstreamRefused is a bug."""
        if self._verdict is not None:
            return
        self._verdict = verdict
        if self._socket is not None:
            self._socket.deliver(_ignore)
            if isinstance(verdict, UpstreamRefused) and verdict.kind is FailureKind.STALE:
                self._socket.abort()  # a peer that is silent will not close either
        assert self._task is not None
        self._task.cancel()

    def _look_again(self, attempt: object) -> None:
        limits = [limit for limit in (self._feed.spec.idle_timeout_s, self._feed.spec.stale_timeout_s) if limit]
        if limits:
            self.later(min(limits) / LOOKS_PER_TIMEOUT, Look(attempt))

    def on_beat(self, beat: Beat) -> None:
        interval_s = self._feed.spec.heartbeat_interval_s
        if beat.attempt is not self._attempt or interval_s is None:
            return
        try:
            self._feed.protocol.heartbeat()
            self._send_soon()
        except UpstreamRefused as error:
            self._end(error)
        else:
            self.later(interval_s, Beat(beat.attempt))


async def _ping(socket: FeedSocket) -> None:
    """Until its pong is here; an upstream that reads nothing does not even let the ping out."""
    await (await socket.ping())


def _ignore(message: bytes) -> None:
    """What comes after the end."""
