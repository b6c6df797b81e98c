"""All rules and subjects: what a crash may repeat, what is bounded, and who has a say."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import alarms
from actors.alarms import Alarms
from actors.alert_rule import Alarm, AlertRule, Turn
from tests.actors.test_alert_rule import BETWEEN, CALM, HIGH, rule
from transport.codes import ErrorCode
from transport.errors import RequestError
from transport.event import Event

Told = list[tuple[str, str | None, str, float]]


def event(value: Any, offset: int = 1, topic: str = "load", epoch: str = "e") -> Event:
    return Event.of(topic, {"v": value}, epoch=epoch, offset=offset, ts=float(offset))


def take(of: Alarms, disk: dict[tuple[str, str | None], bytes] | None = None) -> Told:
    """What is told, as it is kept."""
    changed, forgotten, news = of.changes()
    if disk is not None:
        for gone in forgotten:
            disk.pop(gone, None)
        disk.update({(alarm.rule, alarm.subject): msgspec.json.encode(alarm) for alarm in changed})
    told = [(one.rule.name, one.data["subject"], str(one.turn), one.data["at"]) for one in news]
    of.taken()
    assert of.changes() == ([], [], [])
    return told


RULES = (rule(for_s=2.0), rule(name="any", pattern="*", until=None), rule(name="slow", pattern="a", for_s=5.0))


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from((CALM, BETWEEN, HIGH))), max_size=25),
    st.data(),
)
def test_a_crash_and_events_that_come_again_change_nothing_of_what_is_told(
    script: list[tuple[str, int]], data: st.DataObject
) -> None:
    events = [event(value, offset, topic) for offset, (topic, value) in enumerate(script, 1)]
    whole = Alarms(RULES)
    for each in events:
        whole.see(each, 0.0)
    expected = take(whole)

    disk: dict[tuple[str, str | None], bytes] = {}
    told: Told = []
    of, at = Alarms(RULES), 0
    for _ in range(3):
        crash = data.draw(st.integers(at, len(events)))
        while at < crash:
            many = data.draw(st.integers(1, crash - at))
            for each in events[at : at + many]:
                of.see(each, 0.0)
            at += many
            told += take(of, disk)
        of = Alarms(RULES, [msgspec.json.decode(kept, type=Alarm) for kept in disk.values()])
        at = data.draw(st.integers(0, at))  # where the kept position is
    for each in events[at:]:
        of.see(each, 0.0)
    told += take(of, disk)
    by_subject = {(name, subject) for name, subject, *_ in expected + told}
    for whose in by_subject:
        assert [one for one in told if one[:2] == whose] == [one for one in expected if one[:2] == whose]


def test_a_subject_that_is_due_fires_by_the_clock_and_its_time_is_known() -> None:
    of = Alarms([rule(for_s=2.0), rule(name="any", pattern="*", for_s=1.0)])
    assert of.due is None
    of.see(event(HIGH, 10), 0.0)
    assert of.due == 11.0
    of.advance(10.9)
    assert take(of) == []
    of.advance(12.5)
    assert sorted(take(of)) == [("any", "load", "alert_fired", 11.0), ("cpu", None, "alert_fired", 12.0)]
    assert of.due is None


def test_a_clock_that_is_set_back_makes_nobody_wait_until_it_is_there_again() -> None:
    of = Alarms([rule(for_s=10.0)])
    for ts in (5_000.0, 1_400.0, 1_405.0):
        of.see(msgspec.structs.replace(event(HIGH, int(ts)), ts=ts, offset=0, epoch=""), 0.0)
    assert of.due == 1_410.0
    of.advance(1_410.0)
    assert take(of) == [("cpu", None, "alert_fired", 1_410.0)]


def test_a_rule_that_looks_at_another_topic_since_a_reload_looks_at_all_of_it() -> None:
    disk: dict[tuple[str, str | None], bytes] = {}
    of = Alarms([rule()])
    of.see(event(HIGH, 1_000), 0.0)
    of.see(event(CALM, 1_001), 0.0)
    take(of, disk)
    of = Alarms([rule(pattern="other")], [msgspec.json.decode(alarm, type=Alarm) for alarm in disk.values()])
    of.see(event(HIGH, 3, "other"), 0.0)
    assert take(of) == [("cpu", None, "alert_fired", 3.0)]


def test_of_a_rule_for_many_topics_each_is_a_subject() -> None:
    of = Alarms([rule(pattern="load.*")])
    for offset, (topic, value) in enumerate([("load.a", HIGH), ("load.b", HIGH), ("load.a", CALM), ("x.y", HIGH)]):
        of.see(event(value, offset, topic), 0.0)
    assert [(subject, turn) for _, subject, turn, _ in take(of)] == [
        ("load.a", "alert_fired"),
        ("load.b", "alert_fired"),
        ("load.a", "alert_cleared"),
    ]
    assert [alert["subject"] for alert in of.listed()["alerts"]] == ["load.b"]
    assert [(one["state"], one["firing"]) for one in of.listed()["rules"]] == [("firing", 1)]


def test_alerts_are_not_what_rules_look_at() -> None:
    loop = rule(name="loop", pattern=">", field="value")
    of = Alarms([loop, rule()])
    of.see(Event.of("alert.loop", {"value": HIGH}, epoch="e", offset=1), 0.0)
    of.see(Event.of("alert.cpu", {"value": HIGH}, epoch="e", offset=1), 0.0)
    assert take(of) == []
    of.see(Event.of("alert.mine", {"value": HIGH}, epoch="e", offset=1), 0.0)
    assert len(take(of)) == 1


def test_subjects_are_bounded_and_the_longest_quiet_one_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alarms, "SUBJECTS", 2)
    of, disk = Alarms([rule(pattern="load.*")]), dict[tuple[str, str | None], bytes]()
    for offset, (topic, value) in enumerate(
        [("load.a", HIGH), ("load.a", CALM), ("load.b", HIGH), ("load.c", HIGH), ("load.d", HIGH)], 1
    ):
        of.see(event(value, offset, topic), 0.0)
        take(of, disk)
    assert [subject for _, subject in disk] == ["load.b", "load.c"]
    assert of.unwatched == {"cpu": 1}


def test_of_a_rule_that_is_gone_what_fires_is_told_as_cleared() -> None:
    before = Alarms([rule(), rule(name="any", pattern="*")])
    before.see(event(HIGH), 0.0)
    changed, *_ = before.changes()
    of = Alarms([rule(name="other"), rule(name="any", pattern="one.topic")], changed, 50.0)
    changed, forgotten, news = of.changes()
    assert forgotten == [("cpu", None), ("any", "load")]
    assert [(one.rule.topic, one.turn, one.data["state"], one.data["at"]) for one in news] == [
        ("alert.cpu", Turn.CLEARED, "cleared", 50.0),
        ("alert.any", Turn.CLEARED, "cleared", 50.0),
    ]
    assert changed == []
    assert of.listed()["alerts"] == []


def test_acknowledging() -> None:
    of = Alarms([rule(), rule(name="any", pattern="*")])
    for name, subject, code in (
        ("nothing", None, ErrorCode.NOT_FOUND),
        ("cpu", None, ErrorCode.CONFLICT),
        ("any", "load", ErrorCode.CONFLICT),
        ("any", None, ErrorCode.BAD_REQUEST),
    ):
        with pytest.raises(RequestError) as refused:
            of.acknowledge(name, subject, "eve", None, 1.0)
        assert refused.value.code is code
    assert (refused.value.field, "any watches *" in refused.value.message) == ("subject", True)
    of.see(event(HIGH), 0.0)
    take(of)
    with pytest.raises(RequestError) as refused:
        of.acknowledge("cpu", None, "eve", "x" * 1_001, 1.0)
    assert refused.value.field == "note"
    data = of.acknowledge("cpu", None, "ann", "mine", 7.0)
    assert data["acknowledged"] == {"by": "ann", "at": 7.0, "note": "mine"}
    assert take(of) == [("cpu", None, "alert_acknowledged", 1.0)]
    of.see(event(CALM, 2), 0.0)
    _, _, [cleared, _] = of.changes()
    assert cleared.data["acknowledged"]["by"] == "ann"
    of.see(event(HIGH, 3), 0.0)
    assert of.listed()["alerts"][0]["acknowledged"] is None, "it is another alert"


def test_events_without_a_place_are_seen_each_time() -> None:
    of = Alarms([rule()])
    for value in (HIGH, CALM, HIGH):
        of.see(event(value, 0, epoch=""), 3.0)
    assert [turn for *_, turn, _ in take(of)] == ["alert_fired", "alert_cleared", "alert_fired"]


def test_the_message_of_every_kind_of_rule_is_for_people() -> None:
    named: AlertRule = rule(pattern="load.*")
    of = Alarms([named])
    of.see(event(HIGH, 1, "load.a"), 0.0)
    [alert] = of.listed()["alerts"]
    assert alert["message"] == "v of load.a is 85"
