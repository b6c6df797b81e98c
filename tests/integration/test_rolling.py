"""Workers are replaced while their clients are served: who is sent away, how often, and who is refused."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from bench import rolling
from tests.integration.harness import EngineProcess, Publisher, RawClient

Start = Callable[..., EngineProcess]
Eventually = Callable[..., Awaitable[None]]

CLIENTS = 60
RATE = 200.0  # events/s
TOPIC = "t"
DEADLINE = 30.0


class Wanderer:
    """A client that comes back at once whenever it is sent away, as one with the shortest jitter would.

    Attributes:
        byes: what it was told, in order.
        errors: connections that it could not get, or lost without `bye`.
        sessions: one a connection.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.byes: list[dict[str, Any]] = []
        self.errors: list[str] = []
        self.sessions: list[str] = []
        self.last: Any = None
        self.subscribed = False
        self._task = asyncio.create_task(self._wander())

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _wander(self) -> None:
        while True:
            client = RawClient(self.url)
            try:
                await client.__aenter__()
            except (OSError, WebSocketException, EOFError) as error:
                self.errors.append(repr(error))
                await asyncio.sleep(0.05)
                continue
            try:
                await self._stay(client)
            finally:
                await client.__aexit__(None, None, None)

    async def _stay(self, client: RawClient) -> None:
        try:
            await client.subscribe(TOPIC)
            self.subscribed = True
        except ConnectionError:
            pass  # sent away before: `bye` says so
        await client._reader
        self.sessions += [message["session"] for message in client.of("welcome")]
        byes = client.of("bye")
        self.byes += byes
        if not byes:
            self.errors.append(f"closed with {client.closed}, not told why")


class Caller:
    """Connects, says hello and goes, again and again; ``errors`` are the times when that did not work."""

    def __init__(self, url: str) -> None:
        self.url, self.calls, self.errors = url, 0, list[str]()
        self._task = asyncio.create_task(self._call())

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _call(self) -> None:
        while True:
            try:
                async with connect(self.url, compression=None, ping_interval=None, proxy=None) as connection:
                    await connection.recv()
                self.calls += 1
            except ConnectionClosed as closed:  # it came to an old worker, which sends it away with a `bye`
                if closed.rcvd is None or closed.rcvd.code != 1012:
                    self.errors.append(repr(closed))
            except (OSError, WebSocketException, EOFError) as error:
                self.errors.append(repr(error))


async def restarted(engine: EngineProcess) -> dict[str, Any]:
    """How the restart under way has ended."""
    deadline = time.monotonic() + DEADLINE
    while True:
        status, state = await asyncio.to_thread(engine.admin, "/api/restart")
        assert status == 200, state
        if state["state"] in ("done", "failed"):
            return dict(state)
        assert time.monotonic() < deadline, state
        await asyncio.sleep(0.05)


def test_each_client_is_sent_away_once_and_nobody_is_refused(engine_process: Start, eventually: Eventually) -> None:
    engine = engine_process(workers=2)

    async def scenario() -> None:
        async with RawClient(engine.url) as seen, AsyncExitStack() as stack:
            crowd = [Wanderer(engine.url) for _ in range(CLIENTS)]
            callers = [Caller(engine.url) for _ in range(4)]
            for task in (*crowd, *callers):
                stack.push_async_callback(task.stop)
            await seen.subscribe(TOPIC)
            await eventually(lambda: all(one.subscribed for one in crowd), DEADLINE)
            former = engine.children()
            assert {"worker-0", "worker-1"} <= former.keys()

            status, state = await asyncio.to_thread(engine.admin, "/api/restart", "POST", {})
            assert (status, state["state"], state["workers"]) == (200, "starting", 2), state
            assert (await asyncio.to_thread(engine.admin, "/api/restart", "POST", {}))[0] == 409
            async with RawClient(engine.url) as client, Publisher(client, TOPIC, RATE):
                assert await restarted(engine) == {"state": "done", "workers": 2, "gone": 2, "reason": None}
            assert {"worker-2", "worker-3"} <= engine.children().keys()
            assert not {"worker-0", "worker-1"} & engine.children().keys()
            health = (await asyncio.to_thread(engine.admin, "/health"))[1]
            assert health["status"] == "ok"
            assert set(health["components"]) == {"hub", "history", "metrics", "worker-2", "worker-3"}
            calls = [caller.calls for caller in callers]
            await eventually(lambda: all(c.calls > before for c, before in zip(callers, calls, strict=True)), DEADLINE)

            assert seen.closed == 1012
            assert [one.errors for one in crowd if one.errors] == []
            assert [caller.errors for caller in callers if caller.errors] == []
            assert {len(one.byes) for one in crowd} == {1}
            told = [one.byes[0] for one in crowd]
            assert {(bye["code"], bye["reason"], bye["reconnect"]) for bye in told} == {(1012, "drain", True)}
            assert len({bye["reconnect_in"] for bye in told}) > CLIENTS / 2, "spread, not all at once"

            # And back again: the names of the first ones are free.
            await asyncio.to_thread(engine.admin, "/api/restart", "POST", {})
            assert (await restarted(engine))["state"] == "done"
            assert {"worker-0", "worker-1"} <= engine.children().keys()
            assert {len(one.byes) for one in crowd} == {2}
            assert [one.errors for one in (*crowd, *callers) if one.errors] == []

    asyncio.run(scenario())
    stats = [line for line in engine.log() if line["event"] == "process_restarting"]
    assert not stats, "a replaced worker is no dead worker"


