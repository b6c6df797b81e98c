from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.history_watch import DURABLE, RECENT, STALLED_AFTER_S, HistoryWatch


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_trouble_is_told_until_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    watch = HistoryWatch()
    assert (watch.troubled, watch.reason) == (False, None)
    for _ in range(1000):
        watch.failed(RECENT, "no room", 2)
    assert (watch.troubled, watch.reason) == (True, "recent events: no room")
    watch.works(RECENT)
    watch.works(RECENT)
    assert (watch.troubled, watch.reason) == (False, None)
    assert caplog.messages == [
        "history fails, recent events: no room",
        "history works again, recent events; 2000 events were refused",
    ]


def test_troubles_are_told_apart_and_the_newest_reason_counts(caplog: pytest.LogCaptureFixture) -> None:
    watch = HistoryWatch()
    watch.failed(RECENT, "no room", 1)
    watch.failed(DURABLE, "no room", 1)
    watch.failed(DURABLE, "the disk has gone", 1)
    assert watch.reason == "recent events: no room; durable topics: the disk has gone"
    watch.works(RECENT)
    assert watch.reason == "durable topics: the disk has gone"
    watch.works(DURABLE)
    watch.failed(DURABLE, "again")
    watch.works(DURABLE)
    assert [message.rsplit("; ", 1)[-1] for message in caplog.messages if "again," in message] == [
        "1 events were refused",
        "2 events were refused",
        "0 events were refused",
    ]


def test_a_keeper_that_says_nothing_is_a_trouble() -> None:
    clock = Clock()
    watch = HistoryWatch(clock)

    def reason() -> str | None:
        return watch.reason

    clock.now += 1e6  # nothing to do for long
    watch.handed_over(3, 30)
    assert reason() is None
    clock.now += STALLED_AFTER_S / 2
    watch.handed_over(4, 40)  # more for it is no word from it
    clock.now += STALLED_AFTER_S / 2
    assert reason() == "durable topics: the disk has not answered for 5 s, 7 events wait"
    assert not watch.troubled, "nothing has failed"
    watch.answered(3, 30)
    assert reason() is None, "it is at work"
    clock.now += STALLED_AFTER_S
    assert reason() is not None
    watch.answered(4, 40)
    clock.now += 1e6
    assert reason() is None, "nothing waits"


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([RECENT, DURABLE]), st.integers(0, 9))))
def test_troubled_is_what_failed_last(steps: list[tuple[bool, str, int]]) -> None:
    watch = HistoryWatch()
    last: dict[str, bool] = {}
    for failed, what, events in steps:
        last[what] = failed
        if failed:
            watch.failed(what, "why", events)
        else:
            watch.works(what)
        assert watch.troubled == any(last.values())
        assert (watch.reason or "").count("why") == sum(last.values())
