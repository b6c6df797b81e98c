"""Calls from and to the Python clients, at a real engine in a thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from decimal import Decimal
from typing import Any

import pytest

from actors.backoff import BackoffPolicy
from engine.client import Client
from engine.engine_thread import EngineThread
from heliograph import ErrorCode, HeliographError, RequestError, WouldDeadlock

AT_ONCE = BackoffPolicy(first_s=0.01, cap_s=0.05)
Eventually = Callable[..., Awaitable[None]]


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineThread]:
    with EngineThread() as engine:
        yield engine


def run(test: Coroutine[Any, Any, None]) -> None:
    async def main() -> None:
        async with asyncio.timeout(20):
            await test

    asyncio.run(main())


async def refused(call: Coroutine[Any, Any, Any]) -> RequestError:
    with pytest.raises(RequestError) as caught:
        await call
    return caught.value


def test_handlers_answer_and_their_errors_are_the_callers(engine: EngineThread) -> None:
    async def scenario() -> None:
        async def slowly(params: Any, caller: str | None) -> Any:
            await asyncio.sleep(0)
            return {"got": params, "caller": caller, "price": Decimal("1.10")}

        def refuse(params: Any, caller: str | None) -> None:
            raise RequestError(ErrorCode.CONFLICT, "it is version 8", "version")

        def long(params: Any, caller: str | None) -> None:
            raise RequestError(ErrorCode.CONFLICT, "see field", "x" * 300)  # the engine takes 255

        def fail(params: Any, caller: str | None) -> None:
            raise OSError("/secret/path")

        async with Client(engine.url) as callee, Client(engine.url) as caller:
            named: dict[str, Any] = {"refuse": refuse, "large": lambda *_: "x" * 262_144, "odd": lambda *_: object()}
            named["long"] = long
            async with callee.serve("job", {"really?": slowly}, fail=fail, **named) as served:
                assert served.topic == "job"
                assert await caller.call("job", "really?") == {"got": {}, "caller": None, "price": 1.1}
                assert (await callee.call("job", "really?", [1]))["got"] == [1], "itself"
                error = await refused(caller.call("job", "refuse"))
                assert (error.code, error.message, error.field) == ("conflict", "it is version 8", "version")
                error = await refused(caller.call("job", "fail"))
                assert (error.code, error.message) == ("internal", "fail of job failed: OSError")
                assert (await refused(caller.call("job", "large"))).code == "limit_exceeded"
                assert (await refused(caller.call("job", "odd"))).code == "internal"
                assert (
                    await refused(caller.call("job", "long"))
                ).message == "long of job: its answer could not be sent"
                sessions = callee.session, caller.session
                assert (await refused(caller.call("job", "refuse", "x" * 262_144))).code == "limit_exceeded"
                again = caller.publish("a", "x" * 262_144, idempotency_key="would be repeated, over and over")
                assert (await refused(again)).code == "limit_exceeded"
                assert (callee.session, caller.session) == sessions, "nothing has ended a connection"
                assert (await refused(caller.call("job", "stop"))).field == "method"
                assert (await refused(caller.call("job", "fail", float("nan")))).field == "params"
                assert (await refused(callee.serve("job", stop=fail).__aenter__())).code == "conflict"
                assert (await refused(callee.serve("system.job", stop=fail).__aenter__())).code == "forbidden"
                assert (await refused(callee.serve("other").__aenter__())).field == "methods"
                assert await callee.call("job", "really?"), "a refusal has cost nothing"
            assert (await refused(caller.call("job", "refuse"))).message == "nobody answers calls on job"

    run(scenario())


def test_a_client_that_reconnects_serves_again(engine: EngineThread, eventually: Eventually) -> None:
    async def scenario() -> None:
        began = asyncio.Event()

        async def hang(params: Any, caller: str | None) -> None:
            began.set()
            await asyncio.Event().wait()

        async with Client(engine.url, reconnect=AT_ONCE) as callee, Client(engine.url) as caller:
            async with callee.serve("again", hang=hang, ping=lambda *_: "pong"):
                call = asyncio.create_task(caller.call("again", "hang"))
                await began.wait()
                before = callee.session
                assert callee._link._connection is not None
                callee._link._connection._websocket.transport.abort()
                assert (await refused(await_(call))).code == "unavailable"
                await eventually(lambda: callee.session not in ("", before), 20)
                answer = None
                while answer != "pong":
                    try:
                        answer = await caller.call("again", "ping")
                    except RequestError as error:
                        assert error.code == "not_found", error
            with pytest.raises(HeliographError, match="no answer"):
                async with callee.serve("again", hang=hang):
                    await caller.call("again", "hang", timeout=0.05)

    run(scenario())


async def await_(task: asyncio.Task[Any]) -> Any:
    return await task


def test_a_handler_may_close_its_client(engine: EngineThread) -> None:
    async def scenario() -> None:
        async with Client(engine.url) as caller:
            callee = await Client(engine.url).__aenter__()

            async def end(params: Any, caller: str | None) -> None:
                await callee.close()

            await callee.serve("end", end=end).__aenter__()
            assert (await refused(caller.call("end", "end"))).code == "unavailable"

    run(scenario())


def test_code_without_a_loop_calls_and_answers(engine: EngineThread) -> None:
    with engine.client() as callee, engine.client() as caller:
        told: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def cancel(params: Any, user: str | None) -> Any:
            try:
                callee.ping()
            except WouldDeadlock as error:
                told.set_result(error)
            return {"cancelled": params["why"]}

        with callee.serve("job", cancel=cancel):
            assert caller.call("job", "cancel", {"why": "late"}) == {"cancelled": "late"}
            assert told.result(20)
        with pytest.raises(RequestError, match="nobody answers"):
            caller.call("job", "cancel", timeout=20)
