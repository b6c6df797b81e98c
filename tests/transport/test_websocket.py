"""Literal bytes over real sockets, on uvloop and on plain asyncio."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.server import ServerProtocol

from transport.frames import text_frame
from transport.listener import Listener, bind
from transport.websocket import ConnectionLimits, WebSocketConnection

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
TEXT, BINARY, CONT, CLOSE, PING, PONG = 0x81, 0x82, 0x80, 0x88, 0x89, 0x8A
FIN = 0x80
DEADLINE = 5.0
Test = Callable[[], Awaitable[None]]

# Short for those tests that wait for them, long for all others.
QUICK = ConnectionLimits(handshake_timeout=0.1, ping_interval=0.1, ping_timeout=0.1, close_timeout=0.1)


def masked(first: int, payload: bytes = b"") -> bytes:
    """A client's frame; the mask of zeros is legal and readable."""
    size = len(payload)
    if size < 126:
        length = bytes((0x80 | size,))
    else:
        length = b"\xfe" + struct.pack("!H", size) if size < 65536 else b"\xff" + struct.pack("!Q", size)
    return bytes((first,)) + length + bytes(4) + payload


def closing(code: int, reason: str = "") -> bytes:
    """The payload of a close frame."""
    return struct.pack("!H", code) + reason.encode()


class Session:
    """Writes down what it hears; answers text with the same text."""

    def __init__(self, connection: WebSocketConnection) -> None:
        self.connection = connection
        self.heard: list[Any] = []
        self.on: Callable[[bytes], None] | None = None
        self.words: bytes | None = None
        self.last: list[int] = []

    def on_message(self, data: bytes, binary: bool) -> None:
        assert type(data) is bytes
        self.heard.append(("binary" if binary else "text", data))
        if self.on is not None:
            self.on(data)

    def on_paused(self) -> None:
        self.heard.append("paused")

    def on_resumed(self) -> None:
        self.heard.append("resumed")

    def last_words(self, code: int) -> bytes:
        self.last.append(code)
        return b"" if self.words is None else text_frame(self.words)

    def on_closed(self, code: int, reason: str) -> None:
        self.heard.append(("closed", code, reason))


class Lobby:
    """A door that lets everybody in."""

    path = "/ws"
    subprotocols = ("v1.json", "v1.msgpack")

    def __init__(self) -> None:
        self.sessions: list[Session] = []
        self.opened: Callable[[WebSocketConnection], Session | None] | None = None

    def open(self, connection: WebSocketConnection) -> Session | None:
        if self.opened is not None:
            return self.opened(connection)
        session = Session(connection)
        self.sessions.append(session)
        return session

    def http(self, method: str, path: str) -> tuple[int, str, bytes] | None:
        assert method == "GET"
        if path == "/bug":
            raise RuntimeError("a bug in the door")
        return (200, "application/json", b'{"status":"ok"}') if path == "/health" else None


class Client:
    """A raw TCP client on the test's loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, *data: bytes) -> None:
        self.writer.write(b"".join(data))

    async def read(self, size: int) -> bytes:
        return await asyncio.wait_for(self.reader.readexactly(size), DEADLINE)

    async def head(self) -> str:
        return (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), DEADLINE)).decode()

    async def to_eof(self) -> bytes:
        return await asyncio.wait_for(self.reader.read(), DEADLINE)

    async def frame(self) -> tuple[int, bytes]:
        first, size = await self.read(2)
        if size == 126:
            (size,) = struct.unpack("!H", await self.read(2))
        return first, await self.read(size)

    async def closed_with(self) -> tuple[int, str]:
        first, payload = await self.frame()
        assert first == CLOSE
        assert await self.to_eof() == b""
        return int.from_bytes(payload[:2], "big"), payload[2:].decode()


class Place:
    """A listener with a lobby and the clients of a test."""

    def __init__(self, listener: Listener, lobby: Lobby) -> None:
        self.listener, self.lobby = listener, lobby
        self.clients: list[Client] = []

    async def tcp(self, *data: bytes) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.listener.port))
        self.clients.append(client)
        client.send(*data)
        return client

    async def enter(self, *data: bytes) -> tuple[Client, Session]:
        """A client after its handshake."""
        before = len(self.lobby.sessions)
        client = await self.tcp(HANDSHAKE, *data)
        assert "101" in await client.head()
        return client, self.lobby.sessions[before]


@asynccontextmanager
async def place(limits: ConnectionLimits | None = None) -> AsyncIterator[Place]:
    lobby = Lobby()
    listener = Listener(asyncio.get_running_loop(), bind("127.0.0.1", 0), lobby, limits or ConnectionLimits())
    await listener.start()
    here = Place(listener, lobby)
    try:
        yield here
    finally:
        for client in here.clients:
            client.writer.close()
        await listener.stop()
        assert not listener.connections
        await asyncio.gather(*(client.writer.wait_closed() for client in here.clients), return_exceptions=True)


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Callable[[Test], None]:
    """Run a coroutine function on a new loop; whatever reaches the loop's exception handler fails the test."""

    def run(test: Test) -> None:
        factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
        failures: list[dict[str, Any]] = []
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.get_loop().set_exception_handler(lambda _, context: failures.append(context))
            runner.run(test())  # type: ignore[arg-type]
        assert not failures

    return run


