from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop
from websockets.asyncio.server import ServerConnection, serve

from actors.backoff import Backoff, BackoffPolicy
from actors.connection import Attempt, FeedConnection, FeedSpec, FeedState, FeedStatus, Lost, Opened
from actors.mapping import FeedMap
from actors.ref import Ref
from transport.messages import Publish

DEADLINE_S = 10.0
QUICK = BackoffPolicy(first_s=0.01, cap_s=0.05, jitter=False, stable_s=60)
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

    async def writable(self) -> None:
        await self.open.wait()

    @property
    def events(self) -> list[Publish]:
        return [event for batch in self.batches for event in batch]

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
async def feed(
    url: str, hub: Hub, status: FeedStatus, backoff: Backoff | None = None, **fields: Any
) -> AsyncIterator[Ref]:
    spec = FeedSpec("f", url, **{"map": MAP, "backoff": QUICK, **fields})
    ref = FeedConnection.start(spec, hub, backoff, status)
    assert isinstance(ref, Ref)
    try:
        yield ref
    finally:
        await ref.stop_async()


def test_it_subscribes_reads_maps_and_publishes_in_order() -> None:
    async def main() -> None:
        async def play(connection: ServerConnection) -> None:
            assert connection.request is not None
            assert connection.request.headers["X-Key"] == "secret"
            assert [await connection.recv(), await connection.recv()] == ["one", "two"]
            await connection.send('{"result":null}')
            for value in range(500):
                await connection.send(tick(value))

        hub, status = Hub(), FeedStatus()
        async with Upstream(play).serving() as url:
            async with feed(url, hub, status, subscribe=("one", "two"), headers={"X-Key": "secret"}):
                await until(lambda: status.published == 500)
                assert status.state is FeedState.CONNECTED
            assert hub.events[0] == Publish(0, "t.A", "x", b'{"v":0}', None, None, None)
            assert hub.values == list(range(500))
            assert len(hub.batches) < 250  # what came in one turn of the loop is one batch
            assert (status.messages, status.ignored, status.state) == (501, 1, FeedState.DISCONNECTED)

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

        hub, status = Hub(), FeedStatus()
        async with Upstream(play).serving() as url, feed(url, hub, status):
            await until(lambda: status.published == 1)
            assert dict(status.bad) == {"not_json": 100, "missing": 100, "not_finite": 50}
            assert status.last_bad == 'missing: v: {"e":"x","k":"B"}'
            assert status.reconnects == 0
            assert hub.values == [7]

    with caplog.at_level(logging.DEBUG, "actors.connection"):
        run(main())
    warnings = [record.getMessage() for record in caplog.records if "bad message" in record.getMessage()]
    assert len(warnings) == 3  # the first of each reason
    assert "garbage" not in caplog.text


def test_a_sample_of_a_bad_message_is_bounded() -> None:
    async def main() -> None:
        async def play(connection: ServerConnection) -> None:
            await connection.send("[" * 500_000)

        status = FeedStatus()
        async with Upstream(play).serving() as url, feed(url, Hub(), status):
            await until(lambda: status.last_bad is not None)
            assert status.last_bad is not None
            assert len(status.last_bad) < 500

    run(main())


def test_it_reconnects_whenever_the_upstream_hangs_up() -> None:
    async def main() -> None:
        served = iter(range(1_000))

        async def play(connection: ServerConnection) -> None:
            await connection.send(tick(next(served)))
            await connection.close(1001, "maintenance")

        hub, status = Hub(), FeedStatus()
        async with Upstream(play).serving() as url, feed(url, hub, status):
            await until(lambda: status.published >= 4)
            assert hub.values == list(range(status.published))
            assert status.last_error is not None
            assert "maintenance" in status.last_error

    run(main())


def test_it_waits_longer_while_the_upstream_is_away_and_finds_it_when_it_is_back() -> None:
    async def main() -> None:
        async def play(connection: ServerConnection) -> None:
            await connection.send(tick(1))

        upstream, hub, status, backoff = Upstream(play), Hub(), FeedStatus(), Backoff(QUICK)
        async with upstream.serving() as url:
            pass  # the port was ours a moment ago; now nobody listens
        async with feed(url, hub, status, backoff):
            await until(lambda: backoff.failures >= 4)
            assert status.snapshot()["state"] in ("reconnecting", "connecting")
            assert "refused" in str(status.last_error)
            async with upstream.serving(int(url.split(":")[2].split("/")[0])):
                await until(lambda: status.state is FeedState.CONNECTED and status.published == 1)
                assert status.snapshot()["retry_in"] is None

    run(main())


