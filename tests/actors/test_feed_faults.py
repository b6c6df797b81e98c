"""What an upstream, a proxy, a file or an operator may do to a feed at the wrong moment; each was once a defect."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import pty
import shutil
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.utils import accept_key

from actors import token, upstream_socket
from actors.connection import Connect, Disconnect, Send
from actors.failure import FailureKind
from actors.feed import Feed, FeedSpec, Tls
from actors.feed_protocol import FeedGap, FeedProtocol, Item, ProtocolSpec, UpstreamRefused
from actors.feed_state import FeedState
from actors.feed_supervisor import ApplyFeeds, FeedSupervisor, GetFeeds
from actors.token import TokenSource
from tests.actors.test_connection import DEADLINE_S, QUICK, Hub, feeding, run, running, until
from transport.errors import ConfigError

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@asynccontextmanager
async def listening(handler: Handler) -> AsyncIterator[int]:
    """A TCP server; its port."""

    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.ensure_future(handle(reader, writer)))

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)


async def wait_closed(connection: ServerConnection) -> None:
    await connection.wait_closed()


# proxies -------------------------------------------------------------------------------------------------------------


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
    writer.close()


async def connect_proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """What CONNECT asks for, whoever asks."""
    host, _, port = (await reader.readuntil(b"\r\n\r\n")).split()[1].partition(b":")
    upstream, to_upstream = await asyncio.open_connection(host.decode(), int(port))
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    await asyncio.gather(pipe(reader, to_upstream), pipe(upstream, writer))


def test_the_name_in_a_certificate_is_checked_through_a_proxy_too(
    tmp_path: Path, missing: Callable[[str], NoReturn]
) -> None:
    openssl = shutil.which("openssl") or missing("openssl")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = "req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -subj /CN=x -addext subjectAltName=DNS:x.a"
    subprocess.run([openssl, *command.split(), "-keyout", key, "-out", cert], check=True, capture_output=True)
    server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_tls.load_cert_chain(cert, key)

    async def main() -> None:
        async with (
            serve(wait_closed, "127.0.0.1", 0, ssl=server_tls) as server,
            listening(connect_proxy) as proxy,
        ):
            port = next(iter(server.sockets)).getsockname()[1]
            fields = {"proxy": f"http://127.0.0.1:{proxy}"}
            async with feeding(
                f"wss://localhost:{port}/", Hub(), tls=Tls(ca_file=str(cert), server_name="x.a"), **fields
            ) as feed:
                await until(lambda: feed.connected_before)
            async with feeding(f"wss://localhost:{port}/", Hub(), tls=Tls(ca_file=str(cert)), **fields) as feed:
                await until(lambda: feed.connected_before or feed.failure is not None)
                assert not feed.connected_before
                assert feed.failure is not None
                assert feed.failure.kind is FailureKind.TLS

    run(main())


@pytest.mark.parametrize(
    "proxy",
    [
        "user:PASSWORD@127.0.0.1:1",
        "http://user:PASS/WORD@127.0.0.1:1",
        "http://user:PASSWORD@127.0.0.1:99999",
        "http://[PASSWORD",
        "http://user:%ffPASSWORD@127.0.0.1:1",
    ],
)
def test_a_proxy_that_cannot_be_one_is_said_without_its_password_and_crashes_nothing(
    proxy: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with feeding("ws://127.0.0.1:1/", Hub(), proxy=proxy) as feed:
            await until(lambda: feed.failure is not None)
            assert str(feed.failure).startswith("refused: what is given isn't a valid proxy")

    with caplog.at_level(logging.DEBUG):
        run(main())
    assert "PASS" not in caplog.text


def test_a_proxy_whose_host_is_no_name_crashes_nothing() -> None:
    async def main() -> None:
        async with feeding("ws://127.0.0.1:1/", Hub(), proxy=f"http://user:PASSWORD@{'a' * 64}.test:1") as feed:
            await until(lambda: feed.failure is not None)
            assert str(feed.failure).startswith("dns: a host is no name")
            assert "PASSWORD" not in str(feed.failure)

    run(main())


@pytest.mark.parametrize(
    "fields",
    [
        {"headers": {"X-Key": "SECRET\r\nX: y"}},
        {"headers": {"X-Key": "SECRET\u20ac"}},
        {"headers": {"X Key": "SECRET"}},
        {"token": TokenSource("SECRET\n")},
    ],
)
def test_a_header_that_cannot_be_sent_is_said_without_its_value(
    fields: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with serve(wait_closed, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            async with feeding(f"ws://127.0.0.1:{port}/", Hub(), **fields) as feed:
                await until(lambda: feed.failure is not None)
                assert str(feed.failure).startswith("rejected: header ")

    with caplog.at_level(logging.DEBUG):
        run(main())
    assert "SECRET" not in caplog.text


# reloads -------------------------------------------------------------------------------------------------------------


class Deaf(FeedProtocol):
    """Understands anything as nothing."""

    def receive(self, raw: bytes) -> Sequence[Item]:
        return ()


class Broken(Deaf):
    def opened(self) -> None:
        raise RuntimeError("a bug")


def test_a_reload_mends_a_feed_whose_protocol_crashed_until_it_was_paused() -> None:
    async def main() -> None:
        async with serve(wait_closed, "127.0.0.1", 0) as server:
            url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/"
            broken = FeedSpec("f", (url,), ProtocolSpec(Broken), recovery=QUICK)
            ref = FeedSupervisor.start(Hub(), [broken])

            async def wait_for(state: str) -> None:
                while (await ref.ask_async(GetFeeds()))["f"]["state"] != state:
                    await asyncio.sleep(0.002)

            await wait_for("failed")
            await ref.ask_async(ApplyFeeds((dataclasses.replace(broken, protocol=ProtocolSpec(Deaf)),)))
            await wait_for("connected")
            await ref.stop_async()

    run(main())


@pytest.mark.parametrize("name", ["", "x" * 300, "\u00fc" * 60])
def test_a_name_that_is_no_topic_is_refused_before_it_takes_the_other_feeds_with_it(name: str) -> None:
    spec = FeedSpec(name, ("ws://127.0.0.1:1/",), ProtocolSpec(Deaf))
    with pytest.raises(ConfigError, match="is no name of a feed") as caught:
        FeedSupervisor(Hub(), [spec])
    assert caught.value.field == f"feeds.{name}"


# ends ----------------------------------------------------------------------------------------------------------------


class Refusing(Deaf):
    def receive(self, raw: bytes) -> Sequence[Item]:
        raise UpstreamRefused(FailureKind.REJECTED, "of no use")


class Subscribing(Refusing):
    def opened(self) -> None:
        self.outgoing += ["to this", "and to that"]


async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A WebSocket handshake, after which frames are what a test makes of them."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    key = next(line.split()[1] for line in head.splitlines() if line.lower().startswith("sec-websocket-key"))
    answer = f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept_key(key)}"
    writer.write(f"HTTP/1.1 101 Switching Protocols\r\n{answer}\r\n\r\n".encode())


HELLO = b"\x81\x02hi"


def refusing(port: int, **fields: Any) -> Feed:
    spec = FeedSpec("f", (f"ws://127.0.0.1:{port}/",), ProtocolSpec(Refusing), recovery=QUICK, **fields)
    return Feed(spec, Hub())


def test_an_operator_who_does_not_wait_for_a_silent_upstream_to_close_leaves_no_socket() -> None:
    async def main() -> None:
        ended = asyncio.Event()

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await accept(reader, writer)
            writer.write(HELLO)
            try:
                while await reader.read(1_000):
                    pass
            finally:
                ended.set()

        async with listening(silent) as port:
            feed = refusing(port, close_timeout_s=100)
            async with running(feed) as ref:
                await until(lambda: feed.messages == 1)
                await ref.ask_async(Disconnect())
                assert feed.state is FeedState.DISCONNECTED
                await asyncio.wait_for(ended.wait(), 2)

    run(main())


def test_an_upstream_that_reads_nothing_holds_up_neither_the_next_attempt_nor_the_operator() -> None:
    async def main() -> None:
        attempts = 0

        async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal attempts
            attempts += 1
            await accept(reader, writer)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            await asyncio.sleep(0.1)
            writer.write(HELLO)
            await asyncio.sleep(100)

        async with listening(deaf) as port:
            feed = refusing(port, close_timeout_s=0.05, idle_timeout_s=None)
            async with running(feed) as ref:
                for _ in range(20):  # more than the sockets take
                    await ref.ask_async(Send("x" * 1_000_000))
                await until(lambda: attempts == 2 and feed.state is FeedState.CONNECTED)
                await ref.ask_async(Disconnect(), timeout=3)
                assert feed.state is FeedState.DISCONNECTED

    run(main())


class Fragile(FeedProtocol):
    """With a bug; who is ``told`` of it is told in the same turn of the loop."""

    def __init__(self, told: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self._told = told

    def receive(self, raw: bytes) -> Sequence[Item]:
        if raw == b"bug":
            self._told()
            raise ZeroDivisionError
        return ()


BUG = b"\x81\x03bug"


def test_what_comes_while_a_connection_closes_is_nobodys_business() -> None:
    async def main() -> None:
        async def answers_a_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await accept(reader, writer)
            while (await reader.readexactly(2))[0] != 0x88:
                pass
            writer.write(BUG)
            await asyncio.sleep(100)

        async with listening(answers_a_close) as port:
            spec = FeedSpec(
                "f", (f"ws://127.0.0.1:{port}/",), ProtocolSpec(Fragile), recovery=QUICK, close_timeout_s=0.1
            )
            feed = Feed(spec, Hub())
            async with running(feed) as ref:
                await until(lambda: feed.state is FeedState.CONNECTED)
                await ref.ask_async(Disconnect())
                assert (feed.state, feed.messages) == (FeedState.DISCONNECTED, 0)
                assert ref.is_alive()

    run(main())


def test_a_bug_amid_an_operators_disconnect_does_not_keep_the_feed_from_being_connected_again() -> None:
    async def main() -> None:
        orders: list[Any] = []

        async def says_it_once(connection: ServerConnection) -> None:
            if not orders:
                await connection.send("bug")
            await connection.wait_closed()

        async with serve(says_it_once, "127.0.0.1", 0) as server:
            url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/"
            fragile = ProtocolSpec(Fragile, {"told": lambda: orders.append(ref.ask(Disconnect(), block=False))})
            feed = Feed(FeedSpec("f", (url,), fragile, recovery=QUICK), Hub())
            async with running(feed) as ref:
                await until(lambda: not ref.is_alive() and bool(orders))
                await until(lambda: feed.state is FeedState.DISCONNECTED)
                assert feed.held
            async with running(feed) as ref:
                await ref.ask_async(Connect())
                await until(lambda: feed.state is FeedState.CONNECTED)

    run(main())


@pytest.mark.parametrize(
    ("says", "failure"),
    [
        (b"\x88\x02\x03\xe9", "going_away: closed with 1001"),
        (b"\x81\x7e\x10\x00" + b"x" * 4096, "too_big: closed by us with 1009"),
        (b"\x83\x00", "protocol: closed by us with 1002"),
    ],
)
def test_an_upstream_that_says_goodbye_and_stays_is_left(says: bytes, failure: str) -> None:
    async def main() -> None:
        async def stays(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await accept(reader, writer)
            writer.write(says)
            await asyncio.sleep(100)

        limits: dict[str, Any] = {"close_timeout_s": 0.05, "idle_timeout_s": None, "ping_interval_s": None}
        async with (
            listening(stays) as port,
            feeding(f"ws://127.0.0.1:{port}/", Hub(), message_bytes=1_000, **limits) as feed,
        ):
            await until(lambda: feed.reconnects > 0)
            assert str(feed.last_error).startswith(failure)

    run(main())


def test_what_an_upstream_said_before_it_closed_on_our_first_word_is_heard() -> None:
    async def main() -> None:
        async def refuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await accept(reader, writer)
            writer.write(HELLO + b"\x88\x02\x03\xe8")
            await reader.read()

        async with listening(refuses) as port:
            url = f"ws://127.0.0.1:{port}/"
            spec = FeedSpec("f", (url,), ProtocolSpec(Subscribing), recovery=QUICK, close_timeout_s=0.05)
            feed = Feed(spec, Hub())
            async with running(feed):
                await until(lambda: feed.failure is not None)
                assert str(feed.failure) == "rejected: of no use"

    run(main())


# operators and clocks ------------------------------------------------------------------------------------------------


def test_who_says_connect_after_a_refused_token_means_it() -> None:
    asked = []

    async def unauthorized(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    async def main() -> None:
        async with listening(unauthorized) as port:
            spec = FeedSpec("f", (f"ws://127.0.0.1:{port}/",), ProtocolSpec(Deaf), token=TokenSource("t"))
            feed = Feed(spec, Hub())
            async with running(feed) as ref:
                await until(lambda: feed.state is FeedState.FAILED)
                await ref.ask_async(Disconnect())
                await ref.ask_async(Connect())
                await until(lambda: len(asked) == 2 and feed.state is FeedState.FAILED)

    run(main())


class Unauthorized(Deaf):
    """Hears of its token only in a message, as at an upstream whose login is one."""

    def receive(self, raw: bytes) -> Sequence[Item]:
        raise UpstreamRefused(FailureKind.UNAUTHORIZED, "see wss://user:PASSWORD@a.test/login?key=SECRET")


def test_a_token_that_a_protocol_hears_is_refused_is_not_tried_again_and_its_words_hold_no_secrets() -> None:
    async def main() -> None:
        async def greet(connection: ServerConnection) -> None:
            await connection.send("no")
            await connection.wait_closed()

        async def same() -> str:
            return "t"

        async with serve(greet, "127.0.0.1", 0) as server:
            url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/"
            fields: dict[str, Any] = {"protocol": ProtocolSpec(Unauthorized), "token": TokenSource(function=same)}
            async with feeding(url, Hub(), **fields) as feed:
                await until(lambda: feed.reason == "unauthorized: waits for a new token")
                assert (feed.attempts, feed.refused_token) == (1, "t")
        async with serve(greet, "127.0.0.1", 0) as server:
            url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/"
            async with feeding(url, Hub(), protocol=ProtocolSpec(Unauthorized)) as feed:
                await until(lambda: feed.state is FeedState.FAILED)
                assert str(feed.failure).startswith("unauthorized: see wss://a.test/login; there is no other token")

    run(main())


class Beating(Deaf):
    def heartbeat(self) -> None:
        raise UpstreamRefused(FailureKind.STALE, "answered no heartbeat")


class Chatty(Deaf):
    def heartbeat(self) -> None:
        self.outgoing += ["x" * 100_000] * 500


async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accepts, and reads nothing."""
    await accept(reader, writer)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.sleep(100)


