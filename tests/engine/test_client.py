"""The client against an engine that breaks connections, loses events and refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from actors.backoff import BackoffPolicy
from engine.client import Client
from engine.client_link import State
from engine.client_subscription import Subscription
from tests.engine.fake_engine import FakeEngine, fake_engine
from transport.client_messages import Gap
from transport.codes import ErrorCode, Priority
from transport.errors import ConnectionLost, HeliographError, RequestError
from transport.event import Event
from transport.position import Position

AT_ONCE = BackoffPolicy(first_s=0.01, cap_s=0.05)
Eventually = Callable[..., Awaitable[None]]


def run(test: Callable[[FakeEngine], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with fake_engine() as engine, asyncio.timeout(10):
            await test(engine)

    asyncio.run(main())


def client_of(engine: FakeEngine, **options: Any) -> Client:
    return Client(engine.url, **{"reconnect": AT_ONCE, **options})


async def take(subscription: Subscription, count: int) -> list[Event]:
    return [await anext(subscription) for _ in range(count)]


def offsets(events: list[Event]) -> list[int]:
    return [event.offset for event in events]


# Requests -----------------------------------------------------------------------------------------------------------


def test_events_arrive_as_published_with_their_digits() -> None:
    async def test(engine: FakeEngine) -> None:
        async with client_of(engine) as client, client.subscribe("price.*") as prices:
            await engine.publish("price.EUR", '{"bid": 1.12300}', type="price_update", key="EUR", priority="high")
            event = await anext(prices)
            assert event == Event(
                topic="price.EUR",
                payload=b'{"bid": 1.12300}',
                type="price_update",
                key="EUR",
                priority=Priority.HIGH,
                epoch="e1",
                offset=1,
                ts=1.5,
            )
            assert str(event.exact["bid"]) == "1.12300"

    run(test)


def test_publish_returns_the_position_and_sends_what_it_was_given() -> None:
    async def test(engine: FakeEngine) -> None:
        async with client_of(engine) as client, client.subscribe("alert.x") as alerts:
            data = {"limit": Decimal("1.10")}
            assert await client.publish("alert.x", data, type="alert", key="k", priority="low") == Position("e1", 1)
            event = await anext(alerts)
            assert (event.payload, event.type, event.key, event.priority) == (b'{"limit":1.10}', "alert", "k", "low")
            assert "idempotency_key" not in engine.requests[-1]

    run(test)


def test_the_other_requests() -> None:
    async def test(engine: FakeEngine) -> None:
        await engine.publish("a", "1")
        async with client_of(engine) as client, client.subscribe("a"):
            assert await client.ping() == 12.5
            assert await client.stats() == {"connections": 1}
            engine.options = {"a": {"max_rate": 2.0}}
            assert await client.subscriptions() == {"a": {"max_rate": 2.0}}
            assert await client.presence("a") == ["alice"]
            assert [event.payload for event in await client.snapshot("a")] == [b"1"]

    run(test)


def test_a_refusal_raises_its_code_and_the_client_goes_on() -> None:
    async def test(engine: FakeEngine) -> None:
        engine.refusals["subscribe"] = {"code": "unsupported", "message": "`where` is not supported", "field": "where"}
        async with client_of(engine) as client:
            with pytest.raises(RequestError) as caught:
                async with client.subscribe("a", where={"x": 1}, conflate=True, max_rate=2):
                    pass
            assert (caught.value.code, caught.value.field) == (ErrorCode.UNSUPPORTED, "where")
            assert engine.requests[-1] == {
                "op": "subscribe",
                "id": 1,
                "topics": ["a"],
                "where": {"x": 1},
                "conflate": True,
                "max_rate": 2,
            }
            assert await client.ping()
            engine.refusals["ping"] = {"code": "from_the_future", "message": "?"}
            with pytest.raises(RequestError, match="internal"):
                await client.ping()

    run(test)


@pytest.mark.parametrize(("data", "options"), [(float("nan"), {}), (1, {"priority": "urgent"})])
def test_bad_values_are_refused_before_they_are_sent(data: object, options: dict[str, Any]) -> None:
    async def test(engine: FakeEngine) -> None:
        async with client_of(engine) as client:
            with pytest.raises(RequestError, match="bad_request"):
                await client.publish("a", data, **options)
        assert not engine.requests

    run(test)


def test_snapshot_events_come_before_live_ones_once() -> None:
    async def test(engine: FakeEngine) -> None:
        await engine.publish("price.EUR", "1")
        await engine.publish("price.EUR", "2")
        async with client_of(engine) as client, client.subscribe("price.EUR", snapshot=True) as exact:
            await engine.publish("price.EUR", "3")
            assert offsets(await take(exact, 2)) == [2, 3]

    run(test)


def test_overlapping_subscriptions_each_get_an_event_and_leave_without_harm() -> None:
    async def test(engine: FakeEngine) -> None:
        async with client_of(engine) as client, client.subscribe("price.*") as wide:
            async with client.subscribe("price.EUR", "price.*") as narrow:
                await engine.publish("price.EUR")
                await engine.publish("price.USD")
                assert offsets(await take(narrow, 2)) == offsets(await take(wide, 2)) == [1, 1]
            assert engine.requests[-1]["topics"] == ["price.EUR"]  # the other pattern has its subscriber still
            await engine.publish("price.EUR")
            assert offsets(await take(wide, 1)) == [2]

    run(test)


def test_one_pattern_has_one_set_of_options() -> None:
    async def test(engine: FakeEngine) -> None:
        async with client_of(engine) as client, client.subscribe("a"):
            with pytest.raises(RequestError, match="conflict"):
                async with client.subscribe("a", conflate=True):
                    pass

    run(test)


def test_options_are_sent_as_given() -> None:
    async def test(engine: FakeEngine) -> None:
        where = [{"bid": {"gt": Decimal("1.10")}, "note": None}, {"@key": ["A"]}]
        options: dict[str, Any] = {"conflate": True, "max_rate": 2.5, "window": 0.1, "batch": True}
        async with (
            client_of(engine) as client,
            client.subscribe("a", where=where, **options),
            client.subscribe("jobs.*", group="g"),
        ):
            first, second = engine.requests
        assert first["where"] == [{"bid": {"gt": 1.1}, "note": None}, {"@key": ["A"]}]
        assert {name: first[name] for name in options} == options
        assert {name: second.get(name) for name in ("group", "where", "conflate")} == {
            "group": "g",
            "where": None,
            "conflate": None,
        }

    run(test)


def test_a_bad_filter_is_told_where_it_is_written() -> None:
    client = Client()
    with pytest.raises(RequestError, match="no such operator") as caught:
        client.subscribe("a", where={"tier": {"over": 1}})
    assert (caught.value.code, caught.value.field) == ("invalid_filter", "where.tier.over")


def test_a_batch_is_its_events() -> None:
    async def test(engine: FakeEngine) -> None:
        async with client_of(engine) as client, client.subscribe("a", batch=True) as events:
            several = ",".join(engine.accept("a", str(n)) for n in range(3))
            await engine.send("a", f'{{"op":"events","events":[{several}]}}')
            assert [(event.offset, event.data) for event in await take(events, 3)] == [(1, 0), (2, 1), (3, 2)]

    run(test)


@pytest.mark.parametrize(
    "options", [{"where": {"x": 1}}, {"conflate": True}, {"max_rate": 1.0}, {"group": "g"}], ids=lambda o: next(iter(o))
)
def test_who_does_not_want_every_event_misses_none_by_a_jump(options: dict[str, Any], eventually: Eventually) -> None:
    async def test(engine: FakeEngine) -> None:
        gaps: list[Gap] = []
        async with client_of(engine) as client, client.subscribe("a.*", on_gap=gaps.append, **options) as events:
            await engine.publish("a.b", '{"x":1}')
            await engine.cut()
            engine.accept("a.b")
            await eventually(lambda: [*engine.sessions.values()] == [["a.*"]])
            await engine.publish("a.b", '{"x":1}')
            assert offsets(await take(events, 2)) == [1, 3]
            assert (gaps, events.missed) == ([], 0)
            assert [request.get("group") for request in engine.requests] == [options.get("group")] * 2

    run(test)


def test_a_member_of_a_group_gets_what_is_assigned_again_and_acknowledges() -> None:
    async def test(engine: FakeEngine) -> None:
        async with client_of(engine) as client, client.subscribe("jobs", group="g") as jobs:
            texts = [engine.accept("jobs", str(n)) for n in range(3)]
            for text in (texts[2], texts[0], texts[2]):  # another member's share comes late, the third one again
                await engine.send("jobs", text)
            for event in await take(jobs, 3):
                await client.ack(event)
        acks = [(r["topic"], r["epoch"], r["offset"]) for r in engine.requests if r["op"] == "ack"]
        assert acks == [("jobs", "e1", 3), ("jobs", "e1", 1), ("jobs", "e1", 3)]

    run(test)


def test_the_inbox_has_what_the_engine_subscribed_to_also_after_a_loss(eventually: Eventually) -> None:
    async def test(engine: FakeEngine) -> None:
        gaps: list[Gap] = []
        async with client_of(engine) as client:
            await engine.order("subscribed", ["user.alice"])
            await client.ping()
            async with client.inbox(on_gap=gaps.append) as inbox:
                assert inbox.topics == ("user.alice",)
                await engine.publish("user.alice", "1")
                assert (await anext(inbox)).data == 1
                await engine.cut()
                engine.accept("user.alice", "2")
                await eventually(lambda: engine.sessions)
                await client.ping()
                assert inbox.topics == ()
                await engine.order("subscribed", ["user.alice"])
                await engine.publish("user.alice", "3")
                assert (await anext(inbox)).data == 3
                assert gaps == [Gap("user.alice", "e1", 2, 2, "disconnected")]
            assert {request["op"] for request in engine.requests} == {"ping"}
        with pytest.raises(ConnectionLost, match="closed"):
            await client.inbox().__aenter__()

    run(test)


def test_what_an_operator_ends_has_ended() -> None:
    async def test(engine: FakeEngine) -> None:
        async with client_of(engine) as client, client.subscribe("a", "b") as both, client.subscribe("c") as other:
            await engine.order("unsubscribed", ["b"])
            await engine.publish("b")
            assert (await anext(both)).topic == "b"
            assert both.topics == ("b",)
            with pytest.raises(RequestError, match="the engine has ended the subscription to a, c"):
                await anext(other)

    run(test)


def test_unsubscribing_everything_ends_the_iteration_after_what_has_come() -> None:
    async def test(engine: FakeEngine) -> None:
        async with client_of(engine) as client, client.subscribe("a", "b") as both, client.subscribe("c") as other:
            await engine.publish("a")
            assert await client.unsubscribe("a") == ["b", "c"]
            assert both.topics == ("b",)
            assert await client.unsubscribe() == []
            assert [event.topic async for event in both] == ["a"]
            assert [event async for event in other] == []

    run(test)


def test_misuse_is_told() -> None:
    async def test(engine: FakeEngine) -> None:
        client = client_of(engine)
        with pytest.raises(HeliographError, match="not open"):
            await client.ping()
        with pytest.raises(RequestError, match="at least one topic"):
            client.subscribe()
        async with client:
            with pytest.raises(HeliographError, match="async with"):
                await anext(client.subscribe("a"))
        with pytest.raises(ConnectionLost, match="closed"):
            await client.ping()

    run(test)


def test_unknown_messages_and_fields_are_ignored() -> None:
    async def test(engine: FakeEngine) -> None:
        async with client_of(engine) as client, client.subscribe("a") as events:
            for text in ('{"op":"news","x":1}', '{"op":"event"}', "[]", "{", '{"op":"position","position":"7"}'):
                await engine.send("a", text)
            await engine.publish("a", "1", colour="red")
            assert (await anext(events)).payload == b"1"

    run(test)


# Loss ---------------------------------------------------------------------------------------------------------------


def test_after_a_loss_it_subscribes_again_drops_duplicates_and_tells_the_hole(eventually: Eventually) -> None:
    async def test(engine: FakeEngine) -> None:
        gaps: list[Gap] = []
        async with client_of(engine) as client, client.subscribe("price.*", on_gap=gaps.append) as prices:
            first = engine.accept("price.EUR")
            await engine.send("price.EUR", first)
            await engine.publish("price.USD")
            assert len(await take(prices, 2)) == 2
            await engine.cut()
            engine.accept("price.EUR")
            engine.accept("price.EUR")
            await eventually(lambda: engine.sessions and [*engine.sessions.values()] == [["price.*"]])
            await engine.send("price.EUR", first)  # again, as after a recovery
            await engine.publish("price.EUR")
            await engine.publish("price.USD")
            assert offsets(await take(prices, 2)) == [4, 2]
            assert gaps == [Gap("price.EUR", "e1", 2, 3, "disconnected")]
            assert prices.missed == 2

    run(test)


def test_what_was_missed_comes_first_and_nothing_is_told_as_lost(eventually: Eventually) -> None:
    async def test(engine: FakeEngine) -> None:
        engine.log = []
        gaps: list[Gap] = []
        async with (
            client_of(engine) as client,
            client.subscribe("a", "b", on_gap=gaps.append) as exact,
            client.subscribe("c.*", on_gap=gaps.append) as wide,
            client.subscribe("d.*", on_gap=gaps.append, recover=False) as present,
        ):
            for topic in ("a", "c.x", "d.x"):
                await engine.publish(topic)
            await engine.send("a", '{"op":"position","position":"2"}')
            for each in (exact, wide, present):
                await take(each, 1)
            await client.ping()
            await engine.cut()
            for topic in ("a", "b", "c.x", "c.y", "d.x"):
                engine.accept(topic)
            await eventually(lambda: [len(patterns) for patterns in engine.sessions.values()] == [4])
            await engine.publish("a")
            await engine.publish("d.x")
            assert [(event.topic, event.offset) for event in await take(exact, 3)] == [("a", 2), ("b", 1), ("a", 3)]
            assert [(event.topic, event.offset) for event in await take(wide, 2)] == [("c.x", 2), ("c.y", 1)]
            assert offsets(await take(present, 1)) == [3]
            assert gaps == [Gap("d.x", "e1", 2, 2, "disconnected")]
        places = [request.get("since") for request in engine.requests if request["op"] == "subscribe"]
        found = {"a": {"epoch": "e1", "offset": 1}, "b": {"epoch": "e1", "offset": 0}}
        assert places == [None, None, None, found, "2", None]

    run(test)


def test_a_place_that_the_engine_will_not_have_is_asked_for_once(eventually: Eventually) -> None:
    async def test(engine: FakeEngine) -> None:
        gaps: list[Gap] = []
        engine.knows_since = False
        async with client_of(engine) as client, client.subscribe("a", on_gap=gaps.append) as events:
            await engine.publish("a")
            await engine.cut()
            engine.accept("a")
            await eventually(lambda: [*engine.sessions.values()] == [["a"]])
            await engine.publish("a")
            assert offsets(await take(events, 2)) == [1, 3]
            assert gaps == [Gap("a", "e1", 2, 2, "disconnected")]
        places = ["since" in request for request in engine.requests if request["op"] == "subscribe"]
        assert places == [False, True, False]

    run(test)


def test_history_and_what_of_it_is_gone() -> None:
    async def test(engine: FakeEngine) -> None:
        engine.log = []
        gaps: list[Gap] = []
        async with client_of(engine) as client:
            for _ in range(3):
                await client.publish("a", 1)
            assert offsets(await client.history("a", limit=2)) == [2, 3]
            engine.gap = {"gap": {"topic": "a", "epoch": "e1", "from": 1, "to": 1, "reason": "history_expired"}}
            await client.history("a", since=Position("e1", 0), on_gap=gaps.append)
            assert gaps == [Gap("a", "e1", 1, 1, "history_expired")]
            assert engine.requests[-1]["since"] == {"epoch": "e1", "offset": 0}

    run(test)


def test_a_publish_that_waits_for_redis_has_no_position_yet() -> None:
    async def test(engine: FakeEngine) -> None:
        engine.pending = True
        async with client_of(engine) as client:
            assert await client.publish("a", 1) is None

    run(test)


def test_a_publish_with_a_key_is_repeated_while_the_engine_is_unavailable(eventually: Eventually) -> None:
    async def test(engine: FakeEngine) -> None:
        engine.refusals["publish"] = {"code": "unavailable", "message": "no hub"}
        async with client_of(engine) as client:
            with pytest.raises(RequestError, match="no hub"):
                await client.publish("a", 1)
            safe = asyncio.create_task(client.publish("a", 1, idempotency_key="once"))
            await eventually(lambda: len(engine.requests) >= 3)
            del engine.refusals["publish"]
            assert await safe == Position("e1", 1)
            assert {request["idempotency_key"] for request in engine.requests[1:]} == {"once"}
        engine.refusals["publish"] = {"code": "unavailable", "message": "no hub"}
        async with client_of(engine, request_timeout=0.1) as client:
            with pytest.raises(RequestError, match="no hub"):
                await client.publish("a", 1, idempotency_key="twice")

    run(test)


def test_the_answer_to_an_exact_topic_shows_the_hole_at_once(eventually: Eventually) -> None:
    async def test(engine: FakeEngine) -> None:
        gaps: list[Gap] = []
        async with client_of(engine) as client, client.subscribe("a", on_gap=gaps.append) as events:
            await engine.publish("a")
            await engine.cut()
            engine.accept("a")
            await eventually(lambda: [*engine.sessions.values()] == [["a"]])
            await client.unsubscribe()
            assert offsets([event async for event in events]) == [1]
            assert gaps == [Gap("a", "e1", 2, 2, "disconnected")]

    run(test)


def test_a_new_epoch_after_a_loss_is_a_gap(eventually: Eventually) -> None:
    async def test(engine: FakeEngine) -> None:
        gaps: list[Gap] = []

        async def on_gap(gap: Gap) -> None:
            gaps.append(gap)

        async with client_of(engine) as client, client.subscribe("a.*", on_gap=on_gap) as events:
            await engine.publish("a.b")
            await engine.publish("a.b")
            await engine.cut()
            engine.epoch, engine.offsets = "e2", {}
            await eventually(lambda: [*engine.sessions.values()] == [["a.*"]])
            await engine.publish("a.b")
            assert [(event.epoch, event.offset) for event in await take(events, 3)] == [("e1", 1), ("e1", 2), ("e2", 1)]
            assert gaps == [Gap("a.b", "e2", 1, 0, "epoch_changed")]

    run(test)


def test_the_engines_gaps_come_between_the_events_where_they_belong() -> None:
    async def test(engine: FakeEngine) -> None:
        seen: list[object] = []
        async with client_of(engine) as client, client.subscribe("a", on_gap=seen.append) as events:
            await engine.publish("a")
            await engine.send("a", '{"op":"gap","topic":"a","epoch":"e1","from":2,"to":3,"reason":"slow"}')
            await engine.send("a", '{"op":"skipped","topic":"a","count":4}')
            engine.offsets["a"] = 3
            await engine.publish("a")
            async for event in events:
                seen.append(event.offset)
                if len(seen) == 3:
                    break
            assert seen == [1, Gap("a", "e1", 2, 3, "slow"), 4]
            assert (events.missed, events.skipped) == (2, 4)

    run(test)


def test_a_publish_in_flight_is_lost_and_other_requests_are_repeated(eventually: Eventually) -> None:
    async def test(engine: FakeEngine) -> None:
        async with client_of(engine) as client:
            engine.held = {"publish", "ping"}
            publish, ping = asyncio.create_task(client.publish("a", 1)), asyncio.create_task(client.ping())
            safe = asyncio.create_task(client.publish("b", 1, idempotency_key="once"))
            await eventually(lambda: len(engine.requests) == 3)
            engine.held = set()
            await engine.cut()
            with pytest.raises(ConnectionLost, match="unknown"):
                await publish
            assert await ping == 12.5
            assert await safe == Position("e1", 1)

    run(test)


def test_a_request_without_connection_waits_for_one(eventually: Eventually) -> None:
    async def test(engine: FakeEngine) -> None:
        async with client_of(engine) as client:
            await engine.stop()
            await eventually(lambda: client.state is State.CONNECTING)
            publish = asyncio.create_task(client.publish("a", 1))
            await engine.start()
            assert await publish == Position("e1", 1)

    run(test)


def test_a_request_gives_up_after_its_timeout(eventually: Eventually) -> None:
    async def test(engine: FakeEngine) -> None:
        engine.held = {"ping"}
        async with client_of(engine, request_timeout=0.05) as client:
            with pytest.raises(ConnectionLost, match=r"after 0\.05 s no answer"):
                await client.ping()
            await engine.stop()
            await eventually(lambda: client.state is State.CONNECTING)
            with pytest.raises(ConnectionLost, match="no connection"):
                await client.ping()
            await engine.start()

    run(test)


def test_a_silent_engine_is_left(eventually: Eventually) -> None:
    async def test(engine: FakeEngine) -> None:
        engine.ping_interval, engine.held = 0.05, {"ping"}
        async with client_of(engine, request_timeout=0.05) as client:
            first = client.session
            await eventually(lambda: client.session not in ("", first))

    run(test)


def test_nobody_there_is_told_at_once_or_waited_for() -> None:
    async def test(engine: FakeEngine) -> None:
        await engine.stop()
        with pytest.raises(ConnectionLost, match="connection refused"):
            await client_of(engine).__aenter__()
        entering = asyncio.create_task(client_of(engine, connect_within=5).__aenter__())
        await asyncio.sleep(0)
        await engine.start()
        await (await entering).close()

    run(test)


# Refused for good ---------------------------------------------------------------------------------------------------


def test_a_wrong_token_is_not_tried_again() -> None:
    async def test(engine: FakeEngine) -> None:
        engine.tokens = {"right"}
        with pytest.raises(RequestError, match="unauthorized"):
            await client_of(engine, token="wrong", connect_within=5).__aenter__()
        assert len(engine.headers) == 1
        async with client_of(engine, token="right") as client:
            await client.ping()

    run(test)


def test_a_token_function_is_asked_for_each_connection(eventually: Eventually) -> None:
    async def test(engine: FakeEngine) -> None:
        token = "first"

        async def current() -> str:
            return token

        engine.tokens = {"first"}
        async with client_of(engine, token=current) as client, client.subscribe("a") as events:
            engine.tokens, token = {"second"}, "second"
            await engine.bye(4001, "token_expired")
            await eventually(lambda: [*engine.sessions.values()] == [["a"]])
            await engine.publish("a")
            await anext(events)
            await engine.bye(4001, "token_expired")
            with pytest.raises(RequestError, match="token_expired"):
                await anext(events)
            with pytest.raises(RequestError, match="unauthorized"):
                await client.ping()

    run(test)


@pytest.mark.parametrize(("code", "reconnect"), [(4003, True), (1008, True), (4321, False)])
def test_a_kicked_client_stays_away(code: int, reconnect: bool) -> None:
    async def test(engine: FakeEngine) -> None:
        async with client_of(engine) as client, client.subscribe("a") as events:
            await engine.bye(code, "kicked", reconnect=reconnect)
            with pytest.raises(RequestError, match="forbidden"):
                await anext(events)
            assert client.state is State.CLOSED
        assert len(engine.headers) == 1

    run(test)


@pytest.mark.parametrize(("code", "reason"), [(1012, "drain"), (4008, "slow"), (4009, "limit"), (1002, "protocol")])
def test_after_the_other_closes_it_comes_back(code: int, reason: str, eventually: Eventually) -> None:
    async def test(engine: FakeEngine) -> None:
        async with client_of(engine) as client, client.subscribe("a"):
            await engine.bye(code, reason, reconnect_in=0.01)
            await eventually(lambda: [*engine.sessions.values()] == [["a"]])

    run(test)


def test_a_subscription_that_is_refused_after_a_reconnect_fails_alone(eventually: Eventually) -> None:
    async def test(engine: FakeEngine) -> None:
        async with client_of(engine) as client, client.subscribe("a") as events:
            engine.refusals["subscribe"] = {"code": "unavailable", "message": "no hub"}
            await engine.cut()
            await eventually(lambda: len([r for r in engine.requests if r["op"] == "subscribe"]) >= 3)
            engine.refusals["subscribe"] = {"code": "forbidden", "message": "no longer yours"}
            with pytest.raises(RequestError, match="no longer yours"):
                await anext(events)
            assert await client.ping() == 12.5

    run(test)


# Backpressure -------------------------------------------------------------------------------------------------------


def test_a_slow_consumer_stops_the_reading_and_loses_nothing(eventually: Eventually) -> None:
    async def test(engine: FakeEngine) -> None:
        filler = msgspec.json.encode("x" * 100_000).decode()
        async with client_of(engine, max_queue=10) as client, client.subscribe("a") as events:
            flood = asyncio.create_task(_flood(engine, 400, filler))
            await eventually(lambda: events.blocking)
            await asyncio.wait({flood}, timeout=0.2)
            assert not flood.done()  # 40 MB do not fit in the sockets: the engine feels it
            assert len(events._inbox) == 10
            assert offsets(await take(events, 400)) == list(range(1, 401))
            await flood

    run(test)


def test_a_consumer_may_ask_while_its_queue_is_full() -> None:
    async def test(engine: FakeEngine) -> None:
        async with client_of(engine, max_queue=10) as client, client.subscribe("a") as events:
            for _ in range(50):
                await engine.publish("a")
            seen = []
            async for event in events:
                seen.append(event.offset)
                assert await client.ping() == 12.5
                if event.offset == 50:
                    break
            assert seen == list(range(1, 51))

    run(test)


async def _flood(engine: FakeEngine, count: int, data: str) -> None:
    for _ in range(count):
        await engine.publish("a", data)


def test_closing_ends_iterations_and_leaves_no_task(eventually: Eventually) -> None:
    async def test(engine: FakeEngine) -> None:
        before = asyncio.all_tasks()
        client = client_of(engine)
        async with client:
            subscription = await client.subscribe("a").__aenter__()
            consumer = asyncio.create_task(anext(subscription, None))
            await engine.cut()
            await eventually(lambda: len(engine.headers) == 2)
        assert await consumer is None
        await eventually(lambda: not [t for t in asyncio.all_tasks() - before if "heliograph" in t.get_name()])

    run(test)


def test_serving_waits_for_an_engine_that_is_unavailable(eventually: Eventually) -> None:
    async def test(engine: FakeEngine) -> None:
        def asked() -> list[list[str]]:
            return [request["methods"] for request in engine.requests if request["op"] == "serve"]

        engine.refusals["serve"] = {"code": "unavailable", "message": "the hub is away"}
        async with client_of(engine) as client:
            served = client.serve("job", cancel=lambda *_: None)
            serving = asyncio.create_task(served.__aenter__())
            await eventually(lambda: len(asked()) >= 2)
            del engine.refusals["serve"]
            await serving
            assert set(map(tuple, asked())) == {("cancel",)}
            await served.__aexit__(None, None, None)
            assert asked()[-1] == []

    run(test)
