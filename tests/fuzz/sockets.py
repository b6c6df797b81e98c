"""What targets need around a connection."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from transport.codes import RefusalReason
from transport.door import Connected, Mount
from transport.gate import Gate, GatePolicy
from transport.http import Heads


class Transport:
    """Swallows what is written."""

    def __init__(self) -> None:
        self.closing = False
        self.protocol: asyncio.Protocol | None = None

    def write(self, data: bytes) -> None:
        assert not self.closing or not data, "written after the end"

    def close(self) -> None:
        self.closing = True

    abort = write_eof = close

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return True

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1)

    def set_protocol(self, protocol: asyncio.Protocol) -> None:
        self.protocol = protocol

    def set_write_buffer_limits(self, high: int, low: int | None = None) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Owner:
    """Lists connections."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.gate, self.heads = Gate(GatePolicy(), loop.time), Heads()
        self.mounts: dict[str, Mount] = {}
        self.connections: set[Connected] = set()

    def joined(self, connection: Connected) -> None:
        self.connections.add(connection)

    def opened(self, connection: Connected) -> None: ...

    def refused(self, reason: RefusalReason) -> None: ...

    def left(self, connection: Connected) -> None:
        self.connections.discard(connection)

    def resume(self, transport: asyncio.Transport, peer: tuple[str, int], received: bytes) -> None: ...


class Findings(logging.Handler):
    """A connection logs its bugs instead of raising them."""

    def emit(self, record: logging.LogRecord) -> None:
        raise AssertionError(record.getMessage()) from (record.exc_info[1] if record.exc_info else None)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        raise
