"""Members of consumer groups among this worker's sessions, as the hub is told of them."""

from __future__ import annotations

from typing import Any, NamedTuple

from actors.audience import Selection
from actors.messages import Select, Urgent
from actors.ports import Uplink
from actors.session import Session
from actors.subscription import Subscription
from transport.codec import pack
from transport.codes import Priority
from transport.messages import Assigned, Delist, Enlist


class _Member(NamedTuple):
    session: Session
    selection: Selection


class Memberships:
    """The index's. The hub shares a group's events out; what comes here is for one member.

    Args:
        uplink: the pipe to the hub; while there is none, the next hub is told everything by :meth:`again`.
    """

    def __init__(self, uplink: Uplink) -> None:
        self._uplink = uplink
        self._members: dict[str, _Member] = {}  # by session id

    def assigned(self, item: Assigned) -> Select | Urgent | None:
        """How an event reaches its member; ``None``: it has gone, of which the hub hears, and gives it to another."""
        member = self._members.get(item.member)
        if member is None:
            return None
        urgent = item.publication.priority == Priority.CRITICAL
        return Urgent((), member.selection, item.publication) if urgent else Select(member.selection, item.publication)

    def enter(self, session: Session, pattern: str, subscription: Subscription) -> None:
        """The hub has enlisted it."""
        if session.subscriptions is None:
            session.subscriptions = {}
        session.subscriptions[pattern] = subscription
        if session.id not in self._members:
            self._members[session.id] = _Member(session, Selection.of(session))

    def leave(self, session: Session, patterns: list[str]) -> None:
        """The hub gives to others what these memberships have not acknowledged."""
        if patterns:
            self._tell(Delist(session.id, patterns))
        if not any(subscription.group is not None for subscription in (session.subscriptions or {}).values()):
            self._members.pop(session.id, None)

    def restore(self, session: Session, patterns: list[str]) -> None:
        """What was given up the hub may have enlisted it for: say what it is in."""
        held = session.subscriptions or {}
        groups = {pattern: held[pattern].group for pattern in patterns if pattern in held}
        self.leave(session, [pattern for pattern in patterns if groups.get(pattern) is None])
        for pattern, group in groups.items():
            if group is not None:
                self._tell(Enlist(0, session.id, group, [pattern]))

    def again(self) -> None:
        """Tell another hub of all."""
        for session, _ in self._members.values():
            for pattern, subscription in (session.subscriptions or {}).items():
                if subscription.group is not None:
                    self._tell(Enlist(0, session.id, subscription.group, [pattern]))

    def _tell(self, message: Any) -> None:
        if self._uplink.connected:
            self._uplink.send(pack(message))
