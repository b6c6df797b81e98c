from __future__ import annotations

import asyncio
import itertools
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from actors import connection
from actors.backoff import BackoffPolicy
from actors.breaker import BreakerPolicy
from actors.connection import Attempt, Beat, Connect, Disconnect, Ended, FeedConnection, Look, Opened, Reset, Send
from actors.failure import Failure, FailureKind
from actors.feed import Feed, FeedSpec, Tls
from actors.feed_protocol import FeedGap, FeedProtocol, Item, MappedProtocol, ProtocolSpec
from actors.feed_state import FeedState, IllegalTransition
from actors.mapping import FeedMap
from actors.recovery import RecoveryPolicy
from actors.ref import Ref
from actors.token import TokenSource
from transport.errors import RequestError
from transport.event import Event
from transport.messages import Publish

DEADLINE_S = 10.0
QUICK = RecoveryPolicy(
    BackoffPolicy(first_s=0.01, cap_s=0.05, jitter=False, stable_s=60), BreakerPolicy(failures=1_000)
)
MAP = FeedMap(topic="t.{k}", type="x", data={"v": "v"}, filter={"e": "x"})


def run(main: Coroutine[Any, Any, None]) -> None:
    uvloop.run(asyncio.wait_for(main, DEADLINE_S))


async def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + DEADLINE_S / 2
    while not condition():
        assert time.monotonic() < give_up, "it did not happen in time"
        await asyncio.sleep(0.002)


class Hub:
    """A publisher that keeps what it gets."""

    def __init__(self) -> None:
        self.batches: list[list[Publish]] = []
        self.open = asyncio.Event()
        self.open.set()

    def publish(self, batch: list[Publish]) -> None:
        self.batches.append(batch)

    @property
    def is_writable(self) -> bool:
        return self.open.is_set()

    async def writable(self) -> None:
        await self.open.wait()

    @property
    def events(self) -> list[Publish]:
        return [event for batch in self.batches for event in batch if not event.topic.startswith("system.")]

    @property
    def notices(self) -> list[tuple[str, dict[str, Any]]]:
        """What the feed said of itself."""
        events = [event for batch in self.batches for event in batch if event.topic == "system.feeds.f"]
        return [(event.type, json.loads(event.data)) for event in events]

    @property
    def states(self) -> list[str]:
        return [data["state"] for kind, data in self.notices if kind == "feed_state"]

    @property
    def values(self) -> list[int]:
        return [int(event.data[5:-1]) for event in self.events]


class Upstream:
    """A WebSocket server that does what the test says, once per connection."""

    def __init__(self, serve_client: Callable[[ServerConnection], Coroutine[Any, Any, None]]) -> None:
        self.serve_client = serve_client
        self.connections: list[ServerConnection] = []

    async def _handle(self, connection: ServerConnection) -> None:
        self.connections.append(connection)
        await self.serve_client(connection)
        await connection.wait_closed()

    @asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator[str]:
        async with serve(self._handle, "127.0.0.1", port, compression=None) as server:
            yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/stream"


def tick(value: int, key: str = "A") -> str:
    return f'{{"e":"x","k":"{key}","v":"{value}"}}'


@asynccontextmanager
async def feeding(url: str, hub: Hub, **fields: Any) -> AsyncIterator[Feed]:
    subscribe = fields.pop("subscribe", ())
    protocol = ProtocolSpec(MappedProtocol, {"maps": (MAP,), "subscribe": subscribe})
    feed = Feed(FeedSpec("f", (url,), **{"protocol": protocol, "recovery": QUICK, **fields}), hub)
    async with running(feed):
        yield feed


@asynccontextmanager
async def running(feed: Feed) -> AsyncIterator[Ref]:
    ref = FeedConnection.start(feed)
    assert isinstance(ref, Ref)
    REFS[id(feed)] = ref
    try:
        yield ref
    finally:
        await ref.stop_async()


REFS: dict[int, Ref] = {}


async def ask(feed: Feed, message: Any) -> Any:
    return await REFS[id(feed)].ask_async(message)


