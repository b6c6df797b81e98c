"""A webhook: what it is told is sent in order, one at a time, again and again until it is taken or too old.

A backoff waits between attempts; after some failures in a row a circuit breaker lets the receiver rest. Nothing of this
is in anybody's way: what waits is bounded, and the oldest goes.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple

from actors.backoff import Backoff, BackoffPolicy
from actors.breaker import BreakerPolicy, BreakerState, CircuitBreaker
from transport.errors import HeliographError
from transport.http_post import Target, post
from transport.meter import Condition

ROOM: Final = 1_000
"""Messages that wait for a webhook; the oldest go."""
TIMEOUT: Final = 10.0
"""Seconds for one attempt, from the look-up of the name to the answer's status."""
TOO_OLD: Final = 3_600.0
"""Seconds since the first attempt to send a message, after which it is given up."""
HOPELESS: Final = frozenset({400, 405, 413, 415, 422})
"""Status codes that speak of the message: it would be refused again."""

_log = logging.getLogger(__name__)


class WebhookPolicy(NamedTuple):
    """How patient it is."""

    timeout: float = TIMEOUT
    too_old: float = TOO_OLD
    backoff: BackoffPolicy = BackoffPolicy(first_s=0.5, cap_s=30.0)
    breaker: BreakerPolicy = BreakerPolicy(failures=5, successes=1, open_s=10.0, open_max_s=160.0)


PATIENT: Final = WebhookPolicy()


class _Refused(HeliographError):
    """An answer that does not say yes."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


class Webhook:
    """One receiver; it outlives whoever gives it messages. All on one loop.

    Args:
        url, headers: may hold secrets, of which nothing is logged.

    Raises:
        ValueError: the URL is none, without it in the text.

    Attributes:
        sent, failed, dropped: messages taken; attempts that failed; messages that were given up.
    """

    def __init__(
        self, name: str, url: str, headers: Mapping[str, str] | None = None, policy: WebhookPolicy = PATIENT
    ) -> None:
        self.name, self._headers, self._policy = name, dict(headers or {}), policy
        self._target = Target.of(url)
        self._tls: ssl.SSLContext | None = None
        self._backoff = Backoff(policy.backoff)
        self.breaker = CircuitBreaker(policy.breaker, on_change=self._breaker_changed)
        self._queue: deque[tuple[int, bytes]] = deque()
        self._came = asyncio.Event()
        self._trouble: str | None = None
        self._retry_at = 0.0
        self.sent = self.failed = self.dropped = 0

    def put(self, number: int, body: bytes) -> int | None:
        """Have JSON sent; the number of a message that is dropped for it."""
        self._queue.append((number, body))
        self._came.set()
        if len(self._queue) <= ROOM:
            return None
        # Not the first: it may be on its way.
        oldest, _ = self._queue[1]
        del self._queue[1]
        self._drop(oldest, f"{ROOM} messages wait already")
        return oldest

    @property
    def condition(self) -> Condition:
        """How it fares."""
        left = max(0.0, self._retry_at - time.monotonic())
        return Condition(None if self._trouble is None else f"webhook {self.name}: {self._trouble}", left)

    async def run(self, done: Callable[[int], Awaitable[None]]) -> None:
        """Send for ever, beginning with nothing; ``done`` is told which number needs no more thought."""
        self._queue.clear()
        while True:
            while not self._queue:
                self._came.clear()
                await self._came.wait()
            number, body = self._queue[0]
            await self._deliver(number, body)
            self._queue.popleft()
            await done(number)

    async def _deliver(self, number: int, body: bytes) -> None:
        """Until it is taken, or given up."""
        began = time.monotonic()
        while True:
            while not self.breaker.admit():
                await self._rest(self.breaker.wait_s)
            try:
                await self._attempt(body)
            except (OSError, TimeoutError, HeliographError) as error:
                wait = max(self._failed(number, error), self.breaker.wait_s)
                if isinstance(error, _Refused) and error.status in HOPELESS:
                    self._drop(number, str(error))
                    return
                if time.monotonic() + wait - began > self._policy.too_old:
                    self._drop(number, f"not taken for {self._policy.too_old:g} s")
                    return
                await self._rest(wait)
            else:
                self._backoff.reset()
                self.breaker.succeeded()
                self._trouble = None
                self.sent += 1
                _log.info("webhook_sent", extra={"webhook": self.name, "number": number})
                return

    async def _attempt(self, body: bytes) -> None:
        if self._target.tls and self._tls is None:  # reading the system's authorities takes tens of milliseconds
            self._tls = await asyncio.to_thread(ssl.create_default_context)
        async with asyncio.timeout(self._policy.timeout):
            status = await post(self._target, self._headers, body, self._tls)
        if not 200 <= status < 300:
            raise _Refused(status)

    def _failed(self, number: int, error: Exception) -> float:
        self.failed += 1
        self.breaker.failed()
        late = f"no answer within {self._policy.timeout:g} s"
        self._trouble = late if isinstance(error, TimeoutError) and not str(error) else str(error)
        wait = self._backoff.failed()
        fields = {"webhook": self.name, "number": number, "error": self._trouble, "retry_in": round(wait, 3)}
        _log.warning("webhook_failed", extra=fields)
        return wait

    async def _rest(self, seconds: float) -> None:
        self._retry_at = time.monotonic() + seconds
        await asyncio.sleep(seconds)

    def _drop(self, number: int, reason: str) -> None:
        self.dropped += 1
        _log.error("webhook_dropped", extra={"webhook": self.name, "number": number, "reason": reason})

    def _breaker_changed(self, old: BreakerState, new: BreakerState) -> None:
        _log.warning("webhook_breaker", extra={"webhook": self.name, "old": old, "new": new})
