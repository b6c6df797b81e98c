"""Asks and tells over a pair of outlets in memory; tests/transport/test_bus.py has the sockets."""

import asyncio
import logging
from typing import Any

import pytest

from actors import remote
from actors.remote import Dispatcher, RemoteLink
from transport import codec
from transport.codes import ErrorCode
from transport.errors import CodecError, ConnectionLost, RequestError
from transport.messages import Publication, Refused, Reply


class Wire:
    """One direction: what is sent arrives at ``to`` in the next turn of the loop."""

    def __init__(self) -> None:
        self.to: Any = None
        self.up = True

    def send(self, packed: bytes) -> None:
        if not self.up:
            raise ConnectionLost("the wire is cut")
        (message,) = codec.unpack_batch(codec.join([packed]))
        asyncio.get_running_loop().call_soon(self.to.receive, message)


class Calculator:
    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.never = asyncio.Event()

    def on_note(self, body: Any) -> None:
        self.heard.append(body)

    def on_add(self, body: Any) -> Any:
        return sum(body)

    async def on_slow_add(self, body: Any) -> Any:
        await asyncio.sleep(0)
        return sum(body)

    async def on_wait(self, body: Any) -> None:
        await self.never.wait()

    def on_forbid(self, body: Any) -> None:
        raise RequestError(ErrorCode.FORBIDDEN, "not you", "user")

    async def on_fail(self, body: Any) -> None:
        raise ZeroDivisionError("a secret")

    def on_object(self, body: Any) -> Any:
        return object()

    def on_hidden(self, body: Any) -> None:
        raise AssertionError("not registered")


METHODS = ("note", "add", "slow_add", "wait", "forbid", "fail", "object")


class Pair:
    """Two ends of a link, both with a calculator."""

    def __init__(self) -> None:
        self.there, self.back = Wire(), Wire()
        self.calculator = Calculator()
        self.dispatcher = Dispatcher()
        self.dispatcher.register("calculator", self.calculator, METHODS)
        self.left = RemoteLink(self.there, self.dispatcher)
        self.right = RemoteLink(self.back, self.dispatcher)
        self.there.to, self.back.to = self.right, self.left

    def cut(self) -> None:
        self.there.up = self.back.up = False
        self.left.lost("cut")
        self.right.lost("cut")


def run(test):
    async def main() -> None:
        pair = Pair()
        await asyncio.wait_for(test(pair), 5)
        await pair.dispatcher.close()

    asyncio.run(main())


def test_ask_returns_the_answer_in_both_directions():
    async def test(pair: Pair) -> None:
        for link in (pair.left, pair.right):
            actor = link.ref("calculator")
            assert await actor.ask("add", [1, 2]) == 3
            assert await actor.ask("slow_add", [3, 4]) == 7
            answers = await asyncio.gather(*(actor.ask("slow_add", [i, 1]) for i in range(100)))
            assert answers == list(range(1, 101))
            assert not link._pending

    run(test)


def test_tell_arrives_in_order_and_unanswered():
    async def test(pair: Pair) -> None:
        actor = pair.left.ref("calculator")
        for i in range(10):
            actor.tell("note", i)
        await actor.ask("add", [])
        assert pair.calculator.heard == list(range(10))

    run(test)


@pytest.mark.parametrize(
    ("actor", "method", "code", "message"),
    [
        ("calculator", "forbid", "forbidden", "not you"),
        ("calculator", "fail", "internal", "calculator.fail failed: ZeroDivisionError"),
        ("calculator", "object", "internal", "calculator.object failed: CodecError"),
        ("calculator", "hidden", "not_found", "there is no calculator.hidden"),
        ("calculator", "__init__", "not_found", "there is no calculator.__init__"),
        ("abacus", "add", "not_found", "there is no abacus.add"),
    ],
)
def test_a_refusal_keeps_its_code(actor, method, code, message):
    async def test(pair: Pair) -> None:
        with pytest.raises(RequestError) as caught:
            await pair.left.ref(actor).ask(method, [1])
        assert (caught.value.code, caught.value.message) == (code, message)
        assert caught.value.field == ("user" if code == "forbidden" else None)
        assert not pair.left._pending

    run(test)


def test_a_tell_that_fails_is_logged_and_harms_nothing(caplog):
    async def test(pair: Pair) -> None:
        actor = pair.left.ref("calculator")
        actor.tell("fail")
        actor.tell("nothing")
        assert await actor.ask("slow_add", [1]) == 1
        assert await actor.ask("add", [1]) == 1

    with caplog.at_level(logging.WARNING):
        run(test)
    assert {record.getMessage().split(":")[0] for record in caplog.records} == {
        "calculator.fail failed",
        "calculator.nothing was told in vain",
    }