def test_it_subscribes_reads_maps_and_publishes_in_order() -> None:
    async def main() -> None:
        async def play(connection: ServerConnection) -> None:
            assert connection.request is not None
            assert connection.request.headers["X-Key"] == "secret"
            assert [await connection.recv(), await connection.recv()] == ['{"n":1}', '{"n":2}']
            await connection.send('{"result":null}')
            for value in range(500):
                await connection.send(tick(value))

        hub = Hub()
        async with Upstream(play).serving() as url:
            async with feeding(url, hub, subscribe=({"n": 1}, {"n": 2}), headers={"X-Key": "secret"}) as feed:
                await until(lambda: feed.published == 500)
                assert feed.state is FeedState.CONNECTED
            assert hub.events[0] == Publish(0, "t.A", "x", b'{"v":0}', None, None, None)
            assert hub.values == list(range(500))
            assert len(hub.batches) < 250  # what came in one turn of the loop is one batch
            assert (feed.messages, feed.ignored, feed.state) == (501, 1, FeedState.DISCONNECTED)

    run(main())


def test_bad_messages_are_counted_by_reason_and_never_end_the_feed(caplog: pytest.LogCaptureFixture) -> None:
    bad: list[str | bytes] = [
        "garbage-payload",
        b"\xff",
        '{"e":"x","v":1}',
        '{"e":"x","k":"A","v":"NaN"}',
        '{"e":"x","k":"B"}',
    ]

    async def main() -> None:
        async def play(connection: ServerConnection) -> None:
            for message in [*bad * 50, tick(7)]:
                await connection.send(message)

        hub = Hub()
        async with Upstream(play).serving() as url, feeding(url, hub) as feed:
            await until(lambda: feed.published == 1)
            assert dict(feed.bad) == {"not_json": 100, "missing": 100, "not_finite": 50}
            assert feed.last_bad == 'missing: v: {"e":"x","k":"B"}'
            assert feed.reconnects == 0
            assert hub.values == [7]

    with caplog.at_level(logging.DEBUG, "actors.feed"):
        run(main())
    warnings = [record.getMessage() for record in caplog.records if "bad message" in record.getMessage()]
    assert len(warnings) == 3  # the first of each reason
    assert "garbage" not in caplog.text


def test_a_sample_of_a_bad_message_is_bounded() -> None:
    async def main() -> None:
        async def play(connection: ServerConnection) -> None:
            await connection.send("[" * 500_000)

        async with Upstream(play).serving() as url, feeding(url, Hub()) as feed:
            await until(lambda: feed.last_bad is not None)
            assert feed.last_bad is not None
            assert len(feed.last_bad) < 500

    run(main())


def test_it_reconnects_whenever_the_upstream_hangs_up() -> None:
    async def main() -> None:
        served = iter(range(1_000))

        async def play(connection: ServerConnection) -> None:
            await connection.send(tick(next(served)))
            await connection.close(1001, "maintenance")

        hub = Hub()
        async with Upstream(play).serving() as url, feeding(url, hub) as feed:
            await until(lambda: feed.published >= 4)
            assert hub.values == list(range(feed.published))
            assert feed.last_error is not None
            assert "maintenance" in feed.last_error

    run(main())


def test_it_waits_longer_while_the_upstream_is_away_and_finds_it_when_it_is_back() -> None:
    async def main() -> None:
        async def play(connection: ServerConnection) -> None:
            await connection.send(tick(1))

        upstream, hub = Upstream(play), Hub()
        async with upstream.serving() as url:
            pass  # the port was ours a moment ago; now nobody listens
        async with feeding(url, hub) as feed:
            await until(lambda: feed.recovery.backoff.failures >= 4)
            assert feed.snapshot()["state"] in ("reconnecting", "connecting")
            assert "refused" in str(feed.last_error)
            async with upstream.serving(int(url.split(":")[2].split("/")[0])):
                await until(lambda: feed.state is FeedState.CONNECTED and feed.published == 1)
                assert feed.snapshot()["retry_in"] is None

    run(main())


def test_a_snapshot_says_when_the_next_attempt_is() -> None:
    async def main() -> None:
        slow = RecoveryPolicy(BackoffPolicy(50, 50, jitter=False))
        async with feeding("ws://127.0.0.1:1/", Hub(), recovery=slow) as feed:
            await until(lambda: feed.state is FeedState.RECONNECTING)
            assert 40 < feed.snapshot()["retry_in"] <= 50
        assert feed.snapshot()["retry_in"] is None

    run(main())


