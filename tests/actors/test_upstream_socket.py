"""What an upstream's frames become, over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from actors.feed import FeedSpec
from actors.feed_map import FeedMap
from actors.feed_protocol import MappedProtocol, ProtocolSpec
from actors.upstream_socket import upstream_socket

DEADLINE = 20.0  # s
Heard = list[tuple[bytes, bool]]


def hear(send: Callable[[ServerConnection], Awaitable[None]]) -> tuple[Heard, int | None]:
    """What is handed over of what an upstream sends, and the code with which the upstream was closed."""
    heard: Heard = []
    codes: list[int | None] = []

    async def upstream(connection: ServerConnection) -> None:
        await send(connection)
        await connection.wait_closed()
        codes.append(connection.close_code)

    async def scenario() -> None:
        async with asyncio.timeout(DEADLINE), serve(upstream, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            spec = FeedSpec(
                name="f",
                urls=(f"ws://127.0.0.1:{port}/",),
                protocol=ProtocolSpec(MappedProtocol, {"maps": (FeedMap(topic="t"),)}),
            )
            async with upstream_socket(spec, spec.urls[0], None) as socket:
                socket.deliver(lambda message: heard.append((message, socket.binary)))
                with pytest.raises(ConnectionClosed):
                    await socket.ended()
        await server.wait_closed()

    asyncio.run(scenario())
    return heard, codes[0]


def raw(connection: ServerConnection, *frames: Frame) -> None:
    """All in one write."""
    connection.transport.write(b"".join(frame.serialize(mask=False) for frame in frames))


def test_each_message_comes_whole_and_with_its_kind() -> None:
    async def send(connection: ServerConnection) -> None:
        raw(connection, Frame(Opcode.TEXT, "ä".encode()), Frame(Opcode.BINARY, b"\xff"))
        await connection.send([b"\xff", b"", b"\xfe"])
        await connection.send(["€uro", "s"])
        await connection.close()

    heard = [("ä".encode(), False), (b"\xff", True), (b"\xff\xfe", True), ("€uros".encode(), False)]
    assert hear(send) == (heard, 1000)


@pytest.mark.parametrize(
    "frames",
    [
        [Frame(Opcode.TEXT, b"\xff")],
        [Frame(Opcode.TEXT, b"\xed\xa0", fin=False)],  # a surrogate, known before the end
        [Frame(Opcode.TEXT, b"\xe2\x82", fin=False), Frame(Opcode.CONT, b"x")],
    ],
)
def test_text_that_is_not_utf_8_fails_the_connection_with_all_that_follows(frames: list[Frame]) -> None:
    async def send(connection: ServerConnection) -> None:
        raw(connection, Frame(Opcode.TEXT, b"good"), *frames)

    assert hear(send) == ([(b"good", False)], 1007)


def test_a_close_frame_may_come_amid_fragments() -> None:
    async def send(connection: ServerConnection) -> None:
        raw(connection, Frame(Opcode.TEXT, b"half", fin=False))
        await connection.close(1001)

    assert hear(send) == ([], 1001)
