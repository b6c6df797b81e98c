"""``send`` beside the transport, on real sockets: nothing lost, doubled or out of order, and nobody gets another's."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import socket

import pytest

from tests.transport.test_websocket import CLOSE, HANDSHAKE, PING, Eventually, Run, Session, closing, masked, place
from tests.transport.test_websocket import run as run  # a fixture
from transport.frames import text_frame
from transport.websocket import ConnectionLimits, WebSocketConnection


def flush(connection: WebSocketConnection, direct: object, buffer: bytes) -> None:
    """What the broadcaster does."""
    assert callable(direct)
    taken = 0
    try:
        taken = direct(buffer)
        if taken is None:
            return
    except OSError:
        pass
    if taken < len(buffer):
        connection.write(buffer[taken:])


def read(reader: socket.socket, most: int) -> bytes:
    """What is there, about ``most`` bytes of it."""
    got = bytearray()
    while len(got) < most:
        try:
            got += reader.recv(65_536)
        except BlockingIOError:
            break
    return bytes(got)


@pytest.mark.parametrize("seed", range(4))
def test_both_ways_keep_one_order_however_the_client_reads(run: Run, seed: int) -> None:
    async def test() -> None:
        chance = random.Random(seed)
        async with place(ConnectionLimits(write_buffer=1 << 30)) as here:
            client, session = await here.enter()
            connection = session.connection
            direct = connection.direct
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            # Read past the loop: there is room again of which the transport has not heard yet.
            reader = socket.socket(fileno=os.dup(client.writer.get_extra_info("socket").fileno()))
            sent, got, overtaking = [], bytearray(), 0
            for number in range(200):
                data = text_frame(b"%d:" % number + b"x" * chance.choice((3, 300, 200_000)))
                sent.append(data)
                if chance.random() < 0.7:
                    overtaking += bool(connection.buffered and len(data) < 1000)
                    flush(connection, direct, data)
                else:
                    connection.write(data)
                if connection.buffered and chance.random() < 0.7:
                    got += read(reader, chance.choice((100_000, 1 << 30)))
                if chance.random() < 0.2:
                    await asyncio.sleep(0)
            while connection.buffered:
                got += read(reader, 1 << 30)
                await asyncio.sleep(0)
            connection.close(1000)
            got += read(reader, 1 << 30)
            reader.close()
            whole = b"".join(sent)
            assert bytes(got[: len(whole)]) == whole
            assert overtaking > 10  # else nothing was tried here

    run(test)


def test_a_socket_that_was_behind_is_written_to_directly_again(run: Run) -> None:
    async def test() -> None:
        async with place() as here:
            client, session = await here.enter()
            connection, direct = session.connection, session.connection.direct
            assert direct(text_frame(b"a")) == 3
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            while not connection.buffered:
                connection.write(text_frame(b"x" * 50_000))
            with pytest.raises(OSError, match="Bad file descriptor"):
                direct(text_frame(b"too early"))
            reading = asyncio.ensure_future(client.reader.read(1 << 30))
            client.writer.transport.resume_reading()  # type: ignore[attr-defined]
            while connection.buffered:
                if reading.done():
                    reading = asyncio.ensure_future(client.reader.read(1 << 30))
                await asyncio.sleep(0)
            flush(connection, direct, text_frame(b"b"))  # goes the long way, and opens the short one
            assert direct(text_frame(b"c")) == 3
            reading.cancel()

    run(test)


def full(direct: object) -> OSError:
    """Give the kernel more than it takes."""
    assert callable(direct)
    while True:
        try:
            direct(bytes(1 << 20))
        except OSError as error:
            return error


def test_nothing_overtakes_a_pong_that_waits(run: Run, eventually: Eventually) -> None:
    async def test() -> None:
        async with place() as here:
            client, session = await here.enter()
            direct = session.connection.direct
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]

            def detached() -> bool:
                client.send(masked(PING, b"ping"))
                return full(direct).errno == errno.EBADF

            await eventually(detached)

    run(test)


def test_a_default_timeout_of_the_program_is_not_waited_for(run: Run) -> None:
    async def test() -> None:
        async with place() as here:
            client, session = await here.enter()
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            socket.setdefaulttimeout(0.5)
            try:
                assert type(full(session.connection.direct)) is BlockingIOError
            finally:
                socket.setdefaulttimeout(None)

    run(test)


@pytest.mark.parametrize("end", ["close", "abort", "peer", "peer closes"])
def test_what_is_kept_reaches_nobody_after_the_end(run: Run, eventually: Eventually, end: str) -> None:
    """Also not the one who has the descriptor next."""

    async def test() -> None:
        async with place() as here:
            client, session = await here.enter()
            connection, direct = session.connection, session.connection.direct
            if end == "close":
                connection.close(1000)
            elif end == "abort":
                connection.abort()
            elif end == "peer":
                client.writer.transport.abort()
                await eventually(lambda: session.heard)
            else:
                client.send(masked(CLOSE, closing(1000)))
                await eventually(lambda: session.heard)
            flush(connection, direct, text_frame(b"late"))
            await eventually(lambda: session.heard)
            client.writer.close()
            if end != "close":  # which waits for the peer's close frame
                await eventually(lambda: not here.listener.connections)
            others = [await here.enter() for _ in range(4)]
            for _ in range(3):
                flush(connection, direct, text_frame(b"later"))
            for other, entered in others:
                entered.connection.write(text_frame(b"mine"))
                assert await other.frame() == (0x81, b"mine")

    run(test)


def test_nothing_overtakes_the_answer_to_the_handshake(run: Run) -> None:
    async def test() -> None:
        async with place() as here:

            def opened(connection: WebSocketConnection) -> Session:
                flush(connection, connection.direct, text_frame(b"hello"))
                return Session(connection)

            here.lobby.opened = opened
            client = await here.tcp(HANDSHAKE)
            assert "101" in await client.head()
            assert await client.frame() == (0x81, b"hello")

    run(test)
