from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
import uvloop
from websockets.asyncio.client import connect

from tests.transport.test_tls import certify
from transport import listener as module
from transport.errors import HeliographError
from transport.gate import Gate, GatePolicy
from transport.listener import Listener, bind
from transport.tls import ServerTls
from transport.websocket import ConnectionLimits, WebSocketConnection

DEADLINE = 5.0
Eventually = Callable[..., Awaitable[None]]


class Session:
    def __init__(self) -> None:
        self.closed: list[int] = []

    def on_message(self, data: bytes, binary: bool) -> None: ...
    def on_paused(self) -> None: ...
    def on_resumed(self) -> None: ...
    def last_words(self, code: int) -> bytes:
        return b""

    def on_closed(self, code: int, reason: str) -> None:
        self.closed.append(code)


class Lobby:
    path = "/ws"
    subprotocols: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.sessions: list[Session] = []

    def open(self, connection: WebSocketConnection) -> Session:
        self.sessions.append(Session())
        return self.sessions[-1]

    def http(self, method: str, path: str) -> tuple[int, str, bytes] | None:
        return 200, "text/plain", b"here"


def _listener(
    sock: socket.socket, lobby: Lobby | None = None, refusals: dict[str, int] | None = None, **limits: float
) -> Listener:
    wide = ConnectionLimits(**limits)  # type: ignore[arg-type]
    return Listener(asyncio.get_running_loop(), sock, lobby or Lobby(), wide, refusals=refusals)


# bind


def test_a_taken_port_is_named() -> None:
    with bind("127.0.0.1", 0, reuse_port=False) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(HeliographError, match=rf"127\.0\.0\.1:{port}: the port is taken"):
            bind("127.0.0.1", port)


def test_port_0_is_bound_once_and_its_number_shared() -> None:
    with bind("127.0.0.1", 0) as first, bind("127.0.0.1", first.getsockname()[1]) as second:
        assert first.getsockname() == second.getsockname()


def test_ipv6() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    try:
        sock = bind("::1", 0)
    except HeliographError as error:
        pytest.skip(str(error))
    with sock:
        assert sock.family == socket.AF_INET6


@pytest.mark.parametrize(
    ("host", "port"), [("no.such.host.invalid", 1), ("203.0.113.1", 0), ("127.0.0.1", 70_000), ("127.0.0.1", -1)]
)
def test_an_address_that_cannot_be_bound_is_named(host: str, port: int) -> None:
    with pytest.raises(HeliographError, match=rf"cannot listen on {host}:{port}: "):
        bind(host, port)


# Listener


def test_two_on_one_port_share_its_clients(eventually: Eventually) -> None:
    async def test() -> None:
        first = _listener(bind("127.0.0.1", 0))
        second = _listener(bind("127.0.0.1", first.port))
        await first.start()
        await second.start()
        writers = [(await asyncio.open_connection("127.0.0.1", first.port))[1] for _ in range(60)]
        await eventually(lambda: len(first.connections) + len(second.connections) == 60)
        assert first.connections
        assert second.connections
        for writer in writers:
            writer.close()
        await first.stop()
        await second.stop()

    uvloop.run(test())


