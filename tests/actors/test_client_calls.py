"""Calls between the clients of one worker, through its hub."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from actors.call_desk import UNANSWERED
from actors.identity import Identity, grants
from actors.inner_client import InnerClient
from tests.actors.test_fanout import FakeSocket, Spine, run, until
from transport.client_messages import Ok
from transport.codes import ByeReason, CloseCode, ErrorCode
from transport.errors import RequestError
from transport.requests import Call


async def served(spine: Spine, topic: str = "job.a", *methods: str) -> FakeSocket:
    """A client that serves a topic."""
    callee = spine.connect()
    answer = await spine.answer(callee, spine.request(callee, op="serve", topic=topic, methods=methods or ("cancel",)))
    assert answer["op"] == "ok", answer
    return callee


async def called(callee: FakeSocket, number: int = 1) -> dict[str, Any]:
    """What was asked of it, the last of so many."""
    calls = await until(lambda: len(found := [m for m in callee.messages if m["op"] == "call"]) >= number and found)
    last: dict[str, Any] = calls[number - 1]
    return last


async def ask(spine: Spine, caller: FakeSocket, **fields: Any) -> dict[str, Any]:
    request = {"op": "call", "topic": "job.a", "method": "cancel", **fields}
    answer: dict[str, Any] = await spine.answer(caller, spine.request(caller, **request))
    return answer


def test_a_call_is_answered_by_who_serves_its_topic() -> None:
    async def scenario(spine: Spine) -> None:
        callee, caller = await served(spine, "job.a", "cancel", "pause"), spine.connect()
        number = spine.request(caller, op="call", topic="job.a", method="cancel", params={"why": 1.10})
        call = await called(callee)
        assert {**call, "call": ""} == {
            "op": "call", "call": "", "topic": "job.a", "method": "cancel", "params": {"why": 1.1}, "user": None,
        }  # fmt: skip
        spine.request(callee, op="result", call=call["call"], result={"cancelled": True})
        assert await spine.answer(caller, number) == {"op": "ok", "id": number, "result": {"cancelled": True}}
        # Again, and it is nobody's any more.
        late = spine.request(callee, op="result", call=call["call"], result=7)
        assert (await spine.answer(callee, late))["op"] == "ok"
        number = spine.request(caller, op="call", topic="job.a", method="pause")
        call = await called(callee, 2)
        assert call["params"] == {}
        error = {"code": "conflict", "message": "it is over", "field": "state"}
        spine.request(callee, op="result", call=call["call"], error=error)
        assert await spine.answer(caller, number) == {"op": "error", "id": number, **error}
        assert sum("result" in message for message in caller.messages) == 1

    run(scenario)


def test_what_cannot_be_called_says_why() -> None:
    async def scenario(spine: Spine) -> None:
        callee, caller = await served(spine, "job.a", "pause", "cancel"), spine.connect()
        nobody = await ask(spine, caller, topic="job.b")
        assert (nobody["code"], nobody["field"], nobody["message"]) == (
            "not_found", "topic", "nobody answers calls on job.b",
        )  # fmt: skip
        other = await ask(spine, caller, method="stop")
        assert (other["code"], other["field"]) == ("not_found", "method")
        assert other["message"] == "job.a has no method 'stop', but cancel, pause"
        assert (await ask(spine, caller, topic="job.*"))["code"] == "invalid_topic"
        assert (await ask(spine, caller, params=1, method=""))["field"] == "method"
        both = spine.request(callee, op="result", call="x", result=1, error={"code": "conflict", "message": ""})
        assert (await spine.answer(callee, both))["field"] == "error"
        for topic in ("system.metrics", "user.alice", "user.alice.inbox"):
            refused = await spine.answer(callee, spine.request(callee, op="serve", topic=topic, methods=["a"]))
            assert (refused["code"], refused["field"]) == ("forbidden", "topic")
        unserved = await spine.answer(callee, spine.request(callee, op="serve", topic="job.a", methods=[]))
        assert unserved["op"] == "ok"
        assert (await ask(spine, caller))["code"] == "not_found"

    run(scenario)


def test_the_newest_has_the_topic_until_it_goes() -> None:
    async def scenario(spine: Spine) -> None:
        first, second = await served(spine), await served(spine)
        caller = spine.connect()
        lost = spine.request(caller, op="call", topic="job.a", method="cancel")
        await called(second)
        assert second.session is not None
        second.session.on_closed(1006, "")
        answer = await spine.answer(caller, lost)
        assert answer["code"] == "unavailable"
        assert "the outcome is unknown" in answer["message"]
        number = spine.request(caller, op="call", topic="job.a", method="cancel")
        call = await called(first)
        spine.request(first, op="result", call=call["call"])
        assert (await spine.answer(caller, number))["result"] is None

    run(scenario)


def test_who_is_sent_away_is_called_no_more() -> None:
    async def scenario(spine: Spine) -> None:
        callee, caller = await served(spine), spine.connect()
        number = spine.request(caller, op="call", topic="job.a", method="cancel")
        await called(callee)
        assert callee.session is not None
        spine.worker._clients.dismiss(callee.session, CloseCode.RESTART, ByeReason.DRAIN)
        assert (await spine.answer(caller, number))["code"] == "unavailable"
        assert (await ask(spine, caller))["code"] == "not_found"

    run(scenario)


def test_who_is_about_to_be_sent_away_is_called_no_more() -> None:
    async def scenario(spine: Spine) -> None:
        callee = await served(spine)
        number = spine.request(callee, op="call", topic="job.a", method="cancel")  # itself, so that it waits
        await called(callee)
        assert spine.worker._clients.send_away(10) == 1
        assert (await spine.answer(callee, number))["code"] == "unavailable", "it is not read, so it cannot answer"
        assert spine.worker._clients.send_away(10) == 0

    run(scenario)


def test_calls_that_wait_are_bounded_and_nobody_answers_for_another() -> None:
    async def scenario(spine: Spine) -> None:
        callee, stranger, caller = await served(spine), spine.connect(), spine.connect()
        numbers = [spine.request(caller, op="call", topic="job.a", method="cancel") for _ in range(UNANSWERED)]
        last = await called(callee, UNANSWERED)
        assert (await ask(spine, caller))["code"] == "rate_limited"
        forged = spine.request(stranger, op="result", call=last["call"], result="mine")
        await spine.answer(stranger, forged)
        spine.request(callee, op="result", call=last["call"], result="ours")
        assert (await spine.answer(caller, numbers[-1]))["result"] == "ours"
        spine.request(caller, op="call", topic="job.a", method="cancel")
        await called(callee, UNANSWERED + 1)

    run(scenario)


def test_methods_of_a_session_are_bounded() -> None:
    class Narrow(Spine):
        def __init__(self) -> None:
            super().__init__()
            self.worker._clients.configure(self.worker._clients._limits._replace(subscriptions=3))

    async def scenario(spine: Spine) -> None:
        callee = await served(spine, "job.a", "a", "b")
        wanted = [("job.b", ["a", "b"], "error"), ("job.b", ["a", "a"], "ok"), ("job.a", ["c"], "ok")]
        for topic, methods, op in wanted:
            answer = await spine.answer(callee, spine.request(callee, op="serve", topic=topic, methods=methods))
            assert (answer["op"], answer.get("code")) == (op, "limit_exceeded" if op == "error" else None)

    run(scenario, Narrow)


def test_a_token_says_who_may_call_and_who_may_answer() -> None:
    def identity(user: str, **claim: list[str]) -> Identity:
        return Identity(user, 4e9, 4e9, grants(claim))

    async def scenario(spine: Spine) -> None:
        callee, caller = spine.connect(), spine.connect()
        assert callee.session is not None and caller.session is not None
        callee.session.identity = identity("robot", publish=["job.*"])
        caller.session.identity, caller.session.user = identity("alice", call=["job.a"], publish=["job.b"]), "alice"
        for socket, op, topic, more in (
            (callee, "call", "job.a", {"method": "cancel"}),
            (caller, "call", "job.b", {"method": "cancel"}),
            (caller, "serve", "job.a", {"methods": ["cancel"]}),
        ):
            refused = await spine.answer(socket, spine.request(socket, op=op, topic=topic, **more))
            assert (refused["code"], refused["field"]) == ("forbidden", "topic"), (op, topic)
        serving = spine.request(callee, op="serve", topic="job.a", methods=["cancel"])
        assert (await spine.answer(callee, serving))["op"] == "ok"
        number = spine.request(caller, op="call", topic="job.a", method="cancel")
        call = await called(callee)
        assert call["user"] == "alice"
        spine.request(callee, op="result", call=call["call"], result=1)
        assert (await spine.answer(caller, number))["result"] == 1
        callee.session.identity = identity("robot", publish=["other"])
        spine.worker._clients._calls.restrict(callee.session)
        assert (await ask(spine, caller))["code"] == "not_found"

    run(scenario)


def test_when_the_hub_goes_callers_are_told_and_serving_goes_on() -> None:
    async def scenario(spine: Spine) -> None:
        callee, caller = await served(spine), spine.connect()
        number = spine.request(caller, op="call", topic="job.a", method="cancel")
        before = await called(callee)
        spine.hub._drop_peers()
        answer = await spine.answer(caller, number)
        assert answer["code"] == "unavailable"
        await until(lambda: spine.worker._uplink.connected)
        number = spine.request(caller, op="call", topic="job.a", method="cancel")
        after = await called(callee, 2)
        assert after["call"] != before["call"]
        spine.request(callee, op="result", call=before["call"], result="old")
        spine.request(callee, op="result", call=after["call"], result="new")
        assert (await spine.answer(caller, number))["result"] == "new"

    run(scenario)


def test_what_is_served_no_more_while_the_hub_is_away_is_not_told_to_the_next_one() -> None:
    async def scenario(spine: Spine) -> None:
        callee, caller = await served(spine), spine.connect()
        spine.hub._drop_peers()
        await until(lambda: not spine.worker._uplink.connected)
        ended = await spine.answer(callee, spine.request(callee, op="serve", topic="job.a", methods=[]))
        assert ended["op"] == "ok"
        await until(lambda: spine.worker._uplink.connected)
        assert (await ask(spine, caller))["code"] == "not_found"

    run(scenario)


def test_who_does_not_keep_up_is_not_sent_away_for_calls() -> None:
    async def scenario(spine: Spine) -> None:
        callee, caller = await served(spine), spine.connect()
        half = spine.worker._clients._limits.outbox_bytes // 2
        callee.stall()
        first = spine.request(caller, op="call", topic="job.a", method="cancel", params="x" * (half - 1_000))
        refused = await ask(spine, caller, params="x" * 1_000)
        assert (refused["code"], "it was not called" in refused["message"]) == ("unavailable", True)
        callee.flow()
        spine.request(callee, op="result", call=(await called(callee))["call"], result="all of it")
        assert (await spine.answer(caller, first))["result"] == "all of it"
        spine.request(caller, op="call", topic="job.a", method="cancel", params="x" * half)
        await called(callee, 2)

    run(scenario)


def with_inner(test: Callable[[InnerClient, InnerClient], Awaitable[None]]) -> None:
    async def scenario(spine: Spine) -> None:
        one, other = InnerClient(spine.worker._clients), InnerClient(spine.worker._clients)
        await test(one, other)
        one.close()
        other.close()

    run(scenario)


def test_parts_of_the_engine_call_each_other() -> None:
    async def scenario(callee: InnerClient, caller: InnerClient) -> None:
        async def double(params: Any, user: str | None) -> Any:
            return {"twice": 2 * params["n"], "user": user}

        def refuse(params: Any, user: str | None) -> Any:
            raise RequestError(ErrorCode.CONFLICT, "not now", "n")

        def fail(params: Any, user: str | None) -> Any:
            raise OSError("/secret/path")

        async def stop(params: Any, user: str | None) -> Any:
            work = asyncio.create_task(asyncio.Event().wait())
            work.cancel()
            await work

        methods = {"double": double, "refuse": refuse, "fail": fail, "nan": lambda *_: float("nan"), "stop": stop}
        await callee.serve("sums", methods)
        assert await caller.call("sums", "double", {"n": 4}) == {"twice": 8, "user": None}
        for method, code in (
            ("refuse", "conflict"), ("fail", "internal"), ("nan", "internal"), ("stop", "internal"), ("x", "not_found"),
        ):  # fmt: skip
            with pytest.raises(RequestError) as refused:
                await caller.call("sums", method)
            assert refused.value.code == code, method
            assert "secret" not in str(refused.value)
        with pytest.raises(RequestError) as refused:
            await caller._ask(Call(id=0, topic="sums", method="double", params=msgspec.Raw(b"1e999")), Ok)
        assert (refused.value.code, refused.value.field) == ("bad_request", "params")
        with pytest.raises(RequestError, match="params"):
            await caller.call("sums", "double", float("inf"))
        await callee.serve("sums", {})
        with pytest.raises(RequestError, match="nobody answers"):
            await caller.call("sums", "double")

    with_inner(scenario)


def test_no_client_answers_for_a_part_of_the_engine() -> None:
    async def scenario(spine: Spine) -> None:
        inner = InnerClient(spine.worker._clients)
        await inner.serve("job.a", {"cancel": lambda *_: "inner"})
        await served(spine)
        assert (await ask(spine, spine.connect()))["result"] == "inner"
        inner.close()

    run(scenario)


def test_handlers_take_turns_and_end_with_their_client() -> None:
    async def scenario(callee: InnerClient, caller: InnerClient) -> None:
        began, ended = asyncio.Event(), []

        async def slow(params: Any, user: str | None) -> None:
            began.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(params)

        await callee.serve("a", {"slow": slow, "quick": lambda *_: ended.append("quick")})
        calls = [asyncio.create_task(caller.call("a", method)) for method in ("slow", "quick")]
        await began.wait()
        with pytest.raises(RequestError, match="no answer within"):
            await caller.call("a", "quick", timeout=0.01)
        await callee.end_calls(10)
        callee.close()
        for call in calls:
            with pytest.raises(RequestError) as lost:
                await call
            assert lost.value.code == "unavailable"
        assert ended == [{}]

    with_inner(scenario)
