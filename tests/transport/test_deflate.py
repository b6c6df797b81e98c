"""permessage-deflate as a server: what is agreed on, and compressed messages over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol

from transport.deflate import negotiate
from transport.listener import Listener, bind
from transport.websocket import ConnectionLimits, WebSocketConnection

LIMIT = 10_000
DEADLINE = 20.0  # s
AGREED = b"permessage-deflate; server_no_context_takeover; client_no_context_takeover"


@pytest.mark.parametrize(
    ("offers", "agreed"),
    [
        ("permessage-deflate", AGREED),
        ("permessage-deflate; client_max_window_bits", AGREED),
        ("permessage-deflate; server_max_window_bits=9", AGREED + b"; server_max_window_bits=9"),
        ("permessage-deflate; server_max_window_bits=8", None),  # zlib cannot
        ("permessage-deflate; server_max_window_bits=8, permessage-deflate", AGREED),
        ("permessage-deflate; unknown", None),
        ("x-webkit-deflate-frame", None),
        ("x-webkit-deflate-frame, permessage-deflate", AGREED),
        ("", None),
        (";;", None),
    ],
)
def test_the_first_offer_that_can_be_kept_is(offers: str, agreed: bytes | None) -> None:
    found = negotiate(offers)
    assert (found and found[0]) == agreed


@given(st.text(st.sampled_from('permsag-dflt;,="0123456789_w \t\x00é'), max_size=80))
def test_nothing_is_raised(offers: str) -> None:
    negotiate(offers)


@given(st.binary(min_size=1, max_size=200), st.booleans())
def test_garbage_ends_as_a_protocol_error_or_is_a_message_within_the_limit(data: bytes, fin: bool) -> None:
    found = negotiate("permessage-deflate")
    assert found is not None
    core = ServerProtocol(state=1, max_size=100)  # type: ignore[arg-type]
    core.extensions.append(found[1])
    # masked with zeros; RSV1 is set
    core.receive_data(bytes((0x42 | fin << 7, 0xFE)) + len(data).to_bytes(2, "big") + bytes(4) + data)
    frames = [event for event in core.events_received() if isinstance(event, Frame)]
    assert all(len(frame.data) <= 100 for frame in frames)
    assert frames or core.close_sent is None or core.close_sent.code in (1002, 1009)


def test_an_idle_connection_keeps_no_context() -> None:
    found = negotiate("permessage-deflate")
    assert found is not None
    extension = found[1]
    client = PerMessageDeflate(True, True, 15, 15)
    for _ in range(2):
        extension.decode(client.encode(Frame(Opcode.TEXT, b"x" * 1_000)))
        client.decode(extension.encode(Frame(Opcode.TEXT, b"y" * 1_000)))
        assert not hasattr(extension, "decoder") and not hasattr(extension, "encoder")


class Echo:
    """Sends everything back; ``compressed`` counts bytes as they were sent."""

    path = None
    subprotocols = ()

    def __init__(self) -> None:
        self.sent = 0

    def open(self, connection: WebSocketConnection) -> Echo:
        self._connection = connection
        return self

    def http(self, method: str, path: str) -> None:
        return None

    def on_message(self, data: bytes, binary: bool) -> None:
        frame = self._connection.frame(data, binary)
        self.sent += len(frame)
        self._connection.write(frame)

    def on_paused(self) -> None: ...

    def on_resumed(self) -> None: ...

    def last_words(self, code: int) -> bytes:
        return b""

    def on_closed(self, code: int, reason: str) -> None: ...


def with_client(test: Callable[[ClientConnection, Echo], Awaitable[None]], deflate: bool = True) -> None:
    async def scenario() -> None:
        echo = Echo()
        limits = ConnectionLimits(message_bytes=LIMIT, deflate=deflate)
        listener = Listener(asyncio.get_running_loop(), bind("127.0.0.1", 0), echo, limits)
        await listener.start()
        try:
            async with asyncio.timeout(DEADLINE):
                url = f"ws://127.0.0.1:{listener.port}/"
                offer = [ClientPerMessageDeflateFactory()]
                async with connect(url, compression=None, extensions=offer, max_size=None, proxy=None) as client:
                    await test(client, echo)
        finally:
            await listener.stop()

    asyncio.run(scenario())


def test_messages_are_compressed_both_ways_whole_and_in_fragments() -> None:
    async def test(client: ClientConnection, echo: Echo) -> None:
        assert client.protocol.extensions
        for message in ("x" * 5_000, b"\xff" * 5_000, "", "äöü" * 1_000):
            await client.send(message)
            assert await client.recv() == message
        await client.send(["a" * 3_000, "b" * 3_000, ""])
        assert await client.recv() == "a" * 3_000 + "b" * 3_000
        assert echo.sent < 1_000

    with_client(test)


def test_without_deflate_nothing_is_agreed_on() -> None:
    async def test(client: ClientConnection, echo: Echo) -> None:
        assert not client.protocol.extensions
        await client.send("x" * 5_000)
        assert await client.recv() == "x" * 5_000
        assert echo.sent > 5_000

    with_client(test, deflate=False)


@pytest.mark.parametrize("message", [b"\0" * (LIMIT + 1), b"\0" * 20_000_000, [b"\0" * LIMIT, b"\0"]])
def test_a_bomb_is_too_big(message: bytes | list[bytes]) -> None:
    async def test(client: ClientConnection, echo: Echo) -> None:
        await client.send(b"\0" * LIMIT)
        assert len(await client.recv()) == LIMIT
        await client.send(message)
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009

    with_client(test)