def test_it_does_not_read_while_the_hub_cannot_take_more() -> None:
    total = 5_000

    async def main() -> None:
        async def play(connection: ServerConnection) -> None:
            for value in range(total):
                await connection.send(f'{{"e":"x","k":"A","v":"{value}","fill":"{"x" * 2000}"}}')

        hub = Hub()
        async with Upstream(play).serving() as url, feeding(url, hub) as feed:
            await until(lambda: feed.published >= 100)
            hub.open.clear()
            await asyncio.sleep(0.05)  # it learns of it with its next batch
            held = feed.messages
            await asyncio.sleep(0.05)
            assert feed.messages == feed.published == held < total
            hub.open.set()
            await until(lambda: feed.published == total)
            assert hub.values == list(range(total))
            assert feed.reconnects == 0

    run(main())


def test_it_does_not_connect_while_the_hub_is_away() -> None:
    async def main() -> None:
        async def play(connection: ServerConnection) -> None:
            await connection.send(tick(1))

        upstream, hub = Upstream(play), Hub()
        hub.open.clear()
        async with upstream.serving() as url, feeding(url, hub) as feed:
            await until(lambda: feed.state is FeedState.CONNECTING)
            assert not upstream.connections
            hub.open.set()
            await until(lambda: feed.published == 1)

    run(main())


def test_silence_renews_the_connection() -> None:
    async def main() -> None:
        async def silence(connection: ServerConnection) -> None:
            pass

        upstream = Upstream(silence)
        async with upstream.serving() as url, feeding(url, Hub(), idle_timeout_s=0.05) as feed:
            await until(lambda: len(upstream.connections) >= 2)
            assert feed.last_error == "stale: no message for 0.05 s"

    run(main())


def test_an_upstream_that_is_no_websocket_is_tried_again() -> None:
    async def main() -> None:
        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"SSH-2.0-no\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        async with server:
            url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with feeding(url, Hub()) as feed:
                await until(lambda: feed.recovery.backoff.failures >= 3)
                assert feed.failure is not None
                assert feed.failure.kind in (FailureKind.PROTOCOL, FailureKind.ABNORMAL)

    run(main())


def test_a_handshake_that_never_ends_times_out() -> None:
    async def main() -> None:
        async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(-1)
            writer.close()

        server = await asyncio.start_server(stall, "127.0.0.1", 0)
        async with server:
            url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with feeding(url, Hub(), handshake_timeout_s=0.05) as feed:
                await until(lambda: feed.attempts >= 3)
                assert str(feed.last_error).startswith("timeout: ")

    run(main())


