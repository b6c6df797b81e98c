"""Error codes, close codes and reasons as named values, each with what the receiver should do next.

Source: the client protocol, its ends in ``docs/closing.md``; RFC 6455 section 7.4 for codes below 4000.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum


class ErrorCode(StrEnum):
    """Why a request was refused. The connection goes on."""

    BAD_REQUEST = "bad_request"  # mend the request; `field` names the culprit
    INVALID_TOPIC = "invalid_topic"  # mend the topic or pattern
    INVALID_FILTER = "invalid_filter"  # mend `where`
    UNAUTHORIZED = "unauthorized"  # authenticate
    FORBIDDEN = "forbidden"  # do not repeat with this identity
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"  # read the present state, then decide
    LIMIT_EXCEEDED = "limit_exceeded"  # ask for less; `welcome.limits` says how much
    RATE_LIMITED = "rate_limited"  # wait, then repeat
    UNAVAILABLE = "unavailable"  # outcome unknown; may be repeated
    UNSUPPORTED = "unsupported"  # not built in this version
    INTERNAL = "internal"  # a bug here; report it


class CloseCode(IntEnum):
    """Why the server closed. After 1008, 4001 and 4003 do not reconnect unchanged."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003  # binary on a JSON session or text on a MessagePack one
    INVALID_DATA = 1007  # text that is not UTF-8
    POLICY = 1008
    TOO_BIG = 1009  # message above limits.message_bytes
    INTERNAL = 1011
    RESTART = 1012  # reconnect after `reconnect_in`, with jitter
    TRY_LATER = 1013
    UNAUTHORIZED = 4001
    KICKED = 4003
    SLOW = 4008  # read faster, or subscribe to less
    LIMIT = 4009  # too many sessions of the address or user; reconnect later, when another has ended


class ByeReason(StrEnum):
    """`reason` of the `bye` that precedes every close by the server; see ``docs/closing.md``."""

    DRAIN = "drain"
    UNAUTHORIZED = "unauthorized"
    TOKEN_EXPIRED = "token_expired"
    SLOW = "slow"
    LIMIT = "limit"  # too many sessions, or too long a message
    KICKED = "kicked"
    IDLE = "idle"  # no answer to a ping
    PROTOCOL = "protocol"  # the client broke the WebSocket protocol, or spoke the other subprotocol
    INTERNAL = "internal"  # a bug here


class RefusalReason(StrEnum):
    """Why no session came of a connection to the client port; only operators are told, by a metric."""

    CONNECT_RATE = "connect_rate"  # of its address
    ORIGIN = "origin"  # a page that may not
    REQUEST = "request"  # no handshake, or one for what there is not
    TIMEOUT = "timeout"  # a handshake that was not done in time
    CROWDED = "crowded"  # too many handshakes under way
    TLS = "tls"  # the handshake under it


class GapReason(StrEnum):
    """Why events named by a `gap` will not come."""

    SLOW = "slow"  # this session did not read fast enough
    RATE_LIMITED = "rate_limited"
    OVERFLOW = "overflow"  # this session's worker fell behind the hub
    HISTORY_EXPIRED = "history_expired"
    EPOCH_CHANGED = "epoch_changed"  # the hub lost its log; offsets begin anew


class Priority(StrEnum):
    """How urgent a publication is."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


PRIORITY_RANK: dict[str | None, int] = {
    Priority.CRITICAL: 0,
    Priority.HIGH: 1,
    Priority.MEDIUM: 2,
    None: 2,  # medium is what has none
    Priority.LOW: 3,
}
"""The order in which what waits is sent, by a publication's ``priority``."""
