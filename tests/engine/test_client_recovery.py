"""What a client recovers: through cuts, overtaking and repetition each event comes once, or is told lost."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.client_routes import ClientRoutes
from engine.client_subscription import Since, Subscription, SubscriptionOptions
from transport.client_messages import EventMessage, Gap, GapMessage, Message, PositionMessage, Subscribed
from transport.codes import PRIORITY_RANK, Priority
from transport.event import Event
from transport.filters import Filter
from transport.position import Position
from transport.topics import is_pattern, matches

TOPICS = ("p.a", "p.b", "p.c")
ODD = {"odd": True}


class Owner:
    """A client that reads on by itself."""

    async def enter(self, subscription: Subscription) -> None: ...

    async def leave(self, subscription: Subscription) -> None: ...

    def room_made(self) -> None: ...


def subscription(*topics: str, recover: bool = True, **options: Any) -> Subscription:
    return Subscription(Owner(), topics, SubscriptionOptions(**options), None, 10_000, recover=recover)


class World:
    """An engine with a log, the connection to it, and the subscriptions of a client.

    Attributes:
        log: all events; a position is how many of them there were.
        kept: where the engine's memory begins.
        began: with how many events in the log each subscription was accepted first.
        dropped: what the engine had no room for, and said so.
    """

    def __init__(self, subscriptions: Sequence[Subscription], chance: random.Random) -> None:
        self.log: list[EventMessage] = []
        self.kept = 0
        self.began: dict[Subscription, int] = {}
        self.dropped: set[tuple[str, int]] = set()
        self.items: dict[Subscription, list[Event | Gap]] = {each: [] for each in subscriptions}
        self._chance = chance
        self._routes = ClientRoutes()
        self._lengths: Counter[str] = Counter()
        self._connected = False
        self._asked: list[tuple[Subscription, Since | None]] = []
        self._here: list[Subscription] = []  # what the present session has
        self._line: list[Message | tuple[Subscription, Subscribed]] = []
        for each in subscriptions:
            self._routes.add(each)

    def connect(self) -> None:
        if not self._connected:
            self._connected = True
            fresh = [each for each in self.items if each not in self.began]
            self._asked = [(each, each.since) for each in [*self._routes.reconnected(), *fresh]]
            self._chance.shuffle(self._asked)

    def answer(self) -> None:
        """The engine takes up a request."""
        if self._asked:
            asker, since = self._asked.pop(0)
            self._here.append(asker)
            answer = Subscribed(id=1, position=str(len(self.log)))
            if since is None:
                self._begin(asker, answer)
            else:
                self._resume(asker, since, answer)

    def _begin(self, asker: Subscription, answer: Subscribed) -> None:
        answer.positions = {topic: self._end(topic) for topic in asker.topics if not is_pattern(topic)}
        last = {event.topic: event for event in self.log if wanted(asker, event)} if asker.options.snapshot else {}
        self._line += [(asker, answer), *last.values()]

    def _resume(self, asker: Subscription, since: Since, answer: Subscribed) -> None:
        if isinstance(since, str):
            missed = list(range(int(since), len(self.log)))
        else:
            missed = [
                i for i, event in enumerate(self.log) if event.offset > since.get(event.topic, self._end("")).offset
            ]
        lost: dict[str, list[int]] = {}
        for event in [self.log[i] for i in missed if i < self.kept]:
            if wanted(asker, event):
                lost.setdefault(event.topic, []).append(event.offset)
        answer.recovered = not lost
        gaps = [GapMessage(topic, "e", min(gone), max(gone), "history_expired") for topic, gone in lost.items()]
        if isinstance(since, str):  # what came before may come again
            missed = list(range(max(0, int(since) - self._chance.randrange(3)), len(self.log)))
        events = [self.log[i] for i in missed if i >= self.kept]
        self._line += [(asker, answer), *gaps, *(event for event in events if wanted(asker, event))]

    def _end(self, topic: str) -> Position:
        return Position("e", self._lengths[topic])

    def publish(self, *, drop: bool = False, priority: Priority | None = None) -> None:
        topic = self._chance.choice(TOPICS)
        self._lengths[topic] += 1
        data = msgspec.Raw(msgspec.json.encode({"odd": len(self.log) % 2 == 1}))
        event = EventMessage(topic, 0.0, data, "e", self._lengths[topic], priority=priority)
        self.log.append(event)
        if not any(wanted(each, event) for each in self._here):
            return
        if drop:
            self.dropped.add((topic, event.offset))
            self._line.append(GapMessage(topic, "e", event.offset, event.offset, "slow"))
            return
        at = len(self._line)
        if priority is Priority.CRITICAL:  # before what is pending and less urgent
            while at > 0 and isinstance(before := self._line[at - 1], EventMessage) and before.priority != priority:
                at -= 1
        self._line.insert(at, event)

    def urgent(self) -> None:
        self.publish(priority=Priority.CRITICAL)

    def low(self) -> None:
        self.publish(priority=Priority.LOW)

    def drop(self) -> None:
        self.publish(drop=True)

    def position(self) -> None:
        if self._connected:
            self._line.append(PositionMessage(str(len(self.log))))

    def forget(self) -> None:
        """The engine's memory is full."""
        self.kept = max(self.kept, len(self.log) - self._chance.randrange(5))

    def cut(self) -> None:
        self.read(self._chance.randrange(len(self._line) + 1))
        self._connected, self._line = False, []
        self._asked.clear()
        self._here.clear()

    def read(self, count: int | None = None) -> None:
        """The client takes messages, all by default."""
        taken = self._line[:count]
        del self._line[:count]
        for message in taken:
            if isinstance(message, tuple):
                asker, answer = message
                self.began.setdefault(asker, int(answer.position))
                self._routes.accepted(asker, answer)
            else:
                self._routes.deliver(message)
        for each, items in self.items.items():
            items.extend(iter(each.take, None))

    def settle(self) -> None:
        self.connect()
        while self._asked:
            self.answer()
        self.read()

    def due(self, of: Subscription) -> set[tuple[str, int]]:
        """What a subscription has to see."""
        return {(event.topic, event.offset) for event in self.log[self.began[of] :] if wanted(of, event)}

    def came(self, to: Subscription) -> list[tuple[str, int]]:
        return [(item.topic, item.offset) for item in self.items[to] if isinstance(item, Event)]

    def told(self, to: Subscription) -> Counter[tuple[str, int]]:
        gaps = [item for item in self.items[to] if isinstance(item, Gap)]
        return Counter((gap.topic, offset) for gap in gaps for offset in range(gap.first, gap.last + 1))