Run = Callable[[Test], None]
Eventually = Callable[..., Awaitable[None]]


# The handshake and other HTTP.


def test_a_client_comes_in_and_talks(run: Run, eventually: Eventually) -> None:
    async def test() -> None:
        async with place() as here:
            client, session = await here.enter()
            assert session.connection.open
            assert session.connection.subprotocol is None
            assert session.connection.user is None
            assert session.connection.address == "{}:{}".format(*client.writer.get_extra_info("sockname"))
            client.send(masked(TEXT, b"one"), masked(BINARY, b"\xff"))
            await eventually(lambda: session.heard == [("text", b"one"), ("binary", b"\xff")])
            session.connection.write(text_frame(b"two"))
            assert await client.frame() == (TEXT, b"two")

    run(test)


def test_frames_may_come_with_the_handshake_and_bytes_one_by_one(run: Run, eventually: Eventually) -> None:
    async def test() -> None:
        async with place() as here:
            _, session = await here.enter(masked(TEXT, b"early"))
            await eventually(lambda: session.heard == [("text", b"early")])
            client = await here.tcp()
            for byte in HANDSHAKE + masked(TEXT, b"slow"):
                client.send(bytes((byte,)))
                await asyncio.sleep(0)
            await eventually(lambda: len(here.lobby.sessions) == 2)
            await eventually(lambda: here.lobby.sessions[1].heard == [("text", b"slow")])

    run(test)


def test_the_library_s_client_and_its_subprotocol(run: Run) -> None:
    async def test() -> None:
        async with place() as here:
            here.lobby.opened = echo
            url = f"ws://127.0.0.1:{here.listener.port}/ws?token=a&user=alice"
            async with connect(url, subprotocols=["other", "v1.msgpack"]) as client:  # type: ignore[list-item]
                assert client.subprotocol == "v1.msgpack"
                await client.send("ä" * 40_000)
                assert await client.recv() == "ä" * 40_000
                await client.send(["in ", "three ", "parts"])
                assert await client.recv() == "in three parts"
                await asyncio.wait_for(await client.ping(), DEADLINE)
            assert (client.close_code, client.close_reason) == (1000, "")
            async with connect(url, subprotocols=["other"]) as client:  # type: ignore[list-item]
                assert client.subprotocol is None

    def echo(connection: WebSocketConnection) -> Session:
        assert connection.user == "alice"
        session = Session(connection)
        session.on = lambda data: connection.write(text_frame(data))
        return session

    run(test)


@pytest.mark.parametrize(
    ("request_line", "headers", "status", "code"),
    [
        ("GET /health", "", 200, None),
        ("GET /health?verbose", "", 200, None),
        ("GET /nowhere", "", 404, "not_found"),
        ("GET /ws", "", 426, "bad_request"),
        ("POST /ws", "Content-Length: 2\r\n", 405, "bad_request"),
        ("POST /health", "Content-Length: 2\r\n", 405, "bad_request"),
        ("GET /elsewhere", "Upgrade: websocket\r\nConnection: Upgrade\r\n", 404, "not_found"),
        ("GET /ws", "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n", 400, "bad_request"),
        ("GET /ws?user=a.b", "Upgrade: websocket\r\nConnection: Upgrade\r\n", 400, "bad_request"),
        ("GET no/path", "", 400, "bad_request"),
        ("GET /bug", "", 500, "internal"),
    ],
)
def test_plain_http_is_answered_and_closed(
    run: Run, request_line: str, headers: str, status: int, code: str | None
) -> None:
    async def test() -> None:
        async with place() as here:
            client = await here.tcp(f"{request_line} HTTP/1.1\r\nHost: here\r\n{headers}\r\n{{}}".encode())
            head = await client.head()
            assert head.startswith(f"HTTP/1.1 {status} ")
            assert "\r\nConnection: close\r\n" in head
            assert ("\r\nUpgrade: websocket\r\n" in head) == (status == 426)
            body = json.loads(await client.to_eof())
            if code is None:
                assert body == {"status": "ok"}
            else:
                assert body["error"]["code"] == code
                assert body["error"]["message"]
            assert not here.lobby.sessions

    run(test)


