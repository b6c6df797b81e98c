"""What strangers, storms and a hub that comes and goes must not do to router, index and broadcaster."""

import asyncio
from functools import partial
from typing import Any

import pytest

from actors.messages import Arrived, Downlink, HubFound
from tests.actors.test_fanout import FakeSocket, Spine, run, until
from transport.codes import GapReason
from transport.messages import Missed
from transport.pacing import Pacer


def _events(socket: FakeSocket) -> list[dict[str, Any]]:
    return [m for m in socket.messages if m["op"] == "event"]


def test_requests_in_one_go_take_effect_in_their_order() -> None:
    async def scenario(spine: Spine) -> None:
        client = spine.connect()
        spine.request(client, op="subscribe", topics=["t", "u"])
        left = await spine.answer(client, spine.request(client, op="unsubscribe", topics=["t"]))
        assert left["topics"] == ["u"]
        held = await spine.answer(client, spine.request(client, op="subscriptions"))
        assert held["subscriptions"] == ["u"]

    run(scenario)


def test_subscribing_again_is_answered_behind_the_events_before_it() -> None:
    async def scenario(spine: Spine) -> None:
        client, publisher = spine.connect(), spine.connect()
        await spine.answer(client, spine.request(client, op="subscribe", topics=["t"]))
        spine.worker._actors.broadcaster.configure(Pacer(0.05))
        await spine.answer(publisher, spine.request(publisher, op="publish", topic="t", data=0))
        await until(partial(_events, client))  # from this flush on the next one waits
        for n in range(3):
            spine.request(publisher, op="publish", topic="t", data=n)
        again = spine.request(client, op="subscribe", topics=["t"])
        answer = await spine.answer(client, again)
        assert answer["positions"]["t"]["offset"] == 4
        before = client.messages[: client.messages.index(answer)]
        assert [m["offset"] for m in before if m["op"] == "event"] == [1, 2, 3, 4]

    run(scenario)


def test_a_client_that_stays_keeps_nothing_of_those_that_come_and_go() -> None:
    async def scenario(spine: Spine) -> None:
        stays, publisher = spine.connect(), spine.connect()
        await spine.answer(stays, spine.request(stays, op="subscribe", topics=[">"]))
        for n in range(20):
            guest = spine.connect()
            await spine.answer(guest, spine.request(guest, op="subscribe", topics=[f"t.{n}"]))
            spine.request(publisher, op="publish", topic=f"t.{n}", data=n)
            await until(partial(_events, guest))
            assert guest.session is not None
            guest.session.on_closed(1000, "")
            await until(lambda: spine.worker.meter.subscriptions == 1)
        await spine.answer(stays, spine.request(stays, op="snapshot", topics=["t.0"]))
        assert stays.session is not None
        assert len(stays.session.routes) <= 1
        assert [m["data"] for m in stays.messages if m["op"] == "event"] == list(range(20))

    run(scenario)


def test_a_snapshot_too_large_for_the_bus_is_refused_and_costs_nothing_else() -> None:
    async def scenario(spine: Spine) -> None:
        client, publisher = spine.connect(), spine.connect()
        await spine.answer(client, spine.request(client, op="subscribe", topics=["after"]))
        large = "x" * 3_000_000
        for n in range(12):
            await spine.answer(publisher, spine.request(publisher, op="publish", topic=f"t.{n}", data=large))
        refused = await spine.answer(client, spine.request(client, op="snapshot", topics=[">"]))
        assert (refused["op"], refused["code"]) == ("error", "limit_exceeded")
        spine.request(publisher, op="publish", topic="after", data=1)
        await until(lambda: [m for m in client.messages if m["op"] == "event"])

    run(scenario)


def test_a_router_that_restarts_is_told_again_what_its_workers_want() -> None:
    async def scenario(spine: Spine) -> None:
        client, publisher = spine.connect(), spine.connect()
        await spine.answer(client, spine.request(client, op="subscribe", topics=["t"]))
        spine.hub._router.tell(Arrived(None, None))  # type: ignore[arg-type]  # fails on it

        async def received() -> bool:
            spine.request(publisher, op="publish", topic="t", data=1)
            await asyncio.sleep(0.001)
            return any(m["op"] == "event" for m in client.messages)

        async with asyncio.timeout(5):
            while not await received():
                pass

    run(scenario)


def test_a_hub_that_vanishes_again_at_once_costs_the_worker_nothing() -> None:
    async def scenario(spine: Spine) -> None:
        client = spine.connect()
        await spine.answer(client, spine.request(client, op="subscribe", topics=["t"]))
        spine.worker._uplink._lose("a test")  # between the hello and the index's turn
        spine.worker._index.tell(HubFound("gone already"))
        again = await spine.answer(client, spine.request(client, op="subscribe", topics=["u"]))
        assert again["op"] == "ok"

    run(scenario)


def test_more_interest_than_fits_into_one_message_reaches_a_new_hub() -> None:
    async def scenario(spine: Spine) -> None:
        clients = [spine.connect() for _ in range(15)]
        pad = "x" * 235
        for i, client in enumerate(clients):
            for part in range(10):
                topics = [f"{pad}.{i}.{part}.{n}" for n in range(1000)]
                await spine.answer(client, spine.request(client, op="subscribe", topics=topics))
        spine.worker._uplink._lose("a test")
        again = await spine.answer(clients[0], spine.request(clients[0], op="snapshot", topics=["u"]))
        assert again["op"] == "ok"

    run(scenario)


@pytest.mark.parametrize(
    "request_", [{"op": "publish", "topic": "t", "data": 1}, {"op": "ack", "topic": "t", "epoch": "e", "offset": 1}]
)
def test_sockets_held_back_for_a_hub_that_was_behind_are_read_again_with_the_next(request_: dict[str, Any]) -> None:
    class Reading(FakeSocket):
        reading = True

        def pause_reading(self) -> None:
            self.reading = False

        def resume_reading(self) -> None:
            self.reading = True

    async def scenario(spine: Spine) -> None:
        publisher = Reading()
        publisher.session = spine.worker._clients.open(publisher)  # type: ignore[arg-type]
        spine.worker._uplink._window_open = False
        spine.request(publisher, **request_)
        assert not publisher.reading
        spine.worker._uplink._lose("a test")
        await until(lambda: publisher.reading)

    run(scenario)


def test_what_a_worker_missed_is_told_also_of_topics_that_it_never_saw() -> None:
    async def scenario(spine: Spine) -> None:
        client = spine.connect()
        await spine.answer(client, spine.request(client, op="subscribe", topics=["t.*"]))
        spine.worker._index.tell(Downlink([Missed("t.new", "e", 1, 1, GapReason.OVERFLOW.value)], 0))
        await until(lambda: [m for m in client.messages if m["op"] == "gap"])
        gap = client.messages[-1]
        assert (gap["topic"], gap["from"], gap["to"], gap["reason"]) == ("t.new", 1, 1, "overflow")

    run(scenario)
