"""What is known of all feeds, kept by whoever outlives them: how each fares, and its counters for Prometheus. Pure.

The feed supervisor tells it as ``{name: snapshot}`` (:mod:`actors.feed_supervisor`), plain values. A snapshot's
counters go on in the feed's next life, because that life is given the last snapshot; a feed that is removed and comes
again begins anew, and a crash may lose the last moment. The sums here fall for neither.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from actors.feed_state import FeedState

Snapshot = Mapping[str, Any]
Counted = dict[tuple[str, ...], float]  # (counter, *labels) to its value

HELD = "disconnected by an operator"
_PLAIN = ("attempts", "reconnects", "gaps", "missing")
_RESULTS = ("published", "ignored", "repeated")


class FeedFigures:
    """The last snapshot of each feed, and what all their lives have counted. Each call is O(feeds).

    Args:
        now: Unix seconds, for the next attempt.
        clock: monotonic seconds of the machine, which circuit breakers go by.

    Attributes:
        snapshots: as they were told last; what the feeds' next life is given.
        away: why nobody works on the feeds at present; ``None`` while somebody does.
    """

    def __init__(self, now: Callable[[], float] = time.time, clock: Callable[[], float] = time.monotonic) -> None:
        self.snapshots: Mapping[str, Snapshot] = {}
        self.away: str | None = None
        self._now, self._clock = now, clock
        self._counted: dict[str, Counted] = {}  # of feeds that there are
        self._ended: dict[str, Counted] = {}  # of earlier feeds of that name

    def update(self, snapshots: Mapping[str, Snapshot]) -> None:
        """Take what is told of all feeds; one that is not in it has been removed."""
        for name in self._counted.keys() - snapshots.keys():
            ended = self._ended.setdefault(name, {})
            for counter, value in self._counted.pop(name).items():
                ended[counter] = ended.get(counter, 0) + value
        for name, snapshot in snapshots.items():
            counted = self._counted.setdefault(name, {})
            for counter, value in _counts(snapshot):
                counted[counter] = max(value, counted.get(counter, 0))  # a crash may have lost the last few
        self.snapshots = snapshots

    def shown(self) -> dict[str, dict[str, Any]]:
        """The snapshots as they hold now: waits end at the same time, not so long after the last report."""
        return {name: self._present(snapshot) for name, snapshot in self.snapshots.items()}

    def components(self) -> dict[str, dict[str, Any]]:
        """``/health``'s part: ``{"feed:NAME": {"status", "reason", "retry_in"}}``."""
        return {f"feed:{name}": _component(snapshot) for name, snapshot in self.shown().items()}

    def counters(self) -> dict[str, Counted]:
        """By feed, removed ones too; the keys are ``("attempts",)``, ``("messages", result)``, ``("bad", reason)``…"""
        total = {name: dict(ended) for name, ended in self._ended.items()}
        for name, counted in self._counted.items():
            mine = total.setdefault(name, {})
            for counter, value in counted.items():
                mine[counter] = mine.get(counter, 0) + value
        return total

    def _present(self, snapshot: Snapshot) -> dict[str, Any]:
        present = dict(snapshot)
        if present["held"] and present["reason"] is None:
            present["reason"] = HELD
        breaker = present["breaker"] = dict(snapshot["breaker"])
        if breaker["retry_in"] is not None:  # it is open
            breaker["retry_in"] = _left(breaker["until"], self._clock())
        if self.away is None:
            if snapshot["next_attempt_at"] is not None:
                present["retry_in"] = _left(snapshot["next_attempt_at"], self._now())
        else:
            present |= {
                "state": FeedState.DISCONNECTED.value,
                "reason": self.away,
                "kind": None,
                "next_attempt_at": None,
                "retry_in": None,
                "rate": 0.0,
                "lag": None,
            }
        return present


def _left(until: float, now: float) -> float:
    return round(max(0.0, until - now), 3)


def _component(snapshot: Snapshot) -> dict[str, Any]:
    if snapshot["state"] == FeedState.CONNECTED:
        return {"status": "ok", "reason": None, "retry_in": None}
    reason = snapshot["reason"] or snapshot["state"]
    return {"status": "degraded", "reason": reason, "retry_in": snapshot["retry_in"]}


def _counts(snapshot: Snapshot) -> Iterator[tuple[tuple[str, ...], float]]:
    for name in _PLAIN:
        yield (name,), snapshot[name]
    for result in _RESULTS:
        yield ("messages", result), snapshot[result]
    yield ("messages", "bad"), sum(snapshot["bad"].values())
    for reason, times in snapshot["bad"].items():
        yield ("bad", reason), times
    for name in ("failures", "successes", "opens"):
        yield (f"breaker_{name}",), snapshot["breaker"][name]
    for state, seconds in snapshot["breaker"]["seconds"].items():
        yield ("breaker_seconds", state), seconds
