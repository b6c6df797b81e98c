"""Sessions that move between the lanes while events of all priorities come: what each client gets, and in which order.

The sockets are small and are read at random; the outboxes hold a dozen events; the broadcaster gives way to the loop
after every second write.
"""

import asyncio
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from actors import broadcaster
from tests.actors.test_fanout import FakeSocket, Spine, run, until
from transport.codes import PRIORITY_RANK

TOPICS = ["a.x", "a.y", "b"]
KEYS = ["k", "l"]
ROOM = 1_000  # bytes, about six events


class NarrowSocket(FakeSocket):
    """Takes what is written, asks for a pause above ``ROOM`` bytes, and is read by the piece.

    ``messages`` are what was written: the peer may have read less.
    """

    def write(self, data: bytes) -> None:
        self._read(data)
        self.waiting.append(data)
        if sum(map(len, self.waiting)) > ROOM:
            self.stall()

    def read(self, pieces: int | None = None) -> None:
        assert self.session is not None
        del self.waiting[:pieces]
        if self.full and sum(map(len, self.waiting)) <= ROOM // 4:
            self.full = False
            self.session.on_resumed()


class Log:
    """What was published, to hold against what clients got. Offset n of a topic is its n-th event."""

    def __init__(self) -> None:
        self.events: dict[str, list[tuple[str | None, str]]] = {topic: [] for topic in TOPICS}  # priority, key

    def add(self, topic: str, priority: str | None, key: str) -> dict[str, Any]:
        """The fields of a request to publish the next event."""
        self.events[topic].append((priority, key))
        fields: dict[str, Any] = {"topic": topic, "key": key, "data": len(self.events[topic])}
        return fields if priority is None else fields | {"priority": priority}

    def wanted(self, topic: str, keys: list[str]) -> Iterator[tuple[int, int]]:
        """Offset and rank of the events with one of these keys."""
        for offset, (priority, key) in enumerate(self.events[topic], 1):
            if key in keys:
                yield offset, PRIORITY_RANK[priority]

    def is_complete(self, socket: NarrowSocket, keys: list[str], conflated: bool) -> bool:
        """Whether each event was got or is in a gap; of conflated ones the newest of each key."""
        for topic, events in self.events.items():
            missing = {n for n, _ in self.wanted(topic, keys)}
            if conflated:
                missing &= set({key: n for n, (_, key) in enumerate(events, 1)}.values())
            for message in socket.messages:
                if message.get("topic") == topic and message["op"] == "event":
                    missing.discard(message["offset"])
                elif message.get("topic") == topic and message["op"] == "gap":
                    missing.difference_update(range(message["from"], message["to"] + 1))
            if missing:
                return False
        return True

    def check(self, socket: NarrowSocket, keys: list[str], conflated: bool) -> None:
        """Nothing twice, each topic and priority in order, what is missing was told before its successor, and an answer
        with a position stands where it says."""
        for topic in self.events:
            rank_of = dict(self.wanted(topic, keys))
            last: dict[int, int] = {}
            told: set[int] = set()
            position = 0
            for message in socket.messages:
                if topic in message.get("positions", ()):
                    position = message["positions"][topic]["offset"]
                    assert max(last.values(), default=0) <= position
                if message.get("topic") != topic:
                    continue
                if message["op"] == "gap":
                    assert message["reason"] == "slow"
                    told.update(range(message["from"], message["to"] + 1))
                elif message["op"] == "event":
                    offset = message["offset"]
                    rank = rank_of[offset]
                    before = last.get(rank, 0)
                    assert offset > before and offset > position
                    if not conflated:
                        assert {n for n in range(before + 1, offset) if rank_of.get(n) == rank} <= told
                    last[rank] = offset


# What each client asks for, and overlapping patterns that it adds and drops again.
CLIENTS: list[tuple[list[str], dict[str, Any]]] = [
    ([">"], {}),
    (["a.x", "*.y", "b"], {}),
    (["a.>", "b"], {"where": {"@key": "k"}}),
    ([">"], {"conflate": True}),
]
AGAIN = ["a.*", "a.y"]
REQUESTS = 4  # more answers than that would fill an outbox

CLIENT = st.integers(0, len(CLIENTS) - 1)
TOPIC, KEY = st.sampled_from(TOPICS), st.sampled_from(KEYS)
PUBLISH = st.tuples(
    st.just("publish"), TOPIC, st.sampled_from(["low", None, "high", "critical"]), KEY, st.integers(1, 9)
)
STEPS = st.one_of(
    PUBLISH,
    PUBLISH,
    st.tuples(st.just("overtake"), TOPIC, KEY),
    st.tuples(st.just("read"), CLIENT, st.sampled_from([1, 2, None])),
    st.tuples(st.just("stall"), CLIENT),
    st.tuples(st.just("again"), CLIENT, st.sampled_from(AGAIN), st.booleans()),
    st.tuples(st.just("settle")),
    st.tuples(st.just("turn")),
)