def test_a_lost_link_fails_what_waits_at_once_and_what_comes_later():
    async def test(pair: Pair) -> None:
        actor = pair.left.ref("calculator")
        waiting = [asyncio.ensure_future(actor.ask("wait", timeout=60)) for _ in range(3)]
        await actor.ask("add", [])
        pair.cut()
        for answer in waiting:
            with pytest.raises(RequestError, match="unavailable: the other end is gone: cut"):
                await answer
        with pytest.raises(RequestError, match="unavailable: the wire is cut"):
            await actor.ask("add", [1])
        with pytest.raises(ConnectionLost):
            actor.tell("note", 1)
        pair.there.up = pair.back.up = True
        assert await actor.ask("add", [1]) == 1

    run(test)


def test_the_deadline_is_unavailable_and_a_late_answer_is_dropped():
    async def test(pair: Pair) -> None:
        actor = pair.left.ref("calculator")
        with pytest.raises(RequestError, match=r"unavailable: calculator.wait did not answer within 0.01 s"):
            await actor.ask("wait", timeout=0.01)
        assert not pair.left._pending
        pair.calculator.never.set()
        assert await actor.ask("slow_add", [1]) == 1

    run(test)


def test_closing_the_dispatcher_refuses_what_runs():
    async def test(pair: Pair) -> None:
        answer = asyncio.ensure_future(pair.left.ref("calculator").ask("wait"))
        await pair.left.ref("calculator").ask("add", [])
        await pair.dispatcher.close()
        with pytest.raises(RequestError, match="unavailable: calculator stopped before it answered"):
            await answer

    run(test)


def test_too_many_at_once_are_refused(monkeypatch):
    monkeypatch.setattr(remote, "MAX_RUNNING", 2)

    async def test(pair: Pair) -> None:
        actor = pair.left.ref("calculator")
        answers = [asyncio.ensure_future(actor.ask("wait")) for _ in range(2)]
        await actor.ask("add", [])
        with pytest.raises(RequestError, match="limit_exceeded"):
            await actor.ask("wait")
        monkeypatch.setattr(remote, "MAX_PENDING", 2)
        with pytest.raises(RequestError, match="limit_exceeded: 2 questions wait"):
            await actor.ask("add", [])
        pair.calculator.never.set()
        assert await asyncio.gather(*answers) == [None, None]

    run(test)


def test_other_messages_are_left_to_the_owner():
    async def test(pair: Pair) -> None:
        assert not pair.left.receive(Publication("a", "e", 1, 1.0, "t", b"1"))
        assert not pair.left.receive(Refused(7, "forbidden", "a publish of the owner's"))
        assert pair.left.receive(Refused(-7, "forbidden", "an ask that was given up"))
        assert pair.left.receive(Reply(-7, None))

    run(test)


def test_a_link_without_a_dispatcher_refuses_asks():
    async def test(pair: Pair) -> None:
        pair.there.to = RemoteLink(pair.back)
        with pytest.raises(RequestError, match="not_found: no actor answers on this link"):
            await pair.left.ref("calculator").ask("add", [1])

    run(test)


def test_an_unknown_code_from_the_other_end_is_internal():
    async def test(pair: Pair) -> None:
        answer = asyncio.ensure_future(pair.left.ref("calculator").ask("wait"))
        await asyncio.sleep(0)
        pair.left.receive(Refused(-1, "new_code", "from a later version"))
        with pytest.raises(RequestError, match="internal: refused with an unknown code 'new_code'"):
            await answer

    run(test)


def test_what_cannot_be_packed_or_registered_is_said_at_once():
    async def test(pair: Pair) -> None:
        with pytest.raises(CodecError):
            await pair.left.ref("calculator").ask("add", object())
        assert not pair.left._pending
        with pytest.raises(ValueError, match="calculator has no on_divide"):
            pair.dispatcher.register("calculator", pair.calculator, ["divide"])
        with pytest.raises(ValueError, match=r"calculator\.add is registered already"):
            pair.dispatcher.register("calculator", pair.calculator, ["add"])
        pair.dispatcher.unregister("calculator")
        with pytest.raises(RequestError, match="not_found"):
            await pair.left.ref("calculator").ask("add", [1])

    run(test)
