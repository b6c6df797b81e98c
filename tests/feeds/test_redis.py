"""A Redis's channels as a feed: against a real server, and against one that says what a test wants."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
import redis

from actors.channel_map import ChannelMap
from actors.failure import FailureKind
from actors.feed import FeedSpec
from actors.feed_state import FeedState
from actors.feed_supervisor import ApplyFeeds, FeedSupervisor, GetFeeds
from actors.redis_protocol import command
from actors.redis_socket import TURN, redis_socket
from actors.upstream_values import MappingError
from engine import feed_wiring
from engine.config import Config
from engine.redis_config import Redis
from tests.feeds.harness import DEADLINE_S, Hub, Running, deaf_port, feed_from, on_still_clock, on_uvloop, skip, until
from tests.feeds.redis_server import RedisServer

Start = Callable[..., RedisServer]
CHANNELS = {"prices.*": "price.{1}", "alerts": "alert.all"}
QUICK = {"backoff_initial": 0.01, "backoff_max": 0.02}


def spec(url: str, channels: Mapping[str, str] = CHANNELS, **fields: Any) -> FeedSpec:
    (found,) = feed_wiring.feed_specs(Config(redis=Redis(url=url, channels=dict(channels), **fields)))
    return found


@asynccontextmanager
async def reading(
    server: RedisServer, channels: Mapping[str, str] = CHANNELS, hub: Hub | None = None, **fields: Any
) -> AsyncIterator[Running]:
    """A feed that is connected, and Redis has answered to all its subscriptions."""
    async with feed_from(spec(server.url, channels, **fields), hub) as running:
        await subscribed(running, len(channels))
        yield running


async def subscribed(running: Running, channels: int, times: int = 1) -> None:
    await until(lambda: running.feed.ignored >= times * channels and running.state is FeedState.CONNECTED)


def data(hub: Hub, topic: str) -> list[bytes]:
    return [event.data for event in hub.events if event.topic == topic]


def longest() -> float:
    """No jitter: every wait is its upper bound."""
    return 1.0


async def in_thread(work: Callable[..., Any], *args: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, work, *args)


# events ---------------------------------------------------------------------------------------------------------------


@on_uvloop
async def test_channels_are_topics_and_digits_stay(redis_server: Start) -> None:
    server = redis_server()
    async with reading(server, type="tick") as running:
        server.publish("prices.EUR_USD", '{"bid":1.121340,"ask":1.1217200}', '{"bid":1e2}')
        server.publish("prices.XBT.USDT", "68900.12345678")
        server.publish("alerts", "the market is closed", b" {} ")
        server.publish("alert", "not ours")
        await running.published(5)
        hub = running.hub
        assert data(hub, "price.EUR_USD") == [b'{"bid":1.121340,"ask":1.1217200}', b'{"bid":1e2}']
        assert data(hub, "price.XBT%2EUSDT") == [b"68900.12345678"]
        assert data(hub, "alert.all") == [b'"the market is closed"', b"{}"]
        assert {(event.type, event.key) for event in hub.prices} == {("tick", None)}
        snapshot = running.feed.snapshot()
        assert (snapshot["messages"], snapshot["published"], snapshot["ignored"], snapshot["bad"]) == (7, 5, 2, {})
        assert snapshot["address"] == server.url


@on_uvloop
async def test_bad_messages_are_counted_and_cost_no_other(redis_server: Start) -> None:
    server = redis_server()
    async with reading(server, message_bytes=100) as running:
        server.publish("alerts", os.urandom(40) + b"\xff", "1", "x" * 101, "2", b"\x00\xff", b'{"a":1e999}', "3")
        server.publish("prices.", "4")
        server.publish("alerts", "5")
        await running.published(4)
        assert data(running.hub, "alert.all") == [b"1", b"2", b"3", b"5"]
        assert running.feed.bad == {"not_json": 2, "too_big": 1, "not_finite": 1, "bad_topic": 1}
        assert running.feed.snapshot()["reconnects"] == 0


@on_uvloop
async def test_a_large_message_comes_whole(redis_server: Start) -> None:
    server = redis_server()
    text = '"' + "x" * 1_500_000 + '"'
    async with reading(server, message_bytes=2**21) as running:
        server.publish("alerts", text, "1")
        await running.published(2)
        assert data(running.hub, "alert.all") == [text.encode(), b"1"]


@on_uvloop
async def test_order_holds_in_every_channel(redis_server: Start) -> None:
    server = redis_server()
    async with reading(server) as running:
        channels = [f"prices.P{n}" for n in range(5)]
        await asyncio.gather(*(in_thread(server.publish, name, *map(str, range(1_000))) for name in channels))
        await running.published(5_000)
        for name in channels:
            assert data(running.hub, name.replace("prices", "price")) == [b"%d" % n for n in range(1_000)]


@on_uvloop
async def test_globs_are_read_as_redis_reads_them(redis_server: Start) -> None:
    server, dice = redis_server(), random.Random(1)
    elements = ["*", "?", "a", "b", "-", "[a]", "[^a]", "[a-b]", "[b-a]", "[^b-a]", "\\*", "\\a", "[\\]a]", "é"]
    globs = sorted({"".join(dice.choices(elements, k=dice.randint(1, 4))) + "*" for _ in range(60)})
    texts = sorted({"".join(dice.choices("ab-*]é", k=dice.randint(1, 5))) for _ in range(200)})
    maps = [ChannelMap(glob, "t") for glob in globs]

    def matching(text: str) -> int:
        found = 0
        for channel_map in maps:
            try:
                found += bool(channel_map.topic(text.encode()))
            except MappingError:
                continue
        return found

    async with reading(server, dict.fromkeys(globs, "t")) as running:
        receivers = [server.publish(text, "1")[0] for text in texts]
        assert receivers == [matching(text) for text in texts]
        assert min(receivers) < max(receivers)
        await running.published(sum(receivers))
        assert running.feed.bad == {}


@on_uvloop
async def test_others_on_the_loop_have_their_turn_while_much_is_read(redis_server: Start) -> None:
    server, loop = redis_server(), asyncio.get_running_loop()
    taken = Counter[int]()
    turn = 0

    def next_turn() -> None:
        nonlocal turn
        turn += 1
        loop.call_soon(next_turn)

    async with redis_socket(spec(server.url), server.url, None) as socket:
        await socket.send(command("SUBSCRIBE", "alerts"))
        await until(server.subscribers)
        server.publish("alerts", *["1"] * 4 * TURN)  # before anybody reads

        def take(message: bytes) -> None:
            taken[turn] += 1

        socket.deliver(take)
        next_turn()
        reading = asyncio.ensure_future(socket.ended())
        await until(lambda: taken.total() == 1 + 4 * TURN)
        reading.cancel()
    assert max(taken.values()) <= TURN


@on_uvloop
async def test_what_has_ended_stays_so_also_for_the_library(redis_server: Start) -> None:
    server = redis_server()
    async with redis_socket(spec(server.url), server.url, None) as socket:
        os.kill(server.pid, signal.SIGSTOP)  # so that it has no time to answer
        pong = await socket.ping()
        server.stop()
        with pytest.raises(ConnectionResetError):
            await socket.ended()
        with pytest.raises(ConnectionResetError):
            await pong
        server.start()
        for _ in range(3):
            with pytest.raises(ConnectionResetError):
                await socket.send(command("SUBSCRIBE", "alerts"))
        assert not server.subscribers()
    async with redis_socket(spec(server.url), server.url, None) as socket:  # the reader has not seen it yet
        socket.abort()
        with pytest.raises(ConnectionResetError):
            await socket.ping()


class SlowHub(Hub):
    """One that can be behind."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.open = asyncio.Event()
        self.open.set()

    @property
    def is_writable(self) -> bool:
        return self.open.is_set()

    async def writable(self) -> None:
        await self.open.wait()


