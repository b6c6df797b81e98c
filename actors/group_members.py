"""The members of one consumer group by load: who is next? Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Final

from actors.interests import Peer

if TYPE_CHECKING:
    from actors.consumer_group import Entry, Key

UNACKNOWLEDGED: Final = 1_000
"""Events that one member holds at most; with so many it is not chosen."""


class Member:
    """A session in a group.

    Attributes:
        id: of the session; ``peer``: its worker.
        patterns: of its subscriptions in this group.
        share: what was assigned to it and is not acknowledged, in the order of assignment.
        silent: it let an event's time pass and has acknowledged nothing since.
        rank: its place in :class:`Members`; ``None``: it is not to be chosen now.
    """

    __slots__ = ("id", "patterns", "peer", "rank", "share", "silent")

    def __init__(self, id: str, peer: Peer) -> None:
        self.id, self.peer = id, peer
        self.patterns: set[str] = set()
        self.share: dict[Key, Entry] = {}
        self.silent = False
        self.rank: int | None = None


class Members:
    """Who can be chosen, by rank: silent members behind the others, then by the size of their share.

    Of equals the one that has waited longest goes first, so that without acknowledgements all take turns. Cost of a
    choice and of a change: O(1), but that members which hold none of the wanted patterns are looked at and passed over.
    """

    def __init__(self) -> None:
        self._by_rank: dict[int, OrderedDict[Member, None]] = {}
        self._lowest = 0  # no rank below it has members

    def place(self, member: Member) -> None:
        """Its share, silence or turn has changed: last of its equals. With a full share it is left out."""
        self.leave(member)
        held = len(member.share)
        if held < UNACKNOWLEDGED:
            rank = member.rank = held + UNACKNOWLEDGED if member.silent else held
            self._by_rank.setdefault(rank, OrderedDict())[member] = None
            self._lowest = min(self._lowest, rank)

    def leave(self, member: Member) -> None:
        """Leave it out until it is placed again."""
        if member.rank is not None:
            equals = self._by_rank[member.rank]
            del equals[member]
            if not equals:
                del self._by_rank[member.rank]
            member.rank = None

    def choose(self, patterns: Collection[str]) -> Member | None:
        """The first that holds one of ``patterns`` and whose worker keeps up; ``None``: there is no such.

        Members of a worker that does not keep up are left out until they are placed again.
        """
        while (member := self._first(patterns)) is not None and not member.peer.window_open:
            self.leave(member)
        return member

    def _first(self, patterns: Collection[str]) -> Member | None:
        by_rank = self._by_rank
        if not by_rank:
            return None
        while self._lowest not in by_rank:
            self._lowest += 1
        first = next(iter(by_rank[self._lowest]))
        if not first.patterns.isdisjoint(patterns):
            return first
        return _first_of((member for rank in sorted(by_rank) for member in by_rank[rank]), patterns)


def _first_of(members: Iterable[Member], patterns: Collection[str]) -> Member | None:
    return next((member for member in members if not member.patterns.isdisjoint(patterns)), None)
