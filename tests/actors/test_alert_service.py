"""The service of alerts between an engine that fails and a disk that remembers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import pytest

from actors import alert_service
from actors.alert_rule import AlertRule
from actors.alert_service import AlertService
from actors.alert_store import AlertStore
from actors.inner_client import InnerClient
from tests.actors.test_alarms import event
from tests.actors.test_alert_rule import CALM, HIGH, rule
from transport.codes import ErrorCode, Priority
from transport.errors import RequestError

DEADLINE = 30.0
Eventually = Callable[..., Awaitable[None]]


class Engine:
    """What the service wants of an engine; ``fails`` is what publishing raises, used up from the left."""

    def __init__(self) -> None:
        self.published: list[tuple[str, str, str, Priority]] = []
        self.keys: list[str] = []
        self.fails: list[ErrorCode] = []
        self.served: dict[str, Any] = {}

    async def publish(self, topic: str, data: Any, *, type: str, key: str, priority: Priority, **more: str) -> None:
        self.keys.append(more["idempotency_key"])
        if self.fails:
            raise RequestError(self.fails.pop(0), "as it was asked to")
        self.published.append((topic, type, key, priority))

    async def serve(self, topic: str, methods: Any) -> None:
        self.served[topic] = methods["acknowledge"]


class Stand:
    """Lives of a service, one after the other, on one engine, one disk and one clock."""

    def __init__(self) -> None:
        self.engine, self.store, self.now = Engine(), AlertStore(None), 1_000.0

    async def begin(self, rules: Sequence[AlertRule] = (rule(severity="critical"),)) -> AlertService:
        service = AlertService(
            name="alerts",
            engine=cast(InnerClient, self.engine),
            rules=rules,
            webhooks={},
            store=self.store,
            clock=lambda: self.now,
        )
        await service.on_start()
        return service


FIRED = ("alert.cpu", "alert_fired", "cpu", Priority.CRITICAL)
CLEARED = ("alert.cpu", "alert_cleared", "cpu", Priority.CRITICAL)


def test_what_the_last_life_could_not_tell_is_told_once_by_the_next() -> None:
    async def scenario() -> None:
        stand = Stand()
        service = await stand.begin()
        await service.on_position("log:1")
        stand.engine.fails = [ErrorCode.INTERNAL]
        with pytest.raises(RequestError):
            await service.on_events([event(HIGH, 1)])
        await service.on_stop()
        assert stand.engine.published == []
        service = await stand.begin()
        assert stand.engine.published == [FIRED]
        assert len(stand.engine.keys) == 2
        assert len(set(stand.engine.keys)) == 1, "the hub can tell a repetition"
        assert await service.position() == "log:1"
        await service.on_events([event(HIGH, 1), event(CALM, 2)])
        assert stand.engine.published == [FIRED, CLEARED]
        await service.on_stop()
        await (await stand.begin()).on_stop()
        assert len(stand.engine.published) == 2

    asyncio.run(scenario())


def test_a_hub_that_is_away_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alert_service, "PAUSE", 0.001)

    async def scenario() -> None:
        stand = Stand()
        service = await stand.begin()
        stand.engine.fails = [ErrorCode.UNAVAILABLE] * 3
        await service.on_events([event(HIGH, 1)])
        assert stand.engine.published == [FIRED]
        await service.on_stop()

    asyncio.run(scenario())


def test_an_event_that_is_refused_for_good_holds_up_nobody() -> None:
    async def scenario() -> None:
        stand = Stand()
        service = await stand.begin()
        stand.engine.fails = [ErrorCode.LIMIT_EXCEEDED]
        await service.on_events([event(HIGH, 1)])
        assert "alert.cpu was refused: limit_exceeded" in str(service.condition.reason)
        assert len((await service.answer("list", {}))["alerts"]) == 1
        await service.on_events([event(CALM, 2)])
        assert (stand.engine.published, service.condition.reason) == ([CLEARED], None)
        await service.on_stop()
        await (await stand.begin()).on_stop()
        assert stand.engine.published == [CLEARED], "it is not tried again"

    asyncio.run(scenario())


def test_one_that_is_away_for_long_ends_this_life_and_the_next_one_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alert_service, "PAUSE", 0.001)
    monkeypatch.setattr(alert_service, "PATIENCE", 0.0)

    async def scenario() -> None:
        stand = Stand()
        service = await stand.begin()
        await service.on_events([event(HIGH, 1)])
        stand.engine.fails = [ErrorCode.UNAVAILABLE] * 9
        call = stand.engine.served["alert.cpu"]
        for _ in range(3):
            with pytest.raises(RequestError) as refused:
                await call({}, "ann")
            assert refused.value.code is ErrorCode.UNAVAILABLE
        stand.engine.fails.clear()
        with pytest.raises(RequestError):
            await service.on_events([event(CALM, 2)])
        assert stand.engine.published == [FIRED], "nothing is told before what came first"
        await service.on_stop()
        service = await stand.begin()
        await service.on_events([event(CALM, 2)])
        assert [told[1] for told in stand.engine.published] == ["alert_fired", "alert_acknowledged", "alert_cleared"]
        await service.on_stop()

    asyncio.run(scenario())


def test_nobody_fires_by_the_clock_before_all_that_happened_meanwhile_was_seen(eventually: Eventually) -> None:
    async def scenario() -> None:
        stand = Stand()
        service = await stand.begin([rule(for_s=5.0), rule(name="other", pattern="b", for_s=5.0)])
        await service.on_position("log:1")
        await service.on_events([event(HIGH, 1), event(HIGH, 1, "b")])
        await service.on_stop()
        service = await stand.begin([rule(for_s=5.0), rule(name="other", pattern="b", for_s=5.0)])
        for _ in range(10):
            await asyncio.sleep(0)
        assert stand.engine.published == []
        await service.on_events([event(CALM, 3)])  # within its time
        await service.on_position("log:2")
        await eventually(lambda: len(stand.engine.published) == 1, DEADLINE)
        assert stand.engine.published[0][:2] == ("alert.other", "alert_fired")
        await service.on_stop()

    asyncio.run(scenario())


def test_acknowledging_by_call_and_by_the_admin_api() -> None:
    async def scenario() -> None:
        stand = Stand()
        service = await stand.begin()
        await service.on_events([event(HIGH, 1)])
        call = stand.engine.served["alert.cpu"]
        for wrong in (None, [], {"note": 1}, {"unknown": 1}):
            with pytest.raises(RequestError) as refused:
                await call(wrong, "ann")
            assert refused.value.code is ErrorCode.BAD_REQUEST
        answer = await call({"note": "mine", "by": "eve", "rule": "other"}, "ann")
        assert (answer["rule"], answer["acknowledged"]["by"]) == ("cpu", "ann"), "nobody speaks for another"
        await service.answer("acknowledge", {"rule": "cpu", "subject": None, "note": None, "by": "admin:ops"})
        [alert] = (await service.answer("list", {}))["alerts"]
        assert alert["acknowledged"] == {"by": "admin:ops", "at": 1_000.0, "note": None}
        assert [type for _, type, *_ in stand.engine.published[1:]] == ["alert_acknowledged"] * 2  # noqa: A001
        with pytest.raises(RequestError, match="no method"):
            await service.answer("delete", {})
        await service.on_stop()

    asyncio.run(scenario())


def test_when_a_task_of_it_ends_so_does_this_life(eventually: Eventually) -> None:
    async def scenario() -> None:
        stand = Stand()
        service = await stand.begin([rule(for_s=1.0)])
        await service.on_events([event(HIGH, 1)])
        stand.engine.fails = [ErrorCode.INTERNAL]
        await service.on_position("log:1")
        await eventually(lambda: service.condition.reason is not None, DEADLINE)
        for hook in (service.on_events([]), service.on_position("log:2"), service.answer("list", {})):
            with pytest.raises(RequestError, match="as it was asked to"):
                await hook
        await service.on_stop()

    asyncio.run(scenario())