@pytest.mark.parametrize(("garbage", "status"), [(b"\x16\x03\x01\x02\x00", b"400"), (b"A" * 70_000, b"431")])
def test_what_is_no_http_gets_its_answer_at_once_and_whole(run: Run, garbage: bytes, status: bytes) -> None:
    """Whole although much is left unread: a reset would destroy the answer on its way."""

    async def test() -> None:
        async with place() as here:
            client = await here.tcp(garbage)
            assert (await client.to_eof()).startswith(b"HTTP/1.1 " + status + b" ")

    run(test)


def test_a_request_that_never_ends_is_dropped(run: Run, eventually: Eventually) -> None:
    async def test() -> None:
        async with place(QUICK) as here:
            silent, half = await here.tcp(), await here.tcp(HANDSHAKE[:50])
            assert await silent.to_eof() == b""
            assert await half.to_eof() == b""
            await eventually(lambda: not here.listener.connections)

    run(test)


def test_a_door_that_refuses_or_fails(run: Run, caplog: pytest.LogCaptureFixture, eventually: Eventually) -> None:
    def full(connection: WebSocketConnection) -> None:
        connection.write(text_frame(b"bye"))
        connection.close(4009, "full")

    def fail(connection: WebSocketConnection) -> None:
        raise RuntimeError("a bug in the door")

    async def test() -> None:
        async with place() as here:
            here.lobby.opened = full
            client = await here.tcp(HANDSHAKE)
            await client.head()
            assert await client.frame() == (TEXT, b"bye")
            first, payload = await client.frame()
            assert (first, payload) == (CLOSE, closing(4009, "full"))
            for opened, code in ((lambda _: None, 1013), (fail, 1011)):
                here.lobby.opened = opened
                client = await here.tcp(HANDSHAKE)
                await client.head()
                client.send(masked(CLOSE, closing(code)))
                assert await client.closed_with() == (code, "")
            assert [record.message for record in caplog.records] == ["the door failed"]

    run(test)


# Messages.


def test_fragments_are_joined_with_a_ping_between(run: Run, eventually: Eventually) -> None:
    async def test() -> None:
        async with place() as here:
            client, session = await here.enter()
            euro = "€".encode()
            client.send(masked(TEXT & ~FIN, b"a" + euro[:1]), masked(PING, b"hm"), masked(CONT & ~FIN, euro[1:2]))
            assert await client.frame() == (PONG, b"hm")
            assert session.heard == []
            client.send(masked(CONT, euro[2:]), masked(BINARY & ~FIN, b"\xff"), masked(CONT, b"\xfe"))
            await eventually(lambda: session.heard == [("text", b"a" + euro), ("binary", b"\xff\xfe")])

    run(test)


@pytest.mark.parametrize(
    ("frames", "code", "heard"),
    [
        (masked(TEXT, b"\xff"), 1007, 0),
        (masked(TEXT, b"good") + masked(TEXT, b"\xff") + masked(TEXT, b"late"), 1007, 1),
        (masked(TEXT & ~FIN, b"ok") + masked(CONT & ~FIN, b"\xc3\x28"), 1007, 0),
        (masked(TEXT & ~FIN, b"\xe2") + masked(CONT, b"\x82"), 1007, 0),
        (b"\x81\x05Hello", 1002, 0),  # not masked
        (masked(TEXT, b"good") + masked(0xC1, b"reserved bit"), 1002, 1),
        (masked(0x83, b"unknown opcode"), 1002, 0),
        (masked(CONT, b"of nothing"), 1002, 0),
        (masked(TEXT & ~FIN, b"a") + masked(TEXT, b"b"), 1002, 0),
        (masked(PING & ~FIN), 1002, 0),
        (masked(PING, b"x" * 126), 1002, 0),
        (masked(CLOSE, b"x"), 1002, 0),
        (masked(CLOSE, closing(1005)), 1002, 0),
        (masked(CLOSE, closing(1000) + b"\xff"), 1007, 0),
        (masked(TEXT, b"x" * 1001), 1009, 0),
        (masked(TEXT, b"x" * 2_000_000), 1009, 0),
        (masked(TEXT & ~FIN, b"x" * 600) + masked(CONT, b"x" * 401), 1009, 0),
    ],
)
def test_a_broken_frame_closes_with_its_code(
    run: Run, eventually: Eventually, frames: bytes, code: int, heard: int
) -> None:
    async def test() -> None:
        async with place(ConnectionLimits(message_bytes=1000)) as here:
            client, session = await here.enter()
            session.words = b"farewell"
            _, other = await here.enter()
            client.send(frames)
            assert await client.frame() == (TEXT, b"farewell")
            assert (await client.closed_with())[0] == code
            assert session.last == [code]
            client.writer.close()
            await eventually(lambda: len(here.listener.connections) == 1)
            *messages, closed = session.heard
            assert messages == [("text", b"good")] * heard
            assert closed[:2] == ("closed", code)
            assert other.heard == []
            assert other.connection.open

    run(test)