def test_secrets_in_the_url_and_headers_stay_out_of_logs_and_status(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        url = "ws://user:hush@127.0.0.1:1/path?token=hush#hush"
        async with feeding(url, Hub(), headers={"X-Key": "hush"}, token=TokenSource("hush")) as feed:
            await until(lambda: feed.attempts >= 3)
        assert "hush" not in str(feed.snapshot())

    with caplog.at_level(logging.DEBUG):
        run(main())
    assert "hush" not in caplog.text
    protocol = ProtocolSpec(MappedProtocol, {"maps": (MAP,), "subscribe": ({"key": "hush"},)})
    spec = FeedSpec("f", ("ws://user:hush@h:1/p?token=hush",), protocol, {"X-Key": "hush"}, TokenSource("hush"))
    assert "hush" not in repr(spec)


def test_what_a_predecessor_still_had_to_say_is_ignored() -> None:
    async def main() -> None:
        async def play(connection: ServerConnection) -> None:
            await connection.send(tick(1))

        hub = Hub()
        async with Upstream(play).serving() as url, feeding(url, hub) as feed:
            await until(lambda: feed.published == 1)
            old = (Attempt(None), Opened(None), Ended(1, Failure(FailureKind.STALE, "old")), Look(1), Beat(1))
            for message in old:
                REFS[id(feed)].tell(message)
            await ask(feed, Look(1))
            assert (feed.state, feed.attempts, hub.values) == (FeedState.CONNECTED, 1, [1])

    run(main())


def test_an_operator_disconnects_and_it_stays_so_until_told() -> None:
    async def main() -> None:
        closed: list[int | None] = []

        async def play(connection: ServerConnection) -> None:
            await connection.send(tick(len(closed)))
            await connection.wait_closed()
            closed.append(connection.close_code)

        upstream, hub = Upstream(play), Hub()
        async with upstream.serving() as url, feeding(url, hub) as feed:
            await until(lambda: feed.published == 1)
            with pytest.raises(RequestError, match="connected already"):
                await ask(feed, Connect())
            answer = await ask(feed, Disconnect())
            assert (answer["state"], answer["held"], closed) == ("disconnected", True, [1000])
            assert answer["reason"] == "disconnected by an operator"
            await ask(feed, Disconnect())
            await ask(feed, Reset())
            REFS[id(feed)].tell(Attempt(None))
            await asyncio.sleep(0.05)
            assert (len(upstream.connections), feed.state) == (1, FeedState.DISCONNECTED)
            await ask(feed, Connect())
            await until(lambda: hub.values == [0, 1])
            assert hub.states == ["connecting", "connected", "disconnecting", "disconnected", "connecting", "connected"]
            assert (feed.reconnects, feed.failure) == (1, None)
            assert ("feed_gap", FeedGap("reconnected")._asdict()) in hub.notices

    run(main())


def test_a_disconnect_ends_an_attempt_and_a_wait_too() -> None:
    async def main() -> None:
        async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(-1)
            writer.close()

        server = await asyncio.start_server(stall, "127.0.0.1", 0)
        async with server:
            url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with feeding(url, Hub()) as feed:
                await until(lambda: feed.attempts == 1)
                await ask(feed, Disconnect())
                assert feed.state is FeedState.DISCONNECTED
        slow = RecoveryPolicy(BackoffPolicy(50, 50, jitter=False))
        async with feeding("ws://127.0.0.1:1/", Hub(), recovery=slow) as feed:
            await until(lambda: feed.state is FeedState.RECONNECTING)
            for _ in range(3):  # what waits is not tried more often for being asked
                assert (await ask(feed, Connect()))["state"] == "reconnecting"
            assert feed.attempts == 1
            await ask(feed, Disconnect())
            assert (feed.state, feed.next_attempt_at) == (FeedState.DISCONNECTED, None)

    run(main())


def test_a_reset_tries_at_once_what_would_have_waited() -> None:
    async def main() -> None:
        hopeless = RecoveryPolicy(
            BackoffPolicy(0.001, 0.001, jitter=False), BreakerPolicy(failures=3, open_s=60, open_max_s=60)
        )
        async with feeding("ws://127.0.0.1:1/", Hub(), recovery=hopeless) as feed:
            await until(lambda: feed.snapshot()["breaker"]["state"] == "open")
            assert (feed.attempts, feed.state) == (3, FeedState.RECONNECTING)
            await until(lambda: feed.due_in > 50)
            await ask(feed, Reset())
            await until(lambda: feed.attempts == 6)

    run(main())


def test_a_feed_that_gives_up_is_failed_until_an_operator_says_connect() -> None:
    async def main() -> None:
        policy = RecoveryPolicy(BackoffPolicy(0.001, 0.001), BreakerPolicy(failures=2), give_up=True)
        hub = Hub()
        async with feeding("ws://127.0.0.1:1/", hub, recovery=policy) as feed:
            await until(lambda: feed.state is FeedState.FAILED)
            assert (feed.attempts, feed.next_attempt_at) == (2, None)
            await ask(feed, Connect())
            await until(lambda: feed.state is FeedState.FAILED and feed.attempts == 4)

    run(main())


def test_a_token_that_was_refused_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "TOKEN_POLL_S", 0.01)
    wanted, seen = "new", []

    def check(server: ServerConnection, request: Request) -> Response | None:
        seen.append(request.headers.get("Authorization"))
        return None if seen[-1] == f"Bearer {wanted}" else server.respond(401, "no")

    async def main() -> None:
        async def play(connection: ServerConnection) -> None:
            await connection.wait_closed()

        async with serve(play, "127.0.0.1", 0, process_request=check, compression=None) as server:
            url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/"
            async with feeding(url, Hub(), token=TokenSource("old")) as feed:
                await until(lambda: feed.state is FeedState.FAILED)
                assert str(feed.failure) == "unauthorized: HTTP 401; there is no other token to try"
            assert seen == ["Bearer old"]
            file = tmp_path / "token"
            file.write_text("old\n")
            seen.clear()
            async with feeding(url, Hub(), token=TokenSource(file=str(file))) as feed:
                await until(lambda: feed.reason == "unauthorized: waits for a new token")
                await asyncio.sleep(0.05)
                assert (seen, feed.attempts) == (["Bearer old"], 1)
                file.write_text("new\n")
                await until(lambda: feed.state is FeedState.CONNECTED)
            assert seen == ["Bearer old", "Bearer new"]

    run(main())


