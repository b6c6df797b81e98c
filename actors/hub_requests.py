"""What the sessions of a worker have asked the hub, and who is not read until there is room for more. On its loop."""

from __future__ import annotations

from typing import Any

from actors.ports import Uplink
from actors.session import Session
from transport.codec import unpack_batch
from transport.codes import ErrorCode
from transport.errors import CodecError, RequestError
from transport.messages import Called, HistoryPage, Published, Refused, Served, Users


class HubRequests:
    """One per worker.

    Args:
        uplink: the pipe to the hub.

    Attributes:
        most: requests without an answer of one session; beyond, its socket is not read.
    """

    def __init__(self, uplink: Uplink, most: int) -> None:
        self.most = most
        self._uplink = uplink
        self._in_flight: dict[int, tuple[Session, int | str]] = {}
        self._last_ref = 0
        self._held: set[Session] = set()  # not read until the uplink or their answers have room
        self._parting: set[Session] = set()  # of those: they are sent away once they have their answers

    def new_ref(self) -> int:
        """Under which the hub is to answer; :class:`RequestError`, ``unavailable``, while it is away."""
        if not self._uplink.connected:
            raise RequestError(ErrorCode.UNAVAILABLE, "the hub is away; repeat in a moment")
        self._last_ref += 1
        return self._last_ref

    def ask(self, session: Session, request_id: int | str, ref: int, packed: bytes) -> None:
        """What the hub answers under ``ref`` is the session's; too many without an answer, and it is not read."""
        self._in_flight[ref] = (session, request_id)
        session.unacknowledged += 1
        self.tell(session, packed)
        if session.unacknowledged >= self.most:
            self._hold(session)

    def tell(self, session: Session, packed: bytes) -> None:
        """What has no answer; only the uplink's window bounds it."""
        self._uplink.send(packed)
        if not self._uplink.window_open:
            self._hold(session)

    def part(self, session: Session) -> None:
        """It is to be sent away: it is read no more, and stays until it has its answers or is let go."""
        if session not in self._parting:
            self._parting.add(session)
            self._hold(session)

    def let_go(self, session: Session) -> None:
        """It is about to be closed: read it, else its close frame never comes."""
        if session in self._held:
            self._held.discard(session)
            session.connection.resume_reading()

    def forget(self, session: Session) -> None:
        """It is gone; what it asked is answered to nobody."""
        self._held.discard(session)
        self._parting.discard(session)

    def _hold(self, session: Session) -> None:
        self._held.add(session)
        session.connection.pause_reading()

    def release(self) -> None:
        """Read again who waited for room, where there is some now."""
        if not self._held or not self._uplink.window_open:
            return
        room = self.most // 2
        for session in [each for each in self._held if each.unacknowledged <= room and each not in self._parting]:
            self._held.discard(session)
            if not session.leaving and not session.closed:
                session.connection.resume_reading()

    def answered(self, item: Any) -> bool:
        """Give an answer of the hub to who asked; false: it is no answer to a session."""
        kind = type(item)
        if kind is Published:
            self._published(item)
        elif kind is Refused or kind is HistoryPage or kind is Users:
            if (asked := self._asked(item.ref)) is not None:
                session, request_id = asked
                if kind is Refused:
                    session.error(request_id, RequestError(item.code, item.message, item.field))
                elif kind is HistoryPage:
                    session.send(session.form.snapshot(request_id, unpack_batch(item.body), item.gap))
                else:
                    session.message(op="ok", id=request_id, users=item.users)
        elif kind is Called or kind is Served:
            if (asked := self._asked(item.ref)) is not None:
                _tell_call(*asked, item)
        else:
            return False
        return True

    def _published(self, item: Published) -> None:
        """One write per session: of a publisher there are many answers at once, and a write is a system call."""
        answers: dict[Session, list[bytes]] = {}
        for ref, epoch, offset in item.results:
            if (asked := self._asked(ref)) is not None:
                session, request_id = asked
                place: dict[str, Any] = {"epoch": epoch, "offset": offset} if epoch else {"pending": True}
                answer = session.form.message({"op": "ok", "id": request_id, **place})
                answers.setdefault(session, []).append(answer)
        for session, frames in answers.items():
            session.send(b"".join(frames))

    def _asked(self, ref: int) -> tuple[Session, int | str] | None:
        asked = self._in_flight.pop(ref, None)
        if asked is not None:
            asked[0].unacknowledged -= 1
        return asked

    def hub_lost(self, reason: str) -> None:
        """What was in flight may or may not have been accepted."""
        lost, self._in_flight = self._in_flight, {}
        error = RequestError(ErrorCode.UNAVAILABLE, f"{reason}; the outcome is unknown")
        for session, request_id in lost.values():
            session.unacknowledged -= 1
            session.error(request_id, error)
        self.release()


def _tell_call(session: Session, request_id: int | str, item: Called | Served) -> None:
    if isinstance(item, Served):
        session.message(op="ok", id=request_id)
        return
    try:
        session.message(op="ok", id=request_id, result=session.form.raw(item.result))
    except CodecError as error:
        text = f"it was called, but of its result {error}"
        session.error(request_id, RequestError(ErrorCode.INTERNAL, text))