def test_a_ping_amid_fragments_is_answered_before_the_message(run: Run) -> None:
    async def test() -> None:
        async with place() as here:
            client, session = await here.enter()
            session.on = lambda data: session.connection.write(text_frame(data))
            client.send(masked(TEXT & ~FIN, b"one "), masked(PING, b"?"), masked(CONT, b"message"))
            assert await client.frame() == (PONG, b"?")
            assert await client.frame() == (TEXT, b"one message")

    run(test)


def test_a_close_frame_amid_fragments_is_answered(run: Run, eventually: Eventually) -> None:
    async def test() -> None:
        async with place() as here:
            client, session = await here.enter()
            client.send(masked(TEXT & ~FIN, b"half"), masked(CLOSE, closing(1000, "bye")), masked(CONT, b"more"))
            assert await client.closed_with() == (1000, "bye")
            await eventually(lambda: session.heard == [("closed", 1000, "bye")])

    run(test)


def test_a_message_of_just_the_limit_passes(run: Run, eventually: Eventually) -> None:
    async def test() -> None:
        async with place(ConnectionLimits(message_bytes=1000)) as here:
            client, session = await here.enter()
            client.send(masked(TEXT, b"x" * 1000), masked(TEXT & ~FIN, b"x" * 600), masked(CONT, b"x" * 400))
            await eventually(lambda: session.heard == [("text", b"x" * 1000)] * 2)

    run(test)


