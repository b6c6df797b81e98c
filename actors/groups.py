"""The consumer groups of an engine: each event of a topic that is load_balanced goes to one member of each of them.

A group is a name. It has the patterns that its members subscribe to; of an event it chooses one of the members whose
patterns match. With acknowledgements an event is delivered at least once: it may be assigned again, to the same member
too, and nothing in it tells. It is lost only if it is dropped and counted (``group_full``, ``group_empty``), or with
the hub. There is no bound on how often an event is assigned.

Pure: time is passed in, what is to be sent is returned.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from actors.consumer_group import Group, Handed, Lane
from actors.group_members import Member
from actors.interests import Peer
from actors.subscriptions import PatternIndex
from transport.codes import ErrorCode
from transport.errors import RequestError
from transport.messages import Ack, Delist, Enlist

GROUPS: Final = 10_000
"""Groups at once; one more is refused. A group is forgotten when all of its patterns were vacant for long."""

PATTERNS: Final = 100_000
"""Patterns of all groups together, those without members too; one more is refused."""


class GroupCounts(NamedTuple):
    """How much is in all groups."""

    members: int  # one per group and session
    waiting: int  # events
    unacknowledged: int
    returned: int  # ever: see :class:`Group`


class _Session:
    """A session that is in groups: which pattern in which group, and what it is there."""

    __slots__ = ("groups", "members", "peer")

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.groups: dict[str, Group] = {}
        self.members: dict[Group, Member] = {}


class Groups:
    """All groups, by name, by pattern, by session and by peer. Belongs to the hub and survives its router.

    After a change of members, acknowledgements or windows, :meth:`flow` says what waiting events go out.

    Args:
        limit: events of one group that wait or are not acknowledged.
        dropped: where what is lost is counted, by reason.
    """

    def __init__(self, limit: int, dropped: dict[str, int]) -> None:
        self._limit, self._dropped = limit, dropped
        self._groups: dict[str, Group] = {}
        self._patterns = PatternIndex()
        self._having: dict[str, dict[Group, None]] = {}  # groups by pattern
        self._sessions: dict[str, _Session] = {}
        self._of_peer: dict[Peer, set[str]] = {}
        self._stirred: dict[Group, None] = {}
        self._kept = 0  # patterns of all groups
        self._returned = 0  # to groups that are forgotten

    def __len__(self) -> int:
        return len(self._groups)

    def enlist(self, peer: Peer, enlist: Enlist, now: float) -> list[str]:
        """A session joins a group; a pattern of it that is in another group moves.

        Returns:
            The patterns for whose topics :meth:`lanes` has another answer now.

        Raises:
            RequestError: ``limit_exceeded``, for one group or pattern too many; nothing has changed.
        """
        group = self._groups.get(enlist.group)
        added = sum(group not in self._having.get(pattern, ()) for pattern in set(enlist.patterns))
        if added and self._kept + added > PATTERNS:
            text = (
                f"consumer groups keep at most {PATTERNS} patterns, each for some time after its last member has left"
            )
            raise RequestError(ErrorCode.LIMIT_EXCEEDED, text, "group")
        if group is None:
            if len(self._groups) >= GROUPS:
                text = f"there are {GROUPS} consumer groups; each is forgotten some time after its last member has left"
                raise RequestError(ErrorCode.LIMIT_EXCEEDED, text, "group")
            group = self._groups[enlist.group] = Group(enlist.group, self._limit, self._dropped)
        session = self._sessions.get(enlist.member)
        if session is not None and session.peer is not peer:  # its worker has a new link
            self._remove(enlist.member, list(session.groups), now)
            session = None
        if session is None:
            session = self._sessions[enlist.member] = _Session(peer)
            self._of_peer.setdefault(peer, set()).add(enlist.member)
        self._give_up(session, [p for p in enlist.patterns if session.groups.get(p) is not group], now)
        member = session.members.get(group)
        if member is None:
            member = session.members[group] = Member(enlist.member, peer)
        session.groups.update(dict.fromkeys(enlist.patterns, group))
        new = group.join(member, enlist.patterns)
        for pattern in new:
            self._patterns.add(pattern)
            self._having.setdefault(pattern, {})[group] = None
        self._kept += len(new)
        self._stirred[group] = None
        return new

    def delist(self, peer: Peer, delist: Delist, now: float) -> None:
        """A session is out of the groups of these patterns."""
        session = self._sessions.get(delist.member)
        if session is not None and session.peer is peer:
            self._remove(delist.member, delist.patterns, now)

    def gone(self, peer: Peer, now: float) -> None:
        """A worker is dead or has left, and all of its sessions with it."""
        for name in tuple(self._of_peer.get(peer, ())):
            self._remove(name, list(self._sessions[name].groups), now)

    def _remove(self, name: str, patterns: list[str], now: float) -> None:
        session = self._sessions[name]
        self._give_up(session, patterns, now)
        if not session.groups:
            del self._sessions[name]
            names = self._of_peer[session.peer]
            names.discard(name)
            if not names:
                del self._of_peer[session.peer]

    def _give_up(self, session: _Session, patterns: list[str], now: float) -> None:
        by_group: dict[Group, list[str]] = {}
        for pattern in patterns:
            group = session.groups.pop(pattern, None)
            if group is not None:
                by_group.setdefault(group, []).append(pattern)
        for group, some in by_group.items():
            member = session.members[group]
            group.leave(member, some, now)
            if not member.patterns:
                del session.members[group]
            self._stirred[group] = None

    def opened(self, peer: Peer) -> None:
        """A worker keeps up again: its members can be chosen."""
        for name in self._of_peer.get(peer, ()):
            for group, member in self._sessions[name].members.items():
                group.refresh(member)
                self._stirred[group] = None

    def acknowledge(self, ack: Ack) -> None:
        """A member is done with an event."""
        session = self._sessions.get(ack.member)
        if session is not None:
            for group, member in session.members.items():
                group.acknowledge(member, (ack.topic, ack.epoch, ack.offset))
                self._stirred[group] = None

    def lanes(self, topic: str) -> tuple[tuple[Group, Lane], ...]:
        """The groups that get the events of a topic, and their lanes for it (:meth:`Group.take`)."""
        groups: dict[Group, None] = {}
        for pattern in self._patterns.match(topic):
            groups.update(self._having[pattern])
        return tuple((group, group.lane(topic)) for group in groups)

    def flow(self, now: float) -> list[Handed]:
        """The events that waited and can go now. Costs nothing where nothing has changed since."""
        if not self._stirred:
            return []
        stirred, self._stirred = self._stirred, {}
        return [handed for group in stirred for handed in group.flow(now)]

    def sweep(self, now: float) -> list[str]:
        """Look for late acknowledgements and long vacant patterns.

        Returns:
            The patterns for whose topics :meth:`lanes` has another answer now.
        """
        forgotten: list[str] = []
        for group in tuple(self._groups.values()):
            for pattern in group.sweep(now):
                forgotten.append(pattern)
                self._kept -= 1
                having = self._having[pattern]
                del having[group]
                if not having:
                    del self._having[pattern]
                    self._patterns.remove(pattern)
            self._stirred[group] = None
            if not len(group):
                del self._groups[group.name]
                self._returned += group.returned
        return forgotten

    def counts(self) -> GroupCounts:
        """How much there is. O(groups and their lanes)."""
        groups = self._groups.values()
        waiting = sum(group.waiting for group in groups)
        return GroupCounts(
            sum(len(group.members) for group in groups),
            waiting,
            sum(len(group.unfinished) for group in groups) - waiting,
            self._returned + sum(group.returned for group in groups),
        )
