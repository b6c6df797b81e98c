"""Which sessions of a worker come from one address."""

from __future__ import annotations

from collections.abc import Iterable

from actors.session import Session
from transport.peers import network


class Neighbours:
    """Counts sessions by IPv4 address or IPv6 /64; only where that is limited.

    Args:
        most: from one address; none: any number, and nothing is counted.
        present: sessions that are here already.
    """

    def __init__(self, most: int | None, present: Iterable[Session] = ()) -> None:
        self._most = most
        self._counts: dict[str, int] = {}
        for session in present:
            self.came(session)

    def came(self, session: Session) -> bool:
        """Count it; whether there was room."""
        if self._most is None:
            return True
        host = network(session.connection.host)
        count = self._counts[host] = self._counts.get(host, 0) + 1
        return count <= self._most

    def went(self, session: Session) -> None:
        """One that came is gone."""
        if self._most is None:
            return
        host = network(session.connection.host)
        self._counts[host] -= 1
        if not self._counts[host]:
            del self._counts[host]
