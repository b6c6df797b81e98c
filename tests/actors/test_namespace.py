"""Applications in a namespace: their events, acknowledgements, subscriptions, refusals, and what they do wrong."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from actors import namespace_connection, socketio_door
from actors.namespace import (
    ConnectionRefused,
    Namespace,
    SocketClient,
    check_namespace,
    event_methods,
    on,
)
from engine.config import loads
from engine.socketio_wiring import check_socketio
from tests.actors.socketio_visits import FakeEngineSocket, House, config, run, until
from transport.codes import ErrorCode
from transport.errors import ConfigError, RequestError
from transport.messages import Publication

gone: list[str] = []
running: list[asyncio.Event] = []


class Desk(Namespace):
    """What the tests talk to."""

    notices = frozenset({"gap"})

    def encode(self, event: Publication) -> bytes | None:
        if event.type == "hidden":
            return None
        if event.type == "broken":
            raise KeyError(event.type)
        return b'["%b",%b]' % (event.type.encode(), event.data)

    def on_connect(self, client: SocketClient, auth: Any) -> Any:
        if auth == {"refuse": "now"}:
            raise ConnectionRefused("not you", {"why": 1})
        if auth == {"break": 1}:
            raise KeyError("a bug")
        client.data["auth"] = auth
        client.emit("hello", client.id)
        return self._later(client, auth) if auth else None

    async def _later(self, client: SocketClient, auth: Mapping[str, Any]) -> None:
        await asyncio.sleep(0)
        if auth.get("refuse") == "later":
            raise ConnectionRefused("not you either")
        if auth.get("wait"):
            await asyncio.Event().wait()
        client.emit("come in")

    def on_disconnect(self, client: SocketClient, reason: str) -> None:
        gone.append(reason)
        if reason == "parse error":
            raise KeyError("a bug")

    @on("echo")
    def echo(self, client: SocketClient, *values: Any) -> Any:
        return values

    @on("nothing")
    def nothing(self, client: SocketClient, first: int, second: int = 2) -> None: ...

    @on("bad")
    def bad(self, client: SocketClient) -> Any:
        return object()

    @on("fail")
    @on("fail again")
    async def fail(self, client: SocketClient, how: str = "") -> None:
        if how:
            raise RequestError(ErrorCode.CONFLICT, how, "how")
        raise KeyError("a bug")

    @on("wait")
    async def wait(self, client: SocketClient) -> str:
        event = asyncio.Event()
        running.append(event)
        await event.wait()
        return "done"

    @on("wait for nobody")
    async def wait_for_nobody(self, client: SocketClient) -> None:
        nobody: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        nobody.cancel()
        await nobody

    @on("bye")
    def bye(self, client: SocketClient) -> None:
        client.disconnect()

    @on("join")
    def join(self, client: SocketClient, *topics: str) -> None:
        def reply(fields: Mapping[str, Any]) -> bytes:
            if fields["op"] == "error":
                return client.packet("refused", fields["field"])
            return client.packet("joined", list(client.topics))

        client.subscribe(topics, snapshot=True, reply=reply)

    @on("join badly")
    def join_badly(self, client: SocketClient, *topics: str) -> None:
        client.subscribe(topics, reply=lambda fields: b"" + fields["nonsense"])

    @on("quit")
    def quit(self, client: SocketClient) -> None:
        client.unsubscribe("*", reply=lambda fields: client.packet("left", fields["topics"]))

    @on("census")
    async def census(self, client: SocketClient) -> Any:
        return tuple(await self.engine.census())

    @on("last")
    async def last(self, client: SocketClient, topic: str) -> Any:
        await self.engine.publish(topic, {"n": 1})
        return [event.data for event in await self.engine.snapshot(topic)]


class Sloppy(Namespace):
    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.count: Any = None

    def encode(self, event: Publication) -> Any:
        return '["tick",1]' if event.type == "text" else b'["tick",%b]' % event.data

    def subscriptions_of(self, client: SocketClient) -> Any:
        return self.count

    @on("join")
    def join(self, client: SocketClient, topic: str) -> None:
        client.subscribe(topic, snapshot=True, reply=lambda fields: client.emit("joined"))  # type: ignore[arg-type,return-value]

    @on("quit")
    def quit(self, client: SocketClient, topic: str) -> tuple[str, ...]:
        client.unsubscribe(topic)
        return client.topics


class Catch(Namespace):
    @on("*")
    def any(self, client: SocketClient, name: str, *values: Any) -> Any:
        return [name, *values]


@pytest.fixture(autouse=True)
def _nothing_is_left() -> None:
    gone.clear()
    running.clear()


def talk(test: Callable[[House], Any], toml: str = "", workers: int = 1, actor: type[Namespace] = Desk) -> None:
    run(test, config(toml, actor), workers)


# ways in and out ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("auth", "wanted"),
    [
        ('{"refuse":"now"}', '44{"message":"not you","data":{"why":1}}'),
        ('{"refuse":"later"}', '44{"message":"not you either"}'),
    ],
)
def test_it_may_refuse(auth: str, wanted: str) -> None:
    async def test(house: House) -> None:
        socket = house.visit()
        socket.say(f"0{auth}")
        await until(lambda: socket.got)
        assert socket.take() == [wanted]
        assert not house.workers[0]._clients.sessions
        assert house.workers[0]._clients.occupancy._clients == 0
        socket.say("0")  # another time it may come in
        await socket.event("hello")
        assert gone == []

    talk(test)


def test_what_is_sent_while_it_knocks_comes_behind_the_news_that_it_is_in() -> None:
    async def test(house: House) -> None:
        socket = house.visit()
        socket.say('0{"x":1}')
        await until(lambda: len(socket.got) == 3)
        [session] = house.workers[0]._clients.sessions
        assert socket.take() == [f'40{{"sid":"{session}"}}', f'42["hello","{session}"]', '42["come in"]']

    talk(test)


def test_a_bug_in_on_connect_refuses_the_client_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def test(house: House) -> None:
        socket = house.visit()
        socket.say('0{"break":1}')
        assert "a bug in the application" in str(socket.take())
        await house.enter()

    talk(test)
    assert "on_connect failed" in caplog.text


def test_who_is_not_let_in_in_time_is_told_so() -> None:
    async def test(house: House) -> None:
        socket = house.visit()
        socket.say('0{"wait":1}')
        assert "too long" in await socket.until("44")
        assert not house.workers[0]._clients.sessions

    talk(test, "connect_timeout = 0.05")


def test_too_much_for_a_client_that_is_not_in_refuses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespace_connection, "EARLY_BYTES", 10)

    async def test(house: House) -> None:
        socket = house.visit()
        socket.say('0{"wait":1}')
        assert "too much" in await socket.until("44")

    talk(test)


@pytest.mark.parametrize(
    ("code", "reason"), [(1001, "ping timeout"), (1006, "transport close"), (1012, "server shutting down")]
)
def test_it_hears_that_a_client_is_gone_and_why(code: int, reason: str) -> None:
    async def test(house: House) -> None:
        socket = await house.enter()
        socket.hung_up(code)
        assert gone == [reason]

    talk(test)


def test_it_hears_of_clients_that_leave_and_sends_others_away(caplog: pytest.LogCaptureFixture) -> None:
    async def test(house: House) -> None:
        socket = await house.enter()
        socket.say("1")
        assert gone == ["client namespace disconnect"]
        socket.say("0")
        await socket.event("hello")
        socket.emit("bye")
        await socket.until("41")
        assert gone[1:] == ["server namespace disconnect"]
        await until(lambda: socket.closed)
        broken = await house.enter()
        broken.say("9")
        await until(lambda: len(gone) == 3)  # its bug is logged, and that is all
        assert not house.workers[0]._clients.sessions

    talk(test)
    assert "on_disconnect failed" in caplog.text


# events ---------------------------------------------------------------------------------------------------------------


def test_arguments_and_acknowledgements() -> None:
    async def test(house: House) -> None:
        socket = await house.enter()
        socket.emit("echo", 1, {"a": [None]}, ack=1)
        assert await socket.ack(1) == [1, {"a": [None]}]
        socket.emit("echo", ack=2)
        assert await socket.ack(2) == []
        socket.emit("nothing", 1, ack=3)
        assert await socket.ack(3) == []
        socket.say('52-4["echo",{"_placeholder":true,"num":1},{"x":{"_placeholder":true,"num":0}}]', b"a", b"b")
        await until(lambda: len(socket.got) == 3)
        assert socket.take() == [
            '462-4[{"_placeholder":true,"num":0},{"x":{"_placeholder":true,"num":1}}]',
            b"b",
            b"a",
        ]
        socket.emit("echo", 1)  # nobody wants to know
        socket.emit("census", ack=5)
        assert await socket.ack(5) == [1, 0, None]
        socket.emit("last", "a.b", ack=6)
        assert await socket.ack(6) == [[{"n": 1}]]

    talk(test)


@pytest.mark.parametrize(
    ("text", "code", "logged"),
    [
        ('21["nothing"]', "bad_request", False),
        ('21["nothing",1,2,3]', "bad_request", False),
        ('21["no such"]', "not_found", False),
        ('21["_later"]', "not_found", False),
        ('21["encode"]', "not_found", False),
        ('21["fail","so"]', "conflict", False),
        ('21["fail"]', "internal", True),
        ('21["fail again"]', "internal", True),
        ('21["bad"]', "internal", True),
        ('21["wait for nobody"]', "internal", True),
    ],
)
def test_what_goes_wrong_is_acknowledged_too(
    text: str, code: str, logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(house: House) -> None:
        socket = await house.enter()
        socket.say(text.replace("21[", "2["), text)  # the first without acknowledgement: nothing is sent
        [answer] = await socket.ack(1)
        assert (answer["op"], answer["code"]) == ("error", code)
        assert "a bug" not in answer["message"] or logged
        assert not socket.got

    with caplog.at_level(logging.ERROR):
        talk(test)
    assert bool(caplog.records) is logged


def test_one_method_for_all_other_events() -> None:
    async def test(house: House) -> None:
        socket = await house.enter()
        socket.emit("whatever", 1, ack=1)
        assert await socket.ack(1) == [["whatever", 1]]

    talk(test, actor=Catch)


def test_a_client_for_whom_much_runs_is_not_read_and_keeps_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socketio_door, "TASKS", 2)

    async def test(house: House) -> None:
        socket = await house.enter()
        for number in range(4):
            socket.emit("wait", ack=number)
        socket.emit("echo", ack=8)
        socket.emit("echo", ack=9)
        await until(lambda: len(running) == 2)
        assert socket.paused
        assert [str(text)[:10] for text in socket.take()] == ['42["hello"']
        for number in range(4):
            await until(lambda n=number: len(running) > n)
            assert len(running) <= number + 2
            running[number].set()
        await until(lambda: not socket.paused and len(socket.got) == 6)
        assert [text for text in socket.got if "[]" in str(text)] == ["438[]", "439[]"]

    talk(test)


def test_what_runs_for_a_client_ends_with_it() -> None:
    async def test(house: House) -> None:
        socket = await house.enter()
        socket.emit("wait")
        await until(lambda: running)
        before = asyncio.all_tasks()
        socket.hung_up()
        await until(lambda: len(asyncio.all_tasks()) < len(before))

    talk(test)


# subscriptions --------------------------------------------------------------------------------------------------------


def test_the_reply_is_where_its_place_is() -> None:
    async def test(house: House) -> None:
        await house.publish("a.x", 1, type="tick")
        socket, other = await house.enter(), await house.enter()
        for each in (socket, other):
            each.emit("join", "a.*", ack=1)
            await each.ack(1)
        await until(lambda: len(socket.got) == len(other.got) == 2)
        for kind in ("hidden", "broken", "tick"):
            await house.publish("a.x", 2, type=kind)
        await until(lambda: len(socket.got) == len(other.got) == 3)
        assert socket.take() == other.take() == ['42["joined",["a.*"]]', '42["tick",1]', '42["tick",2]']
        socket.emit("census", ack=2)
        assert await socket.ack(2) == [2, 2, None]
        socket.emit("quit")
        assert await socket.event("left") == []
        socket.emit("census", ack=3)
        assert await socket.ack(3) == [2, 1, None]
        other.hung_up()
        socket.emit("census", ack=4)
        assert await socket.ack(4) == [1, 0, None]

    talk(test)


def test_a_subscription_that_is_refused_is_replied_to_as_well() -> None:
    async def test(house: House) -> None:
        socket = await house.enter()
        socket.emit("join", "a b")
        assert await socket.event("refused") == "topics[0]"
        client = socket.visitor.connections["/"].guest  # type: ignore[union-attr]
        assert client is not None
        socket.hung_up()
        told: list[Mapping[str, Any]] = []

        def reply(fields: Mapping[str, Any]) -> bytes:
            told.append(fields)
            return b""

        client.subscribe(["a"], reply=reply)
        assert [fields["op"] for fields in told] == ["error"]
        client.emit("late")

    talk(test)


def test_a_bug_in_a_reply_costs_nobody_anything(caplog: pytest.LogCaptureFixture) -> None:
    async def test(house: House) -> None:
        socket = await house.enter()
        socket.emit("join badly", "a", ack=1)
        await socket.ack(1)
        await until(lambda: "reply failed" in caplog.text)
        await house.publish("a", 1, type="tick")
        assert await socket.event("tick") == 1

    talk(test)


def test_what_is_returned_that_is_none_of_what_was_asked_for_costs_nobody_anything(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test(house: House) -> None:
        await house.publish("prices", 1, type="text")
        socket = await house.enter()
        socket.emit("join", "prices")
        await until(lambda: "a reply returns frames" in caplog.text)
        assert "subscriptions_of failed" in caplog.text
        assert "encode returns bytes or None" in caplog.text
        await house.publish("prices", 2, type="text")
        await house.publish("prices", 3)
        assert await socket.event("tick") == 3
        socket.emit("quit", "prices", ack=1)
        assert await socket.ack(1) == ["prices"], "one topic need not be in a list"

    talk(test, actor=Sloppy)


def test_who_goes_while_it_is_let_in_is_told_of_once() -> None:
    async def test(house: House) -> None:
        socket = house.visit()
        socket.say('0{"later":1}')  # its on_connect returns in the next turn
        visitor = socket.visitor
        assert visitor is not None
        connection = visitor.connections["/"]
        assert connection._tasks is not None
        [task] = connection._tasks
        while not task.done():
            await asyncio.sleep(0)
        assert (connection.open, gone) == (False, []), "nobody was told yet that it has returned"
        socket.hung_up()
        await until(lambda: gone)
        assert gone == ["transport close"]

    talk(test)


def test_it_does_not_come_in_with_less_than_was_sent_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespace_connection, "EARLY_BYTES", 10)

    async def test(house: House) -> None:
        socket = house.visit()
        socket.say("0")  # "hello" is too much, and the application has said yes in the same turn
        assert "too much" in str(socket.take())
        assert gone == ["transport close"]

    talk(test)


def test_what_still_comes_for_who_has_left_a_namespace_goes_nowhere() -> None:
    async def test(house: House) -> None:
        socket = await house.enter()
        socket.emit("join", "a")
        await socket.event("joined")
        [session] = house.workers[0]._clients.sessions.values()
        await house.publish("a", 1, type="tick")
        await socket.event("tick")
        [route] = session.routes
        socket.say("1")
        route.lanes[session.form].fast[session](b"an event")
        assert not socket.take()

    talk(test)


def test_who_is_to_go_is_not_heard_any_more() -> None:
    async def test(house: House) -> None:
        socket = await house.enter()
        socket.emit("bye")
        socket.emit("echo", 1, ack=1)
        await until(lambda: "41" in socket.got)
        assert "431[1]" not in socket.got

    talk(test)


def test_seats_are_counted_over_all_workers() -> None:
    async def test(house: House) -> None:
        first, second = await house.enter(0), await house.enter(1)
        knocking: list[FakeEngineSocket] = []
        for worker in (0, 1):
            knocking.append(house.visit(worker))
            knocking[-1].say("0")
        for socket in knocking:
            assert "the server is full: it takes 2 clients" in await socket.until("44")
        second.hung_up()
        number, clients = 1, 2
        while clients > 1:  # worker-1 has to say so first
            number += 1
            first.emit("census", ack=number)
            clients, *_ = await first.ack(number)
        await house.enter(0)
        first.emit("census", ack=1)
        assert await first.ack(1) == [2, 0, 2]

    talk(test, "clients = 2", workers=2)


# what is refused at the start -----------------------------------------------------------------------------------------


def test_methods_that_could_not_work_are_refused() -> None:
    class Twice(Namespace):
        @on("a")
        def one(self, client: SocketClient) -> None: ...
        @on("a")
        def two(self, client: SocketClient) -> None: ...

    class Nobody(Namespace):
        @on("a")
        def one(self) -> None: ...

    class Late(Namespace):
        async def on_disconnect(self, client: SocketClient, reason: str) -> None: ...  # type: ignore[override]

    for kind, text in ((Twice, "two methods for the event 'a'"), (Nobody, "must take the client")):
        with pytest.raises(ConfigError, match=text):
            event_methods(kind(options={}, engine=None))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="on_disconnect must not be async"):
        check_namespace(Late)
    with pytest.raises(ValueError, match="on_connect"):
        on("connect")


@pytest.mark.parametrize(
    ("toml", "field"),
    [
        ('path = "socket.io"', "socketio.path"),
        ('path = "/ws/"', "socketio.path"),
        ('namespaces."x".actor = "a:B"', "socketio.namespaces.x"),
        ('namespaces."/x".actor = "a.b"', "socketio.namespaces./x.actor"),
        ('engines."/socket.io/" = "a:B"', "socketio.engines./socket.io/"),
        ('engines."/e/" = "aB"', "socketio.engines./e/"),
        ("clients = 0", "socketio.clients"),
        ('namespaces."/x".actor = "json:JSONDecoder"', "socketio.namespaces./x.actor"),
        ('namespaces."/x".actor = "nowhere:X"', "socketio.namespaces./x.actor"),
        ('engines."/e/" = "json:JSONDecoder"', "socketio.engines./e/"),
    ],
)
def test_a_wrong_configuration_names_the_field(toml: str, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_socketio(loads(f"[socketio]\n{toml}"))
    assert caught.value.field == field
