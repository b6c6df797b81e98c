"""Which users are present on which topics: the hub's view, over all workers. Pure.

A worker reports a user once per topic (:mod:`actors.attendance`), however many of its sessions are subscribed there.
"""

from __future__ import annotations

from collections.abc import Hashable

from transport.messages import Present

Entry = tuple[str, str]
"""Topic and user."""


class Presence:
    """Topic → user → the peers that have sessions of the user on the topic.

    Cost: O(1) per entry that is reported; a look at a topic is O(its users × log). Nothing stays of who has left.
    """

    def __init__(self) -> None:
        self._users: dict[str, dict[str, set[Hashable]]] = {}
        self._of: dict[Hashable, set[Entry]] = {}

    def __len__(self) -> int:
        """How many (topic, user) are present."""
        return sum(map(len, self._users.values()))

    def report(self, peer: Hashable, present: Present) -> tuple[list[Entry], list[Entry]]:
        """Take in what a worker says.

        Returns:
            Who joined and who left, seen over all workers. In an answer to a new hub (``again``) nobody joins: they
            have been there all the time.
        """
        joined = [entry for topic, user in present.joined if self._enter(peer, entry := (topic, user))]
        left = [entry for topic, user in present.left if self._exit(peer, entry := (topic, user))]
        return [] if present.again else joined, left

    def gone(self, peer: Hashable) -> list[Entry]:
        """A worker is dead or has left: who is nowhere else any more."""
        return [entry for entry in sorted(self._of.get(peer, ())) if self._exit(peer, entry)]

    def users(self, topic: str) -> list[str]:
        """Who is present on ``topic``, sorted."""
        return sorted(self._users.get(topic, ()))

    def _enter(self, peer: Hashable, entry: Entry) -> bool:
        topic, user = entry
        self._of.setdefault(peer, set()).add(entry)
        users = self._users.setdefault(topic, {})
        peers = users.get(user)
        if peers is None:
            users[user] = {peer}
            return True
        peers.add(peer)
        return False

    def _exit(self, peer: Hashable, entry: Entry) -> bool:
        entries = self._of.get(peer)
        if entries is None or entry not in entries:
            return False
        entries.discard(entry)
        if not entries:
            del self._of[peer]
        topic, user = entry
        users = self._users[topic]
        peers = users[user]
        peers.discard(peer)
        if peers:
            return False
        del users[user]
        if not users:
            del self._users[topic]
        return True
