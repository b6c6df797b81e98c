"""Which peers want which topics. Pure; the router's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from actors.subscriptions import PatternIndex


class Peer(Protocol):
    """A worker, feeds process or daemon at the other end of the bus (see :class:`transport.bus_server.Peer`)."""

    out: list[bytes]

    @property
    def window_open(self) -> bool: ...


class Interests:
    """Patterns by peer and peers by pattern.

    Cost of a change: O(1) per pattern; of :meth:`of`: a match of patterns and one look per peer and pattern.
    """

    def __init__(self) -> None:
        self._patterns = PatternIndex()
        self._interested: dict[str, dict[Peer, None]] = {}
        self._of: dict[Peer, set[str]] = {}

    def change(self, peer: Peer, add: Iterable[str], remove: Iterable[str]) -> list[str]:
        """A peer wants what matches ``add``, no longer what matches ``remove``; what of this was not so already."""
        held = self._of.setdefault(peer, set())
        changed: list[str] = []
        for pattern in add:
            if pattern not in held:
                held.add(pattern)
                self._patterns.add(pattern)
                self._interested.setdefault(pattern, {})[peer] = None
                changed.append(pattern)
        for pattern in remove:
            if pattern in held:
                held.discard(pattern)
                self._drop(pattern, peer)
                changed.append(pattern)
        return changed

    def gone(self, peer: Peer) -> set[str]:
        """Forget a peer; the patterns that it had."""
        patterns = self._of.pop(peer, set())
        for pattern in patterns:
            self._drop(pattern, peer)
        return patterns

    def _drop(self, pattern: str, peer: Peer) -> None:
        peers = self._interested[pattern]
        del peers[peer]
        if not peers:
            del self._interested[pattern]
            self._patterns.remove(pattern)

    def of(self, topic: str) -> tuple[Peer, ...]:
        """The peers that want events of ``topic``, each once."""
        peers: dict[Peer, None] = {}
        for pattern in self._patterns.match(topic):
            peers.update(self._interested[pattern])
        return tuple(peers)
