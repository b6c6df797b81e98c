"""Engine.IO 4 and Socket.IO 5 as their documents say, over raw HTTP and WebSockets, against the server that the
protocols' own suites describe (`examples/socketio_conformance.py`), on two workers: connections land on either."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

ROOT = Path(__file__).parents[2]
DEADLINE = 20.0  # s
ENGINE, SOCKET = "/engine.io/", "/socket.io/"
TWO = b"\x01\x02\x03", b"\x04\x05\x06"
PLACEHOLDERS = '{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}'

both = pytest.mark.parametrize("path", [ENGINE, SOCKET])


class Server:
    """Where it is, and how one speaks with it."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def ask(self, method: str, target: str, body: str | None = None, *lines: str) -> tuple[int, str, str]:
        """Status, head and body of the answer, on a connection of its own."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            head = [f"{method} {target} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", "Connection: close", *lines]
            if body is not None:
                head.append(f"Content-Length: {len(body.encode())}")
            writer.write("\r\n".join([*head, "", body or ""]).encode())
            answer = (await reader.read()).decode()
        finally:
            writer.close()
        top, _, rest = answer.partition("\r\n\r\n")
        if "transfer-encoding: chunked" in top.lower():
            raise AssertionError("an answer without its length")
        return int(top.split(" ", 2)[1]), top.lower(), rest

    async def poll(self, path: str, sid: str) -> tuple[int, str]:
        status, _, body = await self.ask("GET", f"{path}?EIO=4&transport=polling&sid={sid}")
        return status, body

    async def post(self, path: str, sid: str, body: str) -> tuple[int, str]:
        status, _, answer = await self.ask("POST", f"{path}?EIO=4&transport=polling&sid={sid}", body)
        return status, answer

    async def open(self, path: str) -> str:
        """A session by long polling."""
        status, _, body = await self.ask("GET", f"{path}?EIO=4&transport=polling")
        assert status == 200
        sid: str = json.loads(body[1:])["sid"]
        return sid

    def socket(self, path: str, query: str = "EIO=4&transport=websocket") -> connect:
        return connect(f"ws://127.0.0.1:{self.port}{path}?{query}", proxy=None)

    def upgrade(self, path: str, sid: str) -> connect:
        return self.socket(path, f"EIO=4&transport=websocket&sid={sid}")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    command = [sys.executable, "examples/socketio_conformance.py", "--port", "0", "--workers", "2"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process, process.stdout:
        try:
            yield Server(int(process.stdout.readline().split(":")[2].split("/")[0]))
        finally:
            process.terminate()
    assert process.returncode == 0


@pytest.fixture
def run() -> Callable[[Coroutine[Any, Any, None]], None]:
    return lambda work: asyncio.run(asyncio.wait_for(work, DEADLINE))


async def next_of(socket: ClientConnection) -> str | bytes:
    """The next message that is no ping; pings are answered."""
    while (message := await socket.recv()) == "2":
        await socket.send("3")
    return message


async def closed(socket: ClientConnection) -> list[str | bytes]:
    """What comes before the server closes."""
    messages = []
    try:
        while True:
            messages.append(await socket.recv())
    except ConnectionClosed:
        return messages


async def connected(socket: ClientConnection) -> None:
    """Into the main namespace."""
    await socket.recv()
    await socket.send("40")
    assert str(await next_of(socket)).startswith("40{")
    assert await next_of(socket) == '42["auth",{}]'


# Engine.IO ---------------------------------------------------------------------------------------------------------


@both
def test_a_session_begins_with_what_the_client_must_know(server: Server, run: Any, path: str) -> None:
    async def main() -> None:
        expected = {"pingInterval": 300, "pingTimeout": 200, "maxPayload": 1_000_000}
        status, head, body = await server.ask(
            "GET", f"{path}?EIO=4&transport=polling", None, "Origin: http://a.example"
        )
        assert (status, body[0]) == (200, "0")
        assert "access-control-allow-origin: " in head
        opened = json.loads(body[1:])
        assert len(opened.pop("sid")) >= 20
        assert opened == {"upgrades": ["websocket"], **expected}
        async with server.socket(path) as socket:
            message = await socket.recv()
            assert message[0] == "0"
            opened = json.loads(message[1:])
            assert len(opened.pop("sid")) >= 20
            assert opened == {"upgrades": [], **expected}

    run(main())


@both
def test_a_handshake_that_is_none_is_refused(server: Server, run: Any, path: str) -> None:
    async def main() -> None:
        for method, query in [
            ("GET", "transport=polling"),
            ("GET", "EIO=abc&transport=polling"),
            ("GET", "EIO=3&transport=polling"),
            ("GET", "EIO=4"),
            ("GET", "EIO=4&transport=abc"),
            ("POST", "EIO=4&transport=polling"),
            ("PUT", "EIO=4&transport=polling"),
            ("GET", "EIO=4&transport=polling&sid=unknown"),
            ("POST", "EIO=4&transport=polling&sid=unknown"),
        ]:
            status, _, _ = await server.ask(method, f"{path}?{query}", "" if method != "GET" else None)
            assert (status, method, query) == (400, method, query)
        for query in ("transport=websocket", "EIO=abc&transport=websocket", "EIO=4", "EIO=4&transport=abc"):
            with pytest.raises(InvalidStatus, match="HTTP 400"):
                await server.socket(path, query)

    run(main())


@pytest.mark.parametrize("body", ["4hello", "4test1\x1e4test2\x1e4test3", "4hello\x1ebAQIDBA==", "4", "4€\x1e4ä"])
def test_messages_of_a_polling_client_come_back(server: Server, run: Any, body: str) -> None:
    async def main() -> None:
        sid = await server.open(ENGINE)
        assert await server.post(ENGINE, sid, body) == (200, "ok")
        assert await server.poll(ENGINE, sid) == (200, body)

    run(main())


def test_messages_of_a_websocket_come_back(server: Server, run: Any) -> None:
    async def main() -> None:
        async with server.socket(ENGINE) as socket:
            await socket.recv()
            for message, answer in [("4hello", "4hello"), (b"\x01\x02", b"\x01\x02"), ("4", "4"), (b"", b"")]:
                await socket.send(message)
                assert await next_of(socket) == answer

    run(main())


def test_what_is_no_packet_ends_the_session(server: Server, run: Any) -> None:
    async def main() -> None:
        for body in ("abc", "4a\x1e", "b***"):
            sid = await server.open(ENGINE)
            assert (await server.post(ENGINE, sid, body))[0] == 400
            assert (await server.poll(ENGINE, sid))[0] == 400
        async with server.socket(ENGINE) as socket:
            await socket.send("abc")
            assert "abc" not in await closed(socket)

    run(main())


def test_two_polls_at_once_end_the_session(server: Server, run: Any) -> None:
    async def main() -> None:
        sid = await server.open(ENGINE)
        answers = sorted(await asyncio.gather(server.poll(ENGINE, sid), server.poll(ENGINE, sid)))
        assert [answers[0], answers[1][0]] == [(200, "1"), 400]
        assert (await server.poll(ENGINE, sid))[0] == 400

    run(main())


def test_a_poll_that_is_given_up_ends_the_session(server: Server, run: Any) -> None:
    async def main() -> None:
        sid = await server.open(ENGINE)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for method, body in (("POST", b"6"), ("GET", b"")):
            head = f"{method} {ENGINE}?EIO=4&transport=polling&sid={sid} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            if method == "POST":  # once answered, this connection is where the session is
                await reader.readuntil(b"\r\n\r\nok")
        await writer.drain()
        writer.close()
        # The next poll may overtake that news; a client that answers its pings is let go for nothing else.
        while (answer := await server.poll(ENGINE, sid))[0] == 200:
            if answer[1] == "2":
                await server.post(ENGINE, sid, "3")

    run(main())


@both
def test_who_answers_pings_is_asked_again(server: Server, run: Any, path: str) -> None:
    async def polls() -> None:
        sid = await server.open(path)
        for _ in range(2):
            assert await server.poll(path, sid) == (200, "2")
            assert await server.post(path, sid, "3") == (200, "ok")

    async def listens() -> None:
        async with server.socket(path) as socket:
            await socket.recv()
            for _ in range(2):
                assert await socket.recv() == "2"
                await socket.send("3")

    async def main() -> None:
        await asyncio.gather(polls(), listens())

    run(main())


@both
def test_who_does_not_is_closed(server: Server, run: Any, path: str) -> None:
    async def polls() -> None:
        sid = await server.open(path)
        assert await server.poll(path, sid) == (200, "2")
        await server.poll(path, sid)  # waits for the end
        assert (await server.post(path, sid, "3"))[0] == 400

    async def listens() -> None:
        async with server.socket(path) as socket:
            assert (await closed(socket))[1:2] == ["2"]

    async def main() -> None:
        await asyncio.gather(polls(), listens())

    run(main())


@both
def test_a_client_may_end_its_session(server: Server, run: Any, path: str) -> None:
    async def main() -> None:
        sid = await server.open(path)
        polled, posted = await asyncio.gather(server.poll(path, sid), server.post(path, sid, "1"))
        assert (polled, posted) == ((200, "6"), (200, "ok"))
        assert (await server.poll(path, sid))[0] == 400
        async with server.socket(path) as socket:
            assert str(await socket.recv())[0] == "0"
            await socket.send("1")
            assert await closed(socket) == []

    run(main())


def test_a_session_goes_on_over_a_websocket_and_only_there(server: Server, run: Any) -> None:
    async def main() -> None:
        sid = await server.open(ENGINE)
        async with server.upgrade(ENGINE, sid) as socket:
            await socket.send("2probe")
            assert await socket.recv() == "3probe"
            assert await server.poll(ENGINE, sid) == (200, "6")
            # What comes meanwhile is not lost.
            assert await server.post(ENGINE, sid, "4before") == (200, "ok")
            await socket.send("5")
            await socket.send("4hello")
            assert [await next_of(socket), await next_of(socket)] == ["4before", "4hello"]
            assert (await server.poll(ENGINE, sid))[0] == 400
            assert (await server.post(ENGINE, sid, "4no"))[0] == 400
            async with server.upgrade(ENGINE, sid) as second:
                await closed(second)
            await socket.send("4still")
            assert await next_of(socket) == "4still"

    run(main())


# Socket.IO ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "head", "auth"),
    [
        ("40", "40", '42["auth",{}]'),
        ('40{"token":"123"}', "40", '42["auth",{"token":"123"}]'),
        ("40/custom,", "40/custom,", '42/custom,["auth",{}]'),
        ("40/custom", "40/custom,", '42/custom,["auth",{}]'),
        ('40/custom,{"token":"abc"}', "40/custom,", '42/custom,["auth",{"token":"abc"}]'),
    ],
)
def test_connecting_to_a_namespace(server: Server, run: Any, sent: str, head: str, auth: str) -> None:
    async def main() -> None:
        async with server.socket(SOCKET) as socket:
            await socket.recv()
            await socket.send(sent)
            answer = str(await next_of(socket))
            assert answer.startswith(head + "{")
            assert list(json.loads(answer.removeprefix(head))) == ["sid"]
            assert await next_of(socket) == auth

    run(main())


def test_an_unknown_namespace_is_refused_and_another_may_follow(server: Server, run: Any) -> None:
    async def main() -> None:
        async with server.socket(SOCKET) as socket:
            await socket.recv()
            await socket.send("40/random")
            assert await next_of(socket) == '44/random,{"message":"Invalid namespace"}'
            await socket.send("40")
            assert str(await next_of(socket)).startswith("40{")

    run(main())


def test_a_client_that_speaks_no_socketio_is_closed(server: Server, run: Any) -> None:
    async def says(text: str, *, first: bool) -> None:
        async with server.socket(SOCKET) as socket:
            if not first:
                await connected(socket)
            await socket.send(text)
            await closed_for_good(socket)

    async def closed_for_good(socket: ClientConnection) -> None:
        with pytest.raises(ConnectionClosed):
            while True:
                await next_of(socket)

    async def main() -> None:
        async with server.socket(SOCKET) as silent:  # it answers pings, but never connects
            await asyncio.gather(
                *(says(text, first=True) for text in ("4abc", '42["message"]', "40[]")),
                *(says(text, first=False) for text in ("4abc", "42{}", "42[]", '42abc["message",1]', '451-["a"]x')),
                closed_for_good(silent),
            )

    run(main())


def test_leaving_a_namespace_leaves_the_others_and_the_connection(server: Server, run: Any) -> None:
    async def main() -> None:
        async with server.socket(SOCKET) as socket:
            await connected(socket)
            await socket.send("40/custom,")
            assert str(await next_of(socket)).startswith("40/custom,{")
            assert await next_of(socket) == '42/custom,["auth",{}]'
            await socket.send("41/custom,")
            await socket.send('42["message","still"]')
            assert await next_of(socket) == '42["message-back","still"]'
            await socket.send("41")
            assert await socket.recv() == "2"

    run(main())


def test_events_and_acknowledgements_of_a_websocket(server: Server, run: Any) -> None:
    async def main() -> None:
        async with server.socket(SOCKET) as socket:
            await connected(socket)
            for sent, *answers in [
                (['42["message",1,"2",{"3":[true]}]'], '42["message-back",1,"2",{"3":[true]}]'),
                (['42456["message-with-ack",1,"2",{"3":[false]}]'], '43456[1,"2",{"3":[false]}]'),
                ([f'452-["message",{PLACEHOLDERS}]', *TWO], f'452-["message-back",{PLACEHOLDERS}]', *TWO),
                ([f'452-789["message-with-ack",{PLACEHOLDERS}]', *TWO], f"462-789[{PLACEHOLDERS}]", *TWO),
            ]:
                for message in sent:
                    await socket.send(message)
                assert [await next_of(socket) for _ in answers] == answers

    run(main())


def test_events_and_acknowledgements_of_a_polling_client(server: Server, run: Any) -> None:
    async def main() -> None:
        sid, got = await server.open(SOCKET), list[str]()

        async def receive(count: int) -> list[str]:
            while len(got) < count:
                status, body = await server.poll(SOCKET, sid)
                assert status == 200
                for packet in body.split("\x1e"):
                    if packet == "2":
                        assert await server.post(SOCKET, sid, "3") == (200, "ok")
                    else:
                        got.append(packet)
            taken = got[:count]
            del got[:count]
            return taken

        assert await server.post(SOCKET, sid, "40") == (200, "ok")
        welcome, auth = await receive(2)
        assert welcome.startswith("40{")
        assert auth == '42["auth",{}]'
        binary = f'452-7["message-with-ack",{PLACEHOLDERS}]\x1ebAQID\x1ebBAUG'
        assert await server.post(SOCKET, sid, f'42["message","ü"]\x1e{binary}') == (200, "ok")
        assert await receive(4) == ['42["message-back","ü"]', f"462-7[{PLACEHOLDERS}]", "bAQID", "bBAUG"]

    run(main())
