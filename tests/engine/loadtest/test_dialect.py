"""What each kind of server is told, and what its words mean."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.loadtest.dialect import FIRST_REQUEST, SUBSCRIBED, Heard, Means, dialect_of
from engine.loadtest.target import Target
from transport.position import Position

NATIVE = dialect_of(Target(url="ws://here", topic="a.b"))
SOCKETIO = dialect_of(Target(url="ws://here", kind="socketio", topic="a.b"))
PLACE = Position("e", 7)
SINCE = {"topics": ["a.b"], "since": {"a.b": {"epoch": "e", "offset": 7}}}


def ours(message: bytes) -> Any:
    return json.loads(message)


def test_an_engine_is_asked_for_what_was_missed() -> None:
    (first,), (again,) = NATIVE.hello(None), NATIVE.hello(PLACE)
    assert ours(first) == {"op": "subscribe", "id": SUBSCRIBED, "topics": ["a.b"]}
    assert ours(again) == {"op": "subscribe", "id": SUBSCRIBED, **SINCE}


def test_so_is_an_engine_by_socketio() -> None:
    (again,) = SOCKETIO.hello(PLACE)
    assert again[:3] == b"42%d" % SUBSCRIBED
    assert ours(again[3:]) == ["subscribe", SINCE]


@pytest.mark.parametrize(
    ("message", "heard"),
    [
        ({"op": "welcome", "protocol": 1}, None),
        ({"op": "ok", "id": 1, "positions": {"a.b": {"epoch": "e", "offset": 7}}}, Heard(Means.JOINED, place=PLACE)),
        ({"op": "ok", "id": 9, "ts": 1.5}, Heard(Means.ANSWERED, id=9)),
        ({"op": "error", "id": 1, "code": "forbidden", "message": "no"}, Heard(Means.REFUSED, "forbidden: no", 1)),
        ({"op": "error", "id": 9, "code": "rate_limited", "message": "w"}, Heard(Means.FAILED, "rate_limited: w", 9)),
        ({"op": "gap", "topic": "a.b", "from": 3, "to": 5, "reason": "slow"}, Heard(Means.GAP, "slow", messages=3)),
        ({"op": "bye", "code": 1012, "reason": "drain", "reconnect_in": 1.0}, Heard(Means.BYE, "1012 drain")),
        ({"op": "position", "position": "1:2"}, None),
        ([1], None),
    ],
)
def test_what_an_engine_says(message: Any, heard: Heard | None) -> None:
    assert NATIVE.hear(json.dumps(message).encode()) == heard


@pytest.mark.parametrize(
    ("message", "heard"),
    [
        (b'0{"sid":"x"}', Heard(Means.SAY, "40")),
        (b'40{"sid":"y"}', Heard(Means.READY)),
        (b"2", Heard(Means.SAY, "3")),
        (b'431[{"op":"ok","positions":{"a.b":{"epoch":"e","offset":7}}}]', Heard(Means.JOINED, place=PLACE)),
        (b'431[{"op":"error","code":"forbidden","message":"no"}]', Heard(Means.REFUSED, "forbidden: no", 1)),
        (b'4312[{"op":"ok"}]', Heard(Means.ANSWERED, id=12)),
        (b"4312[]", Heard(Means.ANSWERED, id=12)),
        (b'42["gap",{"topic":"a.b","from":3,"to":5,"reason":"slow"}]', Heard(Means.GAP, "slow", messages=3)),
        (b'44{"message":"no"}', Heard(Means.REFUSED, '{"message":"no"}')),
        (b"41", Heard(Means.BYE, "disconnected")),
        (b'42["other",1]', None),
        (b"42[", None),
        (b"", None),
    ],
)
def test_what_a_socketio_server_says(message: bytes, heard: Heard | None) -> None:
    assert SOCKETIO.hear(message) == heard


def test_places_of_messages() -> None:
    event = b'{"op":"event","offset":7,"epoch":"e","data":{}}'
    assert NATIVE.place(event) == SOCKETIO.place(b'42["event",%b]' % event) == PLACE
    assert NATIVE.place(b"{") is SOCKETIO.place(b'42["event"]') is NATIVE.place(b'{"data":1}') is None


def test_publishing_is_answered_by_engines_only() -> None:
    data = b'{"t":1,"s":2}'
    assert ours(NATIVE.publication(5, data)) == {"op": "publish", "id": 5, "topic": "a.b", "data": {"t": 1, "s": 2}}
    asked = SOCKETIO.publication(5, data)
    assert (asked[:3], ours(asked[3:])) == (b"425", ["publish", {"topic": "a.b", "data": {"t": 1, "s": 2}}])
    assert NATIVE.acknowledged
    assert SOCKETIO.acknowledged


def test_others_are_told_as_their_templates_say() -> None:
    target = Target(
        url="ws://h", kind="socketio", topic="a", subscribe='["join","{topic}"]', publish='["say","{topic}",{data}]'
    )
    other = dialect_of(target)
    assert other.hello(None) == [b'42["join","a"]']
    assert other.publication(FIRST_REQUEST, b"{}") == b'42["say","a",{}]'
    assert other.joins_at_once
    assert not other.acknowledged
    assert dialect_of(Target(url="ws://h", kind="socketio", subscribe="")).hello(None) == []

    plain = dialect_of(
        Target(url="ws://h", kind="plain", topic="a", subscribe="SUB {topic}", publish="P {topic} {data}")
    )
    assert plain.hello(None) == [b"SUB a"]
    assert plain.publication(FIRST_REQUEST, b"{}") == b"P a {}"
    assert dialect_of(Target(url="ws://h", kind="plain")).hello(None) == []
    assert dialect_of(Target(url="ws://h", kind="plain")).publication(FIRST_REQUEST, b"{}") == b"{}"


@pytest.mark.parametrize("kind", ["native", "socketio", "plain"])
def test_a_publisher_subscribes_to_nothing(kind: Any) -> None:
    publisher = dialect_of(Target(url="ws://h", kind=kind, subscribe="[1]"), publisher=True)
    assert publisher.hello(None) == []
    assert publisher.joins_at_once


@pytest.mark.parametrize("garbage", [b'"\xff"', b"[" * 100_000])
def test_garbage_means_nothing(garbage: bytes) -> None:
    for message in (b'{"op":%b}' % garbage, b'{"x":%b' % garbage):
        assert NATIVE.hear(message) is NATIVE.place(message) is None
    for message in (b'42["event",%b]' % garbage, b"430[%b]" % garbage):
        assert SOCKETIO.hear(message) is SOCKETIO.place(message) is None
