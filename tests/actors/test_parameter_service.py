"""The service of live parameters, before an engine of which it needs three methods."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from actors import parameter_service
from actors.parameter_book import Change
from actors.parameter_service import ParameterService, ParameterSpec
from engine.parameter_store import ParameterStore
from tests.actors.test_parameter_book import Bounded, version
from transport.codes import ErrorCode
from transport.errors import RequestError
from transport.event import Event

Eventually = Callable[..., Awaitable[None]]


class FakeEngine:
    """Keeps what was published, and each idempotency key once."""

    def __init__(self) -> None:
        self.events: dict[str, list[dict[str, Any]]] = {}
        self.served: dict[str, Mapping[str, Any]] = {}
        self.keys: set[tuple[str, str]] = set()
        self.away = False
        self.lost_answers = 0

    async def snapshot(self, topic: str) -> list[Event]:
        return [Event.of(topic, data) for data in self.events.get(topic, [])[-1:]]

    async def serve(self, topic: str, methods: Mapping[str, Any]) -> None:
        self.served[topic] = methods

    async def publish(self, topic: str, data: dict[str, Any], *, type: str, idempotency_key: str) -> None:
        assert type == "parameters"
        if self.away:
            raise RequestError(ErrorCode.UNAVAILABLE, "no hub")
        if (topic, idempotency_key) not in self.keys:
            self.keys.add((topic, idempotency_key))
            self.events.setdefault(topic, []).append(data)
        if self.lost_answers:
            self.lost_answers -= 1
            raise RequestError(ErrorCode.UNAVAILABLE, "outcome unknown")

    def told(self, name: str = "p") -> list[int]:
        return [data["version"] for data in self.events.get(f"parameters.{name}", [])]

    async def call(self, method: str, params: Any = None, by: str | None = "anna") -> Any:
        return await self.served["parameters.p"][method](params, by)


def service(engine: FakeEngine, store: ParameterStore, schema: Bounded | None = None) -> ParameterService:
    spec = ParameterSpec("p", "parameters.p", schema or Bounded("a", "b"))
    return ParameterService(name="parameters", engine=engine, specs=(spec,), open_store=lambda: store)  # type: ignore[arg-type]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    monkeypatch.setattr(parameter_service, "AGAIN_S", 0.005)
    return FakeEngine()


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scenario())  # type: ignore[arg-type]


def test_of_many_at_once_each_change_is_made_once(engine: FakeEngine, eventually: Eventually) -> None:
    async def writer(n: int) -> None:
        for _ in range(5):
            while True:
                seen = await engine.call("get")
                wanted = {"values": {"a": seen["values"]["a"] + 1}, "version": seen["version"]}
                try:
                    await engine.call("set", wanted, f"writer-{n}")
                    break
                except RequestError as error:
                    assert error.code is ErrorCode.CONFLICT

    async def scenario() -> None:
        store = ParameterStore(None)
        it = service(engine, store, Bounded("a", most=1_000))
        await it.on_start()
        await asyncio.gather(*(writer(n) for n in range(4)))
        assert (await engine.call("get"))["values"] == {"a": 20}
        await eventually(lambda: engine.told() == list(range(1, 22)))
        await it.on_stop()
        trail = store.page("p", 1_000, None).changes
        kept = [change for change in trail if change.refused is None]
        assert [change.values for change in reversed(kept)] == [{"a": n} for n in range(21)]
        assert {change.by for change in kept[:-1]} == {f"writer-{n}" for n in range(4)}
        assert len(trail) - len(kept) == store.refused("p")

    run(scenario)


def test_get_set_and_history(engine: FakeEngine, eventually: Eventually) -> None:
    async def scenario() -> None:
        it = service(engine, ParameterStore(None))
        await it.on_start()
        found = await engine.call("set", {"values": {"a": 3}, "version": 1, "reason": "why not"})
        assert (found["version"], found["values"], found["changed"]) == (2, {"a": 3, "b": 0}, ["a"])
        same = await engine.call("set", {"values": {"a": 3}})
        assert same["version"] == 2, "nothing has changed"
        with pytest.raises(RequestError) as caught:
            await engine.call("set", {"values": {"a": 11}}, None)
        assert (caught.value.code, caught.value.field) == ("bad_request", "values.a")
        got = await engine.call("get", {})
        assert {name: got[name] for name in ("name", "version", "values", "by", "reason", "schema")} == {
            "name": "p",
            "version": 2,
            "values": {"a": 3, "b": 0},
            "by": "anna",
            "reason": "why not",
            "schema": {},
        }
        page = await engine.call("history", {"limit": 2})
        assert [(row["version"], row["by"], row["values"]) for row in page["changes"]] == [
            (2, None, {"a": 11}),
            (2, "anna", {"a": 3, "b": 0}),
        ]
        assert page["changes"][0]["refused"] == {"code": "bad_request", "message": "at most 10", "field": "values.a"}
        [last] = (await engine.call("history", {"before": page["before"]}))["changes"]
        assert (last["version"], last["by"]) == (1, None)
        [row] = (await it.answer("list", {}))["parameters"]
        assert (row["version"], row["refused"], row["trouble"]) == (2, 1, None)
        by_admin = {"name": "p", "by": "admin:ops", "params": {"values": {"b": 1}}}
        assert (await it.answer("set", by_admin))["by"] == "admin:ops"
        with pytest.raises(RequestError, match="no parameter 'q'"):
            await it.answer("get", {**by_admin, "name": "q"})
        await eventually(lambda: engine.told() == [1, 2, 3])
        event = engine.events["parameters.p"][1]
        assert set(event) == {"name", "version", "values", "changed", "by", "at", "reason"}
        await it.on_stop()

    run(scenario)


@pytest.mark.parametrize(
    ("method", "params", "field"),
    [
        ("get", {"x": 1}, "x"),
        ("set", {"values": {"a": 1}, "version": "1"}, "version"),
        ("set", {"values": 7}, "values"),
        ("set", {}, "values"),
        ("set", [1], None),
        ("set", {"values": {"a": 1 << 64}}, "values"),
        ("set", {"values": {"nobody's": -(1 << 70)}}, "values"),
        ("history", {"before": 1 << 64}, "before"),
        ("history", {"limit": 1_001}, "limit"),
    ],
)
def test_wrong_parameters_of_a_call_are_named(engine: FakeEngine, method: str, params: Any, field: str | None) -> None:
    async def scenario() -> None:
        it = service(engine, ParameterStore(None))
        await it.on_start()
        with pytest.raises(RequestError) as caught:
            await engine.call(method, params)
        assert (caught.value.code, caught.value.field) == ("bad_request", field)
        await it.on_stop()

    run(scenario)


def test_while_the_hub_is_away_versions_wait_and_come_once_in_order(engine: FakeEngine, eventually: Eventually) -> None:
    async def scenario() -> None:
        it = service(engine, ParameterStore(None))
        await it.on_start()
        await eventually(lambda: engine.told() == [1])
        engine.away = True
        for n in (1, 2, 3):
            await engine.call("set", {"values": {"a": n}})
        await eventually(lambda: it.condition.reason is not None)
        assert "p: version 2 cannot be told" in str(it.condition.reason)
        engine.away, engine.lost_answers = False, 2
        await eventually(lambda: engine.told() == [1, 2, 3, 4])
        await eventually(lambda: it.condition.reason is None)
        await it.on_stop()

    run(scenario)


def test_the_next_life_tells_what_this_one_could_not(engine: FakeEngine, eventually: Eventually) -> None:
    async def scenario() -> None:
        store = ParameterStore(None)
        it = service(engine, store)
        await it.on_start()
        await eventually(lambda: engine.told() == [1])
        engine.away = True
        await engine.call("set", {"values": {"a": 1}})
        await engine.call("set", {"values": {"a": 2}})
        await it.on_stop()
        engine.away = False
        again = service(engine, store)
        await again.on_start()
        assert (await engine.call("get"))["version"] == 3
        await eventually(lambda: engine.told() == [1, 2, 3])
        await again.on_stop()
        engine.keys.clear()  # so long ago that nobody knows them
        last = service(engine, store)
        await last.on_start()
        await engine.call("set", {"values": {"a": 3}})
        await eventually(lambda: engine.told() == [1, 2, 3, 4])
        await last.on_stop()

    run(scenario)


@pytest.mark.parametrize("before", [{"version": 9, "at": 1.0}, {"version": 1, "at": 1.0}, {"nonsense": True}])
def test_where_the_topic_says_something_else_the_newest_is_told(
    engine: FakeEngine, eventually: Eventually, before: dict[str, Any]
) -> None:
    async def scenario() -> None:
        engine.events["parameters.p"] = [before]  # of a database that is gone
        it = service(engine, ParameterStore(None))
        await it.on_start()
        await eventually(lambda: len(engine.events["parameters.p"]) == 2)
        assert engine.told()[1:] == [1] if "version" in before else engine.events["parameters.p"][1]["version"] == 1
        await it.on_stop()

    run(scenario)


def test_a_stricter_schema_is_reported_until_other_values_are_set(
    engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        store = ParameterStore(None)
        store.append("p", version(4, a=12, b=1))
        it = service(engine, store)
        await it.on_start()
        assert it.condition.reason == "p: version 4 does not fit its schema, set a: at most 10"
        assert not it.condition.down
        assert (await engine.call("get"))["values"] == {"a": 12, "b": 1}
        await engine.call("set", {"values": {"a": 10}, "version": 4})
        assert it.condition.reason is None
        await it.on_stop()

    run(scenario)
    [warning] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert (warning.parameter, warning.version, warning.message) == ("p", 4, "parameter_does_not_fit")


class Full(ParameterStore):
    """On a disk that may be full."""

    full = False

    def append(self, parameter: str, change: Change) -> None:
        if self.full:
            raise RequestError(ErrorCode.UNAVAILABLE, "the disk is full")
        super().append(parameter, change)


def test_what_cannot_be_kept_is_not_so(engine: FakeEngine, eventually: Eventually) -> None:
    async def scenario() -> None:
        store = Full(None)
        it = service(engine, store)
        await it.on_start()
        store.full = True
        with pytest.raises(RequestError, match="the disk is full"):
            await engine.call("set", {"values": {"a": 1}})
        assert (await engine.call("get"))["version"] == 1
        assert it.condition.reason == "the disk is full"
        store.full = False
        with pytest.raises(RequestError, match="at most 10"):
            await engine.call("set", {"values": {"a": 11}})
        assert it.condition.reason is None, "it could be kept that this was refused"
        assert (await engine.call("set", {"values": {"a": 2}}))["version"] == 2
        await eventually(lambda: engine.told() == [1, 2])
        assert it.condition.reason is None
        await it.on_stop()

    run(scenario)


def test_a_caller_that_goes_leaves_memory_and_disk_alike(engine: FakeEngine, eventually: Eventually) -> None:
    async def scenario() -> None:
        store = ParameterStore(None)
        it = service(engine, store)
        await it.on_start()
        call = asyncio.ensure_future(engine.call("set", {"values": {"a": 1}}))
        await asyncio.sleep(0)  # it has begun
        call.cancel()
        await asyncio.wait({call})
        await it.on_stop()
        assert (await engine.call("get"))["version"] == 2
        newest = store.latest("p")
        assert newest is not None
        assert newest.version == 2

    run(scenario)
