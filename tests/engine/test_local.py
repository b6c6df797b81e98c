"""Everything in one process: what the admin API asks of it, and what it says when it cannot go on."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from actors.feed_supervisor import ApplyFeeds
from actors.messages import Arrived
from engine.config import Config, loads
from engine.feeds import Feeds
from engine.local import LocalEngine
from engine.notify import Notifier
from tests.integration.harness import RawClient, followed
from transport.errors import ConfigError, HeliographError, RequestError
from transport.event import Event, to_publish

Eventually = Callable[..., Awaitable[None]]
SETTINGS: dict[str, object] = {
    "server.workers": 0,
    "server.port": 0,
    "admin.port": 0,
    "server.heartbeat_interval": 0.05,
    "server.heartbeat_timeout": 1.0,
}
FEED = '[feeds.fx]\nurl = "ws://127.0.0.1:9/"\nbackoff_max = 0.2'


def config(text: str = "", **overrides: object) -> Config:
    return loads(text, SETTINGS | {name.replace("__", "."): value for name, value in overrides.items()})


def run(test: Callable[[LocalEngine], Awaitable[None]], text: str = "") -> None:
    """With an engine that is started and stopped."""

    async def scenario() -> None:
        engine = LocalEngine(config(text))
        try:
            await engine.start()
            await test(engine)
        finally:
            await engine.stop()

    asyncio.run(scenario())


def test_answers_to_publishes_never_fill_the_hubs_window() -> None:
    async def test(engine: LocalEngine) -> None:
        batch = [to_publish(Event.of("t", 1))] * 1_000
        for i in range(1, 21):  # about 20 bytes an answer, six windows in all
            assert (await engine.publish(batch))[-1].offset == i * 1_000

    run(test, "[delivery]\nbus_window = 65536")


def test_health_ready_stats_and_metrics_of_a_running_engine() -> None:
    async def test(engine: LocalEngine) -> None:
        health = engine.health()
        assert health["status"] == "ok"
        assert set(health["components"]) == {"hub", "worker-0", "feeds"}
        assert all(part["status"] == "ok" for part in health["components"].values())
        assert engine.ready() is None
        (position,) = await engine.publish([to_publish(Event.of("t", 1))])
        assert position.offset == 1
        assert (await engine.stats())["events_published"] == 1
        assert b"heliograph_events_published_total 1.0" in await engine.metrics()

    run(test)


def test_positions_of_a_batch_are_in_its_order() -> None:
    async def test(engine: LocalEngine) -> None:
        batch = [to_publish(Event.of(f"t.{n % 2}", n)) for n in range(10)]
        assert [position.offset for position in await engine.publish(batch)] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]

    run(test)


def test_health_tells_of_a_feed_that_is_away_without_being_asked_for_figures(eventually: Eventually) -> None:
    async def test(engine: LocalEngine) -> None:
        await eventually(lambda: engine.health()["status"] == "degraded")
        part = engine.health()["components"]["feed:fx"]
        assert part["status"] == "degraded" and part["reason"]
        assert engine.ready() is None, "a feed that is away keeps no client away"
        left = await engine.reload(config())
        assert left == []
        await eventually(lambda: "feed:fx" not in engine.health()["components"])
        assert engine.health()["status"] == "ok"

    run(test, FEED)


def test_a_feed_supervisor_that_fails_leaves_its_successor_the_feeds_and_what_they_were(eventually: Eventually) -> None:
    async def test(engine: LocalEngine) -> None:
        await engine.reload(config(FEED))
        assert set(engine.feeds()) == {"fx"}, "seen at once"
        await eventually(lambda: engine.feeds()["fx"]["attempts"] >= 2)
        await engine.operate_feed("fx", "disconnect")
        before = engine.feeds()["fx"]
        bad: Any = None  # specs that are none
        engine._feeds._spec.ref.tell(ApplyFeeds(bad))
        await engine.stats()  # which asks the successor
        assert set(engine.feeds()) == {"fx"}, "the present configuration's, not the first one's"
        after = engine.feeds()["fx"]
        assert after["held"] and after["attempts"] == before["attempts"]
        assert (await engine.operate_feed("fx", "connect"))["held"] is False

    run(test)


def test_operating_a_feed_that_is_not_there_or_too_late() -> None:
    async def test(engine: LocalEngine) -> None:
        with pytest.raises(RequestError) as caught:
            await engine.operate_feed("eq", "reset")
        assert caught.value.code == "not_found"
        await engine.drain()
        with pytest.raises(RequestError) as caught:
            await engine.operate_feed("fx", "reset")
        assert caught.value.code == "unavailable"

    run(test, FEED)


def test_a_reload_takes_what_it_can_and_tells_the_rest_each_time() -> None:
    async def test(engine: LocalEngine) -> None:
        new = config("[history]\ntopic_idle = 5.0\n[delivery]\npacing = 0.0\n[limits]\ntopics_per_request = 1")
        assert await engine.reload(new) == ["history.topic_idle"]
        assert await engine.reload(new) == ["history.topic_idle"], "it is still not in force"
        assert await engine.reload(config()) == []

    run(test)


@pytest.mark.parametrize("taken", ["server__port", "admin__port"])
def test_a_taken_port_is_an_error_before_anything_runs(taken: str) -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            engine = LocalEngine(config(**{taken: port}))
            with pytest.raises(HeliographError, match=f":{port}: the port is taken"):
                await engine.start()
            assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
            await engine.stop()
            await engine.stop()

    asyncio.run(scenario())


def test_a_drain_by_request_ends_the_wait_and_says_so() -> None:
    async def test(engine: LocalEngine) -> None:
        waiting = asyncio.create_task(engine.wait())
        await engine.drain()
        await engine.drain()
        await asyncio.wait_for(waiting, 5)
        assert engine.ready() == "draining"
        assert engine.health()["status"] == "ok", "it lives until it is stopped"
        await engine.stop()
        with pytest.raises(RequestError) as caught:
            await engine.publish([to_publish(Event.of("t", 1))])
        assert caught.value.code == "unavailable"

    run(test)


def test_an_actor_that_fails_without_end_is_the_engines_end() -> None:
    async def test(engine: LocalEngine) -> None:
        waiting = asyncio.create_task(engine.wait())
        await asyncio.sleep(0)
        for _ in range(11):  # one more than the router's restarts
            assert not waiting.done()
            bad: Any = None  # a batch that is none
            engine._hub._router.tell(Arrived(bad, bad))
        with pytest.raises(HeliographError, match=r"the engine failed: .*router"):
            await asyncio.wait_for(waiting, 5)
        assert engine.health()["status"] == "down"
        components = engine.health()["components"]  # others may have reported, and were fine then
        assert {components[name]["status"] for name in ("hub", "worker-0", "feeds")} == {"down"}

    run(test)


def test_a_router_that_fails_once_is_restarted_and_clients_stay(eventually: Eventually) -> None:
    async def test(engine: LocalEngine) -> None:
        async with RawClient(f"ws://127.0.0.1:{engine.port}/ws") as client:
            await client.subscribe("t")
            (before,) = await engine.publish([to_publish(Event.of("t", 0))])
            bad: Any = None
            engine._hub._router.tell(Arrived(bad, bad))
            async with asyncio.timeout(5):
                while len(client.offsets("t")) < 3:
                    try:
                        (after,) = await engine.publish([to_publish(Event.of("t", 1))])
                        assert after.epoch == before.epoch, "the log survives"
                    except RequestError as error:  # until its peers are back, and for what was in flight
                        assert error.code == "unavailable"
                        await asyncio.sleep(0.002)
            assert len(followed(client.messages, "t")) >= 3, "none twice, and none missing without a gap"
            assert client.closed is None
        assert engine.health()["status"] == "ok"

    run(test)


def test_the_service_manager_is_told_of_each_step() -> None:
    class Recorder(Notifier):
        def __init__(self) -> None:
            super().__init__({})
            self.told: list[str] = []

        def _send(self, *states: str) -> bool:
            self.told += [state.partition("=")[0] for state in states if state and not state.startswith("STATUS")]
            return True

    async def refuse(*_: object) -> None:
        raise ConfigError("cannot be", "feeds.x")

    async def scenario() -> None:
        notifier = Recorder()
        engine = LocalEngine(config(), notifier=notifier)
        await engine.start()
        await engine.reload(config())
        reload = ["RELOADING", "MONOTONIC_USEC", "READY"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Feeds, "reload", refuse)
            with pytest.raises(ConfigError):
                await engine.reload(config())
        await engine.drain()
        await engine.stop()
        assert notifier.told == ["READY", *reload, *reload, "STOPPING"]

    asyncio.run(scenario())
