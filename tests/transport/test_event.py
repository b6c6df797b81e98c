from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from transport.codes import Priority
from transport.errors import RequestError
from transport.event import MAX_PAYLOAD_BYTES, MAX_TEXT_BYTES, Event, to_json, to_publish
from transport.messages import Publish


@dataclass
class Tick:
    bid: Decimal
    at: datetime


class Scalar:
    """Like numpy's."""

    ndim = 0

    def item(self) -> float:
        return 2.5


def test_python_values_become_json_with_every_digit() -> None:
    tick = Tick(Decimal("1.12000"), datetime(2020, 1, 1, tzinfo=UTC))
    assert to_json(tick) == b'{"bid":1.12000,"at":"2020-01-01T00:00:00Z"}'
    assert to_json({"x": Scalar()}) == b'{"x":2.5}'


def _nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        Decimal("Infinity"),
        {"a": [1, float("inf")]},
        object(),
        {"a": object()},
        {Decimal("1"): 2},
        _nested(10_000),
    ],
    ids=range(7),
)
def test_what_has_no_json_form_is_refused(value: object) -> None:
    with pytest.raises(RequestError) as caught:
        to_json(value)
    assert caught.value.field is not None and caught.value.field.startswith("data")


def test_payload_keeps_digits_and_replace_makes_a_new_one() -> None:
    event = Event(topic="a", payload=b'{"p":1.1200}')
    assert event.data == {"p": 1.12}
    assert event.exact == {"p": Decimal("1.1200")}
    assert str(event.exact["p"]) == "1.1200"
    assert event.replace(data={"p": event.exact["p"]}).payload == b'{"p":1.1200}'


def test_an_event_as_a_publish() -> None:
    event = Event(topic="a.b", payload=b'{"p":1.120}', type="t", key="k", priority=Priority.HIGH, source_ts=1.5)
    assert to_publish(event, 7) == Publish(7, "a.b", "t", b'{"p":1.120}', "k", "high", 1.5)
    assert to_publish(Event.of("a", None)) == Publish(0, "a", "message", b"null")


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"topic": "a..b"}, "invalid_topic", "topic"),
        ({"topic": "a.*"}, "invalid_topic", "topic"),
        ({"type": 7}, "bad_request", "type"),
        ({"key": 7}, "bad_request", "key"),
        ({"priority": "urgent"}, "bad_request", "priority"),
        ({"source_ts": float("inf")}, "bad_request", "source_ts"),
        ({"source_ts": "now"}, "bad_request", "source_ts"),
        ({"source_ts": 10**400}, "bad_request", "source_ts"),
        ({"type": "\ud800"}, "bad_request", "type"),
        ({"key": "a\udfff"}, "bad_request", "key"),
        ({"type": "x" * (MAX_TEXT_BYTES + 1)}, "limit_exceeded", "type"),
        ({"key": "ä" * (MAX_TEXT_BYTES // 2 + 1)}, "limit_exceeded", "key"),
        ({"payload": "1"}, "bad_request", "payload"),
        ({"payload": b""}, "bad_request", "payload"),
        ({"payload": b"{} {}"}, "bad_request", "payload"),
        ({"payload": b"NaN"}, "bad_request", "payload"),
        ({"payload": b'"\xff"'}, "bad_request", "payload"),
        ({"payload": b"[" * 100_000 + b"]" * 100_000}, "bad_request", "payload"),
        ({"payload": b"1" * (MAX_PAYLOAD_BYTES + 1)}, "limit_exceeded", "data"),
    ],
    ids=range(19),
)
def test_an_event_that_nobody_could_read_is_refused(changes: dict[str, object], code: str, field: str) -> None:
    with pytest.raises(RequestError) as caught:
        to_publish(Event.of("a", 1).replace(**changes))
    assert (caught.value.code, caught.value.field) == (code, field)
