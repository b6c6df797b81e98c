"""A feed: what it is (:class:`FeedSpec`), and what of it outlives its connection (:class:`Feed`).

State, counters, backoff, breaker and the protocol's memory live here, so that neither the loss of a connection nor a
crash of its actor resets them. :meth:`Feed.snapshot` and :meth:`Feed.restore` carry them over the death of a process.
"""

from __future__ import annotations

import logging
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec

from actors.breaker import BreakerState
from actors.failure import Failure, FailureKind
from actors.feed_protocol import FeedGap, FeedProtocol, ProtocolSpec
from actors.feed_state import FeedState, check_transition
from actors.mapping import MappingError
from actors.recovery import Recovery, RecoveryPolicy
from actors.token import TokenSource
from actors.tracing import PublishTracing
from transport.codes import ErrorCode
from transport.errors import ConfigError, RequestError
from transport.messages import Publish
from transport.topics import topic

LONGEST_WAIT_S = 86_400.0
PENDING = 1_000  # messages that wait to be sent to an upstream; a further one is refused
SAMPLE_BYTES = 256  # of the last bad message, for the operator
COUNT_MAX = 2**63 - 1  # of messages missing: an upstream may name any numbers, a figure has 64 bits
RATE_WINDOW_S = 1.0  # least time over which a rate is taken
_REASON_CHARS = 200

_log = logging.getLogger(__name__)


class Publisher(Protocol):
    """The way to the hub, on this loop's thread."""

    def publish(self, batch: list[Publish]) -> None:
        """Pass on a batch, in order. It takes any batch that was begun while :meth:`writable`; never blocks."""

    @property
    def is_writable(self) -> bool:
        """Whether a batch may be begun now."""

    async def writable(self) -> None:
        """Return when that is so, without a suspension if it is now."""


@dataclass(frozen=True, slots=True)
class Tls:
    """How ``wss://`` is verified.

    Attributes:
        ca_file: PEM file of the authorities to trust; ``None``: the system's.
        cert_file, key_file: our own certificate and its key, PEM; ``None``: none.
        verify: whether the upstream's certificate and name are checked.
        server_name: the name in its certificate; ``None``: the URL's.
    """

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    verify: bool = True
    server_name: str | None = None


@dataclass(frozen=True, slots=True)
class FeedSpec:
    """What a feed is; equal specs are the same feed, so that a reload knows what changed.

    Attributes:
        urls: ``ws://`` or ``wss://``, the wanted one first, then those to fail over to; user, password and query are
            never logged.
        protocol: what it speaks.
        headers: HTTP headers of the handshake; never logged.
        token: sent as ``Authorization: Bearer``; never logged.
        proxy: a URL; ``None``: as the environment says, but none for addresses of this machine; empty: none.
        connect_timeout_s: for TCP, proxy and TLS.
        handshake_timeout_s: for the WebSocket handshake.
        idle_timeout_s: without any message, the connection is stale; ``None``: never, pings alone decide.
        stale_timeout_s: the same without an event; ``None``: never.
        close_timeout_s: for the closing handshake.
        ping_interval_s, ping_timeout_s: WebSocket pings and the wait for their pongs; ``None``: none.
        heartbeat_interval_s: between the protocol's own heartbeats; ``None``: none.
        message_bytes: a longer message ends the connection with 1009.
        max_invalid: that many messages in a row that cannot be read end the connection; ``None``: none do.
        any_message_proves: whether a connection proves itself by any message, not only by an event.
    """

    name: str
    urls: tuple[str, ...] = field(repr=False)
    protocol: ProtocolSpec = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    token: TokenSource = field(default_factory=TokenSource)
    tls: Tls = field(default_factory=Tls)
    proxy: str | None = field(default=None, repr=False)
    recovery: RecoveryPolicy = field(default_factory=RecoveryPolicy)
    connect_timeout_s: float = 10.0
    handshake_timeout_s: float = 10.0
    idle_timeout_s: float | None = 30.0
    stale_timeout_s: float | None = None
    close_timeout_s: float = 1.0
    ping_interval_s: float | None = 20.0
    ping_timeout_s: float | None = 20.0
    heartbeat_interval_s: float | None = None
    message_bytes: int = 1 << 20
    max_invalid: int | None = None
    any_message_proves: bool = False


def check_url(url: str, field: str) -> str:
    """``url`` if it is one of a WebSocket; else :class:`ConfigError`."""
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")  # a label that is empty or too long
        valid = parts.scheme in ("ws", "wss") and bool(parts.hostname) and parts.port != 0
        valid = valid and not parts.fragment and (parts.username is None or parts.password is not None)
        valid = valid and url.isprintable() and " " not in url
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError("must be ws://[USER:PASSWORD@]HOST[:PORT][/PATH][?QUERY] or wss://…", field)
    return url


# RFC 9110 section 5; without the obsolete bytes above ASCII.
_header_name = re.compile(r"[-!#$%&'*+.^_`|~0-9a-zA-Z]+").fullmatch
_header_value = re.compile(r"[\t -~]*").fullmatch


