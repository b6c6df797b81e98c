"""A circuit breaker: keeps an engine from hammering an upstream that is down. Pure; the clock is passed in.

Closed, attempts go through. After ``failures`` in a row it opens: nothing goes through for ``open_s``. Then it is
half-open and lets one attempt at a time through: ``successes`` close it, a failure opens it again for twice as long, up
to ``open_max_s``. As in Nygard, "Release It!" (2007).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class BreakerState(StrEnum):
    """Whether attempts go through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When to open and for how long.

    Attributes:
        failures: in a row that open it; at least 1.
        successes: in half-open that close it; at least 1.
        open_s: seconds that it stays open at first; above 0.
        open_max_s: seconds that it stays open at most; at least ``open_s``.
        factor: growth of the open time with each failure in half-open; at least 1.
    """

    failures: int = 5
    successes: int = 3
    open_s: float = 10.0
    open_max_s: float = 80.0
    factor: float = 2.0

    def __post_init__(self) -> None:
        if self.failures < 1 or self.successes < 1:
            raise ValueError(f"failures and successes must be at least 1, not {self.failures} and {self.successes}")
        if not 0 < self.open_s <= self.open_max_s:
            raise ValueError(f"open_s must be above 0 and at most open_max_s ({self.open_max_s}), not {self.open_s}")
        if self.factor < 1:
            raise ValueError(f"factor must be at least 1, not {self.factor}")

    def open_time(self, reopened: int) -> float:
        """Seconds that it stays open after it was opened again ``reopened`` times without having closed."""
        try:
            return min(self.open_max_s, self.open_s * self.factor**reopened)
        except OverflowError:
            return self.open_max_s


class CircuitBreaker:
    """See the module. Not thread-safe; it belongs to whoever outlives the attempts.

    Args:
        clock: monotonic seconds. With the default, the machine's, a :meth:`snapshot` means the same in another process.
        on_change: told the old and the new state, after the change.

    Attributes:
        failures, successes, opens: counted since its making, :meth:`reset` included.
    """

    def __init__(
        self,
        policy: BreakerPolicy = BreakerPolicy(),
        clock: Callable[[], float] = time.monotonic,
        on_change: Callable[[BreakerState, BreakerState], None] = lambda old, new: None,
    ) -> None:
        self.policy = policy
        self.on_change = on_change
        self.failures = self.successes = self.opens = 0
        self._clock = clock
        self._state = BreakerState.CLOSED
        self._since = clock()
        self._until = 0.0  # the end of being open
        self._streak = 0  # failures in a row while closed, successes while half-open
        self._reopened = 0
        self._trial = False
        self._seconds = dict.fromkeys(BreakerState, 0.0)

    @property
    def state(self) -> BreakerState:
        """The state now: an open breaker becomes half-open by the clock alone."""
        if self._state is BreakerState.OPEN and self._clock() >= self._until:
            self._enter(BreakerState.HALF_OPEN, self._until)
        return self._state

    @property
    def wait_s(self) -> float:
        """Seconds until an attempt may go through; 0 unless it is open."""
        return max(0.0, self._until - self._clock()) if self.state is BreakerState.OPEN else 0.0

    def admit(self) -> bool:
        """Whether an attempt may begin now. In half-open the caller then has the one place, until its outcome."""
        state = self.state
        if state is BreakerState.OPEN or (state is BreakerState.HALF_OPEN and self._trial):
            return False
        self._trial = state is BreakerState.HALF_OPEN
        return True

    def failed(self) -> None:
        """An attempt failed, or what it had achieved in half-open did not last."""
        self.failures += 1
        state = self.state
        self._trial = False
        if state is BreakerState.CLOSED:
            self._streak += 1
            if self._streak >= self.policy.failures:
                self._open()
        elif state is BreakerState.HALF_OPEN:
            self._reopened += 1
            self._open()

    def succeeded(self, times: int = 1) -> None:
        """That many successes. While open they change nothing: an attempt that began before is no proof."""
        self.successes += times
        state = self.state
        if state is BreakerState.CLOSED:
            self._streak = 0
        elif state is BreakerState.HALF_OPEN:
            self._streak += times
            if self._streak >= self.policy.successes:
                self._close()

    def released(self) -> None:
        """The attempt ended without an outcome: in half-open the next may go through."""
        self._trial = False

    def reset(self) -> None:
        """Close it and forget the failures, by order of an operator."""
        if self.state is not BreakerState.CLOSED:
            self._close()
        self._streak = 0

    def seconds(self) -> dict[BreakerState, float]:
        """Time spent in each state so far."""
        state = self.state
        return {**self._seconds, state: self._seconds[state] + max(0.0, self._clock() - self._since)}

    def count_on(self, before: CircuitBreaker) -> None:
        """Take over what another one has counted: its figures go on, its state does not."""
        self.failures, self.successes, self.opens = before.failures, before.successes, before.opens
        self._seconds = before.seconds()

    def snapshot(self) -> dict[str, Any]:
        """Plain values, for people and for :meth:`restore`."""
        return {
            "state": self.state.value,
            "failures": self.failures,
            "successes": self.successes,
            "opens": self.opens,
            "in_a_row": self._streak,
            "reopened": self._reopened,
            "retry_in": round(self.wait_s, 3) if self.state is BreakerState.OPEN else None,
            "until": self._until,
            "at": self._clock(),
            "seconds": {state.value: round(seconds, 3) for state, seconds in self.seconds().items()},
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Go on where a predecessor, maybe in another process of this machine, was. Nobody is told of a change.

        The time in between counts for the state that it was in.
        """
        self._state = BreakerState(snapshot["state"])
        self.failures, self.successes, self.opens = (snapshot[name] for name in ("failures", "successes", "opens"))
        self._streak, self._reopened, self._until = snapshot["in_a_row"], snapshot["reopened"], snapshot["until"]
        self._seconds = {state: snapshot["seconds"][state.value] for state in BreakerState}
        self._since, self._trial = snapshot["at"], False

    def _open(self) -> None:
        self.opens += 1
        now = self._clock()
        self._until = now + self.policy.open_time(self._reopened)
        self._enter(BreakerState.OPEN, now)

    def _close(self) -> None:
        self._reopened = 0
        self._enter(BreakerState.CLOSED, self._clock())

    def _enter(self, state: BreakerState, now: float) -> None:
        old = self._state
        self._seconds[old] += max(0.0, now - self._since)
        self._state, self._since, self._streak, self._trial = state, now, 0, False
        self.on_change(old, state)