@on_uvloop
async def test_redis_drops_a_reader_whose_hub_is_behind_and_the_loss_is_told(redis_server: Start) -> None:
    server = redis_server(client_output_buffer_limit="pubsub 1mb 1mb 1")
    hub = SlowHub("redis")
    async with reading(server, hub=hub, **QUICK) as running:
        hub.open.clear()
        payload = '"' + "x" * 10_000 + '"'
        published = 0
        while await in_thread(server.subscribers):
            await in_thread(server.publish, "alerts", *[payload] * 100)
            published += 100
            assert published < 10_000, "it is read although nobody takes it"
        assert len(hub.prices) < published
        assert running.state is FeedState.CONNECTED, "it is not read, so the loss is not seen"
        hub.open.set()
        await subscribed(running, len(CHANNELS), times=2)
        server.publish("alerts", "1")
        await until(lambda: hub.events[-1].data == b"1")
        assert hub.kinds() == [FailureKind.ABNORMAL]
        gap = next(n for n, event in enumerate(hub.events) if event.type == "feed_gap")
        assert [event.data for event in hub.events[gap:] if event.topic == "alert.all"] == [b"1"]
        assert hub.told("feed_gap")[0]["reason"] == "reconnected"


# outages --------------------------------------------------------------------------------------------------------------


