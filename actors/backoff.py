"""Capped exponential backoff as data: no clock, no sleep; the random source is passed in.

Full jitter as in "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015): a delay is uniform between 0 and the
capped exponential, so that many clients of one broken upstream do not return together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import random


@dataclass(frozen=True, slots=True)
class BackoffPolicy:
    """How long to wait before attempt n.

    Attributes:
        first_s: upper bound of the first delay, seconds; above 0.
        cap_s: upper bound of every delay, seconds; at least ``first_s``.
        factor: growth per failure; at least 1.
        jitter: full jitter; without it a delay is its upper bound.
        stable_s: a connection that lasted this long was a success, after which the next failure counts as the first.
    """

    first_s: float = 0.5
    cap_s: float = 30.0
    factor: float = 2.0
    jitter: bool = True
    stable_s: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.first_s <= self.cap_s:
            raise ValueError(f"first_s must be above 0 and at most cap_s ({self.cap_s}), not {self.first_s}")
        if self.factor < 1:
            raise ValueError(f"factor must be at least 1, not {self.factor}")

    def bound(self, failures: int, patience: float = 1.0) -> float:
        """Upper bound of the delay after this many failures in a row, seconds; ``failures`` starts at 1.

        ``patience`` multiplies all delays, the cap included.
        """
        if failures < 1:
            return 0.0
        try:
            return patience * min(self.cap_s, self.first_s * self.factor ** (failures - 1))
        except OverflowError:
            return patience * self.cap_s


class Backoff:
    """Failures in a row of one upstream, and the delay that follows from them.

    It belongs to whoever outlives the thing that fails, so that a crash does not reset it.
    """

    __slots__ = ("_random", "failures", "policy")

    def __init__(self, policy: BackoffPolicy = BackoffPolicy(), random: Callable[[], float] = random) -> None:
        self.policy = policy
        self.failures = 0
        self._random = random

    def failed(self, lasted_s: float = 0.0, patience: float = 1.0) -> float:
        """Count a failure of a connection that had lasted ``lasted_s`` (0: never opened); seconds to wait now."""
        if lasted_s >= self.policy.stable_s:
            self.failures = 0
        self.failures += 1
        bound = self.policy.bound(self.failures, patience)
        return bound * self._random() if self.policy.jitter else bound

    def reset(self) -> None:
        """Forget all failures."""
        self.failures = 0