async def deaf(connection: ServerConnection) -> None:
    """Reads nothing more, so it answers no ping."""
    connection.transport.pause_reading()
    await connection.wait_closed()


def test_an_upstream_that_answers_no_ping_is_stale() -> None:
    async def main() -> None:
        pings = {"ping_interval_s": 0.02, "ping_timeout_s": 0.04, "idle_timeout_s": None}
        async with serve(deaf, "127.0.0.1", 0, ping_interval=None, close_timeout=0) as server:
            url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/"
            async with feeding(url, Hub(), **pings) as feed:
                await until(lambda: feed.failure is not None)
                assert feed.failure == Failure(FailureKind.STALE, "no answer to a ping")
            for connection in server.connections:
                connection.transport.abort()

    run(main())


def test_an_upstream_that_we_do_not_read_is_not_stale() -> None:
    async def main() -> None:
        async def play(connection: ServerConnection) -> None:
            with suppress(ConnectionClosed):
                for value in itertools.count():
                    await connection.send(tick(value))
                    await asyncio.sleep(0.001)

        hub = Hub()
        limits = {"ping_interval_s": 0.02, "ping_timeout_s": 0.04, "idle_timeout_s": 0.1, "stale_timeout_s": 0.1}
        async with Upstream(play).serving() as url, feeding(url, hub, **limits) as feed:
            await until(lambda: feed.published >= 10)
            hub.open.clear()
            await asyncio.sleep(0.5)
            assert (feed.state, feed.attempts) == (FeedState.CONNECTED, 1)
            hub.open.set()
            held = feed.published
            await until(lambda: feed.published > held + 10)
            assert (hub.values, feed.attempts) == (list(range(len(hub.values))), 1)

    run(main())


def test_messages_in_fragments_and_those_that_come_with_the_handshake_are_whole() -> None:
    async def main() -> None:
        async def play(connection: ServerConnection) -> None:
            for value in range(100):
                await connection.send(tick(value))
            await connection.send([tick(100)[:5], "", tick(100)[5:9], tick(100)[9:]])
            await connection.send(tick(101).encode())

        hub = Hub()
        async with Upstream(play).serving() as url, feeding(url, hub, subscribe=({"n": 1},) * 5) as feed:
            await until(lambda: feed.published == 102)
            assert hub.values == list(range(102))

    run(main())