@on_uvloop
async def test_a_redis_that_is_killed_under_load_is_read_again(redis_server: Start) -> None:
    server = redis_server()
    numbers = iter(range(1_000_000))

    def publish() -> None:
        """Until Redis is gone."""
        with server.client() as client, pytest.raises(redis.ConnectionError):
            while True:
                client.publish("alerts", next(numbers))

    async with reading(server, **QUICK) as running:
        for life in range(1, 4):
            publishing = asyncio.ensure_future(in_thread(publish))
            await running.published(running.feed.published + 200)
            server.stop(signal.SIGKILL)
            await asyncio.wait_for(publishing, DEADLINE_S)
            await until(lambda: running.state is FeedState.RECONNECTING)
            server.start()
            await subscribed(running, len(CHANNELS), times=life + 1)
        server.publish("alerts", "-1")
        await until(lambda: running.hub.events[-1].data == b"-1")
        *seen, last = [int(event) for event in data(running.hub, "alert.all")]
        assert last == -1
        assert seen == sorted(set(seen)), "in order, none twice"
        assert len(seen) >= 3 * 200
        assert seen[-1] < next(numbers)
        assert running.feed.snapshot()["reconnects"] == 3
        assert [gap["reason"] for gap in running.hub.told("feed_gap")] == ["reconnected"] * 3
        assert set(running.hub.kinds()) <= {FailureKind.ABNORMAL, FailureKind.REFUSED}
        assert running.hub.kinds()[0] == FailureKind.ABNORMAL
        assert running.hub.states()[-1] == FeedState.CONNECTED


@on_still_clock
async def test_refused_the_breaker_opens_and_one_answer_closes_it(redis_server: Start) -> None:
    server = redis_server()
    server.stop()
    async with feed_from(
        spec(server.url, {"alerts": "alert.all"}, max_retries=3, breaker_open=7), random=longest
    ) as running:
        await running.waiting()
        for _ in range(2):
            await running.next_attempt()
        hub = running.hub
        assert hub.kinds() == [FailureKind.REFUSED] * 3
        assert hub.told("feed_breaker") == [{"from": "closed", "state": "open", "retry_in": 7.0}]
        assert hub.waits()[-1] == 7.0
        await running.next_attempt()
        assert hub.waits()[-1] == 14.0, "a half-open breaker that fails waits longer"
        server.start()
        await skip(14.0)
        await subscribed(running, 1)
        await until(lambda: hub.breaker()[-1] == "closed")
        server.publish("alerts", "1")
        await running.published(1)


@on_uvloop
async def test_a_client_that_redis_kills_comes_back(redis_server: Start) -> None:
    server = redis_server()
    async with reading(server, **QUICK) as running:
        with server.client() as client:
            client.client_kill_filter(_type="pubsub")
        await subscribed(running, len(CHANNELS), times=2)
        assert running.hub.kinds() == [FailureKind.ABNORMAL]
        assert running.feed.last_error == "abnormal: Connection closed by server"


@on_uvloop
async def test_pings_keep_a_quiet_channel_and_end_a_hung_one(redis_server: Start) -> None:
    server = redis_server()
    async with reading(server, ping_interval=0.02, ping_timeout=0.5, **QUICK) as running:

        def pings() -> int:
            with server.client() as client:
                return int(client.info("commandstats").get("cmdstat_ping", {"calls": 0})["calls"])

        await until(lambda: pings() >= 5)
        assert (running.state, running.feed.attempts) == (FeedState.CONNECTED, 1)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            await running.waiting()
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert running.hub.kinds()[0] == FailureKind.STALE
        await subscribed(running, len(CHANNELS), times=2)
        assert running.feed.messages == running.feed.ignored, "a pong is no message"


@on_uvloop
async def test_silence_renews_the_connection_if_so_configured(redis_server: Start) -> None:
    server = redis_server()
    async with reading(server, idle_timeout=0.2, ping_interval=0.02, **QUICK) as running:
        await subscribed(running, len(CHANNELS), times=2)
        assert running.feed.last_error == "stale: no message for 0.2 s"


@on_uvloop
async def test_no_connection_is_left_behind(redis_server: Start) -> None:
    server = redis_server()
    async with reading(server) as running:
        assert len(server.subscribers()) == 1
        await running.disconnect()
        await until(lambda: not server.subscribers())
        await running.connect()
        await subscribed(running, len(CHANNELS), times=2)
        assert len(server.subscribers()) == 1
    await until(lambda: not server.subscribers())