@pytest.mark.parametrize("factory", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_who_stops_accepting_keeps_the_clients_there_are(
    factory: Callable[[], asyncio.AbstractEventLoop], eventually: Eventually
) -> None:
    async def test() -> None:
        lobby = Lobby()
        listener = _listener(bind("127.0.0.1", 0), lobby)
        await listener.start()
        port = listener.port
        async with connect(f"ws://127.0.0.1:{port}/ws") as client:
            await listener.stop_accepting()
            await listener.stop_accepting()
            await eventually(lambda: _refused(port))
            await asyncio.wait_for(await client.ping(), DEADLINE)
            waiting = [asyncio.ensure_future(listener.wait_closed(DEADLINE)) for _ in range(2)]
            for connection in tuple(listener.connections):
                connection.close(1012, "restart")
            await asyncio.wait_for(asyncio.gather(*waiting), DEADLINE)
            await client.wait_closed()
            assert client.close_code == 1012
        assert lobby.sessions[0].closed == [1012]
        await listener.stop()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(test())


def _refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_waiting_ends_with_the_patience() -> None:
    async def test() -> None:
        lobby = Lobby()
        listener = _listener(bind("127.0.0.1", 0), lobby)
        await listener.start()
        async with connect(f"ws://127.0.0.1:{listener.port}/ws") as client:
            await listener.stop_accepting()
            await asyncio.wait_for(listener.wait_closed(0.05), DEADLINE)
            assert not listener.connections
            assert lobby.sessions[0].closed == [1006]
            await client.wait_closed()
        await listener.stop()

    uvloop.run(test())


def test_limits_may_be_exchanged_for_those_to_come() -> None:
    async def test() -> None:
        listener = _listener(bind("127.0.0.1", 0))
        await listener.start()
        url = f"ws://127.0.0.1:{listener.port}/ws"
        async with connect(url) as before:
            listener.limits = ConnectionLimits(message_bytes=10)
            async with connect(url) as after:
                for client in (before, after):
                    await client.send("x" * 11)
                await asyncio.wait_for(after.wait_closed(), DEADLINE)
                assert after.close_code == 1009
            await asyncio.wait_for(await before.ping(), DEADLINE)
        await listener.stop()

    uvloop.run(test())


def test_starting_and_stopping_leaves_nothing_behind() -> None:
    async def once() -> None:
        listener = _listener(bind("127.0.0.1", 0))
        await listener.start()
        async with connect(f"ws://127.0.0.1:{listener.port}/ws"):
            await listener.stop()

    async def test() -> None:
        await once()
        before = sorted(os.listdir("/dev/fd"))
        for _ in range(10):
            await once()
        assert sorted(os.listdir("/dev/fd")) == before
        assert len(asyncio.all_tasks()) == 1

    uvloop.run(test())


def test_when_full_it_pauses_says_so_once_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, eventually: Eventually
) -> None:
    monkeypatch.setattr(module, "FULL_PAUSE", 0.02)
    highest = [0]
    looks = []

    def look() -> int:
        looks.append(None)
        return highest[0]

    monkeypatch.setattr(module, "highest_descriptor", look)

    async def test() -> None:
        listener = _listener(bind("127.0.0.1", 0))
        await listener.start()
        url = f"ws://127.0.0.1:{listener.port}/ws"
        async with connect(url) as there:  # it has the last descriptor
            await eventually(lambda: listener.paused)
            async with asyncio.TaskGroup() as group:
                waiting = group.create_task(_visit(url))
                seen = len(looks)
                await eventually(lambda: len(looks) > seen + 5)
                assert not waiting.done()  # in the kernel's queue, not refused
                assert len(listener.connections) == 1
                await asyncio.wait_for(await there.ping(), DEADLINE)
                highest[0] = sys.maxsize
        assert not listener.paused
        await listener.stop()

    uvloop.run(test())
    said = [record.message for record in caplog.get_records("call") if "descriptors" in record.message]
    assert ["run out" in line for line in said] == [True], said


async def _visit(url: str) -> None:
    async with asyncio.timeout(DEADLINE), connect(url):
        pass


