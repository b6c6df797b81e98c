"""A client's half of the opening handshake, by the websockets library. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from websockets.client import ClientProtocol
from websockets.uri import WebSocketURI

HEAD_BYTES: Final = 1 << 14
"""The longest head of a response."""


class HandshakeFailed(Exception):
    """No WebSocket: the text says why."""


class Handshake:
    """One; compression is not offered.

    Attributes:
        request: what is to be sent.
    """

    def __init__(self, uri: WebSocketURI, headers: Mapping[str, str]) -> None:
        self._protocol = ClientProtocol(uri)
        request = self._protocol.connect()
        for name, value in headers.items():
            if name in request.headers:  # a user in the URL; the library would send both
                del request.headers[name]
            request.headers[name] = value
        self._protocol.send_request(request)
        self.request = b"".join(self._protocol.data_to_send())
        self._head = b""

    def receive(self, data: bytes) -> bytes | None:
        """What of it comes after the handshake; ``None``: the answer is not whole.

        Raises:
            HandshakeFailed: refused, or no answer of a WebSocket server.
        """
        self._head += data
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if not end:
            if len(self._head) > HEAD_BYTES:
                raise HandshakeFailed("an answer that is no HTTP response")
            return None
        version, _, status = head.partition(b"\r\n")[0].decode(errors="replace").partition(" ")
        if not version.startswith("HTTP/"):
            raise HandshakeFailed("an answer that is no HTTP response")
        if not status.startswith("101"):  # whose body the library would wait for
            raise HandshakeFailed(f"HTTP {status[:100].strip()}")
        self._protocol.receive_data(head + end)
        if (error := self._protocol.handshake_exc) is not None:
            raise HandshakeFailed(str(error))
        return rest
