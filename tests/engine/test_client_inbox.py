"""Bounds of an inbox, and what it says about what it dropped."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.client_inbox import OVERRUN, Inbox
from transport.client_messages import Gap
from transport.event import Event


def event(offset: int, topic: str = "a") -> Event:
    return Event(topic=topic, payload=b"{}", epoch="e", offset=offset)


def test_full_at_the_capacity_roomy_at_half() -> None:
    inbox = Inbox(4)
    for offset in range(1, 5):
        assert not inbox.full
        inbox.put(event(offset))
    assert inbox.full
    inbox.take()
    assert (inbox.full, inbox.roomy) == (False, False)
    inbox.take()
    assert inbox.roomy


def test_beyond_the_overrun_the_newest_are_one_gap_in_their_place() -> None:
    inbox = Inbox(1)
    for offset in range(1, OVERRUN + 4):
        inbox.put(event(offset))
    inbox.put(event(7, "b"))
    taken = [inbox.take() for _ in range(3)]
    inbox.put(event(OVERRUN + 4))
    while (item := inbox.take()) is not None:
        taken.append(item)
    gaps = [Gap("a", "e", OVERRUN + 1, OVERRUN + 3, "slow"), Gap("b", "e", 7, 7, "slow")]
    assert taken == [*(event(offset) for offset in range(1, OVERRUN + 1)), *gaps, event(OVERRUN + 4)]


def test_a_capacity_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="capacity"):
        Inbox(0)


@given(st.lists(st.booleans()))
def test_every_offset_is_taken_or_told_as_lost_in_order(puts: list[bool]) -> None:
    inbox, offset = Inbox(1), 0
    accounted: list[int] = []

    def take() -> None:
        item = inbox.take()
        if isinstance(item, Gap):
            accounted.extend(range(item.first, item.last + 1))
        elif item is not None:
            accounted.append(item.offset)

    for put in puts:
        if put:
            offset += 1
            inbox.put(event(offset))
            assert len(inbox) <= OVERRUN + 2
        else:
            take()
    while len(inbox):
        take()
    assert accounted == list(range(1, offset + 1))
