"""The load tester's processes on real sockets: what they count is what the server sent, and they end in every case."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed

from engine.loadtest import connections, processes
from engine.loadtest.broadcast import MessageBroadcastTester
from engine.loadtest.commands import Done, Load, PublisherSecond, Ramped, RampUp, Second
from engine.loadtest.connections import WebSocketConnectionManager
from engine.loadtest.processes import ChildDied
from engine.loadtest.scenario import PublishConfig, Scenario
from engine.loadtest.target import Target
from heliograph import ConfigError, Engine
from tests.feeds.redis_server import RedisServer
from tests.transport.test_tls import certify

PATIENCE = 30.0


class Run:
    """A manager and a broadcaster, and what they told."""

    def __init__(self, target: Target, **scenario: Any) -> None:
        self.scenario = Scenario(**{"connections": 6, "rate": 200.0, "ramp_batch": 4, "processes": 1, **scenario})
        self.seconds: list[Second] = []
        self.published: list[PublisherSecond] = []
        self.deaths: list[str] = []
        self.manager = WebSocketConnectionManager(
            target, self.scenario, on_second=self.seconds.append, on_death=self.deaths.append
        )
        self.broadcaster = MessageBroadcastTester(
            target, self.scenario, on_second=self.published.append, on_death=self.deaths.append
        )

    async def told(self, enough: Callable[[], bool]) -> None:
        """Until the seconds say so."""
        async with asyncio.timeout(PATIENCE):
            while not enough():
                await asyncio.sleep(0.05)

    @property
    def recoveries(self) -> list[float]:
        return [s for second in self.seconds for s in second.recoveries]


@asynccontextmanager
async def running(target: Target, **scenario: Any) -> AsyncIterator[Run]:
    """Processes are started; at the end none is left."""
    run = Run(target, **scenario)
    try:
        await run.manager.start()
        yield run
    finally:
        pids = [*run.manager.pids.values(), run.broadcaster.pid]
        await asyncio.gather(run.manager.stop(), run.broadcaster.stop())
        assert not [pid for pid in pids if pid and psutil.pid_exists(pid)]


@pytest.mark.parametrize("kind", ["native", "socketio"])
def test_an_engine_loses_nothing_of_what_is_cut(kind: str) -> None:
    async def scenario() -> None:
        async with Engine(workers=0, port=0, admin_port=0, socketio={"enabled": True}) as engine:
            target = Target(url=engine.url.removesuffix("/ws"), kind=kind)  # type: ignore[arg-type]
            async with running(target, connections=7, processes=2) as run:
                manager, broadcaster = run.manager, run.broadcaster
                opened = await manager.ramp_up()
                assert (opened.attempted, opened.opened, opened.failed) == (7, 7, 0)
                assert opened.times.count == 7
                await broadcaster.start()
                await manager.mark("broadcast", broadcaster.published)
                first = await broadcaster.run(0.5)
                assert (first.first, first.count) == (0, 100)
                await manager.mark("recovery", broadcaster.published)
                publishing = asyncio.create_task(broadcaster.run(1.0))
                assert await manager.cut(3) == 3
                assert (await publishing).first == 100
                await run.told(lambda: len(run.recoveries) == 3)
                assert broadcaster.published == 300
                assert await manager.drain(299) == 0
                counted = await manager.collect(299)
            assert not counted.gaps
            assert not counted.losses
            for name, published in (("broadcast", 100), ("recovery", 200)):
                phase = counted.phases[name]
                assert (phase.expected, phase.delivered - phase.duplicates, phase.missing) == (
                    7 * published,
                    7 * published,
                    0,
                )
                assert phase.latency.count == phase.delivered
                assert phase.answers.count > 0
                assert 0 < phase.silence < PATIENCE
            assert sum(second.answered for second in run.published) > 0
            assert not any(second.errors for second in run.published)
            assert {second.process for second in run.seconds} == {0, 1}
            assert not run.deaths

    asyncio.run(scenario())


class Plain:
    """A server that sends message n to all, as often as its rule says; ``headers``: with which each came."""

    def __init__(self, rule: Callable[[int], int] = lambda n: 1) -> None:
        self._rule, self.clients, self._count = rule, set[ServerConnection](), 0
        self.headers: list[str | None] = []

    async def __call__(self, client: ServerConnection) -> None:
        assert client.request is not None
        self.headers.append(client.request.headers.get("Authorization"))
        with suppress(ConnectionClosed):
            async for message in client:
                if message == "SUB loadtest":
                    self.clients.add(client)
                else:
                    self._count += 1
                    for _ in range(self._rule(self._count - 1)):
                        broadcast(self.clients, message)
        self.clients.discard(client)


def plain(port: int, scheme: str = "ws", **fields: Any) -> Target:
    return Target(
        url=f"{scheme}://127.0.0.1:{port}",
        kind="plain",
        subscribe="SUB {topic}",
        publish="PUB {topic} {data}",
        **fields,
    )


def test_what_a_server_drops_and_repeats_is_counted(tmp_path: Path) -> None:
    server = Plain(lambda n: {3: 0, 7: 2}.get(n % 10, 1))
    cert, key = certify(tmp_path, "served")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)

    async def scenario() -> None:
        async with serve(server, "127.0.0.1", 0, ssl=context) as listening:
            port = listening.sockets[0].getsockname()[1]
            async with running(plain(port, "wss", token="secret", ca_file=str(cert))) as run:
                await run.manager.ramp_up()
                await run.broadcaster.start()
                await run.manager.mark("broadcast", 0)
                await run.broadcaster.run(0.5)
                await run.manager.drain(99)
                (phase,) = (await run.manager.collect(99)).phases.values()
        assert (phase.expected, phase.missing, phase.duplicates) == (600, 60, 60)
        assert (phase.lacking, phase.first_missing, phase.delivered) == (6, 3, 600)
        assert server.headers == ["Bearer secret"] * 7

    asyncio.run(scenario())


def test_who_is_sent_away_comes_back() -> None:
    """Without an answer to subscriptions, who gets a message is back."""
    server = Plain()

    async def scenario() -> None:
        async with serve(server, "127.0.0.1", 0) as listening:
            port = listening.sockets[0].getsockname()[1]
            async with running(plain(port)) as run:
                await run.manager.ramp_up()
                await run.broadcaster.start()
                for client in [*server.clients][:2]:
                    await client.close(1012, "moving")
                await run.told(lambda: sum(second.lost for second in run.seconds) == 2)
                assert not run.recoveries
                publishing = asyncio.create_task(run.broadcaster.run(PATIENCE))
                await run.told(lambda: len(run.recoveries) == 2)
                publishing.cancel()
                losses = (await run.manager.collect(-1)).losses
        assert losses == {"closed by the server with 1012 moving": 2}

    asyncio.run(scenario())


def test_a_server_that_reads_nothing_blocks_the_publisher() -> None:
    async def deaf(client: ServerConnection) -> None:
        client.transport.pause_reading()
        await client.wait_closed()

    async def scenario() -> None:
        async with serve(deaf, "127.0.0.1", 0, close_timeout=0.1) as listening:
            port = listening.sockets[0].getsockname()[1]
            async with running(plain(port), payload_bytes=1_000_000, rate=100.0) as run:
                await run.broadcaster.start()
                published = await run.broadcaster.run(1.0)
        assert published.count < 100
        assert published.blocked > 0

    asyncio.run(scenario())


def test_nobody_there() -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        async with running(plain(port)) as run:
            opened = await run.manager.ramp_up()
            assert (opened.opened, opened.failed) == (0, 6)
            ((reason, times),) = opened.reasons.items()
            assert times == 6
            assert "refused" in reason
            with pytest.raises(ConfigError, match=r"target\.url: the publisher gets no connection: .*refused"):
                await run.broadcaster.start()

    asyncio.run(scenario())


def test_a_refusal_says_why() -> None:
    async def refuse(connection: ServerConnection, request: Any) -> Any:
        return connection.respond(503, "come again\n")

    async def scenario() -> None:
        async with serve(Plain(), "127.0.0.1", 0, process_request=refuse) as listening:
            port = listening.sockets[0].getsockname()[1]
            async with running(plain(port), connections=3) as run:
                assert (await run.manager.ramp_up()).reasons == {"HTTP 503 Service Unavailable": 3}

    asyncio.run(scenario())


def test_a_process_that_dies_is_named() -> None:
    async def scenario() -> None:
        async with running(plain(1)) as run:
            (pid,) = run.manager.pids.values()
            os.kill(pid, signal.SIGKILL)
            words = rf"client-0 \(pid {pid}\) has ended, killed by signal 9"
            with pytest.raises(ChildDied, match=words):
                await run.manager.ramp_up()
            with pytest.raises(ChildDied, match=words):
                await run.manager.mark("broadcast", 0)
            assert len(run.deaths) == 1

    asyncio.run(scenario())


def test_a_process_ends_with_its_coordinator() -> None:
    """Also amid what it was asked to do."""

    async def scenario(port: int) -> None:
        child = processes.ChildProcess("client-0", connections.MODULE, lambda told: None, lambda reason: None)
        await child.start()
        try:
            load = Load(target=plain(port), number=0, connect_timeout=PATIENCE, pings=1.0)
            await child.ask(load, Done, PATIENCE)
            ramping = asyncio.create_task(child.ask(RampUp(first=0, connections=1, batch=1), Ramped, PATIENCE))
            await asyncio.sleep(0)  # it is asked
            assert child._process.stdin is not None
            child._process.stdin.close()
            with pytest.raises(ChildDied, match="exit code 0"):
                await ramping
        finally:
            await child.stop()

    with socket.create_server(("127.0.0.1", 0)) as mute:  # takes connections, and says nothing
        asyncio.run(scenario(mute.getsockname()[1]))


def test_by_way_of_redis(redis_server: Callable[..., RedisServer]) -> None:
    server = redis_server()
    publish = PublishConfig(via="redis", redis_url=server.url, channel="prices")

    async def scenario(heard: Any) -> None:
        async with running(plain(1), publish=publish, payload_bytes=60) as run:
            await run.broadcaster.start()
            published = await run.broadcaster.run(0.5)
            assert (published.count, published.blocked) == (100, 0.0)
            await run.told(lambda: sum(second.answered for second in run.published) > 0)
            assert not any(second.errors for second in run.published)
        data = []
        while len(data) < 100:
            message = heard.get_message(ignore_subscribe_messages=True, timeout=PATIENCE)
            assert message is not None or not data
            if message is not None:
                data.append(message["data"])
        assert b'"s":99,' in data[-1]
        assert {len(one) for one in data} == {60}

    with redis.Redis.from_url(server.url) as client, client.pubsub() as heard:
        heard.subscribe("prices")
        assert heard.get_message(timeout=PATIENCE)["type"] == "subscribe"
        asyncio.run(scenario(heard))
