"""What one client's requests may cost the others of its worker."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest

from actors.audiences import FILTER_BYTES
from actors.messages import SubscribeFor, Sweep
from engine.config import loads
from tests.actors import test_fanout
from tests.actors.test_fanout import FakeSocket, Spine, run, until
from transport.filters import Filter
from transport.requests import Subscribe


def test_a_snapshot_is_filtered_without_asking_the_filter_event_by_event() -> None:
    """It may have 10,000 values, which took 4 ms an event."""

    async def scenario(spine: Spine) -> None:
        publisher, socket = spine.connect(), spine.connect()
        for n in range(20):
            await spine.answer(publisher, spine.request(publisher, op="publish", topic=f"t.{n}", data={"n": n}))
        with mock.patch.object(Filter, "_maps", side_effect=AssertionError("asked")):
            where = {"n": {"gte": 5, "not": 7}}
            await spine.answer(
                socket, spine.request(socket, op="subscribe", topics=["t.*"], where=where, snapshot=True)
            )
        wanted = [n for n in range(5, 20) if n != 7]
        assert await until(lambda: sorted(m["data"]["n"] for m in socket.messages if m["op"] == "event") == wanted)

    run(scenario)


def test_the_filters_of_a_session_have_a_bound_that_counts_topics() -> None:
    where = {"s": [f"value {n}" for n in range(1_000)]}
    at_once = FILTER_BYTES // len(Filter.parse(where).source)

    async def scenario(spine: Spine) -> None:
        socket = spine.connect()

        async def subscribe(first: int, last: int, where: Any) -> dict[str, Any]:
            topics = [f"t.{n}" for n in range(first, last)]
            return await spine.answer(socket, spine.request(socket, op="subscribe", topics=topics, where=where))

        refused = await subscribe(0, at_once + 1, where)
        assert (refused["code"], refused["field"]) == ("limit_exceeded", "where")
        assert (await subscribe(0, at_once, where))["op"] == "ok"
        assert (await subscribe(0, at_once, {"s": where["s"][1:]}))["op"] == "ok", "in their places"
        assert (await subscribe(at_once, at_once + 2, where))["op"] == "error"
        assert (await spine.answer(socket, spine.request(socket, op="unsubscribe", topics=["t.0", "t.1"])))[
            "op"
        ] == "ok"
        assert (await subscribe(at_once, at_once + 2, where))["op"] == "ok", "there is room again"
        await spine.answer(socket, spine.request(socket, op="unsubscribe", topics="*"))
        assert socket.session is not None and socket.session.filter_bytes == 0

    run(scenario)


@pytest.mark.parametrize("rate", [10_000, 1])
def test_a_client_that_keeps_up_is_not_slow_because_its_user_has_a_rate(rate: int) -> None:
    """All of its events and gaps go through an outbox, which is smaller than one flush can be."""
    config = loads(
        f"[delivery]\nuser_rate = {rate}\noutbox_events = 10\noutbox_bytes = 1024\nslow_policy = 'disconnect'"
    )

    async def scenario(spine: Spine) -> None:
        with mock.patch.object(FakeSocket, "user", "u"):
            socket = spine.connect()
        publisher = spine.connect()
        await spine.answer(socket, spine.request(socket, op="subscribe", topics=["t.*"]))
        await until(lambda: spine.worker._clients._rated._rates._windows["u"].limit == rate)  # type: ignore[union-attr]
        for n in range(200):
            spine.request(publisher, op="publish", topic=f"t.{n}", data=n)
        told = await until(lambda: told if len(told := _told(socket)) == 200 else None)
        assert told == dict.fromkeys((f"t.{n}" for n in range(200)), "event") | (
            {f"t.{n}": "rate_limited" for n in range(1, 200)} if rate == 1 else {}
        )
        assert socket.closed is None and spine.worker.meter.slow_sessions == 0

    with mock.patch.object(test_fanout, "CONFIG", config):
        run(scenario)


def _told(socket: FakeSocket) -> dict[str, str]:
    return {m["topic"]: m.get("reason", m["op"]) for m in socket.messages if m["op"] in ("event", "gap")}


def test_nothing_waits_for_a_hub_for_those_who_have_gone() -> None:
    """A user's sessions come and go while the hub is away: the server subscribes each of them."""

    async def scenario(spine: Spine) -> None:
        index, session = spine.index, spine.connect().session
        assert session is not None
        await until(lambda: index._loop)
        index._request_timeout = -1
        request = Subscribe(id=0, topics=["user.u"])
        index.on_subscribe_for(SubscribeFor(session, request, by_server=True))
        index.on_sweep(Sweep())
        assert len(index._outstanding) == 1
        session.on_closed(1000, "")
        index.on_sweep(Sweep())
        assert not index._outstanding and not index._outstanding.of(session) and not index._outstanding.wants("user.u")

    run(scenario)


def test_requests_that_are_sent_all_at_once_get_no_more_subscriptions() -> None:
    config = loads('[limits]\nsubscriptions = 10\n[topics."t.>"]\nstrategy = "load_balanced"')

    async def scenario(spine: Spine) -> None:
        for options in ({}, {"group": "g"}):
            socket = spine.connect()
            for n in range(9):
                spine.request(socket, op="subscribe", topics=[f"t.{n}.{m}" for m in range(4)], **options)
            answers = await until(lambda s=socket: a if len(a := s.messages[1:]) == 9 else None)
            assert [a["op"] for a in sorted(answers, key=lambda a: a["id"])] == ["ok"] * 2 + ["error"] * 7
            assert (answers[0]["code"], answers[0]["field"]) == ("limit_exceeded", "topics")
            await spine.answer(socket, spine.request(socket, op="snapshot", topics=["t.1"]))
            assert len(socket.session.subscriptions or ()) == 8  # type: ignore[union-attr]
        (member,) = spine.hub._actors.groups._groups["g"].members.values()
        assert len(member.patterns) == 8, "the hub gives nothing for what was refused"

    with mock.patch.object(test_fanout, "CONFIG", config):
        run(scenario)
