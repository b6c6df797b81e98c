"""A client inside the engine, in one worker with its hub."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import actors.inner_client
from actors.inner_client import InnerClient, Stream
from actors.messages import HubLost
from actors.subscription import EVERYTHING
from engine.config import loads
from tests.actors import test_fanout
from tests.actors.test_fanout import FakeSocket, Spine, run, until
from transport.client_messages import Gap, PositionMessage
from transport.codes import ByeReason, CloseCode, ErrorCode, Priority
from transport.errors import ConnectionLost, RequestError
from transport.event import Event


def with_client(test: Callable[[Spine, InnerClient], Awaitable[None]]) -> None:
    async def scenario(spine: Spine) -> None:
        client = InnerClient(spine.worker._clients)
        await test(spine, client)
        client.close()

    run(scenario)


async def events(stream: Stream, number: int) -> list[Event]:
    found: list[Event] = []
    async with asyncio.timeout(10):
        while len(found) < number:
            item = await stream.take(number - len(found))
            if isinstance(item, list):
                found += item
    return found


def test_it_publishes_and_reads() -> None:
    async def scenario(_: Spine, client: InnerClient) -> None:
        first = await client.publish("price.A", {"bid": 1}, type="tick", key="A", priority=Priority.HIGH)
        second = await client.publish("price.A", {"bid": 2})
        assert first is not None and second is not None
        assert (first.offset, second.offset) == (1, 2)
        assert [event.data for event in await client.snapshot("price.*")] == [{"bid": 2}]
        kept = await client.history("price.A")
        assert [(event.type, event.key, event.priority) for event in kept] == [
            ("tick", "A", "high"),
            ("message", None, None),
        ]
        assert [event.data for event in await client.history("price.A", since=first)] == [{"bid": 2}]

    with_client(scenario)


def test_a_request_that_is_wrong_is_refused_and_costs_nothing_else() -> None:
    async def scenario(_: Spine, client: InnerClient) -> None:
        for topic, code in (("a b", ErrorCode.INVALID_TOPIC), ("system.x", ErrorCode.FORBIDDEN)):
            with pytest.raises(RequestError) as refused:
                await client.publish(topic, 1)
            assert refused.value.code is code
        with pytest.raises(RequestError):
            await client.subscribe("a..b")
        with pytest.raises(RequestError, match="not a JSON number"):
            await client.publish("a", float("nan"))
        assert await client.publish("a", 1) is not None

    with_client(scenario)


def test_a_stream_begins_at_its_answer_and_goes_on_from_a_position() -> None:
    async def scenario(_: Spine, client: InnerClient) -> None:
        await client.publish("a.x", 1)
        stream = await client.subscribe(["a.*", "b"])
        for topic, value in (("a.x", 2), ("b", 3), ("c", 4), ("a.y", 5)):
            await client.publish(topic, value)
        begin = await stream.take()
        assert isinstance(begin, PositionMessage), "before what follows on it"
        assert [event.data for event in await events(stream, 3)] == [2, 3, 5]
        stream.close()
        again = await client.subscribe("a.*", since=begin.position)
        await client.publish("a.y", 6)
        missed = await again.take()
        assert isinstance(missed, list)
        assert [event.data for event in missed] == [2, 5]
        reached = await again.take()
        assert isinstance(reached, PositionMessage), "behind what was missed"
        assert [event.data for event in await events(again, 1)] == [6]
        later = await client.subscribe("a.*", since=reached.position)
        assert [event.data for event in await events(later, 1)] == [6]

    with_client(scenario)


def test_a_position_is_told_behind_the_events_before_it() -> None:
    async def scenario(_: Spine, client: InnerClient) -> None:
        stream = await client.subscribe("a")
        begin = await stream.take()
        await client.publish("a", 1)
        assert isinstance(await stream.take(), list)
        reached = await stream.take()
        assert isinstance(begin, PositionMessage) and isinstance(reached, PositionMessage)
        assert reached.position != begin.position

    with_client(scenario)


def test_a_snapshot_comes_before_what_is_new() -> None:
    async def scenario(_: Spine, client: InnerClient) -> None:
        await client.publish("a.x", 1)
        stream = await client.subscribe("a.*", snapshot=True)
        await client.publish("a.x", 2)
        assert [event.data for event in await events(stream, 2)] == [1, 2]

    with_client(scenario)


def test_it_counts_for_no_limit_and_stays_when_clients_are_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = '[auth]\nsecret = "0123456789abcdef0123456789abcdef"\n[limits]\nconnections = 1'
    monkeypatch.setattr(test_fanout, "CONFIG", loads(secret))

    async def scenario(spine: Spine, client: InnerClient) -> None:
        stream = await client.subscribe("a")
        assert not spine.worker.meter.connections and not spine.worker._clients.sessions
        socket = spine.connect()
        assert spine.worker._clients.send_away(100) == 0
        await until(lambda: socket.closed)
        await client.publish("a", 1)
        assert len(await events(stream, 1)) == 1

    with_client(scenario)


def test_the_worker_looks_after_it_as_after_others() -> None:
    async def scenario(spine: Spine, client: InnerClient) -> None:
        stream = await client.subscribe("a")
        told = set(spine.worker._actors.broadcaster._reached._sessions())
        assert told == {client.session, stream.session}, "else it has no position after quiet times"
        order = {"do": "index", "check": True}
        assert (await spine.worker.order(order))["problems"] == []
        assert stream.session.subscriptions is not None
        stream.session.subscriptions["b"] = EVERYTHING
        assert len((await spine.worker.order(order))["problems"]) == 1
        del stream.session.subscriptions["b"]

    with_client(scenario)


def test_closed_it_leaves_nothing_and_whoever_waits_is_told() -> None:
    async def scenario(spine: Spine, client: InnerClient) -> None:
        door, meter = spine.worker._clients, spine.worker.meter
        stream = await client.subscribe("a")
        assert meter.subscriptions == 1
        await stream.take()
        waiting = asyncio.create_task(stream.take())
        spine.worker._uplink.stop()  # so that no answer comes
        asking = asyncio.create_task(client.snapshot("a"))
        await asyncio.sleep(0)
        client.close()
        for task in (waiting, asking):
            with pytest.raises(ConnectionLost, match="closed"):
                await task
        with pytest.raises(ConnectionLost):
            await client.publish("a", 1)
        with pytest.raises(ConnectionLost):
            await client.subscribe("a")
        await until(lambda: not meter.subscriptions)
        assert not door.inner and not meter.disconnects

    with_client(scenario)


def test_without_a_hub_requests_fail_and_what_was_under_way_has_an_unknown_outcome() -> None:
    async def scenario(spine: Spine, client: InnerClient) -> None:
        under_way = asyncio.create_task(client.publish("a", 1))
        await asyncio.sleep(0)
        spine.worker._uplink.stop()
        spine.worker._clients.on_hub_lost(HubLost("gone"))
        with pytest.raises(RequestError, match="outcome is unknown"):
            await under_way
        with pytest.raises(RequestError) as refused:
            await client.publish("a", 2)
        assert refused.value.code is ErrorCode.UNAVAILABLE

    with_client(scenario)


def test_too_many_requests_wait_for_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_fanout, "CONFIG", loads("[limits]\nunacknowledged_publishes = 2"))

    async def scenario(spine: Spine, client: InnerClient) -> None:
        publishing = [asyncio.create_task(client.publish("a", n)) for n in range(20)]
        while not all(task.done() for task in publishing):
            assert client.session.unacknowledged <= 2
            await asyncio.sleep(0)
        assert len(await client.history("a")) == 20

    with_client(scenario)


def test_a_slow_stream_is_bounded_and_told_and_costs_others_nothing() -> None:
    async def scenario(spine: Spine, client: InnerClient) -> None:
        stream = await client.subscribe("a")
        other: FakeSocket = spine.connect()
        await spine.answer(other, spine.request(other, op="subscribe", topics=["a"]))
        for i in range(40):
            await client.publish("a", "x" * 100_000 + str(i))
        await until(lambda: len([m for m in other.messages if m["op"] == "event"]) == 40)
        assert stream.buffered < 3_000_000, "its room, and one flush"
        offsets: list[int] = []
        gaps: list[Gap] = []
        while not offsets or offsets[-1] < 40:
            item = await stream.take(1)
            if isinstance(item, list):
                offsets += [event.offset for event in item]
            elif isinstance(item, Gap):
                gaps.append(item)
        missed = [n for gap in gaps for n in range(gap.first, gap.last + 1)]
        assert gaps and {gap.reason for gap in gaps} == {"slow"}
        assert sorted(offsets + missed) == list(range(1, 41))
        await client.publish("a", "fast again")
        assert [event.data for event in await events(stream, 1)] == ["fast again"]

    with_client(scenario)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.sampled_from([10, 3_000, 300_000])),
        st.tuples(st.just("take"), st.integers(1, 5)),
        st.tuples(st.just("turn"), st.just(0)),
    ),
    max_size=25,
)


@settings(max_examples=25, deadline=None)
@given(STEPS)
def test_every_event_is_given_out_once_in_order_or_told_as_missed(steps: list[tuple[str, int]]) -> None:
    seen: list[int] = []

    def note(item: list[Event] | Gap | PositionMessage) -> None:
        if isinstance(item, list):
            seen.extend(event.offset for event in item)
        elif isinstance(item, Gap):
            seen.extend(range(item.first, item.last + 1))

    async def scenario(_: Spine, client: InnerClient) -> None:
        stream = await client.subscribe("a")
        published = 0
        for step, number in steps:
            if step == "publish":
                published += 1
                await client.publish("a", "x" * number)
            elif step == "take" and len(seen) < published:
                note(await stream.take(number))
            else:
                await asyncio.sleep(0)
        while len(seen) < published:
            async with asyncio.timeout(10):
                note(await stream.take())
        assert seen == list(range(1, published + 1))

    room = actors.inner_client.ROOM
    actors.inner_client.ROOM = 2_000  # type: ignore[misc]
    try:
        with_client(scenario)
    finally:
        actors.inner_client.ROOM = room  # type: ignore[misc]


def test_who_is_sent_away_for_being_slow_can_tell() -> None:
    async def scenario(spine: Spine, client: InnerClient) -> None:
        stream = await client.subscribe("a")
        await stream.take()
        door = spine.worker._clients
        door.dismiss(stream.session, CloseCode.SLOW, ByeReason.SLOW)
        with pytest.raises(ConnectionLost, match="slow"):
            async with asyncio.timeout(10):
                await stream.take()
        assert stream.session not in door.inner

    with_client(scenario)
