"""Why an upstream connection failed, and what each kind asks for: one table. Pure.

:mod:`actors.diagnosis` makes failures of exceptions.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from transport.errors import HeliographError


class FailureKind(StrEnum):
    """What happened to a connection, or to the attempt to make one."""

    REFUSED = "refused"  # nobody listens, or no way there
    DNS = "dns"
    TIMEOUT = "timeout"  # of connect and handshake
    TLS = "tls"
    UNAUTHORIZED = "unauthorized"  # HTTP 401, 403
    THROTTLED = "throttled"  # HTTP 429
    UNAVAILABLE = "unavailable"  # HTTP 503
    REJECTED = "rejected"  # any other HTTP answer, or a subscription that was refused
    CLOSED = "closed"  # with a close code that is not in this list, 1000 included
    GOING_AWAY = "going_away"  # 1001
    ABNORMAL = "abnormal"  # 1006: the connection ended without a close frame
    POLICY = "policy"  # 1008
    TOO_BIG = "too_big"  # 1009, also sent by us
    INTERNAL = "internal"  # 1011
    RESTART = "restart"  # 1012
    TRY_LATER = "try_later"  # 1013
    PROTOCOL = "protocol"  # 1002, 1007: bytes that are no WebSocket
    STALE = "stale"  # silent for longer than it may be
    INVALID = "invalid"  # too many messages in a row that nobody can read
    CRASHED = "crashed"  # our own bug


class FailurePolicy(NamedTuple):
    """What a failure asks for.

    Attributes:
        counts: an attempt that ends so counts for the circuit breaker.
        patience: factor on the backoff's delay and cap.
        failover: the next attempt goes to the next URL.
        needs_token: no attempt with the same token.
    """

    counts: bool = True
    patience: float = 1.0
    failover: bool = True
    needs_token: bool = False


POLICIES: Mapping[FailureKind, FailurePolicy] = {
    FailureKind.REFUSED: FailurePolicy(),
    FailureKind.DNS: FailurePolicy(patience=2.0),  # resolvers cache the answer that there is none
    FailureKind.TIMEOUT: FailurePolicy(),
    FailureKind.TLS: FailurePolicy(patience=10.0),  # a certificate is not mended within seconds
    FailureKind.UNAUTHORIZED: FailurePolicy(failover=False, needs_token=True),
    FailureKind.THROTTLED: FailurePolicy(patience=10.0, failover=False),  # the account is throttled, not the address
    FailureKind.UNAVAILABLE: FailurePolicy(patience=2.0),
    FailureKind.REJECTED: FailurePolicy(patience=10.0),
    FailureKind.CLOSED: FailurePolicy(),
    FailureKind.GOING_AWAY: FailurePolicy(counts=False),  # part of an orderly life: another server takes over
    FailureKind.ABNORMAL: FailurePolicy(),
    FailureKind.POLICY: FailurePolicy(patience=10.0, failover=False),
    FailureKind.TOO_BIG: FailurePolicy(failover=False),
    FailureKind.INTERNAL: FailurePolicy(patience=2.0),
    FailureKind.RESTART: FailurePolicy(counts=False, failover=False),
    FailureKind.TRY_LATER: FailurePolicy(patience=5.0),
    FailureKind.PROTOCOL: FailurePolicy(),
    FailureKind.STALE: FailurePolicy(),
    FailureKind.INVALID: FailurePolicy(),
    FailureKind.CRASHED: FailurePolicy(failover=False),
}


class Failure(NamedTuple):
    """One failure.

    Attributes:
        detail: for people; its URLs, also those that the upstream named, are without user, query and fragment.
        retry_after: the pause that the upstream asked for, in seconds, at most an hour.
    """

    kind: FailureKind
    detail: str
    retry_after: float | None = None

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}" if self.detail else str(self.kind)


class UpstreamRefused(HeliographError):
    """Raised by a feed's protocol: this connection is of no use, end it as a failure of this kind."""

    def __init__(self, kind: FailureKind, detail: str) -> None:
        self.kind, self.detail = kind, detail
        super().__init__(f"{kind}: {detail}")
