from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.alert import Alert
from engine.market_alerts import MarketAlert, PatternAlert
from engine.preferences import PreferenceRule, Preferences, PreferencesBuilder
from transport.codes import ErrorCode, Priority
from transport.errors import RequestError
from transport.event import Event
from transport.filters import MISSING, Filter

TIERS = ("daily", "intraday", "combo")
SYMBOLS = ("AAPL", "BRK.B", "SPY", "é")
PATTERNS = ("bull_flag", "doji")
CONFIDENCES = (0.0, 0.3, 0.5, 0.8, 0.9, 1.0)


def some_of(values: tuple[str, ...]) -> st.SearchStrategy[Any]:
    return st.none() | st.sets(st.sampled_from(values), min_size=1)


RULES = {
    "tiers": some_of(TIERS),
    "symbols": some_of(SYMBOLS),
    "patterns": some_of(PATTERNS),
    "min_confidence": st.none() | st.sampled_from(CONFIDENCES),
    "min_priority": st.none() | st.sampled_from(tuple(Priority)),
}
preferences = st.builds(
    Preferences,
    **RULES,
    or_else=st.lists(st.builds(PreferenceRule, **RULES), max_size=3),
    per_hour=st.none() | st.integers(1, 100),
)
priorities = st.none() | st.sampled_from(tuple(Priority))
pattern_alerts = st.builds(
    PatternAlert,
    pattern=st.sampled_from(PATTERNS),
    symbol=st.sampled_from(SYMBOLS),
    tier=st.sampled_from(TIERS),
    confidence=st.sampled_from(CONFIDENCES) | st.floats(0, 1),
    price=st.none() | st.just(Decimal("1.50")),
    priority=priorities,
)
market_alerts = st.builds(
    MarketAlert,
    kind=st.sampled_from(("halt", "regime")),
    severity=st.sampled_from(("info", "notice", "warning", "emergency")),
    message=st.just("m"),
    priority=priorities,
)


def engine_accepts(where: Any, event: Event) -> bool:
    """What the engine's filter says of an event."""
    data = event.data

    def value_of(name: str) -> Any:
        return {"@type": event.type, "@key": event.key}.get(name, data.get(name, MISSING))

    return Filter.parse(where).holds(value_of)


@given(preferences, pattern_alerts | market_alerts)
def test_the_filter_and_the_preferences_agree(wanted: Preferences, alert: Alert) -> None:
    event = alert.to_event()
    published = type(alert).of(event)
    assert engine_accepts(wanted.where(PatternAlert, MarketAlert), event) == wanted.accepts(published)


@given(preferences, market_alerts)
def test_a_filter_for_one_kind_lets_no_other_pass(wanted: Preferences, alert: MarketAlert) -> None:
    assert not engine_accepts(wanted.where(PatternAlert), alert.to_event())


@given(preferences)
def test_preferences_survive_json(wanted: Preferences) -> None:
    assert Preferences.decode(wanted.encode()) == wanted


def test_what_becomes_of_preferences() -> None:
    wanted = Preferences(
        tiers={"daily", "combo"},
        symbols=["SPY"],
        patterns=("doji", "doji"),
        min_confidence=0.8,
        min_priority="high",  # type: ignore[arg-type]
        or_else=(PreferenceRule(min_priority=Priority.CRITICAL),),
        per_hour=20,
    )
    assert wanted.where(PatternAlert) == [
        {
            "@type": "pattern_alert",
            "tier": ["combo", "daily"],
            "symbol": ["SPY"],
            "pattern": ["doji"],
            "confidence": {"gte": 0.8},
            "priority": ["high", "critical"],
        },
        {"@type": "pattern_alert", "priority": ["critical"]},
    ]
    assert wanted.where(MarketAlert) == [
        {"@type": "market_alert", "priority": ["high", "critical"]},
        {"@type": "market_alert", "priority": ["critical"]},
    ]


