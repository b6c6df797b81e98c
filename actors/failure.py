"""Why an upstream connection failed, and what each kind asks for: one table.

:func:`classify` is the only place that knows the exceptions of sockets and of the websockets library.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import NamedTuple

from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidStatus,
    PayloadTooBig,
    ProtocolError,
    ProxyError,
)

from transport.errors import HeliographError

RETRY_AFTER_MAX_S = 3_600.0
"""An upstream that asks for a longer pause is asked again after this."""

_URL = re.compile(r"(?<=://)(?:[^\s/?#]*@)?([^\s?#]*)\S*")
"""What follows the scheme of a URL; the group is without user, query and fragment, where secrets are."""


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

_BY_CLOSE_CODE = {
    1001: FailureKind.GOING_AWAY,
    1002: FailureKind.PROTOCOL,
    1006: FailureKind.ABNORMAL,
    1007: FailureKind.PROTOCOL,
    1008: FailureKind.POLICY,
    1009: FailureKind.TOO_BIG,
    1011: FailureKind.INTERNAL,
    1012: FailureKind.RESTART,
    1013: FailureKind.TRY_LATER,
    4001: FailureKind.UNAUTHORIZED,  # this engine's own, see transport.codes
    4003: FailureKind.POLICY,
}
_BY_STATUS = {
    401: FailureKind.UNAUTHORIZED,
    403: FailureKind.UNAUTHORIZED,
    429: FailureKind.THROTTLED,
    503: FailureKind.UNAVAILABLE,
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


def classify(error: BaseException, now: datetime | None = None) -> Failure:
    """The failure in what connecting to or reading from an upstream has raised. ``now`` (UTC): for Retry-After."""
    failure = _classify(error, now or datetime.now(UTC))
    return failure._replace(detail=_URL.sub(r"\1", failure.detail))


def _classify(error: BaseException, now: datetime) -> Failure:
    match error:
        case UpstreamRefused():
            return Failure(error.kind, error.detail)
        case ConnectionClosed():
            return _closed(error)
        case InvalidStatus():
            status = error.response.status_code
            asked = error.response.headers.get_all("Retry-After")  # a proxy may have added its own
            pauses = [pause for value in asked if (pause := retry_after(value, now)) is not None]
            return Failure(_BY_STATUS.get(status, FailureKind.REJECTED), f"HTTP {status}", max(pauses, default=None))
        case PayloadTooBig():
            return Failure(FailureKind.TOO_BIG, str(error))
        case ssl.SSLError():
            return Failure(FailureKind.TLS, _text(error))
        case ProxyError():
            return Failure(FailureKind.REFUSED, _text(error))
        case InvalidHandshake() | ProtocolError() | EOFError():
            return _no_handshake(error)
        case TimeoutError():
            return Failure(FailureKind.TIMEOUT, _text(error))
        case socket.gaierror() | UnicodeError():  # the latter of a host that is no name
            return Failure(FailureKind.DNS, _text(error))
        case ConnectionResetError() | ConnectionAbortedError() | BrokenPipeError():
            return Failure(FailureKind.ABNORMAL, _text(error))
        case _:
            return Failure(FailureKind.REFUSED, _text(error))


def _closed(error: ConnectionClosed) -> Failure:
    sent, received = error.sent, error.rcvd
    if sent is not None and not (received is not None and error.rcvd_then_sent):  # it was us who ended it, and why
        if sent.reason == "keepalive ping timeout":
            return Failure(FailureKind.STALE, "no answer to a ping")
        return Failure(_BY_CLOSE_CODE.get(sent.code, FailureKind.CLOSED), f"closed by us with {_frame(sent)}")
    if received is None:
        return Failure(FailureKind.ABNORMAL, "ended without a close frame")
    return Failure(_BY_CLOSE_CODE.get(received.code, FailureKind.CLOSED), f"closed with {_frame(received)}")


def _frame(close: object) -> str:
    code, reason = getattr(close, "code", 0), getattr(close, "reason", "")
    return f"{code} ({reason})" if reason else str(code)


def _no_handshake(error: BaseException) -> Failure:
    cause = error.__cause__
    if isinstance(cause, (OSError, EOFError)):
        return Failure(FailureKind.ABNORMAL, f"ended during the handshake: {_text(cause)}")
    return Failure(FailureKind.PROTOCOL, _text(error))


def retry_after(value: str, now: datetime) -> float | None:
    """Seconds of an HTTP ``Retry-After``, which is a number or a date; ``None`` where it is neither."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return None
        seconds = ((date if date.tzinfo else date.replace(tzinfo=UTC)) - now).total_seconds()
    return min(max(0.0, seconds), RETRY_AFTER_MAX_S) if seconds == seconds else None  # a NaN is no pause


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
