"""Socket.IO packets to sessions: the namespace of native requests, ways in and out, and what strangers may send."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from typing import Any

import jwt
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors import socketio_door
from tests.actors.socketio_visits import FakeEngineSocket, House, config, run, until
from transport.requests import NamedDecoder

SECRET = secrets.token_urlsafe(24)


def token(*topics: str) -> str:
    return jwt.encode({"sub": "ann", "exp": time.time() + 60, "heliograph": {"subscribe": topics}}, SECRET, "HS256")


# native requests ----------------------------------------------------------------


def test_requests_are_events_and_answers_are_acknowledgements() -> None:
    async def test(house: House) -> None:
        socket = await house.enter()
        socket.emit("subscribe", {"topics": ["a.*"]}, ack=1)
        [answer] = await socket.ack(1)
        assert (answer["op"], answer["topics"]) == ("ok", ["a.*"])
        assert "id" not in answer
        socket.say('22["publish",{"topic":"a.x","key":"k","data":{"v":1.50}}]')  # digits as they are
        got = await socket.until('42["event"')
        assert '"key":"k","data":{"v":1.50}}' in got
        socket.emit("publish", {"topic": "a.x", "data": 2}, ack=3)
        [answer] = await socket.ack(3)
        assert answer["offset"] == 2
        for number, name, fields, wanted in [
            (4, "snapshot", {"topics": ["a.x"]}, "events"),
            (5, "history", {"topic": "a.x", "limit": 10}, "events"),
            (6, "subscriptions", {}, "subscriptions"),
            (7, "ping", {}, "ts"),
            (8, "stats", {}, "stats"),
            (9, "unsubscribe", {"topics": "*"}, "topics"),
        ]:
            socket.emit(name, *([fields] if fields else []), ack=number)
            [answer] = await socket.ack(number)
            assert answer["op"] == "ok", answer
            assert wanted in answer
        assert not socket.take()

    run(test)


@pytest.mark.parametrize(
    ("text", "code", "field"),
    [
        ('21["nonsense"]', "not_found", None),
        ('21["call",{}]', "unsupported", None),
        ('21["subscribe"]', "bad_request", "topics"),
        ('21["subscribe",{"topics":["a"]},2]', "bad_request", None),
        ('21["subscribe",["a"]]', "bad_request", None),
        ('21["subscribe",{"topics":["a b"]}]', "invalid_topic", "topics[0]"),
        ('21["subscribe",{"topics":["a"],"op":"publish"}]', "bad_request", "op"),
        ('21["publish",{"topic":"a","data":1,"colour":2}]', "bad_request", "colour"),
        ('21["publish",{"topic":"system.a","data":1}]', "forbidden", "topic"),
        ('21["auth",{"token":"x"}]', "bad_request", "op"),
    ],
)
def test_a_bad_request_is_answered_with_its_field(text: str, code: str, field: str | None) -> None:
    async def test(house: House) -> None:
        socket = await house.enter()
        socket.say(text)
        [answer] = await socket.ack(1)
        assert (answer["op"], answer["code"], answer.get("field")) == ("error", code, field)
        socket.say(text.replace("21[", "2[", 1))  # and where nobody waits for an acknowledgement, by an event
        assert (await socket.event("error"))["code"] == code
        assert socket.closed is None

    run(test)


def test_bytes_are_refused() -> None:
    async def test(house: House) -> None:
        socket = await house.enter()
        socket.say('51-1["publish",{"topic":"a","data":{"_placeholder":true,"num":0}}]', b"x")
        [answer] = await socket.ack(1)
        assert answer["code"] == "bad_request"

    run(test)


@given(op=st.sampled_from(["publish", "subscribe", "ping"]), body=st.binary(max_size=40), request_id=st.just(3))
def test_whatever_is_decoded_is_a_request_or_an_error(op: str, body: bytes, request_id: int) -> None:
    decoder = NamedDecoder()
    try:
        values = msgspec.json.decode(b"[%b]" % body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    if len(values) == 1:
        try:
            assert decoder.decode(op, body, request_id).id == request_id
        except Exception as error:
            assert type(error).__name__ == "RequestError"


def test_its_own_id_and_op_do_not_count() -> None:
    request = NamedDecoder().decode("ping", b'{"op":"ping","id":9}', 3)
    assert (type(request).__name__, request.id) == ("Ping", 3)


# ways in and out ----------------------------------------------------------------


def test_namespaces() -> None:
    async def test(house: House) -> None:
        socket = house.visit()
        socket.say("0/nowhere,")
        assert socket.take() == ['44/nowhere,{"message":"Invalid namespace"}']
        socket.say("0", "1")
        assert str(socket.take()[0]).startswith('40{"sid":')
        assert not house.workers[0]._clients.sessions
        socket.say('2["ping"]')  # it may not have heard yet that it is out
        assert socket.closed is None
        socket.say("0")
        assert len(house.workers[0]._clients.sessions) == 1
        socket.hung_up()
        assert not house.workers[0]._clients.sessions

    run(test)


@pytest.mark.parametrize("text", ["abc", "2{}", '2["ping"]', "1", "4{}", '51-["x"]'])
def test_what_is_no_packet_or_comes_before_its_time_ends_the_connection(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(house: House) -> None:
        socket = house.visit()
        socket.say(text)
        if text.startswith("5"):
            assert socket.closed is None  # an attachment is missing
            socket.say("0")
        assert socket.closed is not None and socket.closed[0] == 1002

    with caplog.at_level(logging.ERROR):
        run(test)
    assert not caplog.records


def test_who_is_refused_again_and_again_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socketio_door, "REFUSALS", 3)

    async def test(house: House) -> None:
        socket = house.visit()
        socket.say('0{"token":"x"}', "0/other,")
        assert socket.closed is None
        socket.say('0{"token":"y"}')
        assert socket.closed == (1002, "refused too often")

    run(test, config(f'[auth]\nsecret = "{SECRET}"'))


def test_who_is_being_let_in_cannot_leave() -> None:
    async def test(house: House) -> None:
        socket = house.visit()
        socket.say("0", '2["ping"]', "1")  # its seat is asked for
        assert socket.closed is not None
        await until(lambda: not house.workers[0]._clients.sessions)

    run(test, config("clients = 1"))


def test_to_connect_twice_ends_the_connection() -> None:
    async def test(house: House) -> None:
        socket = await house.enter()
        socket.say("0")
        assert socket.closed is not None

    run(test)


def test_who_is_in_no_namespace_for_long_is_closed() -> None:
    async def test(house: House) -> None:
        socket = house.visit()
        await until(lambda: socket.closed)
        inside = await house.enter()
        await asyncio.sleep(0.1)
        assert inside.closed is None
        inside.say("1")
        await until(lambda: inside.closed)

    run(test, config("connect_timeout = 0.05"))


def test_clients_that_are_nowhere_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socketio_door, "STRANGERS", 2)

    async def test(house: House) -> None:
        inside = await house.enter()
        strangers = [house.visit() for _ in range(3)]
        assert [each.closed is None for each in (inside, *strangers)] == [True, False, True, True]
        strangers[1].say("0")
        house.visit()
        assert strangers[2].closed is None
        inside.say("1")  # the youngest who is nowhere
        assert inside.closed is None
        assert strangers[2].closed is not None
        for each in (inside, *strangers):
            each.hung_up()
        assert inside.visitor is None

    run(test)


def test_namespaces_of_one_client_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socketio_door, "NAMESPACES", 1)

    async def test(house: House) -> None:
        doors = house.workers[0]._socketio
        assert doors is not None
        socket = await house.enter()
        assert socket.visitor is not None
        socket.visitor.door.spaces = {**socket.visitor.door.spaces, "/b": socket.visitor.door.spaces["/"]}
        socket.say("0/b,")
        assert str(socket.take()[0]).startswith('44/b,{"message":"a client may be in 1 ')

    run(test)


# limits, tokens, drain ----------------------------------------------------------------


def refused(socket: FakeEngineSocket) -> dict[str, Any]:
    [text] = socket.take()
    assert isinstance(text, str) and text.startswith("44{"), text
    fields: dict[str, Any] = msgspec.json.decode(text[2:])
    return fields


@pytest.mark.parametrize(
    ("limits", "code"), [("connections = 1", 1013), ("connections_per_ip = 1", 4009), ("sessions_per_user = 1", 4009)]
)
def test_limits_are_those_of_all_clients_and_can_be_shown(limits: str, code: int) -> None:
    async def test(house: House) -> None:
        await house.enter(user="ann")
        other = house.visit(user="ann")
        other.say("0")
        fields = refused(other)
        assert fields["message"]
        assert fields["data"]["code"] == "limit_exceeded"
        assert fields["data"]["reconnect_in"] >= 0
        assert house.workers[0].meter.disconnects == {code: 1}
        assert other.closed is None
        assert len(house.workers[0]._clients.sessions) == 1

    run(test, config(f"[limits]\n{limits}"))


def test_tokens_come_with_connect_or_with_the_handshake() -> None:
    async def test(house: House) -> None:
        stranger = house.visit()
        stranger.say("0")
        fields = refused(stranger)
        assert fields["data"] == {"code": "unauthorized"}
        for auth, attributes in [(f'{{"token":"{token("a.>")}"}}', {}), ("", {"token": token("a.>")})]:
            socket = await house.enter(auth=auth, **attributes)
            socket.emit("subscribe", {"topics": ["a.b"]}, ack=1)
            assert (await socket.ack(1))[0]["op"] == "ok"
            socket.emit("subscribe", {"topics": ["b"]}, ack=2)
            assert (await socket.ack(2))[0]["code"] == "forbidden"
        assert [session.user for session in house.workers[0]._clients.sessions.values()] == ["ann", "ann"]
        socket.emit("auth", {"token": token("b")}, ack=3)
        assert (await socket.ack(3))[0]["user"] == "ann"
        bad = house.visit()
        bad.say('0{"token":"x"}')
        assert refused(bad)["data"] == {"code": "unauthorized"}

    run(test, config(f'[auth]\nsecret = "{SECRET}"'))


def test_who_is_kicked_is_told_to_stay_away_and_the_others_stay() -> None:
    async def test(house: House) -> None:
        socket, other = await house.enter(user="ann"), await house.enter()
        [session] = house.workers[0]._clients.users["ann"]
        await house.workers[0].order({"do": "close", "session": session.id, "user": None, "options": {}})
        assert (await socket.event("bye"))["reason"] == "kicked"
        await socket.until("41")
        await until(lambda: socket.closed)
        assert other.closed is None
        assert house.workers[0].meter.disconnects == {4003: 1}

    run(test)


def test_a_drain_closes_the_connections_so_that_they_come_again() -> None:
    async def test(house: House) -> None:
        socket = await house.enter()
        late = house.visit()
        house.workers[0]._clients.send_away(1)
        bye = await socket.event("bye")
        assert (bye["code"], bye["reason"], bye["reconnect"]) == (1012, "drain", True)
        await until(lambda: socket.closed)
        assert socket.closed == (1012, "drain")
        assert "41" not in socket.got
        late.say("0")
        assert late.closed is not None and late.closed[0] == 1012

    run(test)


# a slow client, and one that changes its transport ----------------------------------------------------------------


def test_a_slow_client_is_told_what_it_misses() -> None:
    async def test(house: House) -> None:
        socket = await house.enter()
        socket.emit("subscribe", {"topics": ["a"]}, ack=1)
        await socket.ack(1)
        assert socket.visitor is not None
        socket.visitor.on_paused()
        for n in range(10):
            await house.publish("a", n)
        assert not socket.take()
        socket.visitor.on_resumed()
        gap = await socket.event("gap")
        assert (gap["from"], gap["reason"]) == (1, "slow")
        offsets = [(await socket.event("event"))["offset"] for _ in range(gap["to"], 10)]
        assert offsets == list(range(gap["to"] + 1, 11))

    run(test, config("[delivery]\noutbox_events = 3"))


def test_who_does_not_read_gets_no_answers_to_connect() -> None:
    async def test(house: House) -> None:
        socket = await house.enter()
        assert socket.visitor is not None
        socket.visitor.on_paused()
        socket.say("0/nowhere,")
        assert socket.closed is not None and socket.closed[0] == 4008
        assert not socket.got

    run(test)


def test_who_does_not_read_from_the_first_packet_on_is_slow() -> None:
    async def test(house: House) -> None:
        socket = house.visit()
        written = socket.write

        def write(data: bytes) -> None:
            written(data)
            assert socket.visitor is not None
            socket.visitor.on_paused()

        socket.write = write
        socket.say("0")
        [session] = house.workers[0]._clients.sessions.values()
        assert session.outbox is not None

    run(test)


def test_events_go_on_over_another_write() -> None:
    async def test(house: House) -> None:
        socket = await house.enter()
        socket.emit("subscribe", {"topics": ["a"]}, ack=1)
        await socket.ack(1)
        await house.publish("a", 1)
        await socket.event("event")
        [session] = house.workers[0]._clients.sessions.values()
        assert session.write == socket.write  # the socket's own, nothing in between
        written: list[bytes] = []
        socket.write = written.append
        assert socket.visitor is not None
        socket.visitor.on_rewired()
        assert session.write == socket.write
        await house.publish("a", 2)
        await until(lambda: written)
        assert not socket.take()

    run(test)


def test_who_publishes_too_much_is_not_read() -> None:
    async def test(house: House) -> None:
        socket = await house.enter()
        for _ in range(3):
            socket.emit("publish", {"topic": "a", "data": 1}, ack=1)
        assert socket.paused
        await socket.ack(1)
        await until(lambda: not socket.paused)

    run(test, config("[limits]\nunacknowledged_publishes = 3"))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(["0", "1", '2["ping"]', '20["subscribe",{"topics":["a"]}]', "0/x,", '31["x"]', "9"]),
            st.text(max_size=12),
            st.binary(max_size=5),
        ),
        max_size=15,
    )
)
def test_nothing_that_strangers_send_leaves_anything(messages: list[str | bytes]) -> None:
    async def test(house: House) -> None:
        socket = house.visit()
        for message in messages:
            if socket.closed is None:
                socket.say(message if isinstance(message, bytes) else message.encode("utf-8", "replace").decode())
        await asyncio.sleep(0)
        socket.hung_up()
        clients = house.workers[0]._clients
        await until(lambda: not clients.sessions and not list(house.workers[0]._actors.table.audiences))
        assert clients.occupancy._clients == 0
        assert (clients._meter.socketio, clients._meter.connections, clients._meter.subscriptions) == (0, 0, 0)

    run(test)