def test_no_preferences_want_everything_and_say_so_once() -> None:
    assert Preferences().where(PatternAlert, MarketAlert) == [{"@type": "pattern_alert"}, {"@type": "market_alert"}]
    assert Preferences(min_priority=Priority.LOW, or_else=(PreferenceRule(),)).where(PatternAlert) == [
        {"@type": "pattern_alert"}
    ]
    assert Preferences().encode() == b"{}"


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"tiers": "daily"}, "tiers"),
        ({"tiers": []}, "tiers"),
        ({"symbols": [""]}, "symbols[0]"),
        ({"patterns": ["a", 7]}, "patterns[1]"),
        ({"min_confidence": 1.5}, "min_confidence"),
        ({"min_confidence": float("nan")}, "min_confidence"),
        ({"min_confidence": True}, "min_confidence"),
        ({"min_confidence": "0.5"}, "min_confidence"),
        ({"min_priority": "urgent"}, "min_priority"),
        ({"per_hour": 0}, "per_hour"),
        ({"per_hour": 1.5}, "per_hour"),
        ({"or_else": PreferenceRule()}, "or_else"),
        ({"or_else": [Preferences(per_hour=3)]}, "or_else[0]"),
    ],
)
def test_a_wrong_value_is_named(wrong: dict[str, Any], field: str) -> None:
    with pytest.raises(RequestError) as error:
        Preferences(**wrong)
    assert (error.value.code, error.value.field) == (ErrorCode.BAD_REQUEST, field)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (b'{"tier":["daily"]}', "tier"),
        (b'{"tiers":"daily"}', "tiers"),
        (b'{"tiers":[]}', "tiers"),
        (b'{"min_confidence":2}', "min_confidence"),
        (b'{"or_else":[{},{"symbols":["A",""]}]}', "or_else[1].symbols[1]"),
        (b'{"or_else":[{"per_hour":3}]}', "or_else[0].per_hour"),
        (b"{", None),
        (b"\xff", None),
    ],
)
def test_a_wrong_value_in_json_is_named(text: bytes, field: str | None) -> None:
    with pytest.raises(RequestError) as error:
        Preferences.decode(text)
    assert (error.value.code, error.value.field) == (ErrorCode.BAD_REQUEST, field)


def test_a_value_that_no_alert_can_have_is_named_instead_of_never_matching() -> None:
    wanted = Preferences(tiers=("daily",), or_else=(PreferenceRule(tiers=("combo", "dayly")),))
    assert wanted.where(MarketAlert)  # which has no tiers
    with pytest.raises(RequestError, match="no PatternAlert has tier 'dayly'") as error:
        wanted.where(MarketAlert, PatternAlert)
    assert error.value.field == "or_else[0].tiers[1]"

    class Percent(Alert, frozen=True, kw_only=True):
        __topic__ = "percent"
        confidence: int

    with pytest.raises(RequestError, match="min_confidence"):
        Preferences(min_confidence=0.5).where(Percent)


def test_an_alert_without_a_confidence_of_its_own_has_not_enough() -> None:
    class Maybe(Alert, frozen=True, kw_only=True):
        __topic__ = "maybe"
        confidence: float | None = None

    wanted = Preferences(min_confidence=0.0)
    for alert, expected in ((Maybe(), False), (Maybe(confidence=0.0), True)):
        assert wanted.accepts(alert) is expected
        assert engine_accepts(wanted.where(Maybe), alert.to_event()) is expected


def test_a_filter_has_the_names_that_data_has() -> None:
    class Renamed(Alert, frozen=True, kw_only=True, rename="upper"):
        __topic__ = "renamed"
        symbol: str
        confidence: float

    wanted = Preferences(symbols=("A",), min_confidence=0.5, min_priority=Priority.HIGH)
    for symbol, confidence, priority, expected in (
        ("A", 0.5, Priority.HIGH, True),
        ("B", 0.5, Priority.HIGH, False),
        ("A", 0.4, Priority.HIGH, False),
        ("A", 0.5, Priority.LOW, False),
    ):
        event = Renamed(symbol=symbol, confidence=confidence, priority=priority).to_event()
        assert engine_accepts(wanted.where(Renamed), event) is wanted.accepts(Renamed.of(event)) is expected


def test_a_builder_makes_the_same_preferences_step_by_step() -> None:
    built = (
        PreferencesBuilder()
        .tiers("daily")
        .tiers("combo")
        .symbols("SPY")
        .patterns("doji")
        .min_confidence(0.8)
        .or_else()
        .min_priority("critical")
        .per_hour(20)
        .build()
    )
    assert built == Preferences(
        tiers=("combo", "daily"),
        symbols=("SPY",),
        patterns=("doji",),
        min_confidence=0.8,
        or_else=(PreferenceRule(min_priority=Priority.CRITICAL),),
        per_hour=20,
    )


def test_a_step_of_a_builder_leaves_the_one_before_as_it_was() -> None:
    begun = PreferencesBuilder().tiers("daily")
    assert begun.symbols("SPY").build() != begun.build() == Preferences(tiers=("daily",))
    assert begun.or_else().symbols("SPY").per_hour(1).build() != begun.build()


def test_a_builder_names_what_is_wrong() -> None:
    for builder, field in (
        (PreferencesBuilder().min_confidence(7), "min_confidence"),
        (PreferencesBuilder().symbols(), "symbols"),
        (PreferencesBuilder().or_else().symbols("A", ""), "or_else[0].symbols[1]"),
        (PreferencesBuilder().per_hour(-1), "per_hour"),
    ):
        with pytest.raises(RequestError) as error:
            builder.build()
        assert error.value.field == field


def test_preferences_are_values() -> None:
    a, b = Preferences(symbols=("B", "A")), Preferences(symbols=("A", "B", "A"))
    assert a == b and hash(a) == hash(b)
    with pytest.raises(AttributeError):
        a.per_hour = 1  # type: ignore[misc]
    assert msgspec.structs.replace(a, per_hour=2).symbols == ("A", "B")
