"""Messages out of frames: joins fragments and checks text for UTF-8 as it comes. No loop, no socket.

The library below hands over single frames, their order already checked (RFC 6455 section 5.4). What is left is here:
joining, the size of the whole, and section 8.1: text that is not UTF-8 fails the connection at once, not at its end.
"""

from __future__ import annotations

import codecs

from transport.codes import CloseCode
from transport.errors import HeliographError

_utf8 = codecs.getincrementaldecoder("utf-8")


class BadMessage(HeliographError):
    """A message that ends its connection; ``code`` is the close code that says why."""

    def __init__(self, code: CloseCode, message: str) -> None:
        self.code, self.message = code, message
        super().__init__(f"{message} ({code.value})")


def check_text(data: bytes) -> None:
    """Check a text message that came in one frame.

    Raises:
        BadMessage: 1007.
    """
    if data.isascii():  # most JSON; ten times as fast as decoding
        return
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(error.start) from None


class Reassembly:
    """One fragmented message on its way in.

    Args:
        binary: the kind that the first frame named.
        limit: bytes that the whole message may have.
    """

    __slots__ = ("_data", "_decoder", "_limit", "binary")

    def __init__(self, binary: bool, limit: int) -> None:
        self.binary = binary
        self._limit = limit
        # A bytearray and not a list of fragments: a million empty fragments must not take memory.
        self._data = bytearray()
        self._decoder = None if binary else _utf8()

    def add(self, fragment: bytes, last: bool) -> bytes | None:
        """Take the next fragment; the whole message once ``last``, until then None.

        Raises:
            BadMessage: 1009 above the limit, 1007 as soon as text can no longer become UTF-8.
        """
        before = len(self._data)
        if before + len(fragment) > self._limit:
            raise BadMessage(CloseCode.TOO_BIG, f"a message has at most {self._limit} bytes")
        if self._decoder is not None:
            pending = len(self._decoder.getstate()[0])
            try:
                self._decoder.decode(fragment, last)
            except UnicodeDecodeError as error:
                raise _not_utf8(before - pending + error.start) from None
            tail = self._decoder.getstate()[0]
            if (
                tail[:1] == b"\xed" and tail[1:] >= b"\xa0"
            ):  # Python waits for the end of a surrogate, which UTF-8 lacks
                raise _not_utf8(before + len(fragment) - len(tail))
        self._data += fragment
        return bytes(self._data) if last else None


def _not_utf8(position: int) -> BadMessage:
    return BadMessage(CloseCode.INVALID_DATA, f"text is not UTF-8 at byte {position}")
