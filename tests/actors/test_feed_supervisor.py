from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop
from websockets.asyncio.server import ServerConnection, serve

from actors import feed_supervisor
from actors.backoff import BackoffPolicy
from actors.breaker import BreakerPolicy
from actors.feed import FeedSpec
from actors.feed_protocol import MappedProtocol, ProtocolSpec
from actors.feed_supervisor import ApplyFeeds, FeedGaveUp, FeedsApplied, FeedSupervisor, GetFeeds, OperateFeed
from actors.mapping import FeedMap
from actors.recovery import RecoveryPolicy
from actors.ref import Ref
from actors.supervisor import ChildSpec, Supervisor
from transport.errors import ConfigError, RequestError
from transport.messages import Publish

DEADLINE_S = 15.0
QUICK = RecoveryPolicy(BackoffPolicy(first_s=0.01, cap_s=0.05), BreakerPolicy(failures=1_000))


def run(main: Coroutine[Any, Any, None]) -> None:
    uvloop.run(asyncio.wait_for(main, DEADLINE_S))


async def until(condition: Callable[[], Coroutine[Any, Any, bool]]) -> None:
    give_up = time.monotonic() + DEADLINE_S / 2
    while not await condition():
        assert time.monotonic() < give_up, "it did not happen in time"
        await asyncio.sleep(0.005)


class Hub:
    """Counts by topic; publishing ``poison`` is a bug that crashes the connection actor."""

    def __init__(self) -> None:
        self.count: dict[str, int] = {}
        self.poison: str | None = None

    def publish(self, batch: list[Publish]) -> None:
        for event in batch:
            if event.topic == self.poison:
                raise RuntimeError("a bug")
            self.count[event.topic] = self.count.get(event.topic, 0) + 1

    @property
    def is_writable(self) -> bool:
        return True

    async def writable(self) -> None:
        pass


@asynccontextmanager
async def upstream() -> AsyncIterator[str]:
    """Ticks every few milliseconds until the client leaves."""

    async def play(connection: ServerConnection) -> None:
        while True:
            await connection.send('{"symbol":"A"}')
            await asyncio.sleep(0.005)

    async with serve(play, "127.0.0.1", 0, compression=None) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/"


def spec(name: str, url: str, **fields: Any) -> FeedSpec:
    maps = (FeedMap(topic=f"{name}.{{symbol}}", **fields),)
    return FeedSpec(name, (url,), ProtocolSpec(MappedProtocol, {"maps": maps}), recovery=QUICK)


@asynccontextmanager
async def supervising(
    hub: Hub, *specs: FeedSpec, known: dict[str, Any] | None = None, on_change: Callable[[], None] = lambda: None
) -> AsyncIterator[Ref]:
    ref = FeedSupervisor.start(hub, specs, known, on_change)
    assert isinstance(ref, Ref)
    try:
        yield ref
    finally:
        await ref.stop_async(timeout=10)


async def states(ref: Ref) -> dict[str, str]:
    return {name: feed["state"] for name, feed in (await ref.ask_async(GetFeeds())).items()}


async def until_states(ref: Ref, **expected: str) -> None:
    async def reached() -> bool:
        return await states(ref) == expected

    await until(reached)


async def until_more(hub: Hub, topic: str) -> None:
    before = hub.count.get(topic, 0)

    async def more() -> bool:
        return hub.count.get(topic, 0) > before + 2

    await until(more)


def test_every_feed_flows_and_a_broken_one_costs_the_others_nothing() -> None:
    async def main() -> None:
        hub = Hub()
        async with (
            upstream() as url,
            supervising(hub, spec("a", url), spec("b", url), spec("c", "ws://127.0.0.1:1/")) as ref,
        ):
            await until_more(hub, "a.A")
            await until_more(hub, "b.A")
            feeds = await ref.ask_async(GetFeeds())
            assert (feeds["a"]["state"], feeds["b"]["state"]) == ("connected", "connected")
            assert feeds["c"]["state"] in ("reconnecting", "connecting")
            assert "refused" in feeds["c"]["last_error"]

    run(main())


