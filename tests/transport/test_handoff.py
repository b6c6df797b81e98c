"""Workers as servers of a little protocol on real sockets: the session's name says which of them answers."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import stat
import struct
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.asyncio.client import connect

from tests.transport.test_tls import certify
from transport import arrival, handoff, relay
from transport.handoff import Handoff
from transport.listener import Listener, bind
from transport.websocket import ConnectionLimits, WebSocketConnection

DEADLINE = 20.0
MANY = 200
Eventually = Callable[..., Awaitable[None]]


class Conversation(asyncio.Protocol):
    """``SID LENGTH\\n`` and so many bytes are answered by ``WORKER PEER LENGTH\\n`` and the same bytes."""

    def __init__(self, worker: Worker, peer: tuple[str, int] | None = None, first: bytes = b"") -> None:
        self.worker, self.peer, self.first = worker, peer, first
        self.data = b""
        self.lost = 0
        self.full = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.peer = self.peer or transport.get_extra_info("peername")[:2]
        self.worker.conversations.append(self)
        if self.first:
            self.data_received(self.first)

    def data_received(self, data: bytes) -> None:
        assert not self.lost, "heard of it again after it was passed on"
        self.data += data
        while b"\n" in self.data:
            head, _, body = self.data.partition(b"\n")
            sid, length = head.decode().split()
            if not self.worker.handoff.owns(sid):
                assert self.peer
                if self.worker.handoff.pass_on(sid, self.transport, self.peer, self.data):
                    return
                sid = "unknown"
            if len(body) < int(length):
                return
            self.data = body[int(length) :]
            if sid == "unknown":
                self.transport.write(b"unknown unknown 0\n")
            else:
                self.worker.answer(self, body[: int(length)])

    def pause_writing(self) -> None:
        self.full.set()

    def resume_writing(self) -> None:
        self.full.clear()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost += 1


class Worker:
    """Accepts on a port of its own; adopts what others pass on."""

    def __init__(self, directory: str, name: str, tls: ssl.SSLContext | None) -> None:
        self.name, self._tls = name, tls
        self.loop = asyncio.get_running_loop()
        self.handoff = Handoff(directory, self.adopt, self.loop)
        self.conversations: list[Conversation] = []
        self.adopted = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def sid(self) -> str:
        return self.handoff.token + "-1"

    async def start(self) -> None:
        self.handoff.start()
        options = {} if self._tls is None else {"ssl": self._tls, "ssl_shutdown_timeout": DEADLINE}
        self._server = await self.loop.create_server(lambda: Conversation(self), "127.0.0.1", 0, **options)  # type: ignore[arg-type]
        self.port = self._server.sockets[0].getsockname()[1]

    def adopt(self, sock: socket.socket, peer: tuple[str, int], received: bytes) -> None:
        self.adopted += 1
        coming = self.loop.connect_accepted_socket(lambda: Conversation(self, peer, received), sock)
        task = asyncio.ensure_future(coming)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def answer(self, to: Conversation, body: bytes) -> None:
        assert to.peer
        to.transport.write(f"{self.name} {to.peer[0]}:{to.peer[1]} {len(body)}\n".encode() + body)

    async def stop(self) -> None:
        await self.handoff.end(DEADLINE)
        self._server.close()
        for conversation in self.conversations:
            conversation.transport.abort()


class Client:
    """Asks one thing after the other on one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @property
    def address(self) -> str:
        host, port = self.writer.get_extra_info("sockname")
        return f"{host}:{port}"

    async def ask(self, sid: str, body: bytes = b"") -> str:
        """Who answers; that it is the whole of the body, and that the worker knows whose it is, is checked."""
        self.writer.write(f"{sid} {len(body)}\n".encode() + body)
        return await self.answered(body)

    async def answered(self, body: bytes = b"") -> str:
        name, peer, length = (await self.reader.readline()).decode().split()
        assert await self.reader.readexactly(int(length)) == body[: int(length)]
        assert name == "unknown" or (peer == self.address and int(length) == len(body))
        return name


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    cert, key = certify(tmp_path_factory.mktemp("tls"), "workers")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key)
    return server, ssl.create_default_context(cafile=str(cert))


@pytest.fixture
def directory() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="helio-") as path:  # pytest's are too long for a Unix socket
        yield path


