from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from transport.errors import RequestError
from transport.event import Event, to_json


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
