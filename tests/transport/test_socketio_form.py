from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from transport.frames import text_frame, unframe
from transport.messages import Missed, Publication
from transport.socketio_form import SocketIoForm
from transport.wire_forms import JsonForm, bye, gap

EVENT = Publication("price.EUR_USD", "e1", 42, 1700000000.123456, "tick", b'{"bid":1.12000}', "EUR_USD")
MISSED = Missed("a", "e1", 3, 5, "slow")


def _text(frames: bytes) -> str:
    """The only message in them."""
    ((binary, payload),) = unframe(frames)
    assert not binary
    return payload.decode()


def _native(publication: Publication) -> str:
    return JsonForm().event_json(publication).decode()


@pytest.mark.parametrize(("namespace", "head"), [("/", "42"), ("/fx", "42/fx,")])
def test_an_event_is_the_native_map_with_the_publishers_digits(namespace: str, head: str) -> None:
    assert _text(SocketIoForm(namespace).event(EVENT)) == f'{head}["event",{_native(EVENT)}]'
    assert "1.12000" in _native(EVENT)


def test_an_application_says_what_an_event_is_and_who_gets_none() -> None:
    form = SocketIoForm("/fx", lambda event: b'["price",%b]' % event.data if event.key else None)
    assert _text(form.event(EVENT)) == '42/fx,["price",{"bid":1.12000}]'
    assert form.event(EVENT._replace(key=None)) == b""
    assert form.batch([EVENT, EVENT._replace(key=None), EVENT]) == form.event(EVENT) * 2


def test_welcome_is_the_answer_to_connect() -> None:
    welcome = {"op": "welcome", "session": "s1", "protocol": 1}
    assert _text(SocketIoForm("/").message(welcome)) == '40{"sid":"s1"}'
    assert _text(SocketIoForm("/fx").message(welcome)) == '40/fx,{"sid":"s1"}'


def test_an_answer_is_the_acknowledgement() -> None:
    form = SocketIoForm("/fx")
    assert _text(form.message({"op": "ok", "id": 7, "topics": ["a"]})) == '43/fx,7[{"op":"ok","topics":["a"]}]'
    refused = {"op": "error", "id": 0, "code": "forbidden", "message": "No"}
    assert _text(form.message(refused)) == '43/fx,0[{"op":"error","code":"forbidden","message":"No"}]'


def test_without_an_acknowledgement_only_an_error_is_told() -> None:
    form = SocketIoForm("/")
    assert form.message({"op": "ok", "id": "", "topics": []}) == b""
    for number in ("", None):
        refused = {"op": "error", "id": number, "code": "forbidden", "message": "No"}
        assert _text(form.message(refused)) == '42["error",' + msgspec.json.encode(refused).decode() + "]"


def test_a_callable_makes_the_answer() -> None:
    asked: list[Mapping[str, Any]] = []

    def reply(fields: Mapping[str, Any]) -> bytes:
        asked.append(fields)
        return text_frame(b"mine")

    form = SocketIoForm("/", notices=frozenset())
    assert _text(form.message({"op": "ok", "id": reply, "topics": []})) == "mine"
    assert _text(form.message({"op": "error", "id": reply, "code": "forbidden", "message": "No"})) == "mine"
    assert _text(form.snapshot(reply, iter([EVENT]), MISSED)) == "mine"
    assert [fields["op"] for fields in asked] == ["ok", "error", "ok"]
    assert asked[2]["publications"] == [EVENT]
    assert [bytes(raw).decode() for raw in asked[2]["events"]] == [_native(EVENT)]
    assert asked[2]["gap"] == gap(MISSED)


def test_notices_are_events_unless_the_application_does_not_want_them() -> None:
    said = bye(1012, "drain", 1.5)
    expected = '42["bye",{"op":"bye","code":1012,"reason":"drain","reconnect":true,"reconnect_in":1.5}]'
    assert _text(SocketIoForm("/").message(said)) == expected
    chosen = SocketIoForm("/", notices=frozenset({"bye"}))
    assert _text(chosen.message(said)) == expected
    assert chosen.message(gap(MISSED)) == b""
    assert chosen.message({"op": "error", "id": None, "code": "forbidden", "message": "No"}) == b""


def test_a_snapshot_is_an_acknowledgement_with_the_native_maps() -> None:
    form, event = SocketIoForm("/"), _native(EVENT)
    assert _text(form.snapshot(5, [EVENT, EVENT])) == f'435[{{"op":"ok","events":[{event},{event}]}}]'
    assert _text(form.snapshot(5, [], MISSED)) == (
        '435[{"op":"ok","events":[],"gap":{"op":"gap","topic":"a","epoch":"e1","from":3,"to":5,"reason":"slow"}}]'
    )
    assert form.snapshot("", [EVENT]) == b""


def test_the_session_reads_no_packets() -> None:
    form = SocketIoForm("/")
    with pytest.raises(NotImplementedError, match="the door"):
        form.decode(b'2["a"]')
    assert form.payload(memoryview(b"1.10")) == b"1.10"