class House:
    """Workers, and clients of them."""

    def __init__(self, directory: str, contexts: tuple[ssl.SSLContext, ssl.SSLContext] | None) -> None:
        self.directory = directory
        self.server, self.client = contexts or (None, None)
        self.workers: list[Worker] = []
        self.clients: list[Client] = []

    async def worker(self) -> Worker:
        worker = Worker(self.directory, f"w{len(self.workers)}", self.server)
        await worker.start()
        self.workers.append(worker)
        return worker

    async def connect(self, worker: Worker) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", worker.port, ssl=self.client, limit=1 << 24))
        self.clients.append(client)
        return client


def sockets() -> int:
    """That this process has."""
    number = 0
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # of the listing itself
            number += os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:")
    return number


@asynccontextmanager
async def house(
    directory: str, contexts: tuple[ssl.SSLContext, ssl.SSLContext] | None = None, workers: int = 2
) -> AsyncIterator[House]:
    """At its end no socket is open that was not open before."""
    before = sockets()
    async with asyncio.timeout(DEADLINE):
        built = House(directory, contexts)
        for _ in range(workers):
            await built.worker()
        try:
            yield built
        finally:
            for client in built.clients:
                client.writer.close()
            for worker in built.workers:
                await worker.stop()
        while sockets() > before:
            await asyncio.sleep(0.002)
        assert not list(Path(directory).glob("*.sock"))


