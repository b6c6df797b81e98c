from __future__ import annotations

from decimal import Decimal
from enum import Enum
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from engine.alert import Alert, form_of
from engine.market_alerts import MarketAlert, MarketContext, PatternAlert
from transport.codes import ErrorCode, Priority
from transport.errors import CodecError, ConfigError, RequestError
from transport.event import Event
from transport.topics import matches

FLAG: dict[str, Any] = {"pattern": "bull_flag", "symbol": "BRK.B", "tier": "daily", "confidence": 0.5}


class Venue(Enum):
    LIT = "lit"
    DARK = "dark"


class LiquidityAlert(Alert, frozen=True, kw_only=True, rename="camel"):
    __topic__ = "liquidity.{venue}.{shard}.all"
    __key__ = "{venue}:{symbol_name}"

    venue: Venue
    shard: int
    symbol_name: str | None = None
    spread: Annotated[float, Meta(ge=0)] = 0.0


class Noted(Alert, frozen=True, kw_only=True):
    __topic__ = "note.{text}"

    text: str


def refused(alert: Alert) -> RequestError:
    with pytest.raises(RequestError) as error:
        alert.to_event()
    return error.value


def test_an_alert_says_where_and_how_it_is_published() -> None:
    event = PatternAlert(**FLAG, price=Decimal("1.500"), context=MarketContext(regime="bull")).to_event()
    assert (event.topic, event.type, event.key, event.priority) == (
        "alert.pattern.daily",
        "pattern_alert",
        "BRK.B",
        Priority.MEDIUM,
    )
    assert str(event.exact["price"]) == "1.500"
    assert event.data["context"]["regime"] == "bull"


def test_an_alert_comes_back_as_it_was_published() -> None:
    alert = PatternAlert(**FLAG, price=Decimal("1.500"), priority=Priority.LOW)
    assert PatternAlert.of(alert.to_event()) == alert


@pytest.mark.parametrize(
    ("confidence", "priority", "expected"),
    [(0.89, None, "medium"), (0.9, None, "high"), (1, None, "high"), (0.9, "critical", "critical"), (1, "low", "low")],
)
def test_confidence_says_how_urgent_a_pattern_is_unless_the_publisher_does(
    confidence: float, priority: Any, expected: str
) -> None:
    event = PatternAlert(**{**FLAG, "confidence": confidence}, priority=priority).to_event()
    assert event.priority == expected
    assert event.data["priority"] == expected  # what filters see


@pytest.mark.parametrize(
    ("severity", "priority"), [("info", "low"), ("notice", "medium"), ("warning", "high"), ("emergency", "critical")]
)
def test_severity_says_how_urgent_a_market_alert_is(severity: Any, priority: str) -> None:
    event = MarketAlert(kind="halt", severity=severity, message="stop", symbols=("A", "B")).to_event()
    assert (event.topic, event.type, event.key, event.priority) == (
        "alert.market.halt",
        "market_alert",
        "halt",
        priority,
    )
    assert event.data["symbols"] == ["A", "B"]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"tier": "dayly"}, "tier"),
        ({"confidence": 1.01}, "confidence"),
        ({"confidence": -0.1}, "confidence"),
        ({"confidence": "0.5"}, "confidence"),
        ({"confidence": float("nan")}, "confidence"),
        ({"price": Decimal("Infinity")}, "price"),
        ({"price": "cheap"}, "price"),
        ({"symbol": ""}, "symbol"),
        ({"symbol": None}, "symbol"),
        ({"priority": "urgent"}, "priority"),
        ({"context": MarketContext(volatility=-1.0)}, "context.volatility"),
        ({"context": MarketContext(relative_volume=float("inf"))}, "context.relative_volume"),
        ({"pattern": object()}, None),  # no JSON form at all
    ],
)
def test_what_is_wrong_is_named(wrong: dict[str, Any], field: str | None) -> None:
    error = refused(PatternAlert(**{**FLAG, **wrong}))
    assert (error.code, error.field) == (ErrorCode.BAD_REQUEST, field)
    assert "PatternAlert" in error.message


def test_what_is_published_has_the_types_that_the_class_says() -> None:
    alert = PatternAlert(**{**FLAG, "price": "1.50"}, priority=Priority.HIGH)
    assert (
        alert.to_event().payload
        == PatternAlert(**FLAG, price=Decimal("1.50"), priority=Priority.HIGH).to_event().payload
    )


@given(st.text(min_size=1, max_size=64), st.text(min_size=1, max_size=64))
def test_any_text_gives_a_topic_of_its_own_that_the_pattern_matches(a: str, b: str) -> None:
    try:
        topics = [Noted(text=text).to_event().topic for text in (a, b)]
    except RequestError as error:
        assert error.code == ErrorCode.INVALID_TOPIC  # too long once escaped
        return
    assert all(matches(form_of(Noted).pattern, topic) for topic in topics)
    assert all(topic.count(".") == 1 for topic in topics)
    assert (topics[0] == topics[1]) == (a == b)


def test_a_class_of_ones_own() -> None:
    event = LiquidityAlert(venue=Venue.DARK, shard=7, symbol_name="A.B").to_event()
    assert (event.topic, event.key, event.type) == ("liquidity.dark.7.all", "dark:A.B", "liquidity_alert")
    assert event.data == {"priority": "medium", "venue": "dark", "shard": 7, "symbolName": "A.B", "spread": 0.0}
    assert form_of(LiquidityAlert).pattern == "liquidity.*.*.all"
    assert LiquidityAlert.of(event).venue is Venue.DARK


def test_a_value_that_gives_no_key_is_named() -> None:
    for name in (None, ""):
        assert refused(LiquidityAlert(venue=Venue.LIT, shard=1, symbol_name=name)).field == "symbol_name"


@pytest.mark.parametrize(
    ("topic", "key"),
    [
        ("", None),
        ("a..b", None),
        ("a.b-{name}", None),
        ("a.{other}", None),
        ("a.{}", None),
        ("a.{name!r}", None),
        ("a.{name:>5}", None),
        ("a.{name", None),
        ("a b.{name}", None),
        ("a.{name}", "{other}"),
        ("a.{name}", "{name}}"),
    ],
)
def test_a_wrong_template_is_a_wrong_configuration(topic: str, key: str | None) -> None:
    kind = msgspec.defstruct(
        "Own",
        [("name", str)],
        bases=(Alert,),
        namespace={"__topic__": topic, "__key__": key},
        frozen=True,
        kw_only=True,
    )
    with pytest.raises(ConfigError) as error:
        form_of(kind)
    assert error.value.field == ("Own.__topic__" if key is None else "Own.__key__")


def test_a_class_without_a_topic_says_so() -> None:
    class Homeless(Alert, frozen=True, kw_only=True):
        pass

    with pytest.raises(ConfigError, match=r"Homeless\.__topic__"):
        Homeless().to_event()


@pytest.mark.parametrize(
    "payload", [b"{", b"[]", b"\xff", b'{"pattern":"p","symbol":"A","tier":"daily","confidence":2}']
)
def test_data_that_is_no_such_alert_is_told_with_its_place(payload: bytes) -> None:
    with pytest.raises(CodecError, match=r"alert\.pattern\.daily at 7: no PatternAlert"):
        PatternAlert.of(Event(topic="alert.pattern.daily", payload=payload, offset=7))


def test_fields_of_a_later_version_are_ignored() -> None:
    data = {**FLAG, "venue": "new"}
    assert PatternAlert.of(Event.of("alert.pattern.daily", data)) == PatternAlert(**FLAG)