def test_a_reload_adds_removes_and_restarts_what_changed_and_leaves_the_rest_alone() -> None:
    async def main() -> None:
        hub = Hub()
        async with (
            upstream() as url,
            supervising(hub, spec("kept", url), spec("gone", url), spec("new_map", url)) as ref,
        ):
            await until_states(ref, kept="connected", gone="connected", new_map="connected")
            before = await ref.ask_async(GetFeeds())
            wanted = (spec("kept", url), spec("new_map", url, type="other"), spec("added", url))
            applied = await ref.ask_async(ApplyFeeds(wanted))
            assert applied == FeedsApplied(("added",), ("gone",), ("new_map",))
            await until_states(ref, kept="connected", new_map="connected", added="connected")
            after = await ref.ask_async(GetFeeds())
            assert after["kept"]["since"] == before["kept"]["since"]
            assert after["new_map"]["since"] > before["new_map"]["since"]
            assert after["new_map"]["messages"] >= before["new_map"]["messages"]
            gone = hub.count["gone.A"]
            await until_more(hub, "added.A")
            assert hub.count["gone.A"] == gone
            assert await ref.ask_async(ApplyFeeds(wanted)) == FeedsApplied((), (), ())

    run(main())


def test_a_bad_reload_names_the_field_and_changes_nothing() -> None:
    async def main() -> None:
        hub = Hub()
        async with upstream() as url, supervising(hub, spec("a", url)) as ref:
            await until_states(ref, a="connected")
            for specs, field in (
                ((spec("b", url), spec("c", url, data={"x": ".."})), "feeds.c.map.data.x"),
                ((spec("b", url), spec("b", url)), "feeds.b"),
            ):
                with pytest.raises(ConfigError) as caught:
                    await ref.ask_async(ApplyFeeds(specs))
                assert caught.value.field == field
            assert await states(ref) == {"a": "connected"}

    run(main())


def test_a_crash_restarts_the_connection_and_keeps_its_counters() -> None:
    async def main() -> None:
        hub = Hub()
        async with upstream() as url, supervising(hub, spec("a", url)) as ref:
            await until_more(hub, "a.A")
            before = (await ref.ask_async(GetFeeds()))["a"]
            hub.poison = "a.A"

            async def crashed() -> bool:
                return "crashed" in str((await ref.ask_async(GetFeeds()))["a"]["last_error"])

            await until(crashed)
            hub.poison = None
            await until_more(hub, "a.A")
            after = (await ref.ask_async(GetFeeds()))["a"]
            assert after["state"] == "connected"
            assert after["last_error"] == "crashed: RuntimeError"
            assert after["published"] >= before["published"] + 3

    run(main())


def test_a_feed_that_keeps_crashing_is_paused_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_supervisor, "FAILED_RETRY_S", 0.3)

    async def main() -> None:
        hub = Hub()
        hub.poison = "bad.A"
        async with upstream() as url, supervising(hub, spec("bad", url), spec("good", url)) as ref:
            await until_states(ref, bad="failed", good="connected")
            bad = (await ref.ask_async(GetFeeds()))["bad"]
            assert 0 < bad["retry_in"] <= 0.3
            assert bad["reason"]
            await until_more(hub, "good.A")
            hub.poison = None
            await until_states(ref, bad="connected", good="connected")

    run(main())


def test_operators_act_on_a_feed_by_name() -> None:
    async def main() -> None:
        hub = Hub()
        async with upstream() as url, supervising(hub, spec("a", url), spec("b", url)) as ref:
            await until_states(ref, a="connected", b="connected")
            for name, action, code in (("x", "reset", "not_found"), ("a", "connect", "conflict")):
                with pytest.raises(RequestError) as caught:
                    await ref.ask_async(OperateFeed(name, action))
                assert caught.value.code == code
            answer = await ref.ask_async(OperateFeed("a", "disconnect"))
            assert (answer["state"], answer["held"]) == ("disconnected", True)
            assert await states(ref) == {"a": "disconnected", "b": "connected"}
            await ref.ask_async(OperateFeed("a", "connect"))
            await until_states(ref, a="connected", b="connected")

    run(main())


