from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from engine.feed_figures import HELD, FeedFigures

NOW = 1_700_000_000.0
UPTIME = 5_000.0


def snapshot(**changes: Any) -> dict[str, Any]:
    """What the feed supervisor says of a feed whose breaker is open, though it is connected."""
    breaker = {
        "state": "open",
        "failures": 6,
        "successes": 3,
        "opens": 2,
        "in_a_row": 0,
        "reopened": 1,
        "retry_in": 10.0,
        "until": UPTIME + 10.0,
        "seconds": {"closed": 50.5, "open": 10.0, "half_open": 1.0},
    }
    return {
        "state": "connected",
        "reason": None,
        "kind": None,
        "since": NOW - 60,
        "next_attempt_at": None,
        "retry_in": None,
        "address": "ws://exchange.example/stream",
        "held": False,
        "attempts": 8,
        "reconnects": 7,
        "failures": 0,
        "breaker": breaker | changes.pop("breaker", {}),
        "messages": 100,
        "published": 90,
        "ignored": 4,
        "repeated": 1,
        "missing": 12,
        "gaps": 1,
        "bad": {"missing": 3, "not_json": 2},
        "last_bad": "not_json: {",
        "last_error": None,
        "rate": 12.5,
        "lag": 0.25,
        **changes,
    }


class Times:
    def __init__(self) -> None:
        self.passed = 0.0
        self.figures = FeedFigures(lambda: NOW + self.passed, lambda: UPTIME + self.passed)

    def shown(self, **changes: Any) -> dict[str, Any]:
        self.figures.update({"fx": snapshot(**changes)})
        return self.figures.shown()["fx"]


def test_a_wait_ends_at_the_same_time_however_late_it_is_asked_for() -> None:
    it = Times()
    it.figures.update({"fx": snapshot(state="reconnecting", next_attempt_at=NOW + 4.0, retry_in=4.0)})
    seen = []
    for it.passed in (0.0, 1.5, 7.0, 12.0):
        feed = it.figures.shown()["fx"]
        seen.append((feed["retry_in"], feed["breaker"]["retry_in"]))
    assert seen == [(4.0, 10.0), (2.5, 8.5), (0.0, 3.0), (0.0, 0.0)]
    assert it.figures.snapshots["fx"]["retry_in"] == 4.0, "what the next life is given stays as it was told"


def test_what_does_not_wait_has_no_time() -> None:
    feed = Times().shown(breaker={"state": "closed", "retry_in": None, "until": 0.0})
    assert feed["retry_in"] is None
    assert feed["breaker"]["retry_in"] is None


def test_while_nobody_works_on_it_a_feed_is_disconnected_and_its_past_is_known() -> None:
    it = Times()
    before = it.shown(state="reconnecting", reason="refused", kind="refused", next_attempt_at=NOW + 1, retry_in=1.0)
    it.figures.away = "the feeds process is restarting"
    feed = it.figures.shown()["fx"]
    changed = {name for name in feed if feed[name] != before[name]}
    assert changed == {"state", "reason", "kind", "next_attempt_at", "retry_in", "rate", "lag"}
    assert (feed["state"], feed["reason"]) == ("disconnected", "the feeds process is restarting")
    assert set(feed) == set(before)
    it.figures.away = None
    assert it.figures.shown()["fx"] == before


def test_health_names_the_reason() -> None:
    it = Times()

    def component(**changes: Any) -> tuple[Any, ...]:
        it.shown(**changes)
        return tuple(it.figures.components()["feed:fx"].values())

    assert component() == ("ok", None, None)
    assert component(state="connecting") == ("degraded", "connecting", None)
    assert component(state="disconnected", held=True) == ("degraded", HELD, None)
    assert component(state="failed", reason="unauthorized: HTTP 401") == ("degraded", "unauthorized: HTTP 401", None)
    waiting = component(state="reconnecting", reason="refused", next_attempt_at=NOW + 2, retry_in=9.0)
    assert waiting == ("degraded", "refused", 2.0)
    it.figures.away = "gone"
    assert component() == ("degraded", "gone", None)


def test_counters_of_a_feed() -> None:
    it = Times()
    it.shown()
    counters = it.figures.counters()["fx"]
    assert counters["messages", "published"] == 90
    assert counters["messages", "bad"] == 5
    assert counters["bad", "not_json"] == 2
    assert counters["breaker_seconds", "open"] == 10.0
    assert counters["missing",] == 12


def test_a_feed_that_comes_again_begins_anew_and_its_counters_go_on() -> None:
    it = Times()
    it.shown(attempts=8)
    it.figures.update({})
    assert it.figures.shown() == {}
    assert it.figures.counters()["fx"]["attempts",] == 8
    it.shown(attempts=1)
    assert it.figures.counters()["fx"]["attempts",] == 9
    it.shown(attempts=3)
    assert it.figures.counters()["fx"]["attempts",] == 11


class Feeds(RuleBasedStateMachine):
    """Feeds count, lose what they have counted since the last report, go and come: no counter falls or counts twice."""

    names = st.sampled_from(["fx", "eq"])

    def __init__(self) -> None:
        super().__init__()
        self.figures = FeedFigures()
        self.reported: dict[str, int] = {}
        self.counts: dict[str, int] = {}
        self.done: dict[str, int] = {}  # reported by earlier feeds of that name
        self.before: dict[str, float] = {}

    @rule(name=names, n=st.integers(1, 9))
    def count(self, name: str, n: int) -> None:
        self.counts[name] = self.counts.get(name, 0) + n

    @rule()
    def report(self) -> None:
        self.figures.update(self.told(self.counts))
        self.reported = dict(self.counts)

    @rule()
    def crash(self) -> None:
        self.counts = dict(self.reported)

    @rule(name=names)
    def remove(self, name: str) -> None:
        self.report()
        self.done[name] = self.done.get(name, 0) + self.counts.pop(name, 0)
        self.report()

    def told(self, counts: Mapping[str, int]) -> dict[str, dict[str, Any]]:
        return {name: snapshot(attempts=n, bad={"missing": n}) for name, n in counts.items()}

    @invariant()
    def all_is_counted_once(self) -> None:
        counters = self.figures.counters()
        for name in {*self.done, *self.reported}:
            expected = self.done.get(name, 0) + self.reported.get(name, 0)
            found = counters.get(name, {})
            assert found.get(("attempts",), 0) == found.get(("bad", "missing"), 0) == expected
            assert expected >= self.before.get(name, 0)
            self.before[name] = expected


TestFeeds = Feeds.TestCase