@on_uvloop
async def test_a_busy_redis_is_unavailable(redis_server: Start) -> None:
    server = redis_server(busy_reply_threshold=1)

    def block() -> None:
        with server.client() as client, pytest.raises(Exception, match="SCRIPT KILL"):
            client.eval("while true do end", 0)

    blocking = asyncio.ensure_future(in_thread(block))
    with server.client() as client:

        def is_busy() -> bool:
            try:
                return not client.ping()
            except Exception as error:
                return "BUSY" in str(error)

        await until(is_busy)
        async with feed_from(spec(server.url, **QUICK)) as running:
            await running.waiting(2)
            assert set(running.hub.kinds()) == {FailureKind.UNAVAILABLE}
            client.script_kill()
            await asyncio.wait_for(blocking, DEADLINE_S)
            await running.connected()


# who may --------------------------------------------------------------------------------------------------------------


@on_uvloop
async def test_a_wrong_password_waits_for_a_change_of_the_configuration(redis_server: Start) -> None:
    server = redis_server(requirepass="right")
    hub = Hub("redis")

    async def state() -> dict[str, Any]:
        return dict((await supervisor.ask_async(GetFeeds()))["redis"])

    async def shows(**wanted: Any) -> dict[str, Any]:
        async with asyncio.timeout(DEADLINE_S):
            while not wanted.items() <= (found := await state()).items():
                await asyncio.sleep(0.002)
        return found

    supervisor: Any = FeedSupervisor.start(hub, [spec(server.url)])
    try:
        assert "Authentication required; there is no other" in (await shows(state="failed", attempts=1))["reason"]
        for password in ("SECRET", "right"):
            await supervisor.ask_async(ApplyFeeds((spec(server.url, password=password),)))
            if password == "right":
                found = await shows(state="connected", ignored=2)
            else:
                found = await shows(state="failed", kind="unauthorized", attempts=2)
                assert "WRONGPASS" in found["reason"] or "invalid username-password" in found["reason"]
                assert "SECRET" not in str(found)
        assert found["attempts"] == 3, "no attempt without a change"
        server.publish("alerts", "1")
        await until(lambda: hub.prices)
    finally:
        await supervisor.stop_async()


@on_still_clock
async def test_a_password_file_is_read_again_until_it_is_right(redis_server: Start, tmp_path: Path) -> None:
    server, file = redis_server(requirepass="right"), tmp_path / "password"
    file.write_text("wrong\n")
    async with feed_from(spec(server.url, password_file=str(file)), random=longest) as running:
        await running.waiting()
        assert running.hub.kinds() == [FailureKind.UNAUTHORIZED]
        await running.next_attempt()
        assert running.feed.attempts == 1, "the same password is not tried again"
        file.write_text("right\n")
        await skip(running.hub.waits()[-1])
        await subscribed(running, len(CHANNELS))
        assert running.feed.attempts == 2


@pytest.mark.parametrize(
    ("user", "fields"),
    [
        ("", {"username": "rea@der", "password": "p/w"}),
        ("rea%40der:p%2Fw@", {}),
        ("rea%40der@", {"password": "p/w"}),
        (":right@", {}),
    ],
)
@on_uvloop
async def test_users_and_passwords_from_url_and_fields(redis_server: Start, user: str, fields: dict[str, str]) -> None:
    server = redis_server(requirepass="right")
    with server.client() as client:  # +ping and +subscribe are all that a feed needs
        rights = ["+ping", "+subscribe", "+psubscribe"]
        client.acl_setuser("rea@der", enabled=True, passwords=["+p/w"], commands=rights, channels=["*"])
    async with feed_from(spec(server.url.replace("//", f"//{user}"), **fields)) as running:
        await subscribed(running, len(CHANNELS))
        server.publish("alerts", "1")
        await running.published(1)
        assert running.feed.snapshot()["address"] == server.url


@on_still_clock
async def test_a_channel_that_the_user_may_not_read_is_refused_with_patience(redis_server: Start) -> None:
    server = redis_server()
    with server.client() as client:
        client.acl_setuser("u", enabled=True, nopass=True, commands=["+@all"], channels=["other"])
    async with feed_from(spec(server.url, username="u", password="x"), random=longest) as running:
        await running.waiting()
        assert running.hub.kinds() == [FailureKind.REJECTED]
        assert running.hub.waits() == [1.0], "ten times the first wait"
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "u", "allchannels")
        await skip(1.0)
        await subscribed(running, len(CHANNELS))


