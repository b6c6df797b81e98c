"""The error tree of the whole project; foreign exceptions are translated into it at the edge.

HeliographError
├── ConfigError          a configuration field is wrong; names the field
├── ConnectionLost       the engine (or a bus peer) went away; outcome of what was in flight unknown
├── RequestError         the engine refused a request; carries the contract's error code
│   └── Unsupported      a part of the contract that this version has not built
├── ActorError           misuse of an actor
│   ├── MailboxFull      a bounded mailbox refused a message (only with Overflow.REFUSE)
│   └── WouldDeadlock    a blocking ask or stop on the thread that must answer it
└── CodecError           bytes from the bus or a feed that do not say what they must
"""

from __future__ import annotations

from transport.codes import ErrorCode


class HeliographError(Exception):
    """Base of every error that heliograph raises on purpose."""


class ConfigError(HeliographError):
    """A configuration value is wrong.

    Args:
        message: what is wrong and what to do.
        field: dotted name, e.g. ``server.port``; ``None`` for the file as a whole.
        line: 1-based line in the file, where known.
    """

    def __init__(self, message: str, field: str | None = None, line: int | None = None) -> None:
        self.message, self.field, self.line = message, field, line
        where = " ".join(filter(None, (field, f"(line {line})" if line else "")))
        super().__init__(f"{where}: {message}" if where else message)


class ConnectionLost(HeliographError):
    """The other side is gone; a request in flight has an unknown outcome."""


class RequestError(HeliographError):
    """A request was refused. ``code`` is one of :class:`ErrorCode`, ``field`` names the culprit."""

    def __init__(self, code: ErrorCode | str, message: str, field: str | None = None) -> None:
        self.code, self.message, self.field = ErrorCode(code), message, field
        super().__init__(f"{self.code}: {message}" + (f" (field {field})" if field else ""))


class Unsupported(RequestError):
    """The contract has it, this version does not yet; never ignored silently."""

    def __init__(self, what: str, field: str | None = None) -> None:
        super().__init__(ErrorCode.UNSUPPORTED, f"{what} is not supported by this version", field)


class ActorError(HeliographError):
    """An actor was used in a way that cannot work."""


class MailboxFull(ActorError):
    """A mailbox with ``Overflow.REFUSE`` is at its capacity."""


class WouldDeadlock(ActorError):
    """A blocking ``ask`` or ``stop`` on the very thread that would have to answer."""


class CodecError(HeliographError):
    """Bytes that cannot be decoded into a known message."""
