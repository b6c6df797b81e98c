"""Router, index and broadcaster together over an in-process bus, with fake sockets: the invariants of delivery."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import uvloop
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.index import Index
from actors.session import Session
from engine.config import loads
from engine.hub import Hub
from engine.worker import Worker
from transport.listener import bind
from transport.topics import matches

CONFIG = loads("[delivery]\nwrite_buffer = 1024")


class FakeSocket:
    """A client's connection that keeps what is written; `full` makes it refuse to drain."""

    subprotocol: str | None = None
    user: str | None = None
    token: str | None = None
    token_in_query = False
    address = "test"
    buffered = 0

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.closed: tuple[int, str] | None = None
        self.session: Session | None = None
        self.waiting: list[bytes] = []
        self.full = False

    @property
    def direct(self) -> Callable[[bytes], None]:
        return self.write

    def write(self, data: bytes) -> None:
        if self.full:
            self.waiting.append(data)
        else:
            self._read(data)

    def stall(self) -> None:
        assert self.session is not None
        if not self.full:
            self.full = True
            self.session.on_paused()

    def flow(self) -> None:
        assert self.session is not None
        if self.full:
            self.full = False
            for data in self.waiting:
                self._read(data)
            self.waiting.clear()
            self.session.on_resumed()

    def _read(self, data: bytes) -> None:
        while data:
            assert data[0] == 0x81
            length, head = data[1], 2
            if length == 126:
                length, head = int.from_bytes(data[2:4], "big"), 4
            elif length == 127:
                length, head = int.from_bytes(data[2:10], "big"), 10
            self.messages.append(msgspec.json.decode(data[head : head + length]))
            data = data[head + length :]

    def close(self, code: int, reason: str = "") -> None:
        self.closed = (code, reason)

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Spine:
    """One hub and one worker on this loop."""

    def __init__(self) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        failures: list[str] = []
        self.hub = Hub(CONFIG, self._context, "inproc://hub", failures.append)
        self.worker = Worker(CONFIG, self._context, "inproc://hub", bind("127.0.0.1", 0), failures.append)
        self.failures = failures
        self._requests = 0

    async def __aenter__(self) -> "Spine":
        await self.hub.start()
        await self.worker.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.worker.stop()
        await self.hub.stop()
        self._context.term()
        assert not self.failures

    def connect(self, socket: FakeSocket | None = None) -> FakeSocket:
        socket = socket or FakeSocket()
        socket.session = self.worker._clients.open(socket)  # type: ignore[arg-type]
        return socket

    def request(self, socket: FakeSocket, **fields: Any) -> int:
        assert socket.session is not None
        self._requests += 1
        socket.session.on_message(msgspec.json.encode({"id": self._requests, **fields}), False)
        return self._requests

    @property
    def index(self) -> Index:
        return self.worker._actors.table

    async def answer(self, socket: FakeSocket, request_id: int) -> dict[str, Any]:
        return await until(lambda: next((m for m in socket.messages if m.get("id") == request_id), None))


async def until(condition: Callable[[], Any]) -> Any:
    async with asyncio.timeout(10):
        while not (found := condition()):
            await asyncio.sleep(0.001)
        return found


def run(test: Callable[[Spine], Awaitable[None]], kind: type[Spine] = Spine) -> None:
    async def main() -> None:
        async with kind() as spine:
            await test(spine)

    uvloop.run(main())


TOPICS = ["a.x", "a.y", "b"]
STEPS = st.one_of(
    st.tuples(st.just("subscribe"), st.integers(0, 2), st.sampled_from(["a.x", "a.*", ">", "b"]), st.booleans()),
    st.tuples(st.just("unsubscribe"), st.integers(0, 2), st.sampled_from(["a.x", "a.*", ">", "b"])),
    st.tuples(st.just("publish"), st.sampled_from(TOPICS)),
    st.tuples(st.sampled_from(["stall", "flow", "leave"]), st.integers(0, 2)),
    st.tuples(st.just("settle")),
    st.tuples(st.just("turn")),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, max_size=60))
