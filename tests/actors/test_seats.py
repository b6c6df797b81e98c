"""Seats: never more than there are, whatever workers, clients, links and hubs do; and what a census says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.occupancy import Census, Occupancy
from actors.seats import Seats
from transport.codec import join, unpack_batch
from transport.messages import AskSeat, Occupied, Seat


class Peer:
    def __init__(self) -> None:
        self.out: list[bytes] = []

    def take(self) -> list[Any]:
        out, self.out = self.out, []
        return unpack_batch(join(out))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def hub(most: int | None = 2, workers: int = 1) -> tuple[Seats, Clock]:
    clock = Clock()
    return Seats(most, workers, 5.0, clock), clock


def test_one_more_than_there_are_is_refused_and_told_how_many() -> None:
    seats, _ = hub()
    one, two = Peer(), Peer()
    seats.on_occupied(one, Occupied(0, 0, 0))
    for ref in (1, 2, 3):
        seats.on_ask_seat(one, AskSeat(ref, True))
    seats.on_ask_seat(two, AskSeat(9, True))
    assert one.take() == [Seat(1, True, 1, 0), Seat(2, True, 2, 0), Seat(3, False, 2, 0)]
    assert two.take() == [Seat(9, False, 2, 0)]


def test_a_seat_that_the_worker_has_not_heard_of_is_taken_all_the_same() -> None:
    seats, _ = hub()
    peer = Peer()
    seats.on_occupied(peer, Occupied(0, 0, 0))
    seats.on_ask_seat(peer, AskSeat(1, True))
    seats.on_occupied(peer, Occupied(0, 4, 0))  # said before the seat came
    assert (seats.clients, seats.subscriptions) == (1, 4)
    seats.on_occupied(peer, Occupied(0, 4, 1))  # it came, and went
    assert seats.clients == 0


def test_a_hub_that_begins_hears_each_worker_first() -> None:
    seats, _ = hub(most=3, workers=2)
    one, two = Peer(), Peer()
    seats.on_occupied(one, Occupied(1, 0, 0))
    seats.on_ask_seat(one, AskSeat(1, True))
    seats.on_ask_seat(one, AskSeat(2, False))
    assert one.take() == []
    seats.on_occupied(two, Occupied(2, 7, 0))
    assert one.take() == [Seat(1, False, 3, 7), Seat(2, False, 3, 7)]


@pytest.mark.parametrize("how", ["tick", "question"])
def test_it_does_not_wait_for_ever_for_a_worker_that_is_gone(how: str) -> None:
    seats, clock = hub(workers=2)
    one = Peer()
    seats.on_occupied(one, Occupied(1, 0, 0))
    seats.on_ask_seat(one, AskSeat(1, True))
    seats.tick()
    assert one.take() == []
    clock.now = 5.0
    if how == "tick":
        seats.tick()
    else:
        seats.on_ask_seat(one, AskSeat(2, False))
    assert one.take()[0] == Seat(1, True, 2, 0)


def test_seats_and_questions_go_with_the_link() -> None:
    seats, _ = hub(workers=2)
    one, two = Peer(), Peer()
    seats.on_occupied(one, Occupied(2, 3, 0))
    seats.on_ask_seat(one, AskSeat(1, True))
    seats.gone(one)
    seats.on_occupied(two, Occupied(0, 0, 0))
    seats.on_occupied(again := Peer(), Occupied(1, 3, 0))
    seats.on_ask_seat(again, AskSeat(1, True))
    assert one.take() == []
    assert again.take() == [Seat(1, True, 2, 3)]


def test_without_a_limit_a_census_is_all_that_is_asked_for() -> None:
    seats, _ = hub(most=None)
    peer = Peer()
    seats.on_occupied(peer, Occupied(10, 20, 0))
    seats.on_ask_seat(peer, AskSeat(1, False))
    assert peer.take() == [Seat(1, False, 10, 20)]


# workers and a hub that dies ------------------------------------------------------------------------------------------


class Link:
    """A worker's uplink: what it sends waits for the hub, and what the hub answers for the worker."""

    window_open = True

    def __init__(self) -> None:
        self.up: list[bytes] = []
        self.peer: Peer | None = None

    @property
    def connected(self) -> bool:
        return self.peer is not None

    def send(self, packed: bytes) -> None:
        assert self.peer is not None
        self.up.append(packed)


class Node:
    """A worker: its occupancy, and the clients that got in."""

    def __init__(self, limit: int | None) -> None:
        self.link = Link()
        self.occupancy = Occupancy(self.link)
        self.inside = 0
        self.refused = 0
        self.pending: list[int] = []  # questions that may be withdrawn
        self.occupancy.begin(limit)

    def knock(self) -> None:
        ref: list[int] = []

        def told(given: bool) -> None:
            self.inside += given
            self.refused += not given
            if ref:
                self.pending.remove(ref[0])

        ref.append(self.occupancy.take(told))
        self.pending.append(ref[0])

    def leave(self) -> None:
        if self.inside:
            self.inside -= 1
            self.occupancy.leave()


