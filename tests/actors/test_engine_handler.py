"""The base of plain Engine.IO handlers: frames of its messages, and a client that does not read."""

from __future__ import annotations

from actors.engine_handler import EngineHandler
from tests.actors.socketio_visits import FakeEngineSocket, House, run
from transport.engineio import message_frame
from transport.frames import unframe


def test_messages_are_text_or_bytes_and_a_slow_client_is_not_read() -> None:
    async def test(_: House) -> None:
        socket = FakeEngineSocket()
        written: list[bytes] = []
        socket.write = written.append
        handler = EngineHandler(socket)  # type: ignore[arg-type]
        handler.send("grüße")
        handler.send(b"\x00")
        assert [*unframe(b"".join(written))] == [(False, "4grüße".encode()), (True, b"\x00")]
        assert written[0] == message_frame("grüße".encode(), False)
        handler.on_paused()
        assert socket.paused
        handler.on_resumed()
        assert not socket.paused
        handler.close()
        assert socket.closed == (1000, "")

    run(test)
