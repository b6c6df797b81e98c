"""A session: one client's plain object on the worker's loop, owned by the clients actor. Not an actor: a thread or an
inbox each would cost more than the socket."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from transport.codes import ByeReason, CloseCode
from transport.errors import RequestError
from transport.messages import Publication
from transport.outbox import Outbox, Verdict
from transport.requests import Rejected
from transport.wire_forms import WireForm, gap

if TYPE_CHECKING:
    from actors.clients import Clients
    from actors.route import Route


class Connection(Protocol):
    """What a session needs of its socket (see :class:`transport.websocket.WebSocketConnection`)."""

    write: Callable[[bytes], None]

    @property
    def subprotocol(self) -> str | None: ...
    @property
    def user(self) -> str | None: ...
    @property
    def address(self) -> str: ...
    @property
    def buffered(self) -> int: ...
    def close(self, code: int, reason: str = "") -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Session:
    """Fast lane: ``outbox is None``, shared bytes go straight to the transport. Slow lane: a bounded outbox.

    The transport's write buffer decides: above its high mark the session leaves the fast lane, and comes back when the
    outbox has drained. Runs on the worker's loop.
    """

    __slots__ = (
        "clients",
        "closed",
        "connected_at",
        "connection",
        "form",
        "id",
        "leaving",
        "outbox",
        "paused",
        "routes",
        "subscriptions",
        "unacknowledged",
        "user",
        "write",
    )

    def __init__(self, session_id: str, connection: Connection, form: WireForm, clients: Clients) -> None:
        self.id, self.connection, self.form, self.clients = session_id, connection, form, clients
        self.user = connection.user  # who the client says it is
        self.connected_at = 0.0  # Unix seconds
        self.write = connection.write
        self.outbox: Outbox | None = None
        self.routes: set[Route] = set()
        self.subscriptions: dict[str, None] | None = None  # patterns in force; made when first needed
        self.unacknowledged = 0  # publishes
        self.paused = self.closed = self.leaving = False

    # from the socket ------------------------------------------------------------------------------------------------

    def on_message(self, data: bytes, binary: bool) -> None:
        """One message of the client. A bad one is answered and costs nothing else."""
        if self.leaving:
            return
        if binary is not self.form.binary:
            want = "binary (MessagePack)" if self.form.binary else "text (JSON)"
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
            self.outbox = self.clients.new_outbox()
            for route in self.routes:
                lane = route.lanes[self.form]
                lane.fast.pop(self, None)
                lane.slow[self] = None

    def on_resumed(self) -> None:
        """The transport has room again."""
        self.paused = False
        self._drain()

    def on_closed(self, code: int, reason: str) -> None:
        """The connection is gone, exactly once."""
        self.closed = True
        if self.outbox is not None:
            self.clients.outbox_gone(self.outbox)
        self.clients.forget(self, code)

    # to the client --------------------------------------------------------------------------------------------------

    def send(self, frame: bytes) -> None:
        """An answer or notice, behind what is already on its way; when leaving, instead of what waits: it is `bye`."""
        if self.closed:
            return
        if self.outbox is None or self.leaving:
            self.write(frame)
        elif self.outbox.push(frame) is Verdict.FULL:
            self.clients.dismiss(self, CloseCode.SLOW, ByeReason.SLOW)

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

    def queue(self, frames: list[bytes], publications: list[Publication]) -> None:
        """Events of one flush while in the slow lane."""
        outbox = self.outbox
        if outbox is None or self.leaving:
            return
        dropped = outbox.dropped
        half = False
        for frame, publication in zip(frames, publications, strict=True):
            verdict = outbox.push(frame, publication)
            half = half or verdict is Verdict.HALF
            if verdict is Verdict.FULL or (verdict is Verdict.DROPPED and self.clients.disconnect_slow):
                self.clients.count_queued(0, outbox.dropped - dropped)
                self.clients.dismiss(self, CloseCode.SLOW, ByeReason.SLOW)
                return
        self.clients.count_queued(len(frames), outbox.dropped - dropped)
        if half:
            self.message(op="slow", queued=outbox.size, limit=self.clients.outbox_bytes)
        if not self.paused:
            self._drain()

    def _drain(self) -> None:
        """Move the outbox to the transport while it takes it; drained, go back to the fast lane."""
        outbox = self.outbox
        if outbox is None or self.leaving:
            return
        while outbox and not self.paused and not self.closed:
            frames = [self.form.message(gap(missed)) for missed in outbox.gaps()]
            frames += outbox.take(self.clients.write_chunk)
            self.write(b"".join(frames))  # may call on_paused before it returns
        if not outbox and not self.paused and not self.closed:
            self.outbox = None
            self.clients.outbox_gone(outbox)
            for route in self.routes:
                lane = route.lanes[self.form]
                lane.slow.pop(self, None)
                lane.fast[self] = self.write
