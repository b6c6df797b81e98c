"""Services and their runner, in one worker with its hub."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

import actors.inner_client
from actors import recall, service_runner
from actors.backoff import BackoffPolicy
from actors.inner_client import InnerClient
from actors.service import Service, callable_on
from actors.service_runner import Finish, ServicePolicy, ServiceRunner, ServiceSpec, Standing
from actors.supervisor import ChildSpec, Supervisor
from engine.config import loads
from tests.actors import test_fanout
from tests.actors.test_fanout import Spine, run, until
from transport.client_messages import Gap
from transport.errors import RequestError
from transport.event import Event
from transport.meter import Condition

FAST = ServicePolicy(backoff=BackoffPolicy(first_s=0.001, cap_s=0.002))


class Kept(Service):
    """Keeps what comes in what outlives it: its options."""

    def __init__(self, *, name: str, options: Any, engine: InnerClient) -> None:
        super().__init__(name=name, options=options, engine=engine)
        self.kept: Keep = options["keep"]
        self.kept.lives.append(self)

    async def on_start(self) -> None:
        self.kept.calls.append("on_start")
        await self.kept.hook("on_start", self)

    async def on_stop(self) -> None:
        self.kept.calls.append("on_stop")
        await self.kept.hook("on_stop", self)

    async def position(self) -> str | None:
        return self.kept.position

    async def on_events(self, batch: list[Event]) -> None:
        self.kept.tried.append([event.data for event in batch])
        await self.kept.hook("on_events", self)
        self.kept.values += [event.data for event in batch]

    async def on_gap(self, gap: Gap) -> None:
        self.kept.gaps.append(gap)

    async def on_position(self, position: str) -> None:
        self.kept.position = position
        self.kept.at.append(len(self.kept.values))

    @callable_on("kept.a", "kept.b")
    async def count(self, params: Any, caller: str | None) -> Any:
        await self.kept.hook("count", self)
        return {"values": len(self.kept.values), "params": params, "caller": caller}

    @callable_on("kept.b")
    def forget(self, params: Any, caller: str | None) -> None:
        self.kept.values.clear()


class Keep:
    """What outlives a service, and what a test does in its hooks."""

    def __init__(self) -> None:
        self.lives: list[Kept] = []
        self.calls: list[str] = []
        self.tried: list[list[Any]] = []
        self.values: list[Any] = []
        self.gaps: list[Gap] = []
        self.at: list[int] = []
        self.position: str | None = None
        self.hooks: dict[str, Callable[[Kept], Awaitable[None]]] = {}

    async def hook(self, name: str, service: Kept) -> None:
        if name in self.hooks:
            await self.hooks[name](service)


class Stage:
    """One service on a spine."""

    def __init__(self, spine: Spine, policy: ServicePolicy, topics: tuple[str, ...]) -> None:
        self.keep = Keep()
        options = {"keep": self.keep}
        spec = ServiceSpec("kept", lambda engine: Kept(name="kept", options=options, engine=engine), topics, policy)
        self.standing = Standing(policy.backoff)
        self.client = spine.worker.inner_client()
        self.spec = ChildSpec(
            "service kept",
            lambda: ServiceRunner(spec=spec, client=spine.worker.inner_client, standing=self.standing),
        )
        self.supervisor: Any = None

    def start(self) -> None:
        self.supervisor = Supervisor.start(children=[self.spec], on_escalate=pytest.fail)

    async def begun(self) -> None:
        """From here on events are its."""
        await until(lambda: self.keep.position is not None)

    async def publish(self, *values: Any) -> None:
        for value in values:
            await self.client.publish("a", value)

    async def finish(self) -> None:
        await self.spec.ref.ask_async(Finish(), timeout=10)

    async def end(self) -> None:
        """As a process does; it may be started again."""
        await self.finish()
        await self.supervisor.stop_async(timeout=5)
        self.spec = ChildSpec("service kept", self.spec.create)


def with_service(
    test: Callable[[Spine, Stage], Awaitable[None]],
    policy: ServicePolicy = FAST,
    topics: tuple[str, ...] = ("a",),
) -> None:
    async def scenario(spine: Spine) -> None:
        stage = Stage(spine, policy, topics)
        try:
            await test(spine, stage)
        finally:
            if stage.supervisor is not None:
                await stage.supervisor.stop_async(timeout=5)
            stage.client.close()

    run(scenario)


def test_it_gets_events_and_positions_behind_them() -> None:
    async def scenario(_: Spine, stage: Stage) -> None:
        keep = stage.keep
        assert stage.standing.condition == Condition("it starts")
        stage.start()
        await stage.begun()
        await stage.publish(1, 2, 3)
        await stage.client.publish("b", "not for it")
        await until(lambda: keep.at[-1] == 3)
        assert keep.values == [1, 2, 3]
        assert keep.at[0] == 0, "where it began"
        assert (stage.standing.events, stage.standing.failures, stage.standing.condition) == (3, 0, Condition())
        await stage.finish()
        assert keep.calls == ["on_start", "on_stop"]

    with_service(scenario)


def test_after_an_error_another_object_begins_at_the_position() -> None:
    async def scenario(spine: Spine, stage: Stage) -> None:
        keep = stage.keep
        stage.start()
        await stage.begun()
        position = keep.position
        await stage.publish(1)
        await until(lambda: keep.values == [1])
        keep.position = position  # the event is behind what it has kept
        failing = True

        async def fail(_: Kept) -> None:
            if failing:
                raise OSError("the disk is full")

        keep.hooks["on_events"] = fail
        await stage.publish(2)
        await until(lambda: stage.standing.failures >= 3)
        assert stage.standing.condition.reason == "OSError: the disk is full"
        assert stage.standing.condition.retry_in is not None
        await stage.publish(3)
        failing = False
        await until(lambda: keep.values[-1] == 3)
        assert keep.values == [1, 1, 2, 3]
        assert stage.standing.condition == Condition()
        assert not spine.failures
        assert keep.calls.count("on_stop") == stage.standing.failures
        assert len(keep.lives) == stage.standing.failures + 1

    with_service(scenario)


def test_what_came_while_it_could_not_start_is_not_lost() -> None:
    async def scenario(_: Spine, stage: Stage) -> None:
        keep = stage.keep
        stage.start()
        await stage.begun()
        await stage.end()
        await stage.publish(*range(2_500))
        refused = 2

        async def refuse(_: Kept) -> None:
            nonlocal refused
            refused -= 1
            if refused >= 0:
                raise ConnectionRefusedError("no database")

        keep.hooks["on_start"] = refuse
        stage.start()
        await until(lambda: len(keep.values) == 2_500)
        assert keep.values == list(range(2_500))
        assert max(map(len, keep.tried)) <= actors.inner_client.BATCH
        assert stage.standing.failures == 2

    with_service(scenario)


@pytest.mark.parametrize("hook", ["on_start", "on_events"])
def test_a_hook_that_hangs_is_cancelled_and_reported(hook: str) -> None:
    policy = FAST._replace(work=0.05, stop=0.05)

    async def scenario(_: Spine, stage: Stage) -> None:
        keep, cancelled = stage.keep, 0

        async def hang(_: Kept) -> None:
            nonlocal cancelled
            try:
                await asyncio.sleep(3_600)
            except asyncio.CancelledError:
                cancelled += 1
                raise

        keep.hooks["on_stop"] = hang  # costs only its own time
        if hook == "on_events":
            stage.start()
            await stage.begun()
        keep.hooks[hook] = hang
        if hook == "on_start":
            stage.start()
        await stage.publish(1)
        await until(lambda: stage.standing.failures >= 1)
        await until(lambda: (stage.standing.condition.reason or "").startswith(f"{hook} has not returned within 0.05"))
        assert cancelled >= 1
        keep.hooks.clear()
        if hook == "on_events":
            await until(lambda: keep.values == [1])
        await until(lambda: stage.standing.condition == Condition())

    with_service(scenario, policy)


def test_a_hook_that_ignores_its_end_is_reported_and_no_other_life_begins() -> None:
    async def scenario(_: Spine, stage: Stage) -> None:
        keep, free = stage.keep, asyncio.Event()

        async def stubborn(_: Kept) -> None:
            while not free.is_set():
                try:
                    await free.wait()
                except asyncio.CancelledError:
                    continue

        keep.hooks["on_events"] = stubborn
        stage.start()
        await stage.begun()
        await stage.publish(1)
        await until(lambda: stage.standing.condition.reason)
        await asyncio.sleep(0.05)
        assert len(keep.lives) == 1
        keep.hooks.clear()
        free.set()
        await until(lambda: keep.values == [1])  # late, but done
        await until(lambda: stage.standing.condition == Condition())
        assert len(keep.lives) == 1

    with_service(scenario, FAST._replace(work=0.02))


@pytest.mark.parametrize("slow_policy", ["gap", "disconnect"])
def test_a_slow_service_reads_the_log_and_costs_others_nothing(
    slow_policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actors.inner_client, "ROOM", 10_000)
    monkeypatch.setattr(test_fanout, "CONFIG", loads(f'[delivery]\nslow_policy = "{slow_policy}"'))

    async def scenario(spine: Spine, stage: Stage) -> None:
        keep, go_on = stage.keep, asyncio.Event()

        async def wait(_: Kept) -> None:
            await go_on.wait()

        keep.hooks["on_events"] = wait
        other = spine.connect()
        await spine.answer(other, spine.request(other, op="subscribe", topics=["a"]))
        stage.start()
        await stage.begun()
        await stage.publish(*(f"{i:02}".ljust(100_000) for i in range(30)))  # three times what an outbox holds
        await until(lambda: len([m for m in other.messages if m["op"] == "event"]) == 30)
        go_on.set()
        await until(lambda: keep.values and int(keep.values[-1]) == 29)
        assert not keep.gaps and not stage.standing.failures
        assert [int(value) for value in keep.values] == list(range(30)), "each once"

    with_service(scenario)


def test_what_the_log_has_no_longer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_fanout, "CONFIG", loads("[history]\nsize = 5"))

    async def scenario(_: Spine, stage: Stage) -> None:
        keep = stage.keep
        stage.start()
        await stage.begun()
        await stage.publish(1)
        await until(lambda: keep.at[-1] == 1)
        await stage.end()
        await stage.publish(*range(2, 22))
        stage.start()
        await until(lambda: keep.values[-1] == 21)
        assert keep.values == [1, *range(17, 22)]
        assert [(gap.first, gap.last) for gap in keep.gaps] == [(2, 16)]
        assert stage.standing.missed == 15

    with_service(scenario)


def test_what_is_more_than_is_recalled_at_once_is_read_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recall, "RECALL_EVENTS", 10)
    monkeypatch.setattr(service_runner, "PAGE", 7)

    async def scenario(_: Spine, stage: Stage) -> None:
        keep = stage.keep
        stage.start()
        await stage.begun()
        await stage.end()
        await stage.publish(*range(50))
        stage.start()
        await until(lambda: keep.values and keep.values[-1] == 49)
        assert keep.values == list(range(50))
        assert not keep.gaps

    with_service(scenario)


def test_it_may_publish_and_read_and_say_how_it_is() -> None:
    async def scenario(_: Spine, stage: Stage) -> None:
        async def work(service: Kept) -> None:
            await service.engine.publish("alert.a", {"seen": len(await service.engine.history("a"))}, type="alert")
            service.report("down", "no database", retry_in=3_600)

        stage.keep.hooks["on_events"] = work
        stage.start()
        await stage.begun()
        await stage.publish(1)
        await until(lambda: stage.standing.events)
        [alert] = await stage.client.snapshot("alert.a")
        assert (alert.type, alert.data) == ("alert", {"seen": 1})
        condition = stage.standing.condition
        assert (condition.reason, condition.down) == ("no database", True)
        assert condition.retry_in is not None and 3_590 < condition.retry_in <= 3_600
        stage.keep.lives[0].report("ok", "whatever")
        assert msgspec.structs.replace(stage.standing.condition, retry_in=None) == Condition()
        stage.keep.lives[0].report("degraded")
        assert stage.standing.condition == Condition("degraded")

    with_service(scenario)


def test_without_topics_it_gets_none_and_lives() -> None:
    async def scenario(_: Spine, stage: Stage) -> None:
        stage.start()
        await until(lambda: stage.standing.condition == Condition())
        await stage.finish()
        assert stage.keep.calls == ["on_start", "on_stop"]
        assert stage.keep.position is None

    with_service(scenario, topics=())


def test_finishing_lets_the_batch_in_hand_come_to_its_end() -> None:
    async def scenario(spine: Spine, stage: Stage) -> None:
        keep, go_on, inner = stage.keep, asyncio.Event(), spine.worker._clients.inner

        async def wait(_: Kept) -> None:
            await go_on.wait()

        keep.hooks["on_events"] = wait
        stage.start()
        await stage.begun()
        await stage.publish(1)
        await until(lambda: keep.tried)
        await stage.publish(2)
        sessions = len(inner)
        finishing = asyncio.create_task(stage.finish())
        await until(lambda: len(inner) < sessions)  # its stream is closed
        go_on.set()
        await finishing
        assert keep.values == [1]
        assert keep.calls == ["on_start", "on_stop"]

    with_service(scenario)


def test_one_that_waits_after_a_failure_finishes_at_once() -> None:
    async def scenario(_: Spine, stage: Stage) -> None:
        async def fail(_: Kept) -> None:
            raise RuntimeError

        stage.keep.hooks["on_start"] = fail
        stage.start()
        await until(lambda: stage.standing.failures)
        await stage.finish()
        assert stage.standing.condition.reason == "RuntimeError"
        assert len(stage.keep.lives) == 1

    patient = BackoffPolicy(first_s=3_600, cap_s=3_600, jitter=False)
    with_service(scenario, FAST._replace(backoff=patient))


def test_clients_call_what_is_marked_and_it_takes_its_turn() -> None:
    async def scenario(_: Spine, stage: Stage) -> None:
        keep, busy, going = stage.keep, asyncio.Event(), asyncio.Event()

        async def wait(_: Kept) -> None:
            busy.set()
            await going.wait()

        keep.hooks["on_events"] = wait
        stage.start()
        await stage.begun()
        answer = await stage.client.call("kept.a", "count", [7])
        assert answer == {"values": 0, "params": [7], "caller": None}
        await stage.publish(1)
        await busy.wait()
        call = asyncio.create_task(stage.client.call("kept.b", "count"))
        with pytest.raises(RequestError, match="no method 'forget', but count"):
            await stage.client.call("kept.a", "forget")
        assert not call.done(), "on_events is at work"
        going.set()
        assert (await call)["values"] == 1
        await stage.client.call("kept.b", "forget")
        assert keep.values == []

    with_service(scenario)


def test_a_call_that_fails_does_not_end_a_life_and_an_end_of_life_ends_calls() -> None:
    async def scenario(_: Spine, stage: Stage) -> None:
        keep, began = stage.keep, asyncio.Event()

        async def fail(_: Kept) -> None:
            raise OSError("as it was asked to")

        async def hang(_: Kept) -> None:
            began.set()
            await asyncio.Event().wait()

        keep.hooks["count"] = fail
        stage.start()
        await stage.begun()
        with pytest.raises(RequestError, match="failed: OSError"):
            await stage.client.call("kept.a", "count")
        assert stage.standing.failures == 0
        keep.hooks["count"] = hang
        call = asyncio.create_task(stage.client.call("kept.a", "count"))
        await began.wait()
        await stage.publish(1)
        await until(lambda: keep.lives[0].engine.turn._waiters)  # a hook is to come after it
        await stage.finish()
        with pytest.raises(RequestError, match="the outcome is unknown"):
            await call
        assert keep.calls == ["on_start", "on_stop"]

    with_service(scenario)
