"""What the mock exchange can do wrong, and the bytes and texts of it. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from transport.errors import ConfigError

MAX_SIZE_BYTES = 64 << 20
_PAD = ',"pad":""'


class Fault(StrEnum):
    """What an exchange does wrong. Faults of the handshake leave the connections alone that are open already."""

    NONE = "none"
    # Connecting.
    REFUSE = "refuse"
    """Nobody listens (ECONNREFUSED), open connections end without a close frame; the port stays reserved."""
    HANG = "hang"
    """TCP is accepted, the handshake is never answered."""
    SLOW_HANDSHAKE = "slow_handshake"
    """The handshake is answered after ``delay``."""
    UNAUTHORIZED = "unauthorized"
    """HTTP 401."""
    FORBIDDEN = "forbidden"
    """HTTP 403."""
    NOT_FOUND = "not_found"
    """HTTP 404."""
    THROTTLED = "throttled"
    """HTTP 429 with ``Retry-After``."""
    UNAVAILABLE = "unavailable"
    """HTTP 503 with ``Retry-After``."""
    NOT_WEBSOCKET = "not_websocket"
    """HTTP 200 with a page."""
    # Ends of connections, the open ones and new ones.
    DISCONNECT = "disconnect"
    """Close frame with ``close_code``; new connections after their handshake."""
    RESET = "reset"
    """TCP RST; new connections before their handshake."""
    ABORT = "abort"
    """The end of the stream without a close frame (1006); new connections after their handshake."""
    # Messages and frames.
    MALFORMED = "malformed"
    """``share`` of the messages is no JSON, lacks fields or has wrong types; every tick comes all the same."""
    BAD_FRAMES = "bad_frames"
    """One frame that RFC 6455 forbids (``bad_frame``), then nothing more on that connection."""
    FRAGMENTED = "fragmented"
    """Messages in several frames, written in odd pieces: valid."""
    HUGE = "huge"
    """The next tick of each connection is a message of ``size`` bytes: valid."""
    # Time and numbers.
    SLOW = "slow"
    """``bytes_per_second`` and no more."""
    SILENT = "silent"
    """Frozen: no ticks and no answers; pings, close frames and handshakes are answered."""
    DEAD = "dead"
    """Nothing at all on open connections, no pong either. A handshake is still answered."""
    GAPS = "gaps"
    """``share`` of the ticks is not sent: its numbers are skipped."""
    DUPLICATES = "duplicates"
    """``share`` of the ticks is sent twice."""


STATUS: Mapping[Fault, int] = {
    Fault.UNAUTHORIZED: 401,
    Fault.FORBIDDEN: 403,
    Fault.NOT_FOUND: 404,
    Fault.THROTTLED: 429,
    Fault.UNAVAILABLE: 503,
    Fault.NOT_WEBSOCKET: 200,
}
"""The HTTP status with which the handshake is refused."""


class BadFrame(StrEnum):
    """A way of breaking RFC 6455; the client should end the connection with 1002, for bad UTF-8 with 1007."""

    OPCODE = "opcode"
    MASKED = "masked"
    RESERVED_BIT = "reserved_bit"
    CONTINUATION = "continuation"
    LONG_PING = "long_ping"
    UTF8 = "utf8"


BAD_FRAMES: Mapping[BadFrame, bytes] = {
    BadFrame.OPCODE: b"\x83\x02{}",  # 3 to 7 are reserved, RFC 6455 section 5.2
    BadFrame.MASKED: b"\x81\x82\x01\x02\x03\x04zy",  # a server must not mask, section 5.1
    BadFrame.RESERVED_BIT: b"\xc1\x02{}",  # RSV1 without an extension
    BadFrame.CONTINUATION: b"\x80\x02{}",  # of no message
    BadFrame.LONG_PING: b"\x89\x7e\x00\x7e" + bytes(126),  # control frames have at most 125 bytes, section 5.5
    BadFrame.UTF8: b"\x81\x04\xff\xfe\xfd\xfc",
}


@dataclass(frozen=True, kw_only=True)
class FaultOptions:
    """How a fault shows. Each is heeded by the faults that name it.

    Raises:
        ConfigError: a value that cannot be used; names the field.
    """

    close_code: int | None = 1001
    """``DISCONNECT``; none: a close frame without a code."""
    close_reason: str = ""
    retry_after: float | str | None = 1
    """``THROTTLED``, ``UNAVAILABLE``: seconds, or the header's text (an HTTP date); none: no header."""
    delay: float = 0.2
    """``SLOW_HANDSHAKE``: seconds."""
    share: float = 0.25
    """``MALFORMED``, ``GAPS``, ``DUPLICATES``: 0 to 1. Regular, not drawn: 0.25 is every fourth."""
    size: int = 10 << 20
    """``HUGE``: bytes."""
    bytes_per_second: int = 1_000
    """``SLOW``, per connection."""
    bad_frame: BadFrame | None = None
    """``BAD_FRAMES``; none: another one on each connection, in the order of :class:`BadFrame`."""

    def __post_init__(self) -> None:
        if self.close_code is not None and not (1000 <= self.close_code <= 4999):
            raise ConfigError(f"1000 to 4999 or none, not {self.close_code}", "close_code")
        if not 0 <= self.share <= 1:
            raise ConfigError(f"0 to 1, not {self.share:g}", "share")
        if not 0 <= self.size <= MAX_SIZE_BYTES:
            raise ConfigError(f"0 to {MAX_SIZE_BYTES} bytes, not {self.size}", "size")
        if not self.delay >= 0:
            raise ConfigError(f"0 s or more, not {self.delay:g}", "delay")
        if self.bytes_per_second < 1:
            raise ConfigError(f"1 or more, not {self.bytes_per_second}", "bytes_per_second")


