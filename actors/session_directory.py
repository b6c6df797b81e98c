"""What operators may know of a worker's sessions, and do to them: plain values in, plain values out."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from actors.clients import Clients
from actors.session import Session
from transport.codes import ByeReason, CloseCode
from transport.errors import RequestError
from transport.requests import Subscribe, Unsubscribe


class Whose(NamedTuple):
    """One session by its id, or all sessions of a user."""

    session: str | None = None
    user: str | None = None


class SessionDirectory:
    """A look at the sessions that :class:`actors.clients.Clients` owns, on its loop.

    Args:
        worker: this worker's name.
        now: Unix seconds.
    """

    def __init__(self, clients: Clients, worker: str, now: Callable[[], float]) -> None:
        self._clients, self._worker, self._now = clients, worker, now

    def execute(self, order: Mapping[str, Any]) -> Any:
        """An order as plain values: ``{"do", …}``.

        | ``do`` | with | answer |
        |---|---|---|
        | ``page`` | ``user``, ``lane``, ``after``, ``limit`` | :meth:`page` |
        | ``close``, ``subscribe``, ``unsubscribe`` | ``session`` or ``user``; ``options`` | how many sessions |
        """
        if order["do"] == "page":
            return self.page(order["user"], order["after"], order["limit"], order["lane"])
        whose = Whose(order["session"], order["user"])
        match order["do"]:
            case "close":
                return self.close(whose)
            case "subscribe":
                return self.subscribe(whose, order["options"])
            case "unsubscribe":
                return self.unsubscribe(whose, order["options"])
        raise ValueError(f"no such order: {order['do']}")

    def page(self, user: str | None, after: str, limit: int, lane: str | None = None) -> list[dict[str, Any]]:
        """At most ``limit`` sessions with an id above ``after``, by id; ``user``: only this one's; ``lane``: only those
        that are in the ``fast`` or ``slow`` one.

        Cost: O(sessions) for a look at the ids.
        """
        sessions: Iterable[Session] = self._clients.sessions.values()
        if user is not None:
            sessions = self._clients.users.get(user, ())
        if lane is not None:
            sessions = (session for session in sessions if _lane(session) == lane)
        found = heapq.nsmallest(limit, (session.id for session in sessions if session.id > after))
        now = self._now()
        return [self._row(self._clients.sessions[name], now) for name in found]

    def close(self, whose: Whose) -> int:
        """Close with 4003: they shall not come back by themselves. How many that were not closing already."""
        sessions = self._present(whose)
        for session in sessions:
            self._clients.dismiss(session, CloseCode.KICKED, ByeReason.KICKED)
        return len(sessions)

    def subscribe(self, whose: Whose, options: dict[str, Any]) -> int:
        """Subscribe them without their asking; ``options`` are a request's without ``op`` and ``id``. How many.

        It holds for the sessions that are there, not for those to come.

        Raises:
            RequestError: the first refusal; the other sessions have been subscribed.
        """

        def ask(session: Session) -> None:
            request = msgspec.convert({**options, "op": "subscribe", "id": 0}, Subscribe)  # each session's own
            self._clients.subscribe(session, request, by_server=True)

        return self._each(whose, ask)

    def unsubscribe(self, whose: Whose, options: dict[str, Any]) -> int:
        """The opposite of :meth:`subscribe`, also of what they have asked for themselves. How many sessions."""
        request = msgspec.convert({**options, "op": "unsubscribe", "id": 0}, Unsubscribe)
        return self._each(whose, lambda session: self._clients.unsubscribe(session, request, by_server=True))

    def _each(self, whose: Whose, do: Callable[[Session], None]) -> int:
        refused: list[RequestError] = []
        sessions = self._present(whose)
        for session in sessions:
            try:
                do(session)
            except RequestError as error:
                refused.append(error)
        if refused:
            raise refused[0]
        return len(sessions)

    def _present(self, whose: Whose) -> list[Session]:
        if whose.user is not None:
            sessions = list(self._clients.users.get(whose.user, ()))
        else:
            session = self._clients.sessions.get(whose.session or "")
            sessions = [] if session is None else [session]
        return [session for session in sessions if not session.leaving and not session.closed]

    def _row(self, session: Session, now: float) -> dict[str, Any]:
        outbox = session.outbox
        oldest = None if outbox is None else outbox.oldest
        return {
            "id": session.id,
            "user": session.user,
            "address": session.connection.address,
            "worker": self._worker,
            "lane": _lane(session),
            "queued_bytes": session.connection.buffered + (0 if outbox is None else outbox.size),
            "oldest_age": None if oldest is None else round(max(0.0, now - oldest), 6),
            "dropped": session.dropped + (0 if outbox is None else outbox.dropped),
            "subscriptions": len(session.subscriptions or ()),
            "connected_at": session.connected_at,
        }


def _lane(session: Session) -> str:
    return "fast" if session.outbox is None else "slow"