class Scenario:
    """The steps, on one hub and one worker."""

    def __init__(self, spine: Spine) -> None:
        self.spine, self.log = spine, Log()
        clients = spine.worker._clients
        clients.configure(clients._limits._replace(outbox_bytes=2_500, outbox_events=16, write_chunk=400))
        self.publisher = spine.connect()
        self.sockets = [NarrowSocket() for _ in CLIENTS]
        for socket in self.sockets:
            socket.session = clients.open(socket)  # type: ignore[arg-type]
        self.asked = 0
        self.overtaking: list[tuple[NarrowSocket, int, str, int]] = []

    async def begin(self) -> None:
        for socket, (topics, options) in zip(self.sockets, CLIENTS, strict=True):
            await self.spine.answer(socket, self.spine.request(socket, op="subscribe", topics=topics, **options))

    async def settle(self) -> None:
        """The worker has what was published, and has handed it to sockets and outboxes."""
        await self.spine.answer(self.publisher, self.spine.request(self.publisher, op="snapshot", topics=["none"]))
        actor = self.spine.worker._actors.broadcaster
        await until(
            lambda: (
                not (actor._jobs or actor._turns or actor._rush or actor._dirty or actor._selected or actor._scheduled)
            )
        )

    async def publish(self, topic: str, priority: str | None, key: str, count: int) -> None:
        for _ in range(count):
            self.spine.request(self.publisher, op="publish", **self.log.add(topic, priority, key))

    async def overtake(self, topic: str, key: str) -> None:
        await self.settle()
        stuck = [(socket, len(socket.messages)) for socket in self.sockets if socket.full]
        await self.publish(topic, "critical", key, 1)
        await self.settle()
        self.overtaking += [(socket, before, topic, len(self.log.events[topic])) for socket, before in stuck]

    async def read(self, client: int, pieces: int | None) -> None:
        self.sockets[client].read(pieces)

    async def stall(self, client: int) -> None:
        self.sockets[client].stall()

    async def again(self, client: int, pattern: str, more: bool) -> None:
        self.asked += 1
        if self.asked <= REQUESTS:
            socket = self.sockets[client]
            if more:
                self.spine.request(socket, op="subscribe", topics=[pattern], **CLIENTS[client][1])
            else:
                self.spine.request(socket, op="unsubscribe", topics=[pattern])
            self.spine.request(socket, op="ping")

    async def turn(self) -> None:
        await asyncio.sleep(0)

    async def end(self) -> None:
        await self.settle()
        for socket, (_, options) in zip(self.sockets, CLIENTS, strict=True):
            keys, conflated = ["k"] if "where" in options else KEYS, "conflate" in options

            def is_drained(socket: NarrowSocket = socket) -> bool:
                socket.read()
                return socket.session is not None and socket.session.outbox is None and not socket.waiting

            await until(is_drained)
            assert socket.closed is None
            assert self.log.is_complete(socket, keys, conflated)
            self.log.check(socket, keys, conflated)
        for socket, before, topic, offset in self.overtaking:
            _check_overtaken(socket.messages[before:], topic, offset)
        assert self.spine.worker.meter.slow_sessions == 0


def _check_overtaken(later: list[dict[str, Any]], topic: str, offset: int) -> None:
    """What was not in the socket yet came behind a critical event, unless an answer kept its place among events."""
    for i, message in enumerate(later):
        if message["op"] == "event" and (message["topic"], message["offset"]) == (topic, offset):
            if not any("topics" in answer for answer in later[:i]):
                assert all(m.get("priority") == "critical" for m in later[:i] if m["op"] == "event")
            return


@settings(max_examples=30, deadline=None)
@given(st.lists(STEPS, min_size=15, max_size=60))
def test_order_and_loss_are_as_promised_in_whatever_lane(steps: list[tuple[Any, ...]]) -> None:
    async def scenario(spine: Spine) -> None:
        it = Scenario(spine)
        await it.begin()
        for step, *args in steps:
            await getattr(it, step)(*args)
        await it.end()

    with (
        mock.patch.object(broadcaster, "WRITES_PER_TURN", 2),
        mock.patch.object(broadcaster.Broadcaster._work, "__defaults__", (2,)),
    ):
        run(scenario)


def _offsets(socket: FakeSocket) -> list[int]:
    return [message["offset"] for message in socket.messages if message["op"] == "event"]


def test_a_critical_event_does_not_overtake_one_that_is_still_on_its_way() -> None:
    async def scenario(spine: Spine) -> None:
        publisher, client = spine.connect(), spine.connect()
        await spine.answer(client, spine.request(client, op="subscribe", topics=["t"]))
        actor = spine.worker._actors.broadcaster
        with mock.patch.object(actor, "_hurry"):  # a thousand others are first
            spine.request(publisher, op="publish", topic="t", data=1, priority="critical")
            await until(lambda: actor._rush)
            client.stall()
            again = spine.request(publisher, op="publish", topic="t", data=2, priority="critical")
            await spine.answer(publisher, again)
            await until(lambda: client.session is not None and client.session.outbox)
            client.flow()
        actor._hurry()
        assert _offsets(client) == [1, 2]

    run(scenario)


def test_what_a_held_route_hands_over_does_not_overtake_what_it_has_sent() -> None:
    async def scenario(spine: Spine) -> None:
        publisher, client = spine.connect(), spine.connect()
        await spine.answer(client, spine.request(client, op="subscribe", topics=["t"], conflate=True))
        actor = spine.worker._actors.broadcaster
        with mock.patch.object(actor, "_work"):  # a thousand others are first
            spine.request(publisher, op="publish", topic="t", data=1)
            await until(lambda: actor._turns)
            actor._prepare(actor._turns.popleft(), time.time())
            spine.request(publisher, op="publish", topic="t", data=2)
            await spine.answer(client, spine.request(client, op="subscribe", topics=["t"], conflate=True))
        actor._work()
        assert _offsets(client) == [1, 2]

    run(scenario)