def wanted(by: Subscription, event: EventMessage) -> bool:
    odd = by.options.where is None or msgspec.json.decode(event.data)["odd"]
    return odd and any(matches(pattern, event.topic) for pattern in by.topics)


def several() -> list[Subscription]:
    return [
        subscription("p.a", "p.b"),
        subscription("p.*"),
        subscription("p.>", where=Filter.parse(ODD)),
        subscription("p.c", snapshot=True),
        subscription(">", snapshot=True),
    ]


def in_order(items: Sequence[Event | Gap]) -> bool:
    last: dict[tuple[str, int], int] = {}
    for item in items:
        if isinstance(item, Event):
            lane = item.topic, PRIORITY_RANK[item.priority]
            if item.offset <= last.get(lane, 0):
                return False
            last[lane] = item.offset
    return True


STEPS = ["publish"] * 8 + [
    "urgent",
    "low",
    "cut",
    "connect",
    "connect",
    "answer",
    "answer",
    "answer",
    "position",
    "read",
]
CHANCE = st.randoms(use_true_random=False)


@settings(max_examples=50)
@given(st.lists(st.sampled_from(STEPS), min_size=20, max_size=80), CHANCE)
def test_through_any_cuts_each_event_comes_once_and_in_order(steps: list[str], chance: random.Random) -> None:
    subscriptions = several()[: chance.randrange(1, 6)]
    if len(subscriptions) == 5:
        del subscriptions[chance.randrange(5)]
    world = World(subscriptions, chance)
    world.publish()
    world.settle()
    world.position()
    world.read()
    for step in steps:
        getattr(world, step)()
    world.settle()
    for each in subscriptions:
        came = world.came(each)
        assert world.due(each) <= set(came), "lost"
        assert in_order(world.items[each]), "again, or out of order"
        assert not world.told(each)


@settings(max_examples=50)
@given(st.lists(st.sampled_from([*STEPS, "drop", "forget"]), min_size=20, max_size=80), CHANCE)
def test_what_is_lost_is_told(steps: list[str], chance: random.Random) -> None:
    # A snapshot has no position yet when it is cut off, and holes below what was overtaken show only from positions.
    snapshots = chance.random() < 0.3
    if snapshots or (strict := chance.random() < 0.5):
        steps = [step for step in steps if step != "urgent"]
    subscriptions = [each for each in several() if snapshots or not each.options.snapshot]
    world = World(subscriptions, chance)
    world.publish()
    world.settle()
    for step in steps:
        getattr(world, step)()
    world.settle()
    for each in subscriptions:
        came, told = set(world.came(each)), world.told(each)
        assert in_order(world.items[each]), "again, or out of order"
        assert world.due(each) <= came | told.keys(), "lost without a word"
        if each.options.complete and not snapshots and strict:  # or one that came may be within a span
            assert not (told.keys() & came) - world.dropped, "came all the same"