def test_a_snapshot_says_when_the_next_attempt_is() -> None:
    async def main() -> None:
        status = FeedStatus()
        async with feed("ws://127.0.0.1:1/", Hub(), status, Backoff(BackoffPolicy(50, 50, jitter=False))):
            await until(lambda: status.state is FeedState.RECONNECTING)
            assert 40 < status.snapshot()["retry_in"] <= 50
        assert status.snapshot()["retry_in"] is None

    run(main())


def test_it_does_not_read_while_the_hub_cannot_take_more() -> None:
    total = 5_000

    async def main() -> None:
        async def play(connection: ServerConnection) -> None:
            for value in range(total):
                await connection.send(f'{{"e":"x","k":"A","v":"{value}","fill":"{"x" * 2000}"}}')

        hub, status = Hub(), FeedStatus()
        async with Upstream(play).serving() as url, feed(url, hub, status):
            await until(lambda: status.published >= 100)
            hub.open.clear()
            await until(lambda: status.published == status.messages)
            held = status.messages
            for _ in range(50):
                await asyncio.sleep(0)  # turns in which it could read on
            assert status.messages - held <= 1
            assert held < total
            hub.open.set()
            await until(lambda: status.published == total)
            assert hub.values == list(range(total))
            assert status.reconnects == 0

    run(main())


def test_it_does_not_connect_while_the_hub_is_away() -> None:
    async def main() -> None:
        async def play(connection: ServerConnection) -> None:
            await connection.send(tick(1))

        upstream, hub, status = Upstream(play), Hub(), FeedStatus()
        hub.open.clear()
        async with upstream.serving() as url, feed(url, hub, status):
            await until(lambda: status.state is FeedState.CONNECTING)
            assert not upstream.connections
            hub.open.set()
            await until(lambda: status.published == 1)

    run(main())


def test_silence_renews_the_connection() -> None:
    async def main() -> None:
        async def silence(connection: ServerConnection) -> None:
            pass

        upstream, status = Upstream(silence), FeedStatus()
        async with upstream.serving() as url, feed(url, Hub(), status, idle_timeout_s=0.05):
            await until(lambda: len(upstream.connections) >= 2)
            assert status.last_error == "silent for 0.05 s"

    run(main())


def test_an_upstream_that_is_no_websocket_is_tried_again() -> None:
    async def main() -> None:
        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"SSH-2.0-no\r\n\r\n")
            writer.close()

        status, backoff = FeedStatus(), Backoff(QUICK)
        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        async with server:
            url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with feed(url, Hub(), status, backoff):
                await until(lambda: backoff.failures >= 3)
                assert status.last_error

    run(main())


def test_a_handshake_that_never_ends_times_out() -> None:
    async def main() -> None:
        async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(-1)
            writer.close()

        status = FeedStatus()
        server = await asyncio.start_server(stall, "127.0.0.1", 0)
        async with server:
            url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with feed(url, Hub(), status, connect_timeout_s=0.05):
                await until(lambda: status.reconnects >= 2)
                assert "timed out" in str(status.last_error)

    run(main())


def test_secrets_in_the_url_and_headers_stay_out_of_logs_and_status(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        status = FeedStatus()
        url = "ws://user:hush@127.0.0.1:1/path?token=hush#hush"
        async with feed(url, Hub(), status, headers={"X-Key": "hush"}):
            await until(lambda: status.reconnects >= 2)
        assert "hush" not in str(status.snapshot())

    with caplog.at_level(logging.DEBUG):
        run(main())
    assert "hush" not in caplog.text
    spec = FeedSpec("f", "ws://user:hush@h:1/p?token=hush", MAP, ("hush",), {"X-Key": "hush"})
    assert "hush" not in repr(spec)
    assert spec.address == "ws://h:1/p"


def test_what_a_predecessor_still_had_to_say_is_ignored() -> None:
    async def main() -> None:
        async def play(connection: ServerConnection) -> None:
            await connection.send(tick(1))

        hub, status = Hub(), FeedStatus()
        async with Upstream(play).serving() as url, feed(url, hub, status) as ref:
            await until(lambda: status.published == 1)
            for message in (Attempt(None), Opened(None), Lost(None, "old", 0.0)):
                ref.tell(message)
            await ref.ask_async(Opened(None))
            assert (status.state, status.reconnects, hub.values) == (FeedState.CONNECTED, 0, [1])

    run(main())


def test_a_state_changes_only_along_its_table() -> None:
    status = FeedStatus()
    with pytest.raises(AssertionError, match="disconnected -> connected"):
        status.enter(FeedState.CONNECTED, "f")