@pytest.mark.parametrize(
    ("protocol", "failure"),
    [(Beating, "stale: answered no heartbeat"), (Chatty, "stale: 1000 messages wait to be sent")],
)
def test_a_heartbeat_may_find_the_connection_of_no_use(protocol: type[FeedProtocol], failure: str) -> None:
    async def main() -> None:
        async with listening(ignore) as port:
            url = f"ws://127.0.0.1:{port}/"
            spec = FeedSpec(
                "f", (url,), ProtocolSpec(protocol), recovery=QUICK, heartbeat_interval_s=0.01, close_timeout_s=0.05
            )
            feed = Feed(spec, Hub())
            async with running(feed) as ref:
                await until(lambda: feed.reconnects > 0)
                assert feed.last_error == failure
                assert ref.is_alive(), "no bug of ours"

    run(main())


def test_figures_stay_within_64_bits_whatever_numbers_an_upstream_names() -> None:
    feed = Feed(FeedSpec("f", ("ws://a.test/",), ProtocolSpec(Deaf)), Hub())
    for _ in range(30):
        feed.gap(FeedGap("sequence", None, -(10**18), 10**18))
    assert feed.missing == 2**63 - 1
    assert msgspec.msgpack.encode(feed.snapshot())


PROMPT = """
import sys
from actors.failure import UpstreamRefused
from actors.feed import Tls
from actors.upstream_socket import ssl_context
try:
    ssl_context(Tls(cert_file=sys.argv[1], key_file=sys.argv[2]))
except UpstreamRefused as error:
    print("refused", error)
"""