@pytest.mark.parametrize("how", [[], ["--wildcards"], ["--plain"]], ids=["by offset", "by position", "reload only"])
def test_who_recovers_loses_nothing_and_the_connection_once(how: list[str]) -> None:
    """``python -m bench.rolling``, shorter; nobody loses the connection where only the configuration is read again."""
    assert rolling.main(["--times", "1", "--clients", "40", "--rate", "400", *how]) == 0


def test_an_engine_that_stops_sends_each_client_away_once(engine_process: Start, eventually: Eventually) -> None:
    """However soon they come back: no worker takes clients in while another one sends them away."""
    engine = engine_process(workers=12)  # the more there are, the longer between the first's signal and the last's

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            crowd = [Wanderer(engine.url) for _ in range(CLIENTS)]
            for one in crowd:
                stack.push_async_callback(one.stop)
            await eventually(lambda: all(one.subscribed for one in crowd), DEADLINE)
            engine.kill("daemon", signal.SIGTERM)
            assert await asyncio.to_thread(engine.wait) == 0
            await eventually(lambda: all(one.byes for one in crowd), DEADLINE)
            assert {len(one.sessions) for one in crowd} == {1}

    asyncio.run(scenario())


def test_publishes_in_flight_are_answered_before_bye(engine_process: Start, eventually: Eventually) -> None:
    engine = engine_process(workers=2, server__heartbeat_timeout=60.0)  # the hub may sleep

    async def scenario() -> None:
        async with RawClient(engine.url) as publisher, RawClient(engine.url) as idle:
            await publisher.subscribe(TOPIC)
            engine.kill("hub", signal.SIGSTOP)
            answers = [publisher.send("publish", topic=TOPIC, data=n) for n in range(50)]
            assert (await publisher.request("ping"))["op"] == "ok"  # so that all of these have been taken
            engine.kill("daemon", signal.SIGTERM)
            await eventually(lambda: idle.closed == 1012, DEADLINE)
            assert not any(answer.done() for answer in answers)
            assert publisher.closed is None
            engine.kill("hub", signal.SIGCONT)
            assert {answer["op"] for answer in await asyncio.wait_for(asyncio.gather(*answers), DEADLINE)} == {"ok"}
            await eventually(lambda: publisher.closed == 1012, DEADLINE)
            assert publisher.messages[-1]["op"] == "bye"
            assert await asyncio.to_thread(engine.wait) == 0

    asyncio.run(scenario())


def test_a_worker_that_dies_while_it_drains_is_not_started_again(engine_process: Start, eventually: Eventually) -> None:
    engine = engine_process(workers=2, server__drain_timeout=60.0)

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            deaf = [await stack.enter_async_context(RawClient(engine.url)) for _ in range(12)]
            for client in deaf:
                client._connection.transport.pause_reading()  # it never answers the close frame: no drain gets done
            await asyncio.to_thread(engine.admin, "/api/restart", "POST", {})
            await eventually(lambda: any(line.get("event") == "process_stopping" for line in engine.log()), DEADLINE)
            for name in ("worker-0", "worker-1"):
                engine.kill(name)
            assert (await restarted(engine))["state"] == "done"
            assert not {"worker-0", "worker-1"} & engine.children().keys()
            async with RawClient(engine.url) as client:
                assert (await client.request("publish", topic=TOPIC, data=1))["op"] == "ok"
            for client in deaf:
                client._connection.transport.abort()

    asyncio.run(scenario())


def test_one_process_has_nothing_to_restart(engine_process: Start) -> None:
    engine = engine_process(workers=0)
    status, answer = engine.admin("/api/restart", "POST", {})
    assert (status, answer["error"]["code"]) == (501, "unsupported")
    assert engine.admin("/api/restart")[1]["state"] == "none"