def test_a_successor_in_another_process_knows_what_its_predecessor_knew() -> None:
    async def main() -> None:
        hub, known, told = Hub(), {}, []
        open_for_long = RecoveryPolicy(BackoffPolicy(0.001, 0.001), BreakerPolicy(failures=2, open_s=50))
        dead = FeedSpec("dead", ("ws://127.0.0.1:1/",), spec("dead", "ws://x").protocol, recovery=open_for_long)
        async with upstream() as url:
            async with supervising(
                hub, dead, spec("held", url), known=known, on_change=lambda: told.append(known["dead"]["state"])
            ) as ref:
                await until_states(ref, dead="reconnecting", held="connected")

                async def is_open() -> bool:
                    return bool((await ref.ask_async(GetFeeds()))["dead"]["breaker"]["state"] == "open")

                await until(is_open)
                await ref.ask_async(OperateFeed("held", "disconnect"))
                await ref.ask_async(GetFeeds())
                assert told[-1] == "reconnecting"
                survives = json.loads(json.dumps(known))  # as a process that is killed leaves it
            async with supervising(hub, dead, spec("held", url), known=survives) as ref:
                feeds = await ref.ask_async(GetFeeds())
                assert (feeds["dead"]["breaker"]["state"], feeds["dead"]["breaker"]["opens"]) == ("open", 1)
                assert feeds["dead"]["attempts"] == 2
                assert 40 < feeds["dead"]["retry_in"] <= 50
                assert (feeds["held"]["state"], feeds["held"]["held"]) == ("disconnected", True)
                await ref.ask_async(OperateFeed("held", "connect"))
                await until_states(ref, dead="reconnecting", held="connected")

    run(main())


def test_a_feed_supervisors_successor_leaves_what_waits_waiting_and_what_has_failed() -> None:
    async def main() -> None:
        known: dict[str, Any] = {}
        feed = spec("x", "ws://127.0.0.1:1/")
        gives_up = RecoveryPolicy(BackoffPolicy(0.001, 0.001), BreakerPolicy(failures=1), give_up=True)
        waits = RecoveryPolicy(BackoffPolicy(50, 50, jitter=False))
        specs = [
            dataclasses.replace(feed, name="failed", recovery=gives_up),
            dataclasses.replace(feed, name="waits", recovery=waits),
        ]
        made: list[FeedSupervisor] = []

        def make() -> FeedSupervisor:
            made.append(FeedSupervisor(Hub(), specs, known))
            return made[-1]

        child = ChildSpec("feeds", make)
        supervisor = Supervisor.start(children=[child])
        expected = {"failed": "failed", "waits": "reconnecting"}
        await until_states(child.ref, **expected)
        child.ref.tell(FeedGaveUp(None, None, "a bug"))  # type: ignore[arg-type]
        await until_states(child.ref, **expected)
        assert len(made) == 2
        assert {name: feed["attempts"] for name, feed in known.items()} == {"failed": 1, "waits": 1}
        assert 40 < known["waits"]["retry_in"] <= 50
        await supervisor.stop_async()

    run(main())


def test_a_stop_leaves_no_task_behind() -> None:
    async def main() -> None:
        hub = Hub()
        async with upstream() as url:
            async with supervising(hub, spec("a", url), spec("b", "ws://127.0.0.1:1/")) as ref:
                await until_more(hub, "a.A")
            left = [task.get_name() for task in asyncio.all_tasks() if "feed" in task.get_name()]
            assert not left
            count = hub.count["a.A"]
            assert not ref.is_alive()
            await asyncio.sleep(0)
            assert hub.count["a.A"] == count
        gc.collect()  # a socket left open would warn here

    run(main())