MOST = 3
STEP = st.tuples(
    st.sampled_from(["knock", "knock", "leave", "withdraw", "up", "up", "down", "down", "settle", "lost", "hub"]),
    st.integers(0, 1),
)


class Engine:
    def __init__(self) -> None:
        self.clock = Clock()
        self.nodes = [Node(MOST), Node(MOST)]
        self.seats = Seats(MOST, 2, 5.0, self.clock)
        for node in self.nodes:
            self.join(node)

    def join(self, node: Node) -> None:
        node.link.up.clear()
        node.link.peer = Peer()
        node.occupancy.again()

    def up(self, node: Node) -> None:
        """One message of a worker arrives."""
        if node.link.up:
            [item] = unpack_batch(join([node.link.up.pop(0)]))
            self.seats.handlers[type(item)](node.link.peer, item)

    def down(self, node: Node) -> None:
        peer = node.link.peer
        assert peer is not None
        if peer.out:
            [item] = unpack_batch(join([peer.out.pop(0)]))
            node.occupancy.answered(item)

    def lost(self, node: Node) -> None:
        self.seats.gone(node.link.peer)
        self.join(node)

    def hub(self) -> None:
        self.seats = Seats(MOST, 2, 5.0, self.clock)
        for node in self.nodes:
            self.join(node)

    async def step(self, what: str, which: int) -> None:
        node = self.nodes[which]
        match what:
            case "knock":
                node.knock()
            case "leave":
                node.leave()
            case "withdraw" if node.pending:
                node.occupancy.withdraw(node.pending.pop(0))
            case "up" | "down" | "lost":
                getattr(self, what)(node)
            case "hub":
                self.hub()
            case "settle":
                await self.settle(10)
        await asyncio.sleep(0)  # what is told once a turn

    async def settle(self, rounds: int = 200) -> None:
        for _ in range(rounds):
            for node in self.nodes:
                self.up(node)
                self.down(node)
                await asyncio.sleep(0)


@settings(max_examples=100, deadline=None)
@given(steps=st.lists(STEP, max_size=60), dying=st.booleans())
def test_there_are_never_more_clients_than_seats(steps: list[tuple[str, int]], dying: bool) -> None:
    async def main() -> None:
        engine = Engine()
        lost = False
        for what, which in steps:
            if what in ("lost", "hub"):
                if not dying:
                    continue
                lost = lost or what == "lost"
            await engine.step(what, which)
            inside = sum(node.inside for node in engine.nodes)
            # A link that breaks takes its seats with it, while its clients stay: then there may be more for a while.
            assert lost or inside <= MOST
        await engine.settle()
        inside = sum(node.inside for node in engine.nodes)
        assert engine.seats.clients == inside, "nothing leaks"
        assert not any(node.pending for node in engine.nodes), "everybody has an answer"
        for node in engine.nodes:
            while node.inside:
                node.leave()
        await engine.settle()
        for _ in range(MOST + 1):
            engine.nodes[0].knock()
        await engine.settle()
        assert engine.nodes[0].inside == MOST
        census: list[Census] = []
        engine.nodes[1].occupancy.subscribed(7)
        engine.nodes[1].occupancy.ask(census.append)
        await engine.settle()
        assert census == [Census(MOST, 7, MOST)]

    uvloop.run(main())


def within(test: Callable[[], Any]) -> None:
    async def main() -> None:
        test()

    uvloop.run(main())


def test_without_a_limit_nobody_waits_for_a_hub() -> None:
    def test() -> None:
        node = Node(None)
        node.knock()
        assert node.inside == 1

    within(test)


def test_a_question_that_nobody_hears_leaves_nothing() -> None:
    def test() -> None:
        node = Node(MOST)
        node.knock()
        node.occupancy.withdraw(node.pending.pop())
        assert not node.occupancy._asked

    within(test)


def test_an_answer_that_comes_when_the_hub_and_who_asked_have_gone_is_void() -> None:
    async def main() -> None:
        engine = Engine()
        await engine.settle()
        node = engine.nodes[0]
        node.knock()
        engine.up(node)
        assert node.link.peer is not None
        [late] = node.link.peer.take()
        node.link.peer = None
        node.occupancy.withdraw(node.pending.pop())
        node.occupancy.answered(late)
        assert node.inside == 0

    uvloop.run(main())


def test_an_answer_of_a_former_hub_is_void() -> None:
    async def main() -> None:
        engine = Engine()
        await engine.settle()
        node = engine.nodes[0]
        node.knock()
        engine.up(node)
        former = node.link.peer
        assert former is not None and former.out
        engine.hub()
        [late] = former.take()
        node.occupancy.answered(late)
        await engine.settle()
        assert (node.inside, engine.seats.clients) == (1, 1)

    uvloop.run(main())


def test_who_asked_and_went_gives_the_seat_back() -> None:
    async def main() -> None:
        engine = Engine()
        await engine.settle()
        node = engine.nodes[0]
        node.knock()
        node.occupancy.withdraw(node.pending.pop())
        await engine.settle()
        assert (node.inside, engine.seats.clients) == (0, 0)

    uvloop.run(main())
