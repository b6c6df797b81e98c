"""A session: one client's plain object on the worker's loop, owned by the clients actor. Not an actor: a thread or an
inbox each would cost more than the socket."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from transport.codes import ByeReason, CloseCode
from transport.errors import RequestError
from transport.messages import Publication
from transport.outbox import Outbox, Verdict
from transport.requests import Rejected
from transport.wire_forms import WireForm, bye, gap, skipped

if TYPE_CHECKING:
    from actors.clients import Clients
    from actors.identity import Identity
    from actors.route import Route
    from actors.subscription import Delivery, Subscription

SKIPPED_INTERVAL = 1.0  # s between two `skipped` of a slow session
_log = logging.getLogger(__name__)
_REASONS: dict[int, ByeReason] = {
    CloseCode.GOING_AWAY: ByeReason.IDLE,
    CloseCode.TOO_BIG: ByeReason.LIMIT,
    CloseCode.INTERNAL: ByeReason.INTERNAL,
}


class Connection(Protocol):
    """What a session needs of its socket (see :class:`transport.websocket.WebSocketConnection`)."""

    token: str | None

    @property
    def write(self) -> Callable[[bytes], None]: ...
    @property
    def direct(self) -> Callable[[bytes], int | None]: ...
    @property
    def subprotocol(self) -> str | None: ...
    @property
    def user(self) -> str | None: ...
    @property
    def token_in_query(self) -> bool: ...
    @property
    def address(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def buffered(self) -> int: ...
    def close(self, code: int, reason: str = "") -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Session:
    """Fast lane: ``outbox is None``, shared bytes go straight to the socket. Slow lane: a bounded outbox.

    The transport's write buffer decides: above its high mark the session leaves the fast lane, and comes back when the
    outbox has drained. A session whose user has a rate stays in the slow lane, where events are looked at one by one.
    Runs on the worker's loop.
    """

    __slots__ = (
        "clients",
        "closed",
        "connected_at",
        "connection",
        "dropped",
        "filter_bytes",
        "form",
        "id",
        "identity",
        "leaving",
        "linger",
        "outbox",
        "paused",
        "position",
        "position_at",
        "private",
        "rated",
        "routes",
        "subscriptions",
        "told",
        "unacknowledged",
        "user",
        "write",
    )

    def __init__(self, session_id: str, connection: Connection, form: WireForm, clients: Clients) -> None:
        self.id, self.connection, self.form, self.clients = session_id, connection, form, clients
        self.user = connection.user  # who the client says it is; where tokens are asked for, who it is
        self.identity: Identity | None = None  # by its token
        self.connected_at = 0.0  # Unix seconds
        self.write = connection.write
        self.outbox: Outbox | None = None
        self.routes: set[Route] = set()
        self.private: dict[Delivery, Route] | None = None  # its own held routes, for what its filters select
        self.subscriptions: dict[str, Subscription] | None = None  # by pattern; made when first needed
        self.filter_bytes = 0  # JSON of the filters in force
        self.told = 0.0  # loop time of the last `skipped`
        self.linger = 0.0  # s for which an event may wait on the way to it
        self.position = ""  # the last that it was told
        self.position_at = 0.0  # loop time as of which it knows one, where events linger
        self.unacknowledged = 0  # publishes
        self.dropped = 0  # events, by the outboxes that it had before this one
        self.paused = self.closed = self.leaving = self.rated = False

    # from the socket ------------------------------------------------------------------------------------------------

    def on_message(self, data: bytes, binary: bool) -> None:
        """One message of the client. A bad one is answered and costs nothing else."""
        if self.leaving:
            return
        if binary is not self.form.binary:
            want = "binary (MessagePack)" if self.form.binary else "text (JSON)"
            self.write(self.last_words(CloseCode.UNSUPPORTED_DATA))
            self.connection.close(CloseCode.UNSUPPORTED_DATA, f"this session speaks {want} frames")
            return
        try:
            request = self.form.decode(data)
        except Rejected as rejected:
            self.error(rejected.id, rejected.error)
            return
        try:
            self.clients.handle(self, request)
        except RequestError as error:
            self.error(request.id, error)

    def on_paused(self) -> None:
        """The transport's buffer is above its mark: take the slow lane from the next flush on."""
        self.paused = True
        if self.outbox is None and not self.closed:
            self.outbox = self.clients.slow_lane.enter()
            _log.debug("session %s does not keep up", self.id, extra={"event": "session_slow", "session": self.id})
            for route in self.routes:
                lane = route.lanes[self.form]
                lane.fast.pop(self, None)
                lane.slow[self] = None

    def on_resumed(self) -> None:
        """The transport has room again."""
        self.paused = False
        self._drain()

    def last_words(self, code: int) -> bytes:
        """`bye`: the connection is about to end by itself. One that is leaving has not been told yet: the close follows
        that at once."""
        reason = _REASONS.get(code, ByeReason.PROTOCOL)
        return self.form.message(bye(code, reason, self.clients.reconnect_in(code)))

    def on_closed(self, code: int, reason: str) -> None:
        """The connection is gone, exactly once."""
        self.closed = True
        if self.outbox is not None:
            self.clients.slow_lane.leave(self.outbox, slow=not self.rated)
        self.clients.forget(self, code)

    def rewire(self) -> None:
        """The connection's ``write`` is another one now; what was written by the old one comes first."""
        self.write = self.connection.write
        for route in self.routes:
            lane = route.lanes[self.form]
            if self in lane.fast:
                lane.fast[self] = self.connection.direct

    # to the client --------------------------------------------------------------------------------------------------

    def send(self, frame: bytes) -> None:
        """An answer that concerns no topic; it may overtake events that wait."""
        if self.closed:
            return
        if self.outbox is None or self.leaving:
            self.write(frame)
        elif self.outbox.push(frame) is Verdict.FULL:
            self.clients.dismiss(self, CloseCode.SLOW, ByeReason.SLOW)
        elif not self.paused:
            self._drain()

    def has_room(self, frame: bytes) -> bool:
        """Whether what nobody waits for here may be sent: of a session that does not keep up it leaves half of the
        outbox to answers, for which it would be sent away."""
        return self.outbox is None or not self.paused or self.outbox.fits_half(len(frame))

    def barrier(self, frames: bytes, topics: Sequence[str]) -> None:
        """An answer or notice with its place among the events of ``topics``; when leaving, instead of what waits: it
        is `bye`."""
        if self.closed:
            return
        if self.outbox is None or self.leaving:
            self.write(frames)
        elif self.outbox.push_barrier(frames, topics) is Verdict.FULL:
            self.clients.dismiss(self, CloseCode.SLOW, ByeReason.SLOW)
        elif not self.paused:
            self._drain()

    def message(self, **fields: Any) -> None:
        """A server message from its fields."""
        self.send(self.form.message(fields))

    def error(self, request_id: int | str | None, error: RequestError) -> None:
        """The answer to a request that was refused."""
        fields: dict[str, Any] = {"op": "error", "id": request_id, "code": error.code.value, "message": error.message}
        if error.field is not None:
            fields["field"] = error.field
        self.send(self.form.message(fields))

    # the slow lane --------------------------------------------------------------------------------------------------

    def queue(self, frames: list[bytes], publications: list[Publication], *, conflate: bool = False) -> None:
        """Events of one flush while in the slow lane."""
        outbox = self.outbox
        if outbox is None or self.leaving:
            return
        lane = self.clients.slow_lane
        dropped = outbox.dropped
        half = False
        limited = 0
        for frame, publication in zip(frames, publications, strict=True):
            if self.rated and not self.clients.admit(self, publication):
                limited += 1
                verdict = outbox.rate_limited(publication)
            else:
                verdict = outbox.push(frame, publication, conflate=conflate)
            if self.rated and not self.paused and outbox.crowded:
                self._drain()  # it is not slow: here waits what has come with this flush, and gaps that can wait
                continue
            half = half or verdict is Verdict.HALF
            # Parts of the engine itself are not sent away: they have the log, and look there for what a gap names.
            strict = verdict is Verdict.DROPPED and lane.limits.disconnect_slow and self not in self.clients.inner
            if verdict is Verdict.FULL or strict:
                lane.queued(0, outbox.dropped - dropped, limited)
                self.clients.dismiss(self, CloseCode.SLOW, ByeReason.SLOW)
                return
        lane.queued(len(frames) - limited, outbox.dropped - dropped, limited)
        if half:
            self.message(op="slow", queued=outbox.size, limit=lane.limits.outbox_bytes)
        if not self.paused and limited < len(frames):  # gaps alone can wait for what they precede
            self._drain()

    def settle(self) -> None:
        """Tell what waits for nothing: called now and then for sessions with a rate."""
        if not self.paused:
            self._drain()

    def rate(self) -> None:
        """The user has a rate: take the slow lane for good, as long as no event has come."""
        self.rated = True
        if self.outbox is None:
            self.outbox = self.clients.slow_lane.enter(slow=False)
        else:
            self.clients.slow_lane.no_longer_slow()  # it did not read the answers that it got before its token

    def _drain(self) -> None:
        """Move the outbox to the transport while it takes it; drained, go back to the fast lane."""
        outbox = self.outbox
        if outbox is None or self.leaving:
            return
        while outbox and not self.paused and not self.closed:
            frames = [self.form.message(gap(missed)) for missed in outbox.gaps()]
            frames += outbox.take(self.clients.slow_lane.limits.write_chunk)
            now = time.monotonic()
            if now - self.told >= SKIPPED_INTERVAL:
                self.told = now
                frames += self._told(outbox)
            self.write(b"".join(frames))  # may call on_paused before it returns
        if not outbox and not self.paused and not self.closed and not self.rated:
            told = self._told(outbox)
            self.outbox = None
            self.dropped += outbox.dropped
            self.clients.slow_lane.leave(outbox)
            _log.debug("session %s keeps up again", self.id, extra={"event": "session_keeps_up", "session": self.id})
            for route in self.routes:
                lane = route.lanes[self.form]
                lane.slow.pop(self, None)
                lane.fast[self] = self.connection.direct
            if told:
                self.write(b"".join(told))

    def _told(self, outbox: Outbox) -> list[bytes]:
        """What says how many events were conflated away."""
        skips = outbox.skips()
        self.clients.slow_lane.skipped(sum(skips.values()))
        return [self.form.message(skipped(topic, count)) for topic, count in skips.items()]
