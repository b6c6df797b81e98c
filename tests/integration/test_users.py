"""Users with sessions on several workers: their topics, presence, rates, and what operators do to them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from tests.integration.harness import EngineProcess, RawClient

Start = Callable[..., EngineProcess]
Eventually = Callable[..., Awaitable[None]]

PRESENCE = """
[topics."room.*"]
presence = true
announce = true
"""
KNOCKS = 60  # connections until the kernel has given us one to each worker; each is a coin's throw


async def on_both_workers(stack: AsyncExitStack, url: str) -> tuple[RawClient, RawClient]:
    """A client on worker-0 and one on worker-1."""
    found: dict[str, RawClient] = {}
    for _ in range(KNOCKS):
        client = await stack.enter_async_context(RawClient(url))
        worker = (await client.request("stats"))["stats"]["worker"]
        if worker in found:
            await client.__aexit__(None, None, None)
        else:
            found[worker] = client
        if len(found) == 2:
            return found["worker-0"], found["worker-1"]
    raise AssertionError(f"{KNOCKS} connections came to {sorted(found)}")


def sessions(engine: EngineProcess, **query: Any) -> list[dict[str, Any]]:
    """All pages of the sessions."""
    found: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        path = "&".join(f"{name}={value}" for name, value in {**query, "cursor": cursor}.items())
        status, page = engine.admin(f"/api/sessions?{path}")
        assert status == 200, page
        found += page["sessions"]
        cursor = page["cursor"]
    return found


def session_of(client: RawClient) -> str:
    return str(client.messages[0]["session"])


def has_own_topic(*clients: RawClient) -> bool:
    """Whether each was told of the subscription that nobody asked for."""
    return all(client.of("subscribed") for client in clients)


def test_a_user_s_sessions_on_two_workers(engine_process: Start, eventually: Eventually) -> None:
    engine = engine_process(workers=2)

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            one, two = await on_both_workers(stack, f"{engine.url}?user=alice")
            bob = await stack.enter_async_context(RawClient(f"{engine.url}?user=bob"))
            anyone = await stack.enter_async_context(RawClient(engine.url))
            await eventually(lambda: has_own_topic(one, two, bob))
            assert one.of("subscribed")[0]["topics"] == ["user.alice"]

            # What is a user's reaches all of its sessions and nobody else.
            await anyone.subscribe(">", "*.alice")
            for client, field in ((anyone, "topics[1]"), (bob, "topics[1]")):
                refused = await client.request("subscribe", topics=["a", "user.alice"])
                assert (refused["code"], refused["field"]) == ("forbidden", field)
            refused = await bob.request("snapshot", topics=["user.*"])
            assert refused["code"] == "forbidden"
            await bob.request("publish", topic="user.alice", data=1)
            await anyone.request("publish", topic="for.all", data=2)
            await eventually(lambda: one.offsets("user.alice") == two.offsets("user.alice") == [1])
            await eventually(lambda: anyone.offsets("for.all") == [1])
            assert not bob.of("event") and not anyone.offsets("user.alice")

            # Operators see them page by page, over the workers.
            everybody = sessions(engine, limit=1)
            assert [row["id"] for row in everybody] == sorted(map(session_of, (one, two, bob, anyone)))
            mine = {row["id"]: row for row in sessions(engine, user="alice")}
            assert mine.keys() == {session_of(one), session_of(two)}
            row = mine[session_of(one)]
            assert (row["user"], row["worker"], row["lane"]) == ("alice", "worker-0", "fast")
            assert (row["queued_bytes"], row["oldest_age"], row["dropped"], row["subscriptions"]) == (0, None, 0, 1)
            assert row["address"].startswith("127.0.0.1:") and row["connected_at"] > 1e9

            # They subscribe them without their asking.
            body = {"topics": ["news"], "where": {"urgent": True}}
            assert engine.admin("/api/users/alice/subscribe", "POST", body) == (200, {"sessions": 2})
            await eventually(lambda: all(len(client.of("subscribed")) == 2 for client in (one, two)))
            await anyone.request("publish", topic="news", data={"urgent": False})
            await anyone.request("publish", topic="news", data={"urgent": True})
            await eventually(lambda: one.offsets("news") == two.offsets("news") == [2])
            path = f"/api/sessions/{session_of(two)}/unsubscribe"
            assert engine.admin(path, "POST", {"topics": ["news"]}) == (200, {"sessions": 1})
            await eventually(lambda: [told["topics"] for told in two.of("unsubscribed")] == [["user.alice"]])
            status, answer = engine.admin("/api/users/alice/subscribe", "POST", {"topics": ["user.bob"]})
            assert (status, answer["error"]["code"]) == (403, "forbidden")
            status, topics = engine.admin("/api/topics?limit=2")
            assert [row["topic"] for row in topics["topics"]] == ["for.all", "news"]
            assert topics["topics"][1]["offset"] == 2 and topics["cursor"] == "news"

            # And close them, who shall not come back by themselves.
            path = f"/api/sessions/{session_of(one)}"
            assert engine.admin(path, "DELETE") == (200, {"closed": 1})
            await eventually(lambda: one.closed == 4003)
            bye = one.of("bye")[0]
            assert (bye["code"], bye["reason"], bye["reconnect"]) == (4003, "kicked", False)
            assert engine.admin(path, "DELETE")[0] == 404
            assert engine.admin("/api/users/alice/sessions", "DELETE") == (200, {"closed": 1})
            await eventually(lambda: two.closed == 4003)
            assert engine.admin("/api/users/alice/sessions", "DELETE") == (200, {"closed": 0})
            assert {row["id"] for row in sessions(engine)} == {session_of(bob), session_of(anyone)}
            await bob.request("publish", topic="user.alice", data=3)  # to nobody
            with pytest.raises(InvalidStatus) as caught:
                await RawClient(f"{engine.url}?user=a.b").__aenter__()
            assert caught.value.response.status_code == 400
        await eventually(lambda: sessions(engine) == [])

    asyncio.run(scenario())


def test_presence_until_a_worker_is_killed(engine_process: Start, eventually: Eventually) -> None:
    engine = engine_process(PRESENCE, workers=2)

    def present(topic: str) -> Any:
        return engine.admin(f"/api/presence?topic={topic}")[1].get("users")

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            watcher, _ = await on_both_workers(stack, engine.url)
            one, two = await on_both_workers(stack, f"{engine.url}?user=alice")
            bob = await stack.enter_async_context(RawClient(f"{engine.url}?user=bob"))
            await watcher.subscribe("room.a")

            def told() -> list[tuple[str, str]]:
                return [(event["type"], event["data"]["user"]) for event in watcher.of("event")]

            await one.subscribe("room.a", "hall")
            await eventually(lambda: told() == [("join", "alice")])
            await two.subscribe("room.a")
            await bob.subscribe("room.*")  # looks on
            assert (await bob.request("presence", topic="room.a"))["users"] == ["alice"]
            assert present("room.a") == ["alice"]
            await one.request("unsubscribe", topics=["room.a"])
            refused = await bob.request("presence", topic="hall")
            assert (refused["code"], refused["field"]) == ("bad_request", "topic")
            refused = await bob.request("presence", topic="user.alice")
            assert (refused["code"], refused["field"]) == ("forbidden", "topic")
            status, answer = engine.admin("/api/presence?topic=hall")
            assert (status, answer["error"]["field"]) == (400, "topic")
            assert present("room.a") == ["alice"]

            engine.kill("worker-1")
            await eventually(lambda: told() == [("join", "alice"), ("leave", "alice")], deadline=20)
            assert present("room.a") == []

            # A new hub hears who is there, and nobody has just joined.
            await one.subscribe("room.a")
            await eventually(lambda: told()[2:] == [("join", "alice")])
            engine.kill("hub")
            await eventually(lambda: present("room.a") == ["alice"], deadline=20)
            await eventually(lambda: one.closed is None and watcher.closed is None)
            assert (await one.request("unsubscribe", topics="*"))["topics"] == []
            await eventually(lambda: told()[3:] == [("leave", "alice")])

    asyncio.run(scenario())


def test_a_user_s_rate_is_for_all_workers_together(engine_process: Start, eventually: Eventually) -> None:
    limit, events = 10, 100
    # A window that outlasts the test: in all of it the user gets at most the limit.
    engine = engine_process(workers=2, delivery__user_rate=limit, delivery__user_window=600)

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            one, two = await on_both_workers(stack, f"{engine.url}?user=alice")
            bob = await stack.enter_async_context(RawClient(f"{engine.url}?user=bob"))
            anyone = await stack.enter_async_context(RawClient(engine.url))
            for client in (one, two, bob, anyone):
                await client.subscribe("t")
            for n in range(events):
                await anyone.request("publish", topic="t", data=n)
            await eventually(lambda: len(anyone.offsets("t")) == events)

            def missed(client: RawClient) -> int:
                gaps = [gap for gap in client.of("gap") if gap["topic"] == "t"]
                assert {gap["reason"] for gap in gaps} <= {"rate_limited"}
                return sum(gap["to"] - gap["from"] + 1 for gap in gaps)

            def heard(client: RawClient) -> bool:
                return len(client.offsets("t")) + missed(client) == events

            await eventually(lambda: all(map(heard, (one, two, bob))), deadline=20)
            got = set(one.offsets("t")) | set(two.offsets("t"))
            assert 0 < len(got) <= limit
            assert len(bob.offsets("t")) == limit

    asyncio.run(scenario())
