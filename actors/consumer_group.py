"""One consumer group: which member gets which event, and what is not done yet. Pure.

Events are in *lanes*: topics that the same patterns of the group match have the same possible receivers, so they wait
in one line, oldest first, and no line waits for another.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heapreplace
from typing import Final, NamedTuple

from actors.group_members import Member, Members
from actors.interests import Peer
from actors.subscriptions import PatternIndex
from actors.topic_policy import TopicPolicy
from transport.messages import Assigned, Publication

VACANT_S: Final = 600.0
"""How long a group keeps events of a pattern that no member has any more, s; after it they are dropped."""

Key = tuple[str, str, int]
"""Topic, epoch and offset of an event."""


class Handed(NamedTuple):
    """Send this to that peer."""

    peer: Peer
    assigned: Assigned


class Entry:
    """An event that waits for a member, or for the acknowledgement of ``member``, to whom it went at ``since``."""

    __slots__ = ("acks", "former", "key", "lane", "member", "number", "publication", "since", "timeout")

    def __init__(self, number: int, lane: Lane, publication: Publication, policy: TopicPolicy) -> None:
        self.number, self.lane, self.publication = number, lane, publication
        self.key: Key = publication[:3]
        self.acks, self.timeout = policy.acks, policy.ack_timeout_s
        self.member: Member | None = None
        self.since = 0.0
        self.former: set[str] = set()  # members that had it and were late; they may still acknowledge it


class Lane:
    """The topics of a group that exactly ``patterns`` match, and their events that wait, oldest first."""

    __slots__ = ("patterns", "waiting")

    def __init__(self, patterns: tuple[str, ...]) -> None:
        self.patterns = patterns
        self.waiting: OrderedDict[Key, Entry] = OrderedDict()


class Group:
    """A consumer group.

    Args:
        limit: events that wait or are not acknowledged, at most; with one more, the oldest that waits is dropped.
        dropped: where what is lost is counted: ``group_full``, and ``group_empty`` for want of a member.

    Attributes:
        members: by session id.
        unfinished: what waits or is not acknowledged, in the order of events.
        returned: times that a member lost an event that it had not acknowledged, so that others get it.
    """

    def __init__(self, name: str, limit: int, dropped: dict[str, int]) -> None:
        self.name, self._limit, self._dropped = name, limit, dropped
        self.members: dict[str, Member] = {}
        self.unfinished: dict[Key, Entry] = {}
        self.returned = 0
        self._ready = Members()
        self._patterns = PatternIndex()
        self._holders: dict[str, int] = {}  # members by pattern
        self._vacant: dict[str, float] = {}  # patterns without members, since when
        self._lanes: dict[tuple[str, ...], Lane] = {}
        self._numbers = 0
        self._timeout = float("inf")  # the shortest one that was ever asked for

    def __len__(self) -> int:
        """How many patterns it has, those without members too."""
        return len(self._patterns)

    # membership -----------------------------------------------------------------------------------------------------

    def join(self, member: Member, patterns: Iterable[str]) -> list[str]:
        """A member subscribes to patterns; those that are new to the group, for whose topics lanes have changed."""
        self.members[member.id] = member
        new: list[str] = []
        for pattern in patterns:
            if pattern not in member.patterns:
                member.patterns.add(pattern)
                self._holders[pattern] = self._holders.get(pattern, 0) + 1
                self._vacant.pop(pattern, None)
            if self._patterns.add(pattern):
                new.append(pattern)
        self._ready.place(member)
        if new:
            self._lay_lanes()
        return new

    def leave(self, member: Member, patterns: Iterable[str], now: float) -> None:
        """A member gives up patterns; what of its share it had for them waits for others."""
        vacated = False
        for pattern in member.patterns.intersection(patterns):
            member.patterns.discard(pattern)
            self._holders[pattern] -= 1
            if not self._holders[pattern]:
                del self._holders[pattern]
                self._vacant[pattern] = now
                vacated = True
        self._release([entry for entry in member.share.values() if member.patterns.isdisjoint(entry.lane.patterns)])
        if not member.patterns:
            self._ready.leave(member)
            self.members.pop(member.id, None)
        if not vacated:
            return
        for lane in self._lanes.values():
            if lane.waiting and not self._held(lane):
                self._lose([entry for entry in lane.waiting.values() if not entry.acks])

    def _held(self, lane: Lane) -> bool:
        return any(pattern in self._holders for pattern in lane.patterns)

    def refresh(self, member: Member) -> None:
        """Its worker keeps up again."""
        self._ready.place(member)

    # events ---------------------------------------------------------------------------------------------------------

    def lane(self, topic: str) -> Lane:
        """Where the topic's events wait. It holds until a pattern that matches the topic is new or forgotten."""
        patterns = self._patterns.match(topic)
        lane = self._lanes.get(patterns)
        if lane is None:
            lane = self._lanes[patterns] = Lane(patterns)
        return lane

    def take(self, lane: Lane, publication: Publication, policy: TopicPolicy, now: float) -> Handed | None:
        """A new event: to whom it goes at once. O(1)."""
        member = None if lane.waiting else self._ready.choose(lane.patterns)
        if not policy.acks:
            if member is not None:
                self._ready.place(member)
                return Handed(member.peer, Assigned(member.id, publication))
            if not self._held(lane):
                self._count("group_empty")
                return None
        if len(self.unfinished) >= self._limit and not self._make_room():
            return None
        self._numbers += 1
        entry = Entry(self._numbers, lane, publication, policy)
        self.unfinished[entry.key] = entry
        self._timeout = min(self._timeout, entry.timeout)
        if member is None:
            lane.waiting[entry.key] = entry
            return None
        return self._assign(entry, member, now)

    def flow(self, now: float) -> Iterator[Handed]:
        """What waits, as far as there are members for it, the oldest first. O(lanes + events × log lanes)."""
        oldest = [(_age(lane), lane) for lane in self._lanes.values() if lane.waiting and self._held(lane)]
        heapify(oldest)
        while oldest:
            lane = oldest[0][1]
            member = self._ready.choose(lane.patterns)
            if member is not None:
                _, entry = lane.waiting.popitem(last=False)
                yield self._assign(entry, member, now)
            if member is None or not lane.waiting:
                heappop(oldest)
            else:
                heapreplace(oldest, (_age(lane), lane))

    def _assign(self, entry: Entry, member: Member, now: float) -> Handed:
        if entry.acks:
            entry.member, entry.since = member, now
            member.share[entry.key] = entry
        else:
            del self.unfinished[entry.key]
        self._ready.place(member)
        return Handed(member.peer, Assigned(member.id, entry.publication))

    def acknowledge(self, member: Member, key: Key) -> None:
        """A member is done with an event that was assigned to it, now or earlier; another event is ignored."""
        entry = self.unfinished.get(key)
        if entry is None or (entry.member is not member and member.id not in entry.former):
            return
        del self.unfinished[key]
        holder = entry.member
        if holder is None:
            del entry.lane.waiting[key]
        else:
            del holder.share[key]
            self._ready.place(holder)
        if member.silent:
            member.silent = False
            self._ready.place(member)

    def sweep(self, now: float) -> list[str]:
        """Take back what members have not acknowledged in time; forget patterns that were vacant for long: these."""
        for member in self.members.values():
            late: list[Entry] = []
            for entry in member.share.values():
                if entry.since + self._timeout > now:
                    break  # and what follows was assigned later
                if entry.since + entry.timeout <= now:
                    late.append(entry)
            if late:
                member.silent = True
                for entry in late:
                    entry.former.add(member.id)
                self._release(late)
                self._ready.place(member)
        gone = [pattern for pattern, since in self._vacant.items() if since + VACANT_S <= now]
        for pattern in gone:
            del self._vacant[pattern]
            self._patterns.remove(pattern)
        if gone:
            self._lay_lanes()
        return gone

    @property
    def waiting(self) -> int:
        """Events that wait for a member. O(lanes)."""
        return sum(len(lane.waiting) for lane in self._lanes.values())

    # what waits -----------------------------------------------------------------------------------------------------

    def _release(self, entries: list[Entry]) -> None:
        """Members no longer have these; they wait again, at their age."""
        self.returned += len(entries)
        by_lane: dict[Lane, list[Entry]] = {}
        for entry in entries:
            assert entry.member is not None, "it was assigned"
            del entry.member.share[entry.key]
            entry.member = None
            by_lane.setdefault(entry.lane, []).append(entry)
        for lane, returned in by_lane.items():
            waiting = sorted([*lane.waiting.values(), *returned], key=_number)
            lane.waiting = OrderedDict((entry.key, entry) for entry in waiting)

    def _make_room(self) -> bool:
        """Drop the oldest that waits; without any, there is no room."""
        self._count("group_full")
        lanes = [lane for lane in self._lanes.values() if lane.waiting]
        if not lanes:
            return False
        key, _ = min(lanes, key=_age).waiting.popitem(last=False)
        del self.unfinished[key]
        return True

    def _lose(self, entries: list[Entry]) -> None:
        for entry in entries:
            del self.unfinished[entry.key], entry.lane.waiting[entry.key]
            self._count("group_empty")

    def _lay_lanes(self) -> None:
        """After a change of patterns: what waits, to its lanes of now. O(unfinished events).

        Lanes stay the same objects, for the topics that the change does not concern.
        """
        self._lanes = {
            key: lane for key, lane in self._lanes.items() if all(pattern in self._patterns for pattern in key)
        }
        for lane in self._lanes.values():
            lane.waiting.clear()
        unmatched: list[Entry] = []
        lanes: dict[str, Lane] = {}
        for entry in self.unfinished.values():
            topic = entry.publication.topic
            lane = lanes.get(topic) or lanes.setdefault(topic, self.lane(topic))
            entry.lane = lane
            if entry.member is None:
                lane.waiting[entry.key] = entry
            if not lane.patterns:
                unmatched.append(entry)
        self._lose(unmatched)

    def _count(self, reason: str) -> None:
        self._dropped[reason] = self._dropped.get(reason, 0) + 1


def _number(entry: Entry) -> int:
    return entry.number


def _age(lane: Lane) -> int:
    return next(iter(lane.waiting.values())).number
