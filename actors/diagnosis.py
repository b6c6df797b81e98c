"""From an exception to a failure: the only place that knows the exceptions of sockets and of the websockets library."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidStatus,
    PayloadTooBig,
    ProtocolError,
    ProxyError,
)

from actors.failure import Failure, FailureKind, UpstreamRefused

RETRY_AFTER_MAX_S = 3_600.0
"""An upstream that asks for a longer pause is asked again after this."""

_URL = re.compile(r"(?<=://)(?:[^\s/?#]*@)?([^\s?#]*)\S*")
"""What follows the scheme of a URL; the group is without user, query and fragment, where secrets are."""

CLOSE_CODES: Mapping[int, FailureKind] = {
    1001: FailureKind.GOING_AWAY,
    1002: FailureKind.PROTOCOL,
    1006: FailureKind.ABNORMAL,
    1007: FailureKind.PROTOCOL,
    1008: FailureKind.POLICY,
    1009: FailureKind.TOO_BIG,
    1011: FailureKind.INTERNAL,
    1012: FailureKind.RESTART,
    1013: FailureKind.TRY_LATER,
}
"""What the registered close codes mean; what those from 4000 on mean only a feed's protocol knows."""
_BY_STATUS = {
    401: FailureKind.UNAUTHORIZED,
    403: FailureKind.UNAUTHORIZED,
    429: FailureKind.THROTTLED,
    503: FailureKind.UNAVAILABLE,
}


def classify(
    error: BaseException, now: datetime | None = None, close_codes: Mapping[int, FailureKind] = CLOSE_CODES
) -> Failure:
    """The failure in what connecting to or reading from an upstream has raised.

    Args:
        now: UTC, for Retry-After; ``None``: the clock's.
        close_codes: what they mean; one that is not there is ``closed``.
    """
    failure = _classify(error, now or datetime.now(UTC), close_codes)
    return failure._replace(detail=_URL.sub(r"\1", failure.detail))


def _classify(error: BaseException, now: datetime, close_codes: Mapping[int, FailureKind]) -> Failure:
    match error:
        case UpstreamRefused():
            return Failure(error.kind, error.detail)
        case ConnectionClosed():
            return _closed(error, close_codes)
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


def _closed(error: ConnectionClosed, close_codes: Mapping[int, FailureKind]) -> Failure:
    sent, received = error.sent, error.rcvd
    if sent is not None and not (received is not None and error.rcvd_then_sent):  # it was us who ended it, and why
        return Failure(close_codes.get(sent.code, FailureKind.CLOSED), f"closed by us with {_frame(sent)}")
    if received is None:
        return Failure(FailureKind.ABNORMAL, "ended without a close frame")
    return Failure(close_codes.get(received.code, FailureKind.CLOSED), f"closed with {_frame(received)}")


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
    reason = error.strerror if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else None
    return reason or str(error) or type(error).__name__