def is_header(name: str, value: str) -> bool:
    """Whether an HTTP header may be so."""
    return bool(_header_name(name) and _header_value(value))


def public_address(url: str) -> str:
    """A URL without user, password, query and fragment, for logs and operators."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


class Feed:
    """One feed as long as it is configured. All on the feeds' loop; one connection at a time writes.

    Args:
        publisher: where its events go, and what is to be said of itself (``system.feeds.NAME``).
        on_change: told after each change of its state or its breaker.
        clock: monotonic seconds.
        tracing: chooses those of its events that are traced; ``None``: none are.

    Attributes:
        held: an operator disconnected it; it stays so until told.
        refused_token: what the upstream did not accept; never shown.
        pending: messages to the upstream that are not sent yet.
        attempts: connections begun. ``reconnects``: connections made after the first.
        messages: received; each gives events (``published``), is ``ignored``, ``repeated`` or ``bad``.
        gaps: found; ``missing``: messages that they name.

    Raises:
        ConfigError: the spec's protocol cannot work.
    """

    def __init__(
        self,
        spec: FeedSpec,
        publisher: Publisher,
        *,
        on_change: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] | None = None,
        tracing: PublishTracing | None = None,
    ) -> None:
        self.publisher, self.tracing = publisher, tracing
        self._on_change = on_change
        self._clock, self._random = clock, random
        self.state = FeedState.DISCONNECTED
        self.failure: Failure | None = None
        self.reason: str | None = None
        self.since = 0.0
        self.next_attempt_at: float | None = None
        self.held = False
        self.refused_token: str | None = None
        self.pending: deque[str | bytes] = deque()
        self.connected_before = False
        self.attempts = self.reconnects = 0
        self.messages = self.published = self.ignored = self.repeated = self.gaps = self.missing = 0
        self.bad: Counter[str] = Counter()
        self.last_bad: str | None = None
        self.last_error: str | None = None
        self.rate = 0.0
        self.lag: float | None = None
        self._rated = (clock(), 0)
        self.recovery = self._new_recovery(spec)
        self.change(spec)

    def change(self, spec: FeedSpec) -> None:
        """Become another feed of the same name: counters go on, everything that depends on the spec begins anew.

        Raises:
            ConfigError: the spec's protocol cannot work; nothing has changed.
        """
        self.protocol: FeedProtocol = spec.protocol.create()
        self.spec = spec
        counted, self.recovery = self.recovery.breaker, self._new_recovery(spec)
        self.recovery.breaker.count_on(counted)
        self.refused_token = None
        self._forgot = self.connected_before  # the numbers and positions of the protocol before

    def _new_recovery(self, spec: FeedSpec) -> Recovery:
        more = {} if self._random is None else {"random": self._random}
        return Recovery(spec.recovery, clock=self._clock, on_change=self._breaker_changed, **more)

    @property
    def url(self) -> str:
        """The one whose turn it is."""
        return self.spec.urls[self.recovery.url % len(self.spec.urls)]

    @property
    def due_in(self) -> float:
        """Seconds until its next attempt is due; 0 where none is, or it is overdue. A clock set back is no reason to
        wait longer than any failure can ask."""
        left_s = 0.0 if self.next_attempt_at is None else self.next_attempt_at - time.time()
        return min(max(0.0, left_s), LONGEST_WAIT_S)

    def enter(
        self, state: FeedState, failure: Failure | None = None, retry_in: float | None = None, reason: str | None = None
    ) -> None:
        """The one place where its state changes. ``reason`` stands where there is no failure.

        Raises:
            IllegalTransition: a bug.
        """
        old, now = self.state, time.time()
        if state is not old:
            check_transition(old, state)
            self.since = now
        self.state, self.failure = state, failure
        self.reason = self._shown(str(failure)) if failure is not None else reason
        self.last_error = self.reason if failure is not None else self.last_error
        self.next_attempt_at = None if retry_in is None else now + retry_in
        name, why = self.spec.name, f": {self.reason}" if self.reason else ""
        level = logging.WARNING if state in (FeedState.RECONNECTING, FeedState.FAILED) else logging.INFO
        kind = None if failure is None else failure.kind.value
        wait = None if retry_in is None else round(retry_in, 3)
        changed = {"from": old.value, "state": state.value, "reason": self.reason, "kind": kind, "retry_in": wait}
        fields = {"event": "feed_state", "feed": name, **changed}
        _log.log(level, "feed %s: %s -> %s%s", name, old, state, why, extra=fields)
        self._announce("feed_state", changed)

    def end(self, reason: str | None = None) -> None:
        """To disconnected, from any state."""
        if self.state in (FeedState.CONNECTING, FeedState.CONNECTED):
            self.enter(FeedState.DISCONNECTING, reason=reason)
        if self.state is not FeedState.DISCONNECTED:
            self.enter(FeedState.DISCONNECTED, reason=reason)

    def send(self, message: str | bytes) -> None:
        """Put a message in line for the upstream; it is sent once connected, and kept over reconnects until then.

        Raises:
            RequestError: ``limit_exceeded``; the line is full.
        """
        if len(self.pending) >= PENDING:
            raise RequestError(ErrorCode.LIMIT_EXCEEDED, f"{PENDING} messages wait to be sent to {self.spec.name}")
        self.pending.append(message)

    def gap(self, gap: FeedGap) -> Publish:
        """Count a gap; the event that tells of it."""
        self.gaps += 1
        if gap.first is not None and gap.last is not None:
            self.missing = min(self.missing + gap.last - gap.first + 1, COUNT_MAX)
        return self._event("feed_gap", gap._asdict())

    def missed(self) -> FeedGap | None:
        """Asked once per connection: what may have been missed before it."""
        if not self.connected_before:
            return None
        forgot, self._forgot = self._forgot, False
        return FeedGap("reconnected") if forgot else self.protocol.missed()

    def note_lag(self, batch: list[Publish]) -> None:
        """Measure how old the newest event of a batch is, where the upstream says when it was."""
        source_ts = batch[-1].source_ts
        if source_ts is not None:
            self.lag = time.time() - source_ts

    def note_bad(self, error: MappingError, raw: bytes) -> None:
        """Count what could not be mapped; the first of its reason is logged, without its content."""
        reason = error.reason.value
        self.bad[reason] += 1
        self.last_bad = f"{error}: {raw[:SAMPLE_BYTES].decode('utf-8', 'replace')}"
        if self.bad[reason] == 1:
            name, where = self.spec.name, f" at {error.path}" if error.path else ""
            fields = {"event": "feed_bad_message", "feed": name, "reason": reason, "path": error.path or None}
            _log.warning("feed %s: first bad message, %s%s", name, reason, where, extra=fields)

    def snapshot(self) -> dict[str, Any]:
        """Plain values, for operators and for :meth:`restore`; ``retry_in`` is seconds from now or ``None``."""
        self._rate()
        due = self.next_attempt_at
        return {
            "state": self.state.value,
            "reason": self.reason,
            "kind": None if self.failure is None else self.failure.kind.value,
            "since": self.since,
            "next_attempt_at": due,
            "retry_in": None if due is None else round(self.due_in, 3),
            "address": public_address(self.url),
            "held": self.held,
            "connected_before": self.connected_before,
            "attempts": self.attempts,
            "reconnects": self.reconnects,
            **self.recovery.snapshot(),
            "messages": self.messages,
            "published": self.published,
            "ignored": self.ignored,
            "repeated": self.repeated,
            "gaps": self.gaps,
            "missing": self.missing,
            "bad": dict(self.bad),
            "last_bad": self.last_bad,
            "last_error": self.last_error,
            "rate": round(self.rate, 1),
            "lag": None if self.lag is None else round(self.lag, 3),
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Go on as a predecessor that is dead: disconnected, or failed; the next attempt is due when it was."""
        for name in (
            *("next_attempt_at", "held", "connected_before", "attempts", "reconnects", "messages", "published"),
            *("ignored", "repeated", "gaps", "missing", "last_bad", "last_error", "since"),
        ):
            setattr(self, name, snapshot[name])
        self.bad = Counter(snapshot["bad"])
        if snapshot["kind"] is not None:
            kind = FailureKind(snapshot["kind"])
            self.failure = Failure(kind, (snapshot["reason"] or "").removeprefix(f"{kind}").removeprefix(": "))
        self.reason = snapshot["reason"]
        if snapshot["state"] == FeedState.FAILED and self.next_attempt_at is None:  # else only paused, after crashes
            self.state = FeedState.FAILED
        self._forgot = self.connected_before
        self._rated = (self._clock(), self.messages)
        self.recovery.restore(snapshot)

    def _rate(self) -> None:
        (then, count), now = self._rated, self._clock()
        if now - then >= RATE_WINDOW_S:
            self.rate, self._rated = (self.messages - count) / (now - then), (now, self.messages)

    def _shown(self, text: str) -> str:
        for url in self.spec.urls:
            text = text.replace(url, public_address(url))
        return text[:_REASON_CHARS]

    def _breaker_changed(self, old: BreakerState, new: BreakerState) -> None:
        name, breaker = self.spec.name, self.recovery.breaker
        wait = round(breaker.wait_s, 3) if new is BreakerState.OPEN else None
        level = logging.WARNING if new is BreakerState.OPEN else logging.INFO
        changed = {"from": old.value, "state": new.value, "retry_in": wait}
        fields = {"event": "feed_breaker", "feed": name, **changed}
        _log.log(level, "feed %s: circuit breaker %s -> %s", name, old, new, extra=fields)
        self._announce("feed_breaker", changed)

    def _announce(self, kind: str, data: Mapping[str, Any]) -> None:
        self.publisher.publish([self._event(kind, data)])
        self._on_change()

    def _event(self, kind: str, data: Mapping[str, Any]) -> Publish:
        return Publish(0, topic("system", "feeds", self.spec.name), kind, msgspec.json.encode(data))
