"""The client for code without a loop, against an engine in another thread."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from actors.backoff import BackoffPolicy
from engine.client import Client
from engine.sync_client import SyncClient
from tests.engine.fake_engine import FakeEngine, fake_engine_in_thread
from transport.client_messages import Gap
from transport.errors import ConnectionLost, HeliographError, RequestError, WouldDeadlock
from transport.position import Position

Server = tuple[FakeEngine, asyncio.AbstractEventLoop]


@pytest.fixture
def server() -> Iterator[Server]:
    with fake_engine_in_thread() as running:
        yield running


def client_of(server: Server) -> SyncClient:
    return Client.sync(server[0].url, reconnect=BackoffPolicy(first_s=0.01, cap_s=0.05))


def test_publish_and_iterate(server: Server) -> None:
    with client_of(server) as client, client.subscribe("a") as events:
        assert client.publish("a", {"x": 1}, type="t") == Position("e1", 1)
        event = next(events)
        assert (event.data, event.type, event.offset) == ({"x": 1}, "t", 1)
        assert (events.topics, events.missed, events.waiting) == (("a",), 0, 0)
        with pytest.raises(TimeoutError):
            events.get(timeout=0.01)
        client.publish("a", 2)
        assert events.get(timeout=5).data == 2


def test_many_publishes_at_once_keep_their_order(server: Server) -> None:
    with client_of(server) as client, client.subscribe("a") as events:
        futures = [client.publish_soon("a", i) for i in range(200)]
        assert [future.result(5).offset for future in futures] == list(range(1, 201))
        assert [next(events).data for _ in range(200)] == list(range(200))


def test_the_other_requests(server: Server) -> None:
    with client_of(server) as client, client.subscribe("a"):
        client.publish("a", 1)
        assert [event.data for event in client.snapshot(["a"])] == [1]
        assert client.stats() == {"connections": 1}
        assert client.subscriptions() == {"a": {}}
        assert client.presence("a") == ["alice"]
        assert client.ping() == 12.5
        assert client.unsubscribe("a") == []


def test_options_acknowledgements_and_the_inbox(server: Server) -> None:
    engine, loop = server
    with client_of(server) as client, client.subscribe("a", group="g") as jobs, client.inbox() as inbox:
        asyncio.run_coroutine_threadsafe(engine.order("subscribed", ["user.u"]), loop).result(5)
        client.publish("user.u", 1)
        client.publish("a", 2)
        assert inbox.get(timeout=5).data == 1
        client.ack(jobs.get(timeout=5))
        assert (jobs.skipped, inbox.topics) == (0, ("user.u",))
    ack = next(request for request in engine.requests if request["op"] == "ack")
    assert (engine.requests[0]["group"], ack["topic"], ack["offset"]) == ("g", "a", 1)
    with client_of(server) as client, pytest.raises(RequestError, match="invalid_filter"):
        client.subscribe("a", where=[])


def test_gaps_are_told_in_the_iterating_thread(server: Server) -> None:
    engine, loop = server
    told: list[tuple[Gap, threading.Thread]] = []
    with (
        client_of(server) as client,
        client.subscribe("a", on_gap=lambda gap: told.append((gap, threading.current_thread()))) as events,
    ):
        text = '{"op":"gap","topic":"a","epoch":"e1","from":1,"to":3,"reason":"slow"}'
        asyncio.run_coroutine_threadsafe(engine.send("a", text), loop).result(5)
        client.publish("a", 1)
        next(events)
        assert told == [(Gap("a", "e1", 1, 3, "slow"), threading.current_thread())]


def test_an_interrupt_leaves_client_and_subscription_usable(server: Server) -> None:
    with client_of(server) as client, client.subscribe("a") as events:
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            next(events)
        timer.join()
        client.publish("a", 1)
        assert next(events).data == 1


def test_errors_reach_the_caller(server: Server) -> None:
    server[0].refusals["publish"] = {"code": "invalid_topic", "message": "no", "field": "topic"}
    with client_of(server) as client:
        with pytest.raises(RequestError, match="invalid_topic"):
            client.publish("a b", 1)

        async def on_gap(gap: Gap) -> None:
            raise AssertionError("never")

        with pytest.raises(TypeError, match="plain function"):
            client.subscribe("a", on_gap=on_gap)


def test_nobody_there_is_told_and_leaves_no_thread() -> None:
    with pytest.raises(ConnectionLost, match="refused"), Client.sync("ws://127.0.0.1:1/ws"):
        pass
    assert not [thread for thread in threading.enumerate() if thread.name == "heliograph-client"]


def test_closing_ends_an_iteration_in_another_thread(server: Server, wait_until: Callable[..., None]) -> None:
    client = client_of(server).open()
    subscription = client.subscribe("a").__enter__()
    rest: list[list[object]] = []
    consumer = threading.Thread(target=lambda: rest.append(list(subscription)))
    consumer.start()
    wait_until(lambda: subscription._subscription._arrived._waiters)
    client.close()
    consumer.join(5)
    assert rest == [[]]
    assert not [thread for thread in threading.enumerate() if thread.name == "heliograph-client"]
    client.close()
    with pytest.raises(HeliographError, match="not open"):
        client.ping()


def test_a_blocking_call_on_the_clients_own_thread_is_refused(server: Server) -> None:
    with client_of(server) as client:

        async def inside() -> None:
            client.ping()

        with pytest.raises(WouldDeadlock):
            client.run(inside())