def test_a_redirect_is_not_followed() -> None:
    async def main() -> None:
        asked: list[str] = []

        async def elsewhere(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append("elsewhere")
            writer.close()

        def redirect(server: ServerConnection, request: Request) -> Response:
            response = server.respond(302, "")
            response.headers["Location"] = other
            response.headers["Location"] = other  # twice, which a reader of one would stumble over
            return response

        async def play(connection: ServerConnection) -> None:
            pass

        other_server = await asyncio.start_server(elsewhere, "127.0.0.1", 0)
        other = f"ws://127.0.0.1:{other_server.sockets[0].getsockname()[1]}/"
        async with other_server, serve(play, "127.0.0.1", 0, process_request=redirect, compression=None) as server:
            url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/"
            async with feeding(url, Hub(), headers={"X-Api-Key": "secret"}) as feed:
                await until(lambda: feed.failure is not None)
                assert feed.failure == Failure(FailureKind.REJECTED, "HTTP 302")
        assert not asked

    run(main())


def test_a_certificate_file_that_is_not_there_is_told() -> None:
    async def main() -> None:
        async with feeding("wss://127.0.0.1:1/", Hub(), tls=Tls(ca_file="/nowhere/ca.pem")) as feed:
            await until(lambda: feed.attempts >= 1 and feed.failure is not None)
            assert str(feed.failure) == "tls: cannot use /nowhere/ca.pem: No such file or directory"

    run(main())


def test_an_upstream_that_chatters_without_events_is_stale() -> None:
    async def main() -> None:
        async def chatter(connection: ServerConnection) -> None:
            with suppress(ConnectionClosed):
                while True:
                    await connection.send('{"e":"heartbeat"}')
                    await asyncio.sleep(0.005)

        upstream = Upstream(chatter)
        async with upstream.serving() as url, feeding(url, Hub(), stale_timeout_s=0.1, idle_timeout_s=5) as feed:
            await until(lambda: len(upstream.connections) >= 2)
            assert feed.last_error == "stale: no event for 0.1 s"

    run(main())


def test_too_many_invalid_messages_in_a_row_end_the_connection_where_so_configured() -> None:
    async def main() -> None:
        async def play(connection: ServerConnection) -> None:
            for message in ["bad", "bad", tick(1), "bad", "bad", tick(2), "bad", "bad", "bad", tick(3)]:
                await connection.send(message)

        hub = Hub()
        async with Upstream(play).serving() as url, feeding(url, hub, max_invalid=3) as feed:
            await until(lambda: feed.reconnects >= 1)
            assert str(feed.last_error).startswith("invalid: 3 messages in a row; the last: not_json")
            assert hub.values[:2] == [1, 2]
            assert 3 not in hub.values

    run(main())


def test_it_fails_over_and_returns_to_the_first_address_after_a_success() -> None:
    async def main() -> None:
        served: list[str] = []

        async def play(connection: ServerConnection) -> None:
            assert connection.request is not None
            served.append(connection.request.path)
            await connection.send(tick(1))

        hub, upstream = Hub(), Upstream(play)
        async with upstream.serving() as url:
            protocol = ProtocolSpec(MappedProtocol, {"maps": (MAP,)})
            dead = "ws://127.0.0.1:1/"
            feed = Feed(FeedSpec("f", (dead, dead, url), protocol, recovery=QUICK), hub)
            async with running(feed):
                await until(lambda: len(served) >= 1)
                assert feed.attempts == 3
                assert feed.snapshot()["address"] == url
                await upstream.connections[0].close(1011)
                await until(lambda: len(served) >= 2)
                assert feed.attempts == 6

    run(main())


class Talker(FeedProtocol):
    """Speaks a protocol of its own."""

    subprotocols = ("talk.v1",)

    def __init__(self, refuse: str = "") -> None:
        super().__init__()
        self._refuse = refuse

    def opened(self) -> None:
        self.outgoing.append("hello")

    def receive(self, raw: bytes) -> list[Item]:
        if raw == b"ping":
            self.outgoing.append("pong")
            return []
        return [Publish(0, "t.A", "x", b'{"v":%d}' % len(raw))]

    def heartbeat(self) -> None:
        self.outgoing.append("alive")


def test_a_protocol_of_ones_own_answers_and_beats() -> None:
    async def main() -> None:
        heard: list[str | bytes] = []

        async def play(connection: ServerConnection) -> None:
            assert connection.subprotocol == "talk.v1"
            await connection.send("ping")
            async for message in connection:
                heard.append(message)  # noqa: PERF401  the test looks while it grows

        hub = Hub()
        async with serve(play, "127.0.0.1", 0, subprotocols=[Subprotocol("talk.v1")], compression=None) as server:
            url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/"
            spec = FeedSpec("f", (url,), ProtocolSpec(Talker), heartbeat_interval_s=0.01, recovery=QUICK)
            feed = Feed(spec, hub)
            async with running(feed) as ref:
                await until(lambda: "pong" in heard and heard.count("alive") >= 2)
                await ref.ask_async(Send("mine"))
                await until(lambda: "mine" in heard)
                assert heard[0] == "hello"

    run(main())


def test_a_message_above_the_limit_ends_the_connection_with_1009() -> None:
    async def main() -> None:
        codes: list[int | None] = []

        async def play(connection: ServerConnection) -> None:
            with suppress(ConnectionClosed):
                await connection.send(tick(1))
                await connection.send("x" * 3_000)
            await connection.wait_closed()
            codes.append(connection.close_code)

        hub = Hub()
        async with Upstream(play).serving() as url, feeding(url, hub, message_bytes=2_000) as feed:
            await until(lambda: len(codes) >= 2)
            assert codes[0] == 1009
            assert feed.last_error is not None
            assert feed.last_error.startswith("too_big: ")

    run(main())


def test_a_predecessor_that_was_killed_leaves_its_wait_to_its_successor() -> None:
    async def main() -> None:
        slow = RecoveryPolicy(BackoffPolicy(50, 50, jitter=False))
        protocol = ProtocolSpec(MappedProtocol, {"maps": (MAP,)})
        feed = Feed(FeedSpec("f", ("ws://127.0.0.1:1/",), protocol, recovery=slow), Hub())
        async with running(feed):
            await until(lambda: feed.state is FeedState.RECONNECTING)
            snapshot = json.loads(json.dumps(feed.snapshot()))
        heir = Feed(feed.spec, Hub())
        heir.restore(snapshot)
        async with running(heir):
            assert heir.state is FeedState.RECONNECTING
            assert 40 < heir.due_in <= 50
            assert heir.reason is not None
            assert heir.reason.startswith("refused: ")
            await asyncio.sleep(0.02)
            assert heir.attempts == 1

    run(main())


def test_a_state_changes_only_along_its_table() -> None:
    feed = Feed(FeedSpec("f", ("ws://127.0.0.1:1/",), ProtocolSpec(MappedProtocol, {"maps": (MAP,)})), Hub())
    with pytest.raises(IllegalTransition, match="disconnected does not lead to connected"):
        feed.enter(FeedState.CONNECTED)
    assert feed.state is FeedState.DISCONNECTED


class Inventor(FeedProtocol):
    """Yields whatever event the message says."""

    def receive(self, raw: bytes) -> list[Item]:
        topic, _, payload = raw.partition(b" ")
        return [Event(topic=topic.decode(), payload=payload)]


def test_an_event_that_cannot_be_published_is_counted_and_named() -> None:
    async def main() -> None:
        async def play(connection: ServerConnection) -> None:
            for message in ('t.a {"v":0}', "t.a {not json", "bad..topic 1", "system.feeds.f 1", 't.a {"v":1}'):
                await connection.send(message)

        hub = Hub()
        async with Upstream(play).serving() as url:
            feed = Feed(FeedSpec("f", (url,), ProtocolSpec(Inventor), recovery=QUICK), hub)
            async with running(feed):
                await until(lambda: feed.published == 2)
        assert hub.values == [0, 1]
        assert dict(feed.bad) == {"bad_event": 3}
        assert feed.last_bad is not None
        assert feed.last_bad.startswith("bad_event: topic: system.> belongs to the engine: system.feeds.f")

    run(main())


def test_a_refusal_ends_the_connection_where_it_is_configured() -> None:
    async def main() -> None:
        async def play(connection: ServerConnection) -> None:
            await connection.send(tick(1))
            await connection.send('{"success":false,"error":"no such channel"}')
            await connection.send(tick(2))

        hub = Hub()
        protocol = ProtocolSpec(MappedProtocol, {"maps": (MAP,), "refusal": {"success": False}})
        async with Upstream(play).serving() as url, feeding(url, hub, protocol=protocol) as feed:
            await until(lambda: feed.failure is not None)
            assert str(feed.failure) == 'rejected: {"success":false,"error":"no such channel"}'
            assert hub.values[0] == 1
            assert 2 not in hub.values

    run(main())


def test_a_feed_that_is_changed_says_that_something_may_be_missing() -> None:
    async def main() -> None:
        async def play(connection: ServerConnection) -> None:
            await connection.send(tick(1))

        hub = Hub()
        async with Upstream(play).serving() as url:
            async with feeding(url, hub) as feed:
                await until(lambda: feed.published == 1)
            feed.change(feed.spec)
            async with running(feed):
                await until(lambda: feed.published == 2)
        assert [data["reason"] for kind, data in hub.notices if kind == "feed_gap"] == ["reconnected"]

    run(main())


def test_a_crash_is_announced_once_and_waited_for() -> None:
    async def main() -> None:
        class Fragile(FeedProtocol):
            def receive(self, raw: bytes) -> list[Item]:
                raise ZeroDivisionError

        async def play(connection: ServerConnection) -> None:
            await connection.send("x")

        hub = Hub()
        slow = RecoveryPolicy(BackoffPolicy(50, 50, jitter=False))
        async with Upstream(play).serving() as url:
            feed = Feed(FeedSpec("f", (url,), ProtocolSpec(Fragile), recovery=slow), hub)
            async with running(feed):
                await until(lambda: feed.state is FeedState.RECONNECTING)
            async with running(feed):
                assert feed.due_in > 40
                await asyncio.sleep(0.01)
            assert feed.attempts == 1
        assert [state for state in hub.states if state == "reconnecting"] == ["reconnecting"]
        assert "crashed: ZeroDivisionError" in [data["reason"] for _, data in hub.notices]

    run(main())