def fault_options(options: Mapping[str, Any]) -> FaultOptions:
    """Options by name; :class:`ConfigError` where there is no such one or its value cannot be used."""
    for name in options:
        if name not in FaultOptions.__dataclass_fields__:
            raise ConfigError(f"no such option; there are {', '.join(FaultOptions.__dataclass_fields__)}", name)
    return FaultOptions(**options)


@dataclass(frozen=True)
class Phase:
    """A fault for so many seconds, as a step of a script."""

    fault: Fault
    seconds: float
    options: Mapping[str, Any] = field(default_factory=dict)


class Share:
    """Spreads a share evenly: ``take(0.25)`` is 1 at every fourth call. Pure."""

    def __init__(self) -> None:
        self._credit = 0.0

    def take(self, share: float) -> int:
        """How many of them are due with this call; above 1 there may be several."""
        self._credit += share
        due = int(self._credit + 1e-9)  # four times 0.25 is one, whatever the floats say
        self._credit -= due
        return due


class Malformed(NamedTuple):
    """A message that no mapping can use."""

    what: str
    text: str


def malformed(tick: str, turn: int) -> Malformed:
    """A valid tick made unusable, in a way that depends on ``turn``. It still says ``"e":"tick"`` where it is JSON."""
    fields = json.loads(tick)
    ways = (
        ("not JSON", "not json at all"),
        ("truncated", tick[:-9]),
        ("without price", json.dumps({name: value for name, value in fields.items() if name != "p"})),
        ("price of a wrong type", json.dumps(fields | {"p": {"value": fields["p"]}})),
        ("without symbol", json.dumps({name: value for name, value in fields.items() if name != "s"})),
        ("time of a wrong type", json.dumps(fields | {"T": "yesterday"})),
        ("price is not a number", json.dumps(fields | {"p": "NaN"})),
    )
    return Malformed(*ways[turn % len(ways)])


def padded(tick: str, size: int) -> str:
    """The tick with a field more, ``size`` bytes long (or as long as it is)."""
    return f'{tick[:-1]},"pad":"{"x" * max(0, size - len(tick) - len(_PAD))}"}}'
