"""How a program follows a parameter, with a client of which it needs little."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Self

import pykka
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta, Struct

from engine import client_parameters
from engine.client_parameters import Parameters, ParametersChanged
from transport.client_messages import Gap
from transport.codes import ErrorCode
from transport.errors import MailboxFull, RequestError
from transport.event import Event

Eventually = Callable[..., Awaitable[None]]


class Model(Struct):
    a: Annotated[int, Meta(le=100)] = 0
    b: int = 0


class FakeClient:
    """A parameter of the engine, and one subscription to it."""

    state = "open"

    def __init__(self) -> None:
        self.version, self.at, self.values = 1, 1.0, {"a": 0, "b": 0}
        self.items: asyncio.Queue[Event | Gap] = asyncio.Queue()
        self.calls: list[str] = []
        self.errors: list[Exception] = []

    # the engine's side

    def change(self, tell: bool = True, **values: int) -> None:
        self.version, self.at = self.version + 1, self.at + 1
        self.values = {**self.values, **values}
        if tell:
            self.tell()

    def tell(self) -> None:
        self.items.put_nowait(Event.of("parameters.p", {"name": "p", "changed": [], "reason": None, **self.now()}))

    def now(self) -> dict[str, Any]:
        return {"version": self.version, "at": self.at, "values": self.values, "by": "anna"}

    # the client's side

    def subscribe(self, topic: str, on_gap: Any) -> Self:
        assert topic == "parameters.p"
        self.on_gap = on_gap
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while True:
            item = await self.items.get()
            if isinstance(item, Event):
                return item
            await self.on_gap(item)

    async def call(self, topic: str, method: str, params: Any = None) -> Any:
        self.calls.append(method)
        if self.errors:
            raise self.errors.pop(0)
        if method == "set":
            if params["version"] != self.version:
                raise RequestError(ErrorCode.CONFLICT, "there is a newer one", "version")
            self.change(**params["values"])
        return self.now()


class Actor:
    """Keeps its messages."""

    def __init__(self) -> None:
        self.got: list[ParametersChanged] = []

    def tell(self, message: ParametersChanged) -> None:
        self.got.append(message)

    @property
    def versions(self) -> list[int]:
        return [message.version for message in self.got]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_parameters, "AGAIN_S", 0.005)
    monkeypatch.setattr(client_parameters, "OPEN_S", 0.02)


GAP = Gap("parameters.p", "e", 1, 2, "overflow")
Scenario = Callable[[FakeClient, Parameters[Model], Actor], Awaitable[None]]


def follow(scenario: Scenario) -> None:
    async def main() -> None:
        client, actor = FakeClient(), Actor()
        async with Parameters(client, "p", Model) as parameters:  # type: ignore[arg-type]
            parameters.deliver_to(actor)
            await scenario(client, parameters, actor)

    asyncio.run(main())


def test_an_actor_gets_the_present_and_each_version_once_in_order(eventually: Eventually) -> None:
    async def scenario(client: FakeClient, parameters: Parameters[Model], actor: Actor) -> None:
        client.change(a=1)
        client.change(b=5)
        client.tell()  # again, as a service that begins anew does
        client.change(a=2)
        await eventually(lambda: parameters.version == 4)
        assert [(m.version, m.changed) for m in actor.got] == [(1, ("a", "b")), (2, ("a",)), (3, ("b",)), (4, ("a",))]
        assert actor.got[2] == ParametersChanged("p", 3, Model(a=1, b=5), ("b",), "anna")
        assert parameters.values == Model(a=2, b=5)
        assert client.calls == ["get"]

    follow(scenario)


def test_what_is_missing_is_read(eventually: Eventually) -> None:
    async def scenario(client: FakeClient, parameters: Parameters[Model], actor: Actor) -> None:
        client.change(tell=False, a=1)
        client.change(b=1)  # 3 comes, 2 has not
        await eventually(lambda: parameters.version == 3)
        client.change(tell=False, a=9)
        client.items.put_nowait(GAP)
        await eventually(lambda: parameters.version == 4)
        client.change(a=10)
        await eventually(lambda: parameters.version == 5)
        assert actor.versions == [1, 3, 4, 5]
        assert actor.got[1].changed == ("a", "b")
        assert client.calls == ["get"] * 3

    follow(scenario)


def test_who_does_not_answer_is_asked_again(eventually: Eventually) -> None:
    async def scenario(client: FakeClient, parameters: Parameters[Model], actor: Actor) -> None:
        client.change(tell=False, a=1)
        client.errors = [RequestError(ErrorCode.UNAVAILABLE, "away"), RequestError(ErrorCode.NOT_FOUND, "nobody")]
        client.items.put_nowait(GAP)
        await eventually(lambda: actor.versions == [1, 2])

    follow(scenario)


def test_events_that_the_answer_has_overtaken_are_no_change(eventually: Eventually) -> None:
    async def scenario(client: FakeClient, parameters: Parameters[Model], actor: Actor) -> None:
        client.items.put_nowait(GAP)
        for n in range(5):
            client.change(a=n + 1)
        await eventually(lambda: client.items.empty())
        client.change(b=1)
        await eventually(lambda: parameters.version == 7)
        assert actor.versions == [1, 6, 7]
        assert client.calls == ["get", "get"]

    follow(scenario)


def test_an_answer_that_events_have_overtaken_is_no_step_back(eventually: Eventually) -> None:
    async def scenario(client: FakeClient, parameters: Parameters[Model], actor: Actor) -> None:
        answered = asyncio.Event()

        async def refresh() -> None:
            call = client.call

            async def slow(*args: Any) -> Any:
                answer = await call(*args)
                await answered.wait()
                return answer

            client.call = slow  # type: ignore[method-assign]
            await parameters.refresh()

        reading = asyncio.create_task(refresh())
        await asyncio.sleep(0)
        client.change(a=1)
        await eventually(lambda: parameters.version == 2)
        answered.set()
        await reading
        assert (parameters.version, actor.versions) == (2, [1, 2])

    follow(scenario)


def test_an_answer_to_set_that_events_have_overtaken_is_no_step_back(eventually: Eventually) -> None:
    async def scenario(client: FakeClient, parameters: Parameters[Model], actor: Actor) -> None:
        call, answered = client.call, asyncio.Event()

        async def slow(*args: Any) -> Any:
            answer = await call(*args)
            await answered.wait()
            return answer

        client.call = slow  # type: ignore[method-assign]
        setting = asyncio.create_task(parameters.set(a=1))
        await asyncio.sleep(0)
        client.change(a=2)
        await eventually(lambda: parameters.version == 3)
        answered.set()
        assert await setting == 2
        assert (parameters.version, parameters.values.a, actor.versions) == (3, 2, [1, 2, 3])

    follow(scenario)


def test_an_engine_that_lost_what_it_had_is_believed(eventually: Eventually) -> None:
    async def scenario(client: FakeClient, parameters: Parameters[Model], actor: Actor) -> None:
        client.change(a=1)
        await eventually(lambda: parameters.version == 2)
        client.version, client.at, client.values = 1, 100.0, {"a": 0, "b": 0}
        client.tell()
        await eventually(lambda: parameters.version == 1)
        client.change(a=7)
        await eventually(lambda: parameters.values.a == 7)
        assert actor.versions == [1, 2, 1, 2]

    follow(scenario)


def test_set_compares_with_what_is_known_here(eventually: Eventually) -> None:
    async def scenario(client: FakeClient, parameters: Parameters[Model], actor: Actor) -> None:
        assert await parameters.set({"a": 1}, b=2, reason="r") == 2
        assert parameters.values == Model(a=1, b=2)  # at once, and the event is no other change
        client.change(tell=False, a=3)
        with pytest.raises(RequestError) as caught:
            await parameters.set(a=4)
        assert caught.value.code is ErrorCode.CONFLICT
        await parameters.refresh()
        assert await parameters.set(a=parameters.values.a + 1) == 4
        await eventually(lambda: client.items.empty())
        assert (parameters.values.a, actor.versions) == (4, [1, 2, 3, 4])

    follow(scenario)


def test_a_version_that_does_not_fit_the_model_changes_nothing(
    eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(client: FakeClient, parameters: Parameters[Model], actor: Actor) -> None:
        client.change(a=101)
        client.items.put_nowait(Event.of("parameters.p", "nonsense"))
        await eventually(lambda: client.items.empty())
        assert (parameters.version, parameters.values.a) == (1, 0)
        client.change(a=102)
        client.change(a=100)
        await eventually(lambda: parameters.version == 4)
        assert actor.versions == [1, 4]

    follow(scenario)
    assert "version 2 does not fit the model: bad_request: Expected `int` <= 100 (field a)" in caplog.text
    assert "an event that is none of it" in caplog.text


def test_a_receiver_that_fails_keeps_no_other_from_being_told(
    eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    class Full(Actor):
        def tell(self, message: ParametersChanged) -> None:
            super().tell(message)
            if message.version == 2:
                raise MailboxFull("it is full")

    async def scenario(client: FakeClient, parameters: Parameters[Model], actor: Actor) -> None:
        full, last = Full(), Actor()
        parameters.deliver_to(full)
        parameters.deliver_to(last)
        client.change(a=1)
        client.change(a=2)
        await eventually(lambda: parameters.version == 3)
        assert actor.versions == full.versions == last.versions == [1, 2, 3]

    follow(scenario)
    assert "version 2 of parameter p is not told" in caplog.text


# what happens: a change whose event comes or is lost, the last event again, the engine's word that something was lost
HAPPENINGS = st.lists(st.sampled_from(["change", "lost", "again", "gap", "rest"]), max_size=25)


@settings(max_examples=50)
@given(HAPPENINGS)
def test_whatever_is_lost_or_repeated_versions_rise_and_the_newest_comes(happenings: list[str]) -> None:
    async def scenario(client: FakeClient, parameters: Parameters[Model], actor: Actor) -> None:
        for what in [*happenings, "gap"]:
            if what in ("change", "lost"):
                client.change(tell=what == "change", a=client.values["a"] + 1)
            elif what == "again":
                client.tell()
            elif what == "gap":
                client.items.put_nowait(GAP)
            else:
                await asyncio.sleep(0)
        while not client.items.empty() or parameters.version != client.version:
            await asyncio.sleep(0)
        assert actor.versions == sorted(set(actor.versions))
        assert actor.versions[-1] == client.version
        assert all(message.values.a == message.version - 1 for message in actor.got)

    async def main() -> None:
        async with asyncio.timeout(10):
            client, actor = FakeClient(), Actor()
            async with Parameters(client, "p", Model) as parameters:  # type: ignore[arg-type]
                parameters.deliver_to(actor)
                await scenario(client, parameters, actor)

    asyncio.run(main())


def test_a_dead_actor_is_told_no_more(eventually: Eventually) -> None:
    class Dead:
        asked = 0

        def tell(self, message: object) -> None:
            self.asked += 1
            if self.asked > 1:
                raise pykka.ActorDeadError("it is dead")

    async def scenario(client: FakeClient, parameters: Parameters[Model], actor: Actor) -> None:
        dead = Dead()
        parameters.deliver_to(dead)
        client.change(a=1)
        client.change(a=2)
        await eventually(lambda: actor.versions == [1, 2, 3])
        assert dead.asked == 2

    follow(scenario)


@pytest.mark.parametrize(
    ("errors", "values", "code"),
    [
        ([RequestError(ErrorCode.NOT_FOUND, "nobody answers")] * 100, {"a": 1}, "not_found"),
        ([RequestError(ErrorCode.FORBIDDEN, "no")], {"a": 1}, "forbidden"),
        ([], {"a": 101}, "bad_request"),
    ],
)
def test_entering_says_why_it_cannot(errors: list[Exception], values: dict[str, int], code: str) -> None:
    async def main() -> None:
        client = FakeClient()
        client.errors, client.values = list(errors), values
        with pytest.raises(RequestError) as caught:
            async with Parameters(client, "p", Model):  # type: ignore[arg-type]
                raise AssertionError
        assert caught.value.code == code

    asyncio.run(main())


def test_entering_waits_for_an_engine_that_has_just_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_parameters, "OPEN_S", 30.0)

    async def main() -> None:
        client = FakeClient()
        client.errors = [RequestError(ErrorCode.NOT_FOUND, "nobody answers")] * 3
        async with Parameters(client, "p", dict) as parameters:  # type: ignore[arg-type]
            assert parameters.values == {"a": 0, "b": 0}

    asyncio.run(main())