def test_a_session_that_raises_is_closed_and_logged_once(
    run: Run, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with place() as here:
            client, session = await here.enter()
            _, other = await here.enter()

            def fail(data: bytes) -> None:
                raise RuntimeError("a bug in the session")

            session.on = fail
            client.send(masked(TEXT, b"one"), masked(TEXT, b"two"))
            client.send(masked(CLOSE, closing(1011)))
            assert await client.closed_with() == (1011, "")
            await eventually(lambda: session.heard == [("text", b"one"), ("closed", 1011, "")])
            assert other.connection.open
        assert [record.message for record in caplog.records] == ["the session failed"]

    run(test)


# The end.


def test_the_peer_closes(run: Run, eventually: Eventually) -> None:
    async def test() -> None:
        async with place() as here:
            for sent, said in ((closing(4000, "enough"), (4000, "enough")), (b"", (1005, ""))):
                client, session = await here.enter()
                client.send(masked(TEXT, b"last"), masked(CLOSE, sent))
                assert await client.frame() == (CLOSE, sent)
                assert await client.to_eof() == b""
                await eventually(lambda: not here.listener.connections)
                assert session.heard == [("text", b"last"), ("closed", *said)]
                session.connection.write(text_frame(b"harmless"))
                session.connection.close(1000)
                assert session.connection.buffered == 0

    run(test)


@pytest.mark.parametrize("how", ["eof", "reset"])
def test_a_peer_that_just_goes_was_lost(run: Run, eventually: Eventually, how: str) -> None:
    async def test() -> None:
        async with place() as here:
            client, session = await here.enter(masked(TEXT, b"half a frame")[:-3])
            if how == "eof":
                client.writer.write_eof()
                assert await client.to_eof() == b""
            else:
                client.writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
                client.writer.transport.abort()
            await eventually(lambda: not here.listener.connections)
            assert session.heard == [("closed", 1006, "")]

    run(test)


def test_closing_sends_what_was_written_then_the_frame_and_nothing_after(run: Run, eventually: Eventually) -> None:
    async def test() -> None:
        async with place() as here:
            client, session = await here.enter()
            connection = session.connection
            connection.write(text_frame(b"last"))
            connection.close(4001, "ü" * 100)
            connection.close(1000)
            connection.write(text_frame(b"too late"))
            assert not connection.open
            assert session.heard == []  # not within the session's own call
            await asyncio.sleep(0)
            await eventually(lambda: session.heard == [("closed", 4001, "ü" * 100)])
            assert await client.frame() == (TEXT, b"last")
            client.send(masked(TEXT, b"ignored"), masked(CLOSE, closing(4001)))
            assert await client.closed_with() == (4001, "ü" * 61)
            await eventually(lambda: not here.listener.connections)
            assert len(session.heard) == 1

    run(test)


def test_a_peer_that_does_not_answer_the_close_is_dropped(run: Run, eventually: Eventually) -> None:
    async def test() -> None:
        async with place(ConnectionLimits(close_timeout=0.1)) as here:
            client, session = await here.enter()
            session.connection.close(1000)
            await here.tcp(b"GET /health HTTP/1.1\r\n\r\n")  # nor does this one end its side
            assert await client.frame() == (CLOSE, closing(1000))
            await eventually(lambda: not here.listener.connections)
            assert session.heard == [("closed", 1000, "")]

    run(test)


def test_aborting_ends_at_once(run: Run, eventually: Eventually) -> None:
    async def test() -> None:
        async with place() as here:
            _, session = await here.enter()
            session.connection.abort()
            session.connection.abort()
            session.connection.pause_reading()
            session.connection.resume_reading()
            await eventually(lambda: session.heard == [("closed", 1006, "")])
            await eventually(lambda: not here.listener.connections)

    run(test)


@pytest.mark.parametrize("late", ["close", "abort"])
def test_a_session_may_end_its_connection_within_a_message(run: Run, eventually: Eventually, late: str) -> None:
    async def test() -> None:
        async with place() as here:
            client, session = await here.enter()
            connection = session.connection
            kept = connection.write

            def end(data: bytes) -> None:
                # A flush that is due before the session hears of the end.
                asyncio.get_running_loop().call_soon(kept, text_frame(b"event"))
                if late == "close":
                    connection.close(1003, "text")
                else:
                    connection.abort()

            session.on = end
            # The library has read the bad frame before the session sees the good one.
            client.send(masked(TEXT, b"one"), masked(PING, b"p"), masked(TEXT, b"two"), masked(0xC1, b"bad"))
            await eventually(lambda: len(session.heard) == 2)
            assert session.heard == [("text", b"one"), ("closed", *((1003, "text") if late == "close" else (1006, "")))]
            await client.to_eof()
            client.writer.close()
            await eventually(lambda: not here.listener.connections)

    run(test)


def test_a_kept_write_does_not_raise_before_the_session_heard_of_the_end(run: Run, eventually: Eventually) -> None:
    """The fan-out holds bound writes; only ``on_closed`` tells it to let go."""

    async def test() -> None:
        loop = asyncio.get_running_loop()
        async with place() as here:
            for last in (masked(CLOSE, closing(1000)), masked(0xC1, b"bad"), masked(TEXT, b"\xff")):
                client, session = await here.enter()
                write = session.connection.write
                writes = 0

                def flush(session: Session = session, write: Any = write) -> None:
                    nonlocal writes
                    if not session.heard:
                        write(text_frame(b"event"))
                        writes += 1
                        loop.call_soon(flush)

                flush()
                await eventually(lambda: writes > 10)  # noqa: B023
                client.send(last)
                await eventually(lambda: session.heard)  # noqa: B023
                client.writer.close()

    run(test)


def test_a_closed_connection_needs_no_collector(run: Run, eventually: Eventually) -> None:
    async def test() -> None:
        async with place() as here:
            gc.collect()
            kinds = (WebSocketConnection, ServerProtocol)
            of_others = [thing for thing in gc.get_objects() if type(thing) in kinds]
            gc.disable()
            try:
                for _ in range(3):
                    client, _ = await here.enter(masked(TEXT, b"x"), masked(CLOSE))
                    await client.closed_with()
                    await eventually(lambda: not here.listener.connections)
                here.lobby.sessions.clear()
                del _
                left = [thing for thing in gc.get_objects() if type(thing) in kinds]
                assert [thing for thing in left if not any(thing is other for other in of_others)] == []
            finally:
                gc.enable()

    run(test)


# Silence.


def test_silence_is_asked_and_an_answer_keeps_the_connection(run: Run) -> None:
    async def test() -> None:
        async with place(QUICK) as here:
            client, session = await here.enter()
            for _ in range(4):
                assert await client.frame() == (PING, b"")
                client.send(masked(PONG))
            assert session.connection.open
            assert session.heard == []

    run(test)


@pytest.mark.parametrize("sent", [b"", masked(TEXT, b"half")[:-1]])
def test_a_silent_peer_is_told_and_dropped_also_within_a_frame(run: Run, eventually: Eventually, sent: bytes) -> None:
    async def test() -> None:
        async with place(QUICK) as here:
            client, session = await here.enter(sent)
            session.words = b"farewell"
            assert await client.frame() == (PING, b"")
            assert await client.frame() == (TEXT, b"farewell")
            assert await client.closed_with() == (1001, "no answer to a ping")
            assert session.last == [1001]
            await eventually(lambda: not here.listener.connections)
            assert session.heard == [("closed", 1001, "no answer to a ping")]

    run(test)


def test_who_is_not_read_is_not_blamed_for_silence(run: Run, eventually: Eventually) -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        async with place(QUICK) as here:
            client, session = await here.enter()
            session.connection.pause_reading()
            client.send(masked(TEXT, b"later"))
            until = loop.time() + 0.6  # three times what silence may last
            await eventually(lambda: loop.time() > until)
            assert session.heard == []
            session.connection.resume_reading()
            await eventually(lambda: session.heard == [("text", b"later")])

    run(test)


# Backpressure.


def test_a_peer_that_does_not_read_pauses_its_session(run: Run, eventually: Eventually) -> None:
    async def test() -> None:
        async with place(ConnectionLimits(write_buffer=100_000)) as here:
            client, session = await here.enter()
            connection = session.connection
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            sent = 0
            while not session.heard:
                connection.write(text_frame(b"x" * 50_000))
                sent += 50_000
                await asyncio.sleep(0)
                assert sent < 50_000_000
            assert session.heard == ["paused"]
            assert connection.buffered > 100_000
            # Pings of one who does not read are not answered: that would be a way to fill our memory.
            before = connection.buffered
            client.send(masked(PING, b"p" * 100) * 1000)
            client.send(masked(TEXT, b"after the pings"))
            await eventually(lambda: session.heard == ["paused", ("text", b"after the pings")])
            assert connection.buffered <= before
            client.writer.transport.resume_reading()  # type: ignore[attr-defined]
            reading = asyncio.ensure_future(client.reader.read(-1))
            await eventually(lambda: session.heard[-1] == "resumed")
            assert connection.buffered <= 25_000
            client.send(masked(PING, b"now"))
            connection.close(1000)
            client.send(masked(CLOSE, closing(1000)))
            received = await asyncio.wait_for(reading, DEADLINE)
            assert received.count(b"\x81\x7e") >= sent // 50_000

    run(test)


def test_options_of_the_socket_came_with_the_listener(run: Run) -> None:
    async def test() -> None:
        async with place() as here:
            _, session = await here.enter()
            sock = session.connection._transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            if os.uname().sysname == "Linux":
                assert sock.getsockopt(socket.IPPROTO_TCP, 25) == 65536

    run(test)


def test_limits_name_the_field_that_is_wrong() -> None:
    with pytest.raises(ValueError, match="close_timeout"):
        ConnectionLimits(close_timeout=0)


def test_the_library_is_not_chatty(run: Run, eventually: Eventually, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with place() as here:
            client, _ = await here.enter()
            client.send(masked(CLOSE))
            await client.closed_with()
            await eventually(lambda: not here.listener.connections)

    with caplog.at_level(logging.INFO):
        run(test)
    assert [record for record in caplog.records if record.name != "asyncio"] == []


def test_the_unfinished_are_dropped_and_the_others_closed(run: Run) -> None:
    async def test() -> None:
        async with place() as here:
            half = await here.tcp(HANDSHAKE[:20])
            url = f"ws://127.0.0.1:{here.listener.port}/ws"
            async with connect(url) as one, connect(url) as two:
                here.listener.drop_unfinished()
                assert await half.to_eof() == b""
                for connection in tuple(here.listener.connections):
                    connection.close(1012, "restart")
                for client in (one, two):
                    with pytest.raises(ConnectionClosed):
                        await asyncio.wait_for(client.recv(), DEADLINE)
                    assert (client.close_code, client.close_reason) == (1012, "restart")
            await here.listener.wait_closed(DEADLINE)
            assert not here.listener.connections

    run(test)
