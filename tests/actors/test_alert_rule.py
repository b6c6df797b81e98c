"""One subject of a rule against a brute-force look at all seconds, and what its values may be."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.alert_rule import Alarm, AlertRule, Phase, Reading, Turn
from transport.event import Event
from transport.filters import MISSING, Filter

CALM, BETWEEN, HIGH = 70, 77, 85


def rule(**fields: Any) -> AlertRule:
    when, until = Filter.parse({"value": {"gte": 80}}), Filter.parse({"value": {"lt": 75}})
    return AlertRule(**{"name": "cpu", "pattern": "load", "field": "v", "when": when, "until": until, **fields})


def brute_force(values: list[int | None], for_s: int, hysteresis: bool) -> list[tuple[int, Turn]]:
    """What is told, at which second: of each second it is asked what held in all the seconds before."""
    told: list[tuple[int, Turn]] = []
    held: list[int] = []  # the value in each second
    firing, calm_until = False, 0
    for now, value in enumerate([*values, *[None] * (for_s + 1)]):
        before = now - for_s
        if not firing and for_s and before >= calm_until and all(held[s] >= 80 for s in range(before, now)):
            firing = True
            told.append((now, Turn.FIRED))
        held.append(value if value is not None else held[-1] if held else CALM)
        if value is None:
            continue
        if firing and value < (75 if hysteresis else 80):
            firing, calm_until = False, now + 1
            told.append((now, Turn.CLEARED))
        elif not firing and not for_s and value >= 80:
            firing = True
            told.append((now, Turn.FIRED))
    return told


@given(
    st.lists(st.one_of(st.none(), st.sampled_from((CALM, BETWEEN, HIGH))), max_size=30),
    st.integers(0, 4),
    st.booleans(),
    st.booleans(),
)
def test_it_fires_and_clears_when_a_look_at_every_second_says_so(
    values: list[int | None], for_s: int, hysteresis: bool, with_timer: bool
) -> None:
    of = rule(for_s=float(for_s)) if hysteresis else rule(for_s=float(for_s), until=None)
    alarm, told = Alarm("cpu", None), []
    for now, value in enumerate([*values, *[None] * (for_s + 1)]):
        last = now == len(values) + for_s
        if value is not None or with_timer or last:
            told += [(alarm.at, turn) for turn in (alarm.advance(of, float(now)),) if turn]
        if value is not None:
            told += [(alarm.at, turn) for turn in (alarm.see(of, value, float(now)),) if turn]
    assert told == brute_force(values, for_s, hysteresis)


def test_between_the_two_conditions_nothing_changes_however_often_one_is_crossed() -> None:
    of, alarm = rule(), Alarm("cpu", None)
    turns = [alarm.see(of, value, float(at)) for at, value in enumerate([HIGH, BETWEEN] * 500 + [CALM] * 3)]
    assert [turn for turn in turns if turn] == [Turn.FIRED, Turn.CLEARED]


def test_conditions_that_both_hold_do_not_make_it_clear() -> None:
    of, alarm = rule(until=Filter.parse({"value": {"lt": 90}})), Alarm("cpu", None)
    assert [alarm.see(of, 85, at) for at in (0.0, 1.0, 2.0)] == [Turn.FIRED, None, None]


def test_what_is_pending_and_stops_in_time_never_fires() -> None:
    of, alarm = rule(for_s=10.0), Alarm("cpu", None)
    assert alarm.see(of, HIGH, 100.0) is None
    assert (alarm.phase, alarm.due(of)) == (Phase.PENDING, 110.0)
    assert alarm.advance(of, 109.9) is None
    assert alarm.see(of, BETWEEN, 109.9) is None, "`until` is for who fires"
    assert (alarm.phase, alarm.advance(of, 200.0)) == (Phase.OK, None)


def test_the_data_of_an_alert() -> None:
    of, alarm = rule(severity="critical", for_s=2.0), Alarm("cpu", None)
    alarm.see(of, 93.5, 100.0)
    alarm.advance(of, 105.0)
    assert alarm.data(of) == {
        "rule": "cpu",
        "subject": None,
        "state": "firing",
        "severity": "critical",
        "value": 93.5,
        "since": 100.0,
        "at": 102.0,
        "message": "v is 93.5",
        "acknowledged": None,
    }
    assert alarm.data(of._replace(message="too hot"))["message"] == "too hot"


def event(payload: bytes | str, topic: str = "load", **fields: Any) -> Event:
    return Event(topic=topic, payload=payload.encode() if isinstance(payload, str) else payload, **fields)


@pytest.mark.parametrize(
    ("payload", "value"),
    [
        ('{"v": 1.5}', 1.5),
        ('{"v": null}', None),
        ('{"v": {"x": 1}}', MISSING),
        ('{"v": [1]}', MISSING),
        ('{"w": 1}', MISSING),
        ("[1]", MISSING),
        ('{"v": 1, "skip": true}', MISSING),
        ("1" * 5_000, MISSING),
    ],
)
def test_the_value_of_an_event(payload: str, value: Any) -> None:
    of = rule(where=Filter.parse([{"skip": {"exists": False}}]))
    assert of.value(Reading(event(payload))) is value or of.value(Reading(event(payload))) == value


@pytest.mark.parametrize(("payload", "value"), [('{"machine.cpu": 81}', 81), ("[]", MISSING), ("{}", MISSING)])
def test_a_series_is_a_name_in_a_flat_map(payload: str, value: Any) -> None:
    of = rule(pattern="system.metrics", field="machine.cpu")
    assert of.value(Reading(event(payload, "system.metrics"))) == value


@pytest.mark.parametrize("payload", ['{"v": 1e999}', '{"v": "\\ud800"}', f'{{"v": 1{"0" * 400}}}', '{"v": "xxxxx"}'])
def test_whatever_comes_can_be_told(payload: str) -> None:
    of = rule(when=Filter.parse({"value": {"not": 0}}), until=None)
    alarm = Alarm("cpu", None)
    assert alarm.see(of, of.value(Reading(event(payload))), 1.0) is Turn.FIRED
    assert msgspec.json.decode(msgspec.json.encode(alarm), type=Alarm) == alarm
    assert alarm.value is not None
    assert Event.of("alert.cpu", alarm.data(of)).data["value"] == alarm.value
