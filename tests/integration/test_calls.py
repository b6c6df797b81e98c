"""Calls across two workers, with what is killed meanwhile: every call is answered, and serving goes on."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import msgpack
import pytest

from actors.backoff import BackoffPolicy
from heliograph import Client, ConnectionLost, RequestError
from tests.integration.harness import ROOT, EngineProcess, RawClient
from tests.integration.test_auth import AUTH, forbidden, mint
from tests.integration.test_msgpack import DECIMAL, PackedClient

Eventually = Callable[..., Awaitable[None]]
DEADLINE = 30.0  # s
AT_ONCE = BackoffPolicy(first_s=0.05, cap_s=0.2)
WORKERS = ("worker-0", "worker-1")
EVERYTHING = mint("robot", 3_600, subscribe=[">"], publish=[">"], call=[">"])
CALLEE = """
import asyncio, sys
from heliograph import Client

async def main():
    async with Client(sys.argv[1], token=sys.argv[2]) as client:
        async with client.serve("job.process", hang=lambda *_: hang()):
            print("serves", flush=True)
            await asyncio.Event().wait()

async def hang():
    print("hangs", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineProcess]:
    engine = EngineProcess(AUTH, workers=2)
    yield engine
    code = engine.stop()
    left = engine.destroy()
    assert (code, left) == (0, []), engine.tail


async def on_both_workers(stack: AsyncExitStack, engine: EngineProcess) -> tuple[Client, Client]:
    """A client of each worker, the first one's first."""
    found: dict[str, Client] = {}
    while len(found) < len(WORKERS):
        client = Client(engine.url, token=EVERYTHING, reconnect=AT_ONCE)
        await stack.enter_async_context(client)
        found.setdefault((await client.stats())["worker"], client)
    return found["worker-0"], found["worker-1"]


async def answer(client: Client, topic: str, method: str, params: Any = None) -> Any:
    """When somebody serves it: until the callee and the engine are back, calls are refused or lost."""
    async with asyncio.timeout(DEADLINE):
        while True:
            try:
                return await client.call(topic, method, params)
            except ConnectionLost:
                continue
            except RequestError as error:
                assert error.code in ("not_found", "unavailable"), error
                await asyncio.sleep(0.02)


async def lost(call: asyncio.Task[Any]) -> None:
    with pytest.raises(RequestError, match="outcome is unknown") as caught:
        async with asyncio.timeout(DEADLINE):
            await call
    assert caught.value.code == "unavailable"


def test_a_json_client_calls_a_msgpack_client_of_another_worker(engine: EngineProcess) -> None:
    async def scenario() -> None:
        async with PackedClient(engine.url) as callee, AsyncExitStack() as stack:
            assert (await callee.request("auth", token=EVERYTHING))["op"] == "ok"
            assert (await callee.request("serve", topic="job.packed", methods=["price"]))["op"] == "ok"
            here = (await callee.request("stats"))["stats"]["worker"]
            worker = ""
            while worker in ("", here):
                token = mint("alice", call=["job.*"])
                caller = await stack.enter_async_context(RawClient(engine.url, token))
                worker = (await caller.request("stats"))["stats"]["worker"]
            asked = caller.send("call", topic="job.packed", method="price", params={"bid": 5, "name": "é"})
            while (call := await callee.receive())["op"] != "call":
                pass
            wanted = {"topic": "job.packed", "method": "price", "user": "alice", "params": {"bid": 5, "name": "é"}}
            assert call == {"op": "call", "call": call["call"], **wanted}
            digits = msgpack.ExtType(DECIMAL, b"1.1000")
            told = await callee.request("result", call=call["call"], result={"bid": digits, "list": [None, True]})
            assert told["op"] == "ok"
            found = await asyncio.wait_for(asked, DEADLINE)
            assert found["result"] == {"bid": 1.1, "list": [None, True]}

    asyncio.run(scenario())


def test_a_token_says_who_may_call_and_who_may_answer(engine: EngineProcess) -> None:
    async def scenario() -> None:
        reader = mint("alice", subscribe=[">"], publish=["job.b"], call=["job.b", "other.*"])
        async with RawClient(engine.url, reader) as alice, Client(engine.url, token=EVERYTHING) as robot:
            async with robot.serve("job.a", who=lambda _, caller: caller):
                await forbidden(alice, "call", "topic", topic="job.a", method="who")
                await forbidden(alice, "serve", "topic", topic="job.a", methods=["who"])
                await forbidden(alice, "serve", "topic", topic="system.metrics", methods=["who"])
                await forbidden(alice, "serve", "topic", topic="user.alice", methods=["who"])
                assert await robot.call("job.a", "who") == "robot"
            async with robot.serve("job.b", who=lambda _, caller: caller):
                found = await alice.request("call", topic="job.b", method="who")
                assert found["result"] == "alice"
                assert (await alice.request("serve", topic="job.b", methods=["what"]))["op"] == "ok"
                with pytest.raises(RequestError, match="no method 'who', but what"):
                    await robot.call("job.b", "who")
                other = mint("alice", publish=["job.c"])
                assert (await alice.request("auth", token=other))["op"] == "ok"
                assert await answer(robot, "job.b", "who") == "robot", "alice serves it no more"

    asyncio.run(scenario())


def test_the_death_of_who_is_called_answers_the_caller(engine: EngineProcess, eventually: Eventually) -> None:
    async def scenario() -> None:
        async with Client(engine.url, token=EVERYTHING) as caller:
            command = [sys.executable, "-c", CALLEE, engine.url, EVERYTHING]
            with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as callee:
                assert callee.stdout is not None
                assert await asyncio.to_thread(callee.stdout.readline) == "serves\n"
                call = asyncio.create_task(caller.call("job.process", "hang"))
                assert await asyncio.to_thread(callee.stdout.readline) == "hangs\n"
                callee.kill()
            await lost(call)
            with pytest.raises(RequestError, match="nobody answers calls"):
                await caller.call("job.process", "hang")

    asyncio.run(scenario())


@pytest.mark.parametrize("victim", ["worker-0", "hub"])
def test_calls_go_on_when_a_process_of_the_engine_was_killed(engine: EngineProcess, victim: str) -> None:
    async def scenario() -> None:
        began = asyncio.Event()

        async def hang(params: Any, caller: str | None) -> None:
            began.set()
            await asyncio.Event().wait()

        async with AsyncExitStack() as stack:
            callee, caller = await on_both_workers(stack, engine)
            await stack.enter_async_context(callee.serve("job.kill", hang=hang, echo=lambda params, _: params))
            assert await caller.call("job.kill", "echo", 1) == 1
            call = asyncio.create_task(caller.call("job.kill", "hang"))
            await began.wait()
            engine.kill(victim)
            await lost(call)
            assert await answer(caller, "job.kill", "echo", 2) == 2
            assert await answer(callee, "job.kill", "echo", 3) == 3

    asyncio.run(scenario())