def test_a_key_with_a_password_asks_no_terminal_for_it(tmp_path: Path, missing: Callable[[str], NoReturn]) -> None:
    openssl = shutil.which("openssl") or missing("openssl")
    cert, key, locked = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "locked.pem"
    make = "req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -subj /CN=x"
    subprocess.run([openssl, *make.split(), "-keyout", key, "-out", cert], check=True, capture_output=True)
    lock = "ec -aes128 -passout pass:password"
    subprocess.run([openssl, *lock.split(), "-in", key, "-out", locked], check=True, capture_output=True)
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", PROMPT, str(cert), str(locked)])
    said = b""
    with contextlib.suppress(OSError):  # its end
        while b"phrase" not in said and (part := os.read(terminal, 1_000)):
            said += part
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(terminal)
    assert said.startswith(b"refused tls: cannot use")


# floods --------------------------------------------------------------------------------------------------------------


def test_an_upstream_that_pings_but_does_not_read_is_left_before_our_answers_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upstream_socket, "UNSENT_BYTES", 100_000)

    async def main() -> None:
        async def pinging(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await accept(reader, writer)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            while True:
                writer.write((b"\x89\x7d" + b"x" * 125) * 1_000)
                await writer.drain()

        async with listening(pinging) as port, feeding(f"ws://127.0.0.1:{port}/", Hub()) as feed:
            await until(lambda: feed.failure is not None)
            assert str(feed.failure) == "policy: closed by us with 1008 (100000 bytes wait to be sent)"

    run(main())


# tokens --------------------------------------------------------------------------------------------------------------


class Counting(Deaf):
    """Its memory of how many messages came in each turn of the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.turns: list[int] = []
        self._came = 0

    def receive(self, raw: bytes) -> Sequence[Item]:
        if self._came == 0:
            asyncio.get_running_loop().call_soon(self._over)
        self._came += 1
        return ()

    def _over(self) -> None:
        self.turns.append(self._came)
        self._came = 0


def test_an_upstream_that_floods_leaves_the_other_feeds_their_turns() -> None:
    kilobyte = b"\x82\x7e\x03\xfc" + bytes(1020)

    async def main() -> None:
        async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await accept(reader, writer)
            writer.write(kilobyte * 8_000)
            await asyncio.sleep(100)

        async with listening(flood) as port:
            feed = Feed(FeedSpec("f", (f"ws://127.0.0.1:{port}/",), ProtocolSpec(Counting), recovery=QUICK), Hub())
            async with running(feed):
                await until(lambda: feed.messages == 8_000)
                assert isinstance(feed.protocol, Counting)
                assert max(feed.protocol.turns) <= 600, "two reads of 256 KB"

    run(main())


def test_a_token_function_that_never_returns_costs_one_thread_and_holds_up_no_other_feed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(token, "TOKEN_TIMEOUT_S", 0.02)
    hang = threading.Event()
    calls: list[int] = []

    def never() -> str:
        calls.append(1)
        hang.wait()
        return "late"

    async def main() -> None:
        source, before = TokenSource(function=never), threading.active_count()
        for _ in range(50):  # more than the loop's own pool of threads has
            with pytest.raises(UpstreamRefused):
                await source.get()
        assert (len(calls), threading.active_count() - before) == (1, 1)
        monkeypatch.setattr(token, "TOKEN_TIMEOUT_S", DEADLINE_S)
        assert await TokenSource(function=lambda: "fine").get() == "fine"
        hang.set()
        while threading.active_count() > before:
            await asyncio.sleep(0.002)
        assert await source.get() == "late", "it may be asked again once it has come back"

    run(main())


def test_a_token_file_without_an_end_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("x" * token.TOKEN_CHARS)
    long = tmp_path / "long"
    long.write_text("x" * (token.TOKEN_CHARS + 1))

    async def main() -> None:
        assert await TokenSource(file=str(path)).get() == path.read_text()
        for file in (long, "/dev/zero"):
            with pytest.raises(UpstreamRefused, match="no token: ValueError"):
                await TokenSource(file=str(file)).get()

    run(main())


def test_a_token_function_that_exits_ends_no_process() -> None:
    async def main() -> None:
        with pytest.raises(UpstreamRefused, match="no token: SystemExit"):
            await TokenSource(function=sys.exit).get()

    run(main())