def test_a_process_without_descriptors_goes_on_serving() -> None:
    """In a process of its own, with its limit far below the number of clients that come at once."""
    script = """
        import asyncio, logging, resource, socket, sys, uvloop
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
        from tests.transport.test_listener import Lobby, _listener
        from transport import listener as module
        module.FULL_PAUSE = 0.1
        logging.basicConfig(stream=sys.stdout, format="%(levelname)s")
        async def main():
            listener = _listener(module.bind("127.0.0.1", 0))
            await listener.start()
            print(listener.port, flush=True)
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
            await listener.stop()
        uvloop.run(main())
    """
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            port = int(process.stdout.readline())
            crowd = [socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) for _ in range(300)]
            assert process.stdout.readline() == "ERROR\n"
            for one in crowd:
                one.close()
            with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as client:
                client.sendall(b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n")
                assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
            _, more = process.communicate("stop\n", timeout=DEADLINE)[0], None
            assert more is None
            assert process.returncode == 0
        finally:
            process.kill()


def test_of_too_many_who_say_nothing_the_oldest_goes(monkeypatch: pytest.MonkeyPatch, eventually: Eventually) -> None:
    monkeypatch.setattr(module, "HANDSHAKES", 3)

    async def test() -> None:
        refusals: dict[str, int] = {}
        listener = _listener(bind("127.0.0.1", 0), refusals=refusals)
        await listener.start()
        async with connect(f"ws://127.0.0.1:{listener.port}/ws") as there:  # it has said what it wants
            silent = []
            for n in range(1, 5):
                silent.append(await asyncio.open_connection("127.0.0.1", listener.port))
                await eventually(lambda n=n: len(listener.connections) == min(n, 3) + 1)  # type: ignore[misc]
            with suppress(ConnectionResetError):
                assert await asyncio.wait_for(silent[0][0].read(), DEADLINE) == b""
            await asyncio.wait_for(await there.ping(), DEADLINE)
            silent[1][1].write(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
            assert (await asyncio.wait_for(silent[1][0].read(), DEADLINE)).startswith(b"HTTP/1.1 200 ")
        assert refusals == {"crowded": 1}
        for _, writer in silent:
            writer.close()
        await listener.stop()

    uvloop.run(test())


@pytest.mark.parametrize("with_tls", [False, True])
@pytest.mark.parametrize("factory", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_of_many_who_come_at_once_and_say_nothing_no_more_stay(
    factory: Callable[[], asyncio.AbstractEventLoop],
    with_tls: bool,
    monkeypatch: pytest.MonkeyPatch,
    eventually: Eventually,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(module, "HANDSHAKES", 3)

    async def test() -> None:
        loop = asyncio.get_running_loop()
        tls = ServerTls(*certify(tmp_path, "served"), "server").context if with_tls else None
        refusals: dict[str, int] = {}
        listener = Listener(loop, bind("127.0.0.1", 0), Lobby(), ConnectionLimits(), tls=tls, refusals=refusals)
        await listener.start()
        silent = [socket.create_connection(("127.0.0.1", listener.port)) for _ in range(20)]  # all are in the queue
        left = [sock.makefile("rb") for sock in silent]
        gone = [loop.run_in_executor(None, file.read) for file in left[:17]]
        try:
            await asyncio.wait_for(asyncio.gather(*gone, return_exceptions=True), DEADLINE)
            await eventually(lambda: refusals.get("crowded") == 17)
            assert len(listener.connections) == (0 if with_tls else 3)
        finally:
            await listener.stop()
            for sock in silent:
                sock.close()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(test())


def test_who_connects_too_often_is_told_so(eventually: Eventually) -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        gate = Gate(GatePolicy(connect_rate=2.0), lambda: 0.0)
        refusals: dict[str, int] = {}
        listener = Listener(loop, bind("127.0.0.1", 0), Lobby(), ConnectionLimits(), gate, refusals=refusals)
        await listener.start()
        answers = []
        for _ in range(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            # More than is read of it: the answer comes whole all the same.
            writer.write(b"GET / HTTP/1.1\r\nHost: here\r\nA: " + b"b" * 10_000 + b"\r\n\r\n")
            answers.append(await asyncio.wait_for(reader.read(), DEADLINE))
            writer.close()
        assert [answer.split()[1] for answer in answers] == [b"200"] * 2 + [b"429"] * 3
        assert b"Retry-After: 1\r\n" in answers[-1]
        assert refusals == {"connect_rate": 3}
        assert not listener.connections
        await listener.stop()

    uvloop.run(test())


def test_refusals_are_counted_by_their_reasons() -> None:
    async def test() -> None:
        refusals: dict[str, int] = {}
        listener = _listener(bind("127.0.0.1", 0), refusals=refusals, handshake_timeout=0.5)
        await listener.start()

        async def answer(*lines: str) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            writer.write("\r\n".join(lines).encode())
            try:
                return await asyncio.wait_for(reader.read(), DEADLINE)
            except ConnectionResetError:
                return b""
            finally:
                writer.close()

        upgrade = ("Host: here", "Upgrade: websocket", "Connection: Upgrade", "Origin: https://evil.example", "", "")
        assert b" 403 " in await answer("GET /ws HTTP/1.1", *upgrade)
        assert b" 426 " in await answer("GET /ws HTTP/1.1", "Host: here", "", "")
        assert b" 400 " in await answer("\x16\x03\x01")
        assert b" 405 " in await answer("POST /health HTTP/1.1", "Host: here", "Content-Length: 2", "", "{}")
        assert await answer("GET /ws HTTP/1.1", "Host: he") == b""
        assert b" 200 " in await answer("GET /health HTTP/1.1", "Host: here", "", "")
        async with connect(f"ws://127.0.0.1:{listener.port}/ws"):
            pass
        assert refusals == {"origin": 1, "request": 3, "timeout": 1}
        await listener.stop()

    uvloop.run(test())


@pytest.mark.parametrize("factory", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_tls_handshakes_that_never_end(
    factory: Callable[[], asyncio.AbstractEventLoop], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "HANDSHAKES", 3)
    cert, key = certify(tmp_path, "served")

    async def test() -> None:
        loop = asyncio.get_running_loop()
        tls = ServerTls(cert, key, "server").context
        limits = ConnectionLimits(handshake_timeout=1.0)
        refusals: dict[str, int] = {}
        listener = Listener(loop, bind("127.0.0.1", 0), Lobby(), limits, tls=tls, refusals=refusals)
        await listener.start()
        silent = [await asyncio.open_connection("127.0.0.1", listener.port) for _ in range(4)]
        context = ssl.create_default_context(cafile=cert)
        async with connect(f"wss://127.0.0.1:{listener.port}/ws", ssl=context) as there:
            await asyncio.wait_for(await there.ping(), DEADLINE)
            for reader, _ in silent:  # the oldest goes at once, the others in time
                with suppress(ConnectionResetError):
                    assert await asyncio.wait_for(reader.read(), DEADLINE) == b""
            assert refusals.keys() == {"crowded", "tls"}
            assert sum(refusals.values()) == len(silent)
            for connection in tuple(listener.connections):
                connection.close(1012, "restart")
            await asyncio.wait_for(there.wait_closed(), DEADLINE)
            assert there.close_code == 1012
        late = await asyncio.open_connection("127.0.0.1", listener.port)
        await listener.stop()
        for _, writer in [*silent, late]:
            writer.close()
        assert len(asyncio.all_tasks()) == 1

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(test())
