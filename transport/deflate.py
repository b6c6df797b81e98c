"""Compressed messages of clients: permessage-deflate (RFC 7692) on the server's side. No loop, no socket.

No context is ever kept from one message to the next, in neither direction: an idle connection then costs nothing, where
a window costs 32 KiB for what a client sends and up to 300 KiB for what it gets.
"""

from __future__ import annotations

from typing import Final

from websockets.exceptions import InvalidHeader, NegotiationError
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.headers import build_extension, parse_extension

_FACTORY: Final = ServerPerMessageDeflateFactory(
    server_no_context_takeover=True, client_no_context_takeover=True, compress_settings={"memLevel": 5}
)


def negotiate(offers: str) -> tuple[bytes, PerMessageDeflate] | None:
    """Take the first of a client's offers that can be kept.

    Args:
        offers: the value of ``Sec-WebSocket-Extensions``.

    Returns:
        The value of the answer's header and the extension for the connection's parser; None if nothing is taken, which
        also answers a header that cannot be read: a client that gets no extension uses none.
    """
    try:
        extensions = parse_extension(offers)
    except InvalidHeader:
        return None
    for name, parameters in extensions:
        if name == _FACTORY.name:
            try:
                answer, extension = _FACTORY.process_request_params(parameters, [])
            except NegotiationError:
                continue
            return build_extension([(name, answer)]).encode("ascii"), extension
    return None


def deflated_frame(extension: PerMessageDeflate, payload: bytes, binary: bool) -> bytes:
    """A whole message, compressed, for the connection of ``extension`` alone."""
    frame = Frame(Opcode.BINARY if binary else Opcode.TEXT, payload)
    return frame.serialize(mask=False, extensions=[extension])