@pytest.fixture(params=["tcp", "tls"])
def kind(
    request: pytest.FixtureRequest, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> tuple[ssl.SSLContext, ssl.SSLContext] | None:
    return contexts if request.param == "tls" else None


Kind = tuple[ssl.SSLContext, ssl.SSLContext] | None


def test_each_request_of_a_connection_is_answered_by_its_sessions_worker(directory: str, kind: Kind) -> None:
    async def test() -> None:
        async with house(directory, kind, workers=3) as built:
            first, second, third = built.workers
            client = await built.connect(first)
            answers = [await client.ask(worker.sid, b"x") for worker in (first, second, third, first, second, second)]
            assert answers == ["w0", "w1", "w2", "w0", "w1", "w1"]
            assert [len(worker.handoff.relays) for worker in built.workers] == [0 if kind is None else 1, 0, 0]
            assert [worker.adopted for worker in built.workers] == [1, 2, 1]
            # Whoever gave it away has been told so once, and holds it no longer.
            lost = [conversation.lost for worker in built.workers for conversation in worker.conversations]
            assert sorted(lost) == [0, 1, 1, 1, 1]

    uvloop.run(test())


def test_large_bodies_and_many_at_once(directory: str, kind: Kind) -> None:
    async def test() -> None:
        async with house(directory, kind) as built:
            first, second = built.workers
            clients = [await built.connect(first) for _ in range(MANY if kind is None else MANY // 4)]
            bodies = [os.urandom(3 + n * 7) if n % 20 else os.urandom(1 << 20) for n in range(len(clients))]
            answers = [client.ask(second.sid, body) for client, body in zip(clients, bodies, strict=True)]
            assert set(await asyncio.gather(*answers)) == {"w1"}
            answers = [client.ask(first.sid, body) for client, body in zip(clients, bodies, strict=True)]
            assert set(await asyncio.gather(*answers)) == {"w0"}

    uvloop.run(test())


def test_on_the_loop_of_the_standard_library(directory: str, kind: Kind) -> None:
    async def test() -> None:
        async with house(directory, kind) as built:
            first, second = built.workers
            client = await built.connect(first)
            for worker in (second, first, second):
                assert await client.ask(worker.sid, b"x" * 300_000) == worker.name

    asyncio.run(test())


# a worker that is not there


@given(st.text(max_size=20) | st.from_regex(r"[A-Za-z0-9./]{8,12}"))
@example("../d0.sock")
@example("")
@example("control.")
@example("Aa1\u0661bcdefgh")
@example("\x00" * 9)
def test_no_name_leads_out_of_the_runtime_directory(sid: str) -> None:
    class Untouched:
        def is_closing(self) -> bool:
            return False

        def get_write_buffer_size(self) -> int:
            return 0

        def get_extra_info(self, name: str) -> Any:
            return sock if name == "socket" else None

    with tempfile.TemporaryDirectory(prefix="helio-") as outer, socket.socket() as sock:
        inner = Path(outer, "run")
        inner.mkdir()
        for name in (Path(outer, "d0.sock"), inner / "control.sock"):
            name.touch()
        given_away = Handoff(str(inner), lambda *_: None, asyncio.new_event_loop())
        given_away._loop.close()
        assert not given_away.pass_on(sid, cast(Any, Untouched()), ("127.0.0.1", 1), b"")
        assert sorted(os.listdir(outer)) == ["d0.sock", "run"]
        assert os.listdir(inner) == ["control.sock"]


def test_sessions_of_no_worker_are_unknown_and_the_connection_goes_on(directory: str, kind: Kind) -> None:
    async def test() -> None:
        async with house(directory, kind) as built:
            first, second = built.workers
            client = await built.connect(first)
            killed = Path(directory, "Killed00.sock")
            with socket.socket(socket.AF_UNIX) as owner:
                owner.bind(str(killed))
                owner.listen()
            assert await client.ask("Nobody00-1") == "unknown"
            assert await client.ask("Killed00-1") == "unknown"
            assert not killed.exists()
            second.handoff.stop()
            assert await client.ask(second.sid) == "unknown"
            assert await client.ask(first.sid) == "w0"
            assert not first.handoff.relays

    uvloop.run(test())


def test_a_worker_that_hangs_is_given_only_so_much(
    directory: str, kind: Kind, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    monkeypatch.setattr(handoff, "UNFINISHED", 2)

    async def test() -> None:
        async with house(directory, kind) as built:
            first = built.workers[0]
            with socket.socket(socket.AF_UNIX) as hung:
                hung.bind(str(Path(directory, "Hanging0.sock")))
                hung.listen(4)
                clients = [await built.connect(first) for _ in range(10)]
                # Two that the kernel does not take as a whole, then no other of that kind.
                asked = [asyncio.create_task(client.ask("Hanging0-1", bytes(200_000))) for client in clients[:4]]
                await eventually(lambda: sum(task.done() for task in asked) == 2)
                small = [asyncio.create_task(client.ask("Hanging0-1")) for client in clients[4:]]
                await eventually(lambda: sum(task.done() for task in small) == 3)  # the kernel takes 4 and one
                assert {task.result() for task in asked + small if task.done()} == {"unknown"}
                given_away = [task for task in asked + small if not task.done()]
            # It is killed: who was given to it is let go.
            done = await asyncio.gather(*given_away, return_exceptions=True)
            assert all(isinstance(error, ValueError | ConnectionError) for error in done), done
            await eventually(lambda: not first.handoff.relays)
            Path(directory, "Hanging0.sock").unlink()

    uvloop.run(test())


def test_what_a_hung_worker_does_not_take_is_given_up(
    directory: str, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handoff, "TIMEOUT", 0.05)

    async def test() -> None:
        async with house(directory, kind) as built:
            path = Path(directory, "Hanging0.sock")
            with socket.socket(socket.AF_UNIX) as hung:
                hung.setblocking(False)
                hung.bind(str(path))
                hung.listen(4)
                client = await built.connect(built.workers[0])
                client.writer.write(b"Hanging0-1 200000\n" + bytes(200_000))
                given_up, _ = await asyncio.get_running_loop().sock_accept(hung)
                with given_up:  # it wakes up, and finds a request without its end
                    await asyncio.wait(built.workers[0].handoff._sending)
                    found = arrival.Arrival(given_up)
                    with pytest.raises(OSError, match="too soon"):
                        found.read()
                    found.close()
            path.unlink()
            with suppress(ConnectionError):
                assert await client.reader.read() == b""

    uvloop.run(test())


def test_what_has_bytes_to_send_is_not_passed_on(directory: str) -> None:
    async def test() -> None:
        async with house(directory) as built:
            first, second = built.workers
            client = await built.connect(first)
            assert await client.ask(first.sid) == "w0"
            transport = first.conversations[0].transport
            transport.write(bytes(8 << 20))
            assert transport.get_write_buffer_size()
            assert not first.handoff.pass_on(second.sid, transport, ("127.0.0.1", 1), b"")
            transport.abort()
            assert not first.handoff.pass_on(second.sid, transport, ("127.0.0.1", 1), b"")

    uvloop.run(test())


# what arrives


def test_who_gives_half_a_connection_is_let_go(
    directory: str, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    monkeypatch.setattr(handoff, "UNFINISHED", 3)

    async def test() -> None:
        async with house(directory, workers=1) as built:
            worker = built.workers[0]
            path = str(Path(directory, f"{worker.handoff.token}.sock"))
            whole = arrival.pack(("192.0.2.1", 7), b"hello")

            def give(data: bytes, close: bool) -> socket.socket:
                giving = socket.socket(socket.AF_UNIX)
                giving.connect(path)
                with socket.socket() as client:
                    if data:
                        socket.send_fds(giving, [data], [client.fileno()])
                if close:
                    giving.close()
                return giving

            for size in range(len(whole)):
                give(whole[:size], close=True)
            with give(struct.pack("!HBI", 1, 1, arrival.RECEIVED + 1), close=False) as giving:
                giving.setblocking(False)
                assert await asyncio.get_running_loop().sock_recv(giving, 1) == b""
            with socket.socket(socket.AF_UNIX) as giving:  # no descriptor
                giving.connect(path)
                giving.sendall(whole)
            silent = [give(whole[: size % 3], close=False) for size in range(5)]
            await eventually(lambda: len(worker.handoff._arrivals) == 3)
            # A byte at a time is a whole in the end. The oldest were dropped: only the last of them are still heard.
            for byte in whole[1:]:
                silent[4].send(bytes([byte]))
            await eventually(lambda: worker.adopted == 1)
            for giving in silent:
                giving.close()

    uvloop.run(test())


def test_who_gives_too_slowly_is_let_go(
    directory: str, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    monkeypatch.setattr(handoff, "TIMEOUT", 0.05)

    async def test() -> None:
        async with house(directory, workers=1) as built:
            worker = built.workers[0]
            reader, writer = await asyncio.open_unix_connection(Path(directory, f"{worker.handoff.token}.sock"))
            assert await reader.read() == b""
            writer.close()

    uvloop.run(test())


def test_a_listener_adopts_with_the_peers_address(directory: str) -> None:
    """The whole of a handshake, half of one, and the first frames with it; counted as its own."""

    class Echo:
        def __init__(self, connection: WebSocketConnection) -> None:
            self.connection = connection

        def on_message(self, data: bytes, binary: bool) -> None:
            self.connection.write(bytes((0x81, len(data))) + data)

        def on_paused(self) -> None: ...
        def on_resumed(self) -> None: ...
        def on_closed(self, code: int, reason: str) -> None: ...
        def last_words(self, code: int) -> bytes:
            return b""

    class Lobby:
        path = None
        subprotocols: tuple[str, ...] = ()

        def __init__(self) -> None:
            self.addresses: list[str] = []

        def open(self, connection: WebSocketConnection) -> Echo:
            self.addresses.append(connection.address)
            return Echo(connection)

        def http(self, method: str, path: str) -> tuple[int, str, bytes] | None:
            return None

    async def test() -> None:
        loop, lobby = asyncio.get_running_loop(), Lobby()
        listener = Listener(loop, bind("127.0.0.1", 0), lobby, ConnectionLimits(message_bytes=1000))
        await listener.start()
        handshake = (
            b"GET /ws HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        message = b"\x81\x83\0\0\0\0abc"
        for cut in (len(handshake) + len(message), len(handshake), 30, 0):
            ours, theirs = socket.socketpair()
            theirs.setblocking(False)
            reader, writer = await asyncio.open_unix_connection(sock=ours)
            received = (handshake + message)[:cut]
            writer.write((handshake + message)[cut:])  # is there when the listener begins to read
            listener.adopt(theirs, ("192.0.2.1", 7), received)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
            assert await reader.readexactly(5) == b"\x81\x03abc"
            assert len(listener.connections) == 1
            writer.close()
            async with asyncio.timeout(DEADLINE):
                await listener.wait_closed(DEADLINE)
        assert lobby.addresses == ["192.0.2.1:7"] * 4
        async with connect(f"ws://127.0.0.1:{listener.port}/ws", proxy=None) as client:
            await client.send("x")
            assert await client.recv() == "x"
        # Also while it stops; what ends at once leaves nothing.
        await listener.stop_accepting()
        ours, theirs = socket.socketpair()
        ours.close()
        theirs.setblocking(False)
        listener.adopt(theirs, ("192.0.2.1", 7), b"GET / HTTP/1.1\r\n\r\n")
        await listener.stop()
        assert theirs.fileno() == -1
        assert not listener.connections

    uvloop.run(test())


# relays


def test_a_relay_reads_no_more_than_the_other_side_takes(
    directory: str, contexts: tuple[ssl.SSLContext, ssl.SSLContext], eventually: Eventually
) -> None:
    async def test() -> None:
        async with house(directory, contexts) as built:
            first, second = built.workers
            client = await built.connect(first)
            assert await client.ask(second.sid) == "w1"
            conversation = second.conversations[0]
            carried = next(iter(first.handoff.relays))
            # A client that does not read.
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            block, sent = bytes(range(256)) * 256, 0
            while not conversation.full.is_set():
                conversation.transport.write(block)
                sent += len(block)
                await asyncio.sleep(0)
            near = carried._near.transport
            assert near
            assert near.get_write_buffer_size() < 4 * relay.BUFFER
            client.writer.transport.resume_reading()  # type: ignore[attr-defined]
            assert await client.reader.readexactly(sent) == block * (sent // len(block))
            # A worker that does not read.
            conversation.transport.pause_reading()
            body = os.urandom(16 << 20)
            answer = asyncio.create_task(client.ask(second.sid, body))
            far = carried._far.transport
            assert far
            await eventually(lambda: far.get_write_buffer_size() > relay.BUFFER)
            assert far.get_write_buffer_size() < 16 * relay.BUFFER  # one read of TLS above the limit
            conversation.transport.resume_reading()
            assert await answer == "w1"

    uvloop.run(test())


@pytest.mark.parametrize("how", ["client", "eof", "close", "abort"])
def test_a_relay_ends_with_either_side_behind_what_was_written(
    directory: str, contexts: tuple[ssl.SSLContext, ssl.SSLContext], eventually: Eventually, how: str
) -> None:
    async def test() -> None:
        async with house(directory, contexts) as built:
            first, second = built.workers
            client = await built.connect(first)
            assert await client.ask(second.sid) == "w1"
            conversation = second.conversations[0]
            if how == "client":
                client.writer.write(f"{second.sid} 1000\n".encode() + b"x" * 999)
                client.writer.close()
            else:
                conversation.transport.write(b"y" * 1_000_000)
                if how == "eof":
                    conversation.transport.write_eof()
                elif how == "close":
                    conversation.transport.close()
                else:
                    conversation.transport.abort()
                got = await client.reader.read()
                assert len(got) == 1_000_000 or how == "abort"
            await eventually(lambda: conversation.lost and not first.handoff.relays)
            if how == "client":
                assert conversation.data.endswith(b"x" * 999)

    uvloop.run(test())


def test_the_end_closes_relays_and_cuts_those_whose_client_does_not_go(
    directory: str,
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(handoff, "GOODBYE", DEADLINE)

    async def test() -> None:
        async with house(directory, contexts) as built:
            first, second = built.workers
            reading, stuck = await built.connect(first), await built.connect(first)
            for client in (reading, stuck):
                assert await client.ask(second.sid) == "w1"
            stuck.writer.transport.pause_reading()  # type: ignore[attr-defined]
            last = second.conversations[-1]
            while not last.full.is_set():
                last.transport.write(bytes(65_536))
                await asyncio.sleep(0)
            ending = asyncio.create_task(first.handoff.end(DEADLINE))
            assert await reading.reader.read() == b""
            await eventually(lambda: len(first.handoff.relays) == 1)
            monkeypatch.setattr(handoff, "GOODBYE", 0.0)
            await first.handoff.end(DEADLINE)
            await ending
            assert not first.handoff.relays
            await eventually(lambda: all(conversation.lost for conversation in second.conversations))

    uvloop.run(test())


def test_the_socket_lies_where_only_this_user_comes(directory: str) -> None:
    async def test() -> None:
        async with house(directory, workers=1) as built:
            path = Path(directory, f"{built.workers[0].handoff.token}.sock")
            assert stat.S_ISSOCK(path.stat().st_mode)
            assert path.parent.stat().st_mode & 0o077 == 0

    uvloop.run(test())
