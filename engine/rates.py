"""By how much counters rise per second. Pure."""

from __future__ import annotations

from collections.abc import Mapping


class Rates:
    """Remembers groups of counters, each as it was when it was last read."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, dict[str, float]]] = {}

    def of(self, group: str, counters: Mapping[str, float], at: float) -> dict[str, float]:
        """What each has risen by per second since the group was last read.

        Absent: a counter that is new, or has fallen (it began anew), and all where no time has passed.

        Args:
            at: seconds of a clock that never falls.
        """
        before, old = self._last.get(group, (at, {}))
        self._last[group] = at, dict(counters)
        if at <= before:
            return {}
        return {
            name: (value - old[name]) / (at - before)
            for name, value in counters.items()
            if name in old and value >= old[name]
        }

    def rest(self, at: float) -> None:
        """Forget the groups that were not read at ``at``: what they would say next is of another life."""
        self._last = {group: last for group, last in self._last.items() if last[0] == at}
