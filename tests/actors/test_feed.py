"""What of a feed outlives its connection: its figures, over the death of its process too, and who may not see what."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.backoff import BackoffPolicy
from actors.diagnosis import classify
from actors.failure import Failure, FailureKind, UpstreamRefused
from actors.feed import PENDING, SAMPLE_BYTES, Feed, FeedSpec, check_url, public_address
from actors.feed_protocol import FeedGap, FeedProtocol, MappedProtocol, ProtocolSpec
from actors.feed_state import FeedState
from actors.mapping import BadMessage, FeedMap, MappingError
from actors.recovery import RecoveryPolicy
from actors.token import TokenSource
from tests.actors.recording import Recorder
from transport.errors import ConfigError, RequestError
from transport.messages import Publish

MAPPED = ProtocolSpec(MappedProtocol, {"maps": [FeedMap(topic="a", data={"p": "p"})]})
RECOVERY = RecoveryPolicy(backoff=BackoffPolicy(first_s=0.1, cap_s=30, jitter=False))
REFUSED = Failure(FailureKind.REFUSED, "nobody listens")
URLS = ("wss://user:PASSWORD@one.test/p?key=SECRET", "wss://two.test/p?key=SECRET")


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def spec(**fields: Any) -> FeedSpec:
    return FeedSpec("f", **{"urls": ("ws://one.test/",), "protocol": MAPPED, "recovery": RECOVERY, **fields})


def lived(clock: Clock, publisher: Recorder | None = None, **fields: Any) -> Feed:
    """A feed that has seen something of everything."""
    feed = Feed(spec(**fields), publisher or Recorder(), clock=clock)
    feed.enter(FeedState.CONNECTING)
    feed.attempts, feed.reconnects, feed.connected_before = 5, 2, True
    feed.enter(FeedState.CONNECTED)
    feed.messages, feed.published, feed.ignored, feed.repeated = 9, 4, 3, 2
    feed.gap(FeedGap("sequence", "A", 3, 7))
    feed.gap(FeedGap("reconnected"))
    for reason in (BadMessage.MISSING, BadMessage.NOT_JSON, BadMessage.MISSING):
        feed.note_bad(MappingError(reason, "data.p"), b'{"x":1}')
    feed.lag = 0.25
    for _ in range(6):
        verdict = feed.recovery.failed(REFUSED)
        clock.now += feed.recovery.breaker.wait_s
    feed.enter(FeedState.RECONNECTING, REFUSED, verdict.delay_s)
    return feed


# figures -------------------------------------------------------------------------------------------------------------


def test_a_snapshot_has_all_figures_as_plain_values() -> None:
    snapshot = json.loads(json.dumps(lived(Clock()).snapshot(), allow_nan=False))
    breaker = snapshot.pop("breaker")
    moments = snapshot.pop("since"), snapshot.pop("next_attempt_at") - 20
    assert moments == (pytest.approx(time.time(), abs=60),) * 2
    assert snapshot.pop("retry_in") == pytest.approx(20, abs=10)
    assert snapshot == {
        "state": "reconnecting",
        "reason": "refused: nobody listens",
        "kind": "refused",
        "address": "ws://one.test/",
        "held": False,
        "connected_before": True,
        "attempts": 5,
        "reconnects": 2,
        "failures": 6,
        "url": 6,
        "messages": 9,
        "published": 4,
        "ignored": 3,
        "repeated": 2,
        "gaps": 2,
        "missing": 5,
        "bad": {"missing": 2, "not_json": 1},
        "last_bad": 'missing: data.p: {"x":1}',
        "last_error": "refused: nobody listens",
        "rate": 0.3,
        "lag": 0.25,
    }
    assert {key: breaker[key] for key in ("state", "failures", "successes", "opens", "retry_in", "seconds")} == {
        "state": "half_open",
        "failures": 6,
        "successes": 0,
        "opens": 2,
        "retry_in": None,
        "seconds": {"closed": 0, "open": 30, "half_open": 0},
    }


def test_a_new_feed_has_the_same_keys_and_nothing_in_them() -> None:
    snapshot = Feed(spec(), Recorder()).snapshot()
    assert snapshot.keys() == lived(Clock()).snapshot().keys()
    assert (snapshot["state"], snapshot["kind"], snapshot["retry_in"], snapshot["lag"]) == ("disconnected", *[None] * 3)
    assert not any(snapshot[key] for key in ("attempts", "messages", "bad", "missing", "last_bad", "last_error"))


def test_a_rate_is_of_the_time_since_it_was_asked_for_last() -> None:
    clock = Clock()
    feed = Feed(spec(), Recorder(), clock=clock)
    feed.messages = 30
    clock.now += 0.5
    assert feed.snapshot()["rate"] == 0, "too short a time"
    clock.now += 2.5
    assert [feed.snapshot()["rate"], feed.snapshot()["rate"]] == [10, 10]
    clock.now += 1
    assert feed.snapshot()["rate"] == 0


def test_lag_is_the_age_of_the_newest_event_that_says_when_it_was() -> None:
    feed = Feed(spec(), Recorder())
    feed.note_lag([Publish(0, "t", "e", b"1")])
    assert feed.lag is None
    feed.note_lag([Publish(0, "t", "e", b"1"), Publish(0, "t", "e", b"1", source_ts=time.time() - 100)])
    assert feed.lag == pytest.approx(100, abs=30)


def test_a_gap_is_counted_and_told() -> None:
    publisher = Recorder()
    feed = Feed(spec(), publisher)
    publisher.publish([feed.gap(FeedGap("sequence", "A", 2**70, 2**70 + 2)), feed.gap(FeedGap("reconnected"))])
    assert publisher.told("feed_gap") == [
        {"reason": "sequence", "counter": "A", "first": 2**70, "last": 2**70 + 2},
        {"reason": "reconnected", "counter": None, "first": None, "last": None},
    ]
    assert {event.topic for event in publisher.events} == {"system.feeds.f"}
    assert (feed.gaps, feed.missing) == (2, 3)


def test_of_bad_messages_the_last_is_kept_in_part_and_the_first_of_a_reason_is_logged_without_its_content(
    caplog: pytest.LogCaptureFixture,
) -> None:
    feed = Feed(spec(), Recorder())
    caplog.set_level(logging.INFO, "actors.feed")
    for reason in (BadMessage.MISSING, BadMessage.MISSING, BadMessage.BAD_TIME):
        feed.note_bad(MappingError(reason, "data.p"), b"CONTENT\xff" * 1_000)
    assert feed.bad == {"missing": 2, "bad_time": 1}
    assert feed.last_bad is not None
    assert feed.last_bad.startswith("bad_time: data.p: CONTENT\N{REPLACEMENT CHARACTER}CONTENT")
    assert len(feed.last_bad) < SAMPLE_BYTES + 50
    assert [record.getMessage() for record in caplog.records] == [
        "feed f: first bad message, missing at data.p",
        "feed f: first bad message, bad_time at data.p",
    ]


def test_the_breakers_changes_are_told_with_its_wait() -> None:
    publisher, clock, changes = Recorder(), Clock(), []
    feed = Feed(spec(), publisher, clock=clock, on_change=lambda: changes.append(feed.recovery.breaker.state))
    for _ in range(5):
        feed.recovery.failed(REFUSED)
    clock.now += 10
    feed.recovery.delivered(3)
    assert publisher.told("feed_breaker") == [
        {"from": "closed", "state": "open", "retry_in": 10},
        {"from": "open", "state": "half_open", "retry_in": None},
        {"from": "half_open", "state": "closed", "retry_in": None},
    ]
    assert changes == ["open", "half_open", "closed"]


def test_who_is_told_of_a_change_may_take_a_snapshot() -> None:
    seen: list[tuple[str, str]] = []

    def look() -> None:
        snapshot = feed.snapshot()
        seen.append((snapshot["state"], snapshot["breaker"]["state"]))

    clock = Clock()
    feed = Feed(spec(), Recorder(), clock=clock, on_change=look)
    feed.enter(FeedState.CONNECTING)
    for _ in range(5):
        feed.recovery.failed(REFUSED)
    clock.now += 10
    feed.snapshot()
    assert seen == [("connecting", "closed"), ("connecting", "open"), ("connecting", "half_open")]


# over the death of its process ---------------------------------------------------------------------------------------


def successor(feed: Feed, clock: Clock) -> Feed:
    other = Feed(feed.spec, Recorder(), clock=clock)
    other.restore(json.loads(json.dumps(feed.snapshot())))
    return other


def test_a_successor_has_the_same_figures_but_is_disconnected() -> None:
    clock = Clock()
    feed = lived(clock)
    before, after = feed.snapshot(), successor(feed, clock).snapshot()
    for measured in ("retry_in", "rate", "lag"):
        del before[measured], after[measured]
    assert after == before | {"state": "disconnected"}


def test_a_successor_waits_until_the_attempt_that_was_due_and_as_long_as_its_predecessor_would() -> None:
    clock = Clock()
    feed = lived(clock)
    other = successor(feed, clock)
    assert other.next_attempt_at == feed.next_attempt_at
    assert 0 < other.due_in <= 20
    assert [f.recovery.failed(REFUSED).delay_s for f in (feed, other)] == [40, 40]


@pytest.mark.parametrize("retry_in", [None, -5])
def test_what_is_not_due_or_overdue_is_due_at_once(retry_in: float | None) -> None:
    feed = Feed(spec(), Recorder())
    feed.enter(FeedState.RECONNECTING, None, retry_in)
    assert feed.due_in == 0


def test_an_operators_hold_and_a_failure_for_good_stay() -> None:
    clock = Clock()
    feed = Feed(spec(), Recorder(), clock=clock)
    feed.held = True
    assert successor(feed, clock).held
    feed.enter(FeedState.FAILED, Failure(FailureKind.UNAUTHORIZED, "HTTP 401"))
    other = successor(feed, clock)
    assert (other.state, other.failure) == (FeedState.FAILED, feed.failure)
    assert successor(other, clock).reason == "unauthorized: HTTP 401"


def test_a_feed_that_was_paused_after_crashes_is_tried_when_it_would_have_been() -> None:
    feed = Feed(spec(), Recorder())
    feed.enter(FeedState.FAILED, Failure(FailureKind.CRASHED, "too often"), 30)
    other = successor(feed, Clock())
    assert (other.state, other.reason) == (FeedState.DISCONNECTED, "crashed: too often")
    assert 29 < other.due_in <= 30


def test_a_reason_that_is_no_failure_stays_too() -> None:
    feed = Feed(spec(), Recorder())
    feed.end("by an operator")
    feed.enter(FeedState.FAILED, reason="why not")
    other = successor(feed, Clock())
    assert (other.failure, other.reason, other.last_error) == (None, "why not", None)


class Numbered(FeedProtocol):
    """Whose numbers tell what was missed."""

    def missed(self) -> FeedGap | None:
        return None


def test_a_successor_knows_no_numbers_and_says_once_that_something_may_be_missing() -> None:
    clock = Clock()
    feed = Feed(spec(protocol=ProtocolSpec(Numbered)), Recorder(), clock=clock)
    first = successor(feed, clock)
    assert first.missed() is None, "nobody was connected yet"
    first.connected_before = True
    assert first.missed() is None, "its numbers are all there"
    feed.connected_before = True
    assert feed.missed() is None
    other = successor(feed, clock)
    assert [other.missed(), other.missed()] == [FeedGap("reconnected"), None]


@given(st.sampled_from(FailureKind), st.text())
def test_any_failure_is_restored_as_it_was_shown(kind: FailureKind, detail: str) -> None:
    feed = Feed(spec(), Recorder())
    detail = detail.encode("utf-8", "replace").decode()[:100]
    feed.enter(FeedState.FAILED, Failure(kind, detail))
    other = successor(feed, Clock())
    assert (other.failure, other.reason) == (feed.failure, feed.reason)


# another spec --------------------------------------------------------------------------------------------------------


def test_another_spec_begins_anew_but_counters_and_what_waits_go_on() -> None:
    feed = lived(Clock())
    feed.send("a")
    feed.refused_token = "t"
    counted = feed.snapshot()["breaker"]
    feed.change(spec(urls=("ws://other.test/",)))
    snapshot = feed.snapshot()
    assert (snapshot["address"], snapshot["messages"], list(feed.pending)) == ("ws://other.test/", 9, ["a"])
    assert (snapshot["breaker"]["state"], snapshot["failures"], snapshot["url"]) == ("closed", 0, 0)
    assert snapshot["breaker"]["failures"] == counted["failures"] > 0
    assert snapshot["breaker"]["seconds"] == counted["seconds"]
    assert (feed.refused_token, feed.connected_before) == (None, True)
    assert (feed.missed(), feed.missed()) == (FeedGap("reconnected"), feed.protocol.missed())  # numbers are forgotten


def test_a_spec_that_cannot_work_changes_nothing() -> None:
    feed = lived(Clock())
    before, protocol = feed.spec, feed.protocol
    with pytest.raises(ConfigError, match="map"):
        feed.change(spec(protocol=ProtocolSpec(MappedProtocol, {"maps": []})))
    assert (feed.spec, feed.protocol, feed.recovery.backoff.failures) == (before, protocol, 6)


def test_urls_take_turns() -> None:
    feed = Feed(spec(urls=("ws://a.test/", "ws://b.test/")), Recorder())
    turns = []
    for _ in range(3):
        turns.append(feed.url)
        feed.recovery.failed(REFUSED)
    assert turns == ["ws://a.test/", "ws://b.test/", "ws://a.test/"]


# what waits to be sent -----------------------------------------------------------------------------------------------


def test_messages_wait_in_order_up_to_a_limit() -> None:
    feed = Feed(spec(), Recorder())
    for i in range(PENDING):
        feed.send(str(i))
    with pytest.raises(RequestError, match=f"limit_exceeded: {PENDING} messages wait"):
        feed.send("too many")
    assert list(feed.pending) == [str(i) for i in range(PENDING)]
    feed.pending.popleft()
    feed.send(b"room again")
    assert feed.pending[-1] == b"room again"


# addresses and secrets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("ws://h", "ws://h"),
        ("wss://h:8443/p/q?key=SECRET", "wss://h:8443/p/q"),
        ("wss://u:SECRET@h/", "wss://h/"),
        ("wss://u:SECRET@SECRET@h/", "wss://h/"),
        ("ws://u:SECRET@[::1]:80/?SECRET", "ws://[::1]:80/"),
    ],
)
def test_an_address_is_public_without_user_and_query(url: str, public: str) -> None:
    assert check_url(url, "url") == url
    assert public_address(url) == public


@pytest.mark.parametrize(
    "url",
    [
        *("", "h", "http://h/", "ws://", "ws:///p", "ws://h:0/", "ws://h:99999/", "ws://h:x/", "ws://[::1/"),
        *("ws://a..b/", f"ws://{'a' * 64}/", "ws://h/#fragment", "ws://user@h/"),
    ],
)
def test_a_url_that_cannot_be_connected_to_names_its_field_and_is_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^feeds\.f\.url: must be ws://") as caught:
        check_url(url, "feeds.f.url")
    assert caught.value.field == "feeds.f.url"


def test_secrets_are_in_no_snapshot_event_or_log_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    publisher, clock = Recorder(), Clock()
    secret = spec(
        urls=URLS,
        headers={"X-Api-Key": "SECRET"},
        token=TokenSource(text="SECRET"),
        proxy="http://u:SECRET@proxy.test:1",
        protocol=ProtocolSpec(FeedProtocol, {}),
    )
    feed = Feed(secret, publisher, clock=clock)
    for refusal in (f"cannot reach {URLS[0]}", f"{URLS[1]}: no such stream", "see wss://u:PASSWORD@else.test/?SECRET"):
        feed.enter(FeedState.CONNECTING)
        failure = classify(UpstreamRefused(FailureKind.REJECTED, refusal))
        feed.recovery.failed(failure)
        feed.enter(FeedState.RECONNECTING, failure, 1.0)
    feed.enter(FeedState.FAILED, Failure(FailureKind.CRASHED, f"a bug at {URLS[0]}"))
    feed.end()
    for shown in (repr(secret), str(feed.snapshot()), str(publisher.events), caplog.text):
        assert shown
        assert "SECRET" not in shown and "PASSWORD" not in shown
    assert len(publisher.told("feed_state")) == 8
    assert "wss://else.test/" in caplog.text


def test_a_reason_is_no_longer_than_a_line() -> None:
    publisher = Recorder()
    feed = Feed(spec(), publisher)
    feed.enter(FeedState.FAILED, Failure(FailureKind.REJECTED, "x" * 10_000))
    assert len(publisher.told("feed_state")[0]["reason"]) == len(feed.snapshot()["last_error"]) == 200