def test_every_event_once_in_order_from_the_fence_on(steps: list[tuple[Any, ...]]) -> None:
    async def scenario(spine: Spine) -> None:
        publisher = spine.connect()
        sockets = [spine.connect() for _ in range(3)]
        everyone = list(sockets)
        published = dict.fromkeys(TOPICS, 0)
        for step, *args in steps:
            if step == "publish":
                published[args[0]] += 1
                spine.request(publisher, op="publish", topic=args[0], data=published[args[0]])
            elif step == "subscribe":
                spine.request(sockets[args[0]], op="subscribe", topics=[args[1]], snapshot=args[2])
            elif step == "unsubscribe":
                spine.request(sockets[args[0]], op="unsubscribe", topics=[args[1]])
            elif step == "stall":
                sockets[args[0]].stall()
            elif step == "flow":
                sockets[args[0]].flow()
            elif step == "leave":
                session = sockets[args[0]].session
                assert session is not None
                session.on_closed(1000, "")
                sockets[args[0]] = spine.connect()
                everyone.append(sockets[args[0]])
            elif step == "settle":
                await spine.answer(publisher, spine.request(publisher, op="snapshot", topics=["b"]))
            else:
                await asyncio.sleep(0)
        # what follows arrives behind everything above
        await spine.answer(publisher, spine.request(publisher, op="snapshot", topics=["b"]))
        for socket in sockets:
            last = spine.request(socket, op="snapshot", topics=["b"])
            socket.flow()
            await spine.answer(socket, last)
        for topic in TOPICS:
            published[topic] += 1
            spine.request(publisher, op="publish", topic=topic, data=published[topic])
        await until(lambda: all(_complete(socket, published) for socket in sockets))
        for socket in everyone:
            _check(socket)

    def _held(socket: FakeSocket) -> list[str]:
        assert socket.session is not None
        return list(socket.session.subscriptions or ())

    def _complete(socket: FakeSocket, published: dict[str, int]) -> bool:
        for topic, count in published.items():
            if any(matches(pattern, topic) for pattern in _held(socket)):
                offsets = [m["offset"] for m in socket.messages if m.get("topic") == topic and m["op"] == "event"]
                if not offsets or offsets[-1] != count:
                    return False
        return True

    def _check(socket: FakeSocket) -> None:
        """Within each stretch in which a topic is subscribed its offsets rise by one; exact ones begin at the fence."""
        held: list[str] = []
        expected: dict[str, int] = {}
        snapshots: dict[str, int] = {}
        for message in socket.messages:
            if message["op"] == "ok" and "positions" in message:
                snapshots = {}
                for topic, position in message["positions"].items():
                    if not any(matches(pattern, topic) for pattern in held):
                        expected[topic] = position["offset"] + 1
                    else:
                        assert expected.get(topic, position["offset"] + 1) == position["offset"] + 1
                    snapshots[topic] = position["offset"]
                held = [*held, *message["topics"]]
            elif message["op"] == "ok" and "topics" in message:
                held = message["topics"]
                for topic in [topic for topic in expected if not any(matches(pattern, topic) for pattern in held)]:
                    del expected[topic]
            elif message["op"] == "event":
                topic, offset = message["topic"], message["offset"]
                assert message["data"] == offset
                assert any(matches(pattern, topic) for pattern in held)
                if expected.get(topic) == offset + 1:
                    continue  # a snapshot's event: the last one before the fence
                assert offset == expected.get(topic, offset)
                expected[topic] = offset + 1
            else:
                assert message["op"] in ("welcome", "ok"), message

    run(scenario)