@on_uvloop
async def test_tls_trusts_whom_it_shall(
    redis_server: Start, tmp_path: Path, missing: Callable[[str], NoReturn]
) -> None:
    openssl = shutil.which("openssl") or missing("openssl")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = "req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -subj /CN=x -addext subjectAltName=DNS:x.a"
    subprocess.run([openssl, *command.split(), "-keyout", key, "-out", cert], check=True, capture_output=True)
    server = redis_server(tls_cert_file=cert, tls_key_file=key, tls_ca_cert_file=cert, tls_auth_clients="no")
    with server.client() as client:
        plain = server.port
        with deaf_port() as port:
            pass
        client.config_set("tls-port", port)
    url = server.url.replace("redis:", "rediss:").replace(str(plain), str(port))
    trusted = {"tls_ca_file": str(cert), "tls_server_name": "x.a"}
    for fields in ({}, {"tls_ca_file": str(cert)}, {**trusted, "tls_server_name": "y.a"}):
        async with feed_from(spec(url, **fields)) as running:
            await running.waiting()
            assert running.hub.kinds() == [FailureKind.TLS]
    for fields in (trusted, {"tls_verify": False}):
        async with feed_from(spec(url, **fields)) as running:
            await subscribed(running, len(CHANNELS))
            server.publish("alerts", "1")
            await running.published(1)


# what else may answer -------------------------------------------------------------------------------------------------


@asynccontextmanager
async def answering(command: bytes, answer: bytes) -> AsyncIterator[str]:
    """A server that answers this command so, and hangs up; all others with OK; its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            words = [(await reader.readline(), await reader.readline())[1].strip() for _ in range(int(line[1:]))]
            writer.write(answer if words[0] == command else b"+OK\r\n")
            if words[0] == command:
                break
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("command", [b"AUTH", b"SUBSCRIBE"])
@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"-NOAUTH Authentication required.\r\n", FailureKind.UNAUTHORIZED),
        (b"-WRONGPASS invalid username-password pair or user is disabled.\r\n", FailureKind.UNAUTHORIZED),
        (b"-LOADING Redis is loading the dataset in memory\r\n", FailureKind.UNAVAILABLE),
        (b"-MASTERDOWN Link with MASTER is down\r\n", FailureKind.UNAVAILABLE),
        (b"-BUSY Redis is busy running a script.\r\n", FailureKind.UNAVAILABLE),
        (b"-ERR max number of clients reached\r\n", FailureKind.UNAVAILABLE),
        (b"-NOPERM this user has no permissions\r\n", FailureKind.REJECTED),
        (b"-ERR unknown command\r\n", FailureKind.REJECTED),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", FailureKind.PROTOCOL),
        (b"*x\r\n", FailureKind.PROTOCOL),
        (b"$5\r\nhel", FailureKind.ABNORMAL),
        (b"", FailureKind.ABNORMAL),
    ],
)
@on_still_clock
async def test_what_a_server_says_is_a_kind_of_failure(command: bytes, answer: bytes, kind: FailureKind) -> None:
    async with answering(command, answer) as url, feed_from(spec(url, password="x")) as running:
        await until(running.hub.kinds)
        assert running.hub.kinds() == [kind], running.feed.reason


@pytest.mark.parametrize(
    "answer",
    [
        b"*0\r\n",
        b"*1\r\n$7\r\nmessage\r\n",
        b"*3\r\n$7\r\nmessage\r\n:1\r\n$1\r\n1\r\n",
        b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n:1000000000000\r\n",
        b"*1\r\n" * 10_000,
        b"*3\r\n$8\r\npmessage\r\n$1\r\na\r\n$1\r\na\r\n",
        b"*3\r\n$9\r\nsubscribe\r\n*0\r\n:1\r\n",
    ],
    ids=lambda answer: answer[:40].decode(),
)
@on_still_clock
async def test_pushes_of_something_that_is_no_redis_end_the_connection(answer: bytes) -> None:
    async with answering(b"SUBSCRIBE", answer) as url, feed_from(spec(url)) as running:
        await until(running.hub.kinds)
        assert running.hub.kinds() == [FailureKind.PROTOCOL], running.feed.reason


@on_still_clock
async def test_a_server_that_says_nothing_times_out() -> None:
    with deaf_port() as port:
        async with feed_from(spec(f"redis://127.0.0.1:{port}", connect_timeout=3)) as running:
            await until(lambda: running.state is FeedState.CONNECTING)
            await skip(2.9)
            assert running.hub.kinds() == []
            await skip(0.2)
            await running.waiting()
            assert running.feed.last_error == "timeout: no connection within 3 s"


@on_still_clock
async def test_a_name_that_does_not_exist_is_a_matter_of_dns() -> None:
    async with feed_from(spec("redis://redis.invalid")) as running:
        await running.waiting()
        assert running.hub.kinds() == [FailureKind.DNS]
