"""When to try an upstream again: the backoff, the circuit breaker and what the failure's kind asks, as one decision.

Within ``max_retries`` failed attempts in a row the backoff says how long to wait; then the breaker opens and says it,
or, with ``give_up``, nobody tries again. The loss of a connection that had delivered is no failed attempt: it is waited
for, but the breaker, unless it is half-open, does not count it. Pure; clock and random source are passed in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import random
from typing import Any, NamedTuple

from actors.backoff import Backoff, BackoffPolicy
from actors.breaker import BreakerPolicy, BreakerState, CircuitBreaker
from actors.failure import POLICIES, Failure


@dataclass(frozen=True, slots=True)
class RecoveryPolicy:
    """``breaker.failures`` is how many attempts in a row may fail; ``give_up``: then for good."""

    backoff: BackoffPolicy = field(default_factory=BackoffPolicy)
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)
    give_up: bool = False


class Verdict(NamedTuple):
    """What follows from a failure.

    Attributes:
        delay_s: seconds to the next attempt; ``None``: there will be none.
        needs_token: not with the token that this one had.
    """

    delay_s: float | None
    needs_token: bool = False


class Recovery:
    """One upstream's. It belongs to whoever outlives the connection, so that a crash resets nothing."""

    def __init__(
        self,
        policy: RecoveryPolicy = RecoveryPolicy(),
        *,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random,
        on_change: Callable[[BreakerState, BreakerState], None] = lambda old, new: None,
    ) -> None:
        self.policy = policy
        self.backoff = Backoff(policy.backoff, random)
        self.breaker = CircuitBreaker(policy.breaker, clock, on_change)
        self.url = 0
        """Counts the moves to the next URL; 0 is the first one."""

    def failed(self, failure: Failure, *, lasted_s: float = 0.0, proven: bool = False) -> Verdict:
        """A connection, or the attempt to make one, ended.

        Args:
            lasted_s: how long it was connected, 0: never.
            proven: it had delivered a valid message.
        """
        policy = POLICIES[failure.kind]
        if proven:
            self.url = 0  # the first URL is the one that is wanted
        elif policy.failover:
            self.url += 1
        if policy.counts and not (proven and self.breaker.state is BreakerState.CLOSED):
            self.breaker.failed()
        else:
            self.breaker.released()
        delay_s = self.backoff.failed(lasted_s, policy.patience)
        if self.breaker.state is BreakerState.OPEN:
            if self.policy.give_up:
                return Verdict(None)
            patient = policy.patience > 1.0  # such a failure asks for more than the breaker's time
            delay_s = max(self.breaker.wait_s, delay_s if patient else 0.0)
        return Verdict(max(delay_s, failure.retry_after or 0.0), policy.needs_token)

    def delivered(self, messages: int) -> None:
        """That many valid messages came: once per batch, not per message."""
        self.breaker.succeeded(messages)

    def reset(self) -> None:
        """Forget all failures, by order of an operator."""
        self.backoff.reset()
        self.breaker.reset()
        self.url = 0

    def snapshot(self) -> dict[str, Any]:
        """Plain values, for people and for :meth:`restore`."""
        return {"failures": self.backoff.failures, "url": self.url, "breaker": self.breaker.snapshot()}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Go on where a predecessor was."""
        self.backoff.failures, self.url = snapshot["failures"], snapshot["url"]
        self.breaker.restore(snapshot["breaker"])