def test_a_stalled_client_gets_a_gap_and_goes_on_without_cost_to_the_others() -> None:
    async def scenario(spine: Spine) -> None:
        stuck, healthy, publisher = spine.connect(), spine.connect(), spine.connect()
        for socket in (stuck, healthy):
            await spine.answer(socket, spine.request(socket, op="subscribe", topics=["t"]))
        stuck.stall()
        count = 12_000  # above delivery.outbox_events
        for n in range(count):
            spine.request(publisher, op="publish", topic="t", data=n)
            if n % 500 == 0:
                await asyncio.sleep(0)
        await until(lambda: sum(m["op"] == "event" for m in healthy.messages) == count)
        assert spine.worker.meter.slow_sessions == 1
        stuck.flow()
        events = await until(lambda: _ends_with([m for m in stuck.messages if m["op"] == "event"], count))
        gaps = [m for m in stuck.messages if m["op"] == "gap"]
        assert len(gaps) == 1 and gaps[0]["reason"] == "slow" and gaps[0]["from"] == 1
        assert [m["offset"] for m in events] == list(range(gaps[0]["to"] + 1, count + 1))
        assert stuck.messages.index(gaps[0]) < stuck.messages.index(events[0])
        await until(lambda: spine.worker.meter.slow_sessions == 0)
        await spine.worker.refresh()
        assert spine.worker.meter.outbox_bytes == 0
        assert not [m for m in healthy.messages if m["op"] == "gap"]

    run(scenario)


def _ends_with(events: list[dict[str, Any]], offset: int) -> list[dict[str, Any]] | None:
    return events if events and events[-1]["offset"] == offset else None


def test_publishes_that_came_together_are_answered_in_one_write_each_client() -> None:
    class Counting(FakeSocket):
        def __init__(self) -> None:
            super().__init__()
            self.writes: list[bytes] = []

        def write(self, data: bytes) -> None:
            self.writes.append(data)
            super().write(data)

    async def scenario(spine: Spine) -> None:
        one, other = Counting(), Counting()
        for socket in (one, other):
            spine.connect(socket)
            socket.writes.clear()
        asked = [spine.request(one, op="publish", topic="a", data=n) for n in range(20)]
        also = spine.request(other, op="publish", topic="a", data=20)
        answers = [await spine.answer(one, number) for number in asked]
        assert [answer["offset"] for answer in answers] == list(range(1, 21))
        assert (await spine.answer(other, also))["offset"] == 21
        assert (len(one.writes), len(other.writes)) == (1, 1)

    run(scenario)


def test_a_position_that_the_answer_has_said_is_not_said_again() -> None:
    async def scenario(spine: Spine) -> None:
        plain, last = spine.connect(), spine.connect()
        answer = await spine.answer(plain, spine.request(plain, op="subscribe", topics=["t"]))
        await spine.answer(last, spine.request(last, op="subscribe", topics=["t"], snapshot=True))
        told = await until(lambda: [m["position"] for m in last.messages if m["op"] == "position"])
        assert told == [answer["position"]], "with a snapshot clients go by what comes after it"
        assert not [m for m in plain.messages if m["op"] == "position"]
        await spine.answer(plain, spine.request(plain, op="publish", topic="t", data=1))
        told = await until(lambda: [m["position"] for m in plain.messages if m["op"] == "position"])
        assert told != [answer["position"]]

    run(scenario)


def test_nothing_is_left_of_clients_that_have_gone() -> None:
    async def scenario(spine: Spine) -> None:
        sockets = [spine.connect() for _ in range(20)]
        for i, socket in enumerate(sockets):
            spine.request(socket, op="subscribe", topics=[f"t.{i}", "t.*", "shared"])
        for socket in sockets:
            await until(lambda socket=socket: [m for m in socket.messages if m["op"] == "ok"])
        for socket in sockets:
            assert socket.session is not None
            socket.session.on_closed(1000, "")
        await until(lambda: spine.worker.meter.subscriptions == 0)
        assert spine.worker.meter.connections == 0
        assert not spine.worker._clients.sessions

    run(scenario)
