import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.keepalive import SLICE, Keepalive


class _Handle:
    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class _Loop:
    """Runs what it was given when told to."""

    def __init__(self) -> None:
        self.timer: tuple[float, Callable[[], None], _Handle] | None = None
        self.soon: list[Callable[[], None]] = []

    def call_later(self, delay: float, callback: Callable[[], None]) -> _Handle:
        handle = _Handle()
        self.timer = delay, callback, handle
        return handle

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def tick(self) -> None:
        assert self.timer is not None
        _, callback, handle = self.timer
        assert not handle.cancelled
        callback()

    def turn(self) -> None:
        soon, self.soon = self.soon, []
        for callback in soon:
            callback()


class _Entry:
    def __init__(self, keepalive: Keepalive) -> None:
        self.bucket = 0
        self.keepalive = keepalive
        self.called: list[int] = []
        self.again = 0

    def on_deadline(self) -> None:
        self.called.append(self.keepalive.now)
        if self.again:
            self.keepalive.watch(self, self.again)


def _keepalive(tick: float = 0.5) -> tuple[Any, Keepalive]:
    loop: Any = _Loop()
    keepalive = Keepalive(loop, tick)
    keepalive.start()
    return loop, keepalive


@given(st.lists(st.one_of(st.just(0), st.integers(1, 6)), max_size=60))
def test_a_deadline_is_called_once_at_its_tick_unless_moved(steps: list[int]) -> None:
    """0 lets a tick pass, anything else sets the one deadline anew."""
    loop, keepalive = _keepalive()
    entry = _Entry(keepalive)
    due, expected = None, []
    for step in steps:
        if step:
            keepalive.watch(entry, step)
            due = keepalive.now + step
        else:
            loop.tick()
            if due is not None and keepalive.now == due:
                expected.append(due)
                due = None
        assert entry.called == expected


def test_seconds_are_never_cut_short() -> None:
    loop, keepalive = _keepalive(tick=0.5)
    assert loop.timer[0] == 0.5
    # Set in the middle of a tick: 1.2 s need three whole ticks after the rest of this one.
    assert keepalive.ticks(1.2) == 4
    assert keepalive.ticks(0.5) == 2


def test_a_forgotten_entry_is_left_alone() -> None:
    loop, keepalive = _keepalive()
    entry = _Entry(keepalive)
    keepalive.watch(entry, 1)
    keepalive.forget(entry)
    keepalive.forget(entry)
    loop.tick()
    assert entry.called == []


def test_an_entry_may_set_its_next_deadline() -> None:
    loop, keepalive = _keepalive()
    entry = _Entry(keepalive)
    entry.again = 2
    keepalive.watch(entry, 1)
    for _ in range(6):
        loop.tick()
    assert entry.called == [2, 4, 6]


def test_many_in_one_tick_are_spread_over_turns_of_the_loop() -> None:
    loop, keepalive = _keepalive()
    entries = [_Entry(keepalive) for _ in range(2 * SLICE + 10)]
    for entry in entries:
        keepalive.watch(entry, 1)
    loop.tick()

    def called() -> int:
        return sum(len(entry.called) for entry in entries)

    assert called() == SLICE
    late = next(entry for entry in entries if not entry.called)
    keepalive.forget(late)
    loop.turn()
    loop.tick()  # does not start a second walk beside the first
    assert 2 * SLICE - 1 <= called() <= 2 * SLICE
    loop.turn()
    assert called() == len(entries) - 1
    assert late.called == []
    assert not loop.soon


def test_stopped_it_has_no_timer_and_starts_only_once() -> None:
    loop, keepalive = _keepalive()
    first = loop.timer
    keepalive.start()
    assert loop.timer is first
    keepalive.stop()
    assert first[2].cancelled
    keepalive.start()
    assert loop.timer is not first


def test_a_tick_takes_time() -> None:
    loop = asyncio.new_event_loop()
    try:
        with pytest.raises(ValueError, match="tick"):
            Keepalive(loop, 0)
    finally:
        loop.close()
