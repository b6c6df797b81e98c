from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

import httpx
import pytest
import uvloop

from engine import admin
from engine.admin_config import Admin
from engine.admin_gate import Gate
from transport.codes import ErrorCode
from transport.errors import RequestError


class FakeBackend:
    """Workers that have sessions ``s0, s1, …`` in turn, a hub that has topics ``t0, t1, …``."""

    def __init__(self) -> None:
        self.workers: list[list[str]] = [["s0", "s2", "s4"], ["s1", "s3"]]
        self.names = [f"t{n}" for n in range(5)]
        self.orders: list[dict[str, Any]] = []
        self.failure: Exception | None = None

    async def ask_workers(self, order: dict[str, Any]) -> list[Any]:
        self.orders.append(order)
        if self.failure is not None:
            raise self.failure
        if order["do"] == "page":
            return [
                [{"id": name} for name in names if name > order["after"]][: order["limit"]] for names in self.workers
            ]
        if order["user"] is not None:
            return [1 if order["user"] == "alice" else 0 for _ in self.workers]
        return [int(order["session"] in names) for names in self.workers]

    async def topics(self, after: str, limit: int, containing: str) -> list[dict[str, Any]]:
        return [{"topic": name} for name in self.names if name > after and containing in name][:limit]

    async def users(self, topic: str) -> list[str]:
        if topic != "room":
            raise RequestError(ErrorCode.BAD_REQUEST, "presence is not enabled", "topic")
        return ["alice", "bob"]


Test = Callable[[FakeBackend, httpx.AsyncClient], Awaitable[None]]


def run(test: Test, kind: type[FakeBackend] = FakeBackend) -> None:
    async def main() -> None:
        backend = kind()
        app = admin.application(cast(admin.Backend, backend), Gate(Admin()))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(base_url="http://127.0.0.1", transport=transport) as client:
            await test(backend, client)

    uvloop.run(main())


def refused(answer: httpx.Response, status: int, code: str, field: str | None = None) -> None:
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["field"]) == (status, code, field), answer.text


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 6])
def test_pages_over_workers_show_every_session_once(limit: int) -> None:
    async def test(backend: FakeBackend, client: httpx.AsyncClient) -> None:
        seen, cursor = [], ""
        while cursor is not None:
            page = (await client.get("/api/sessions", params={"limit": limit, "cursor": cursor})).json()
            assert 1 <= len(page["sessions"]) <= limit
            seen += [row["id"] for row in page["sessions"]]
            cursor = page["cursor"]
        assert seen == ["s0", "s1", "s2", "s3", "s4"]

    run(test)


def test_topics_with_a_part_in_their_name() -> None:
    async def test(backend: FakeBackend, client: httpx.AsyncClient) -> None:
        page = (await client.get("/api/topics", params={"containing": "3"})).json()
        assert page == {"topics": [{"topic": "t3"}], "cursor": None}

    run(test)


def test_sessions_of_a_user() -> None:
    async def test(backend: FakeBackend, client: httpx.AsyncClient) -> None:
        await client.get("/api/sessions", params={"user": "al/ice"})
        assert backend.orders == [{"do": "page", "user": "al/ice", "lane": None, "after": "", "limit": 101}]
        await client.get("/api/sessions", params={"lane": "slow"})
        assert backend.orders[1]["lane"] == "slow"

    run(test)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=ten", "limit"),
        ("limit=-1", "limit"),
        ("limit=%C2%B2", "limit"),
        ("limit=" + "9" * 50, "limit"),
        ("limit=000000100999999", "limit"),
        ("user=a.b", "user"),
        ("lane=left", "lane"),
        ("usr=alice", "usr"),
        ("limit=1&limit=2", "limit"),
    ],
)
def test_what_is_no_page(query: str, field: str) -> None:
    async def test(backend: FakeBackend, client: httpx.AsyncClient) -> None:
        refused(await client.get(f"/api/sessions?{query}"), 400, "bad_request", field)
        assert not backend.orders

    run(test)


def test_closing() -> None:
    async def test(backend: FakeBackend, client: httpx.AsyncClient) -> None:
        assert (await client.delete("/api/sessions/s3")).json() == {"closed": 1}
        refused(await client.delete("/api/sessions/s9"), 404, "not_found")
        assert (await client.delete("/api/users/alice/sessions")).json() == {"closed": 2}
        assert (await client.delete("/api/users/a%2Fb/sessions")).json() == {"closed": 0}
        refused(await client.delete("/api/users/a.b/sessions"), 400, "bad_request", "user")
        assert [(order["session"], order["user"]) for order in backend.orders] == [
            ("s3", None),
            ("s9", None),
            (None, "alice"),
            (None, "a/b"),
        ]
        backend.failure = RequestError(ErrorCode.UNAVAILABLE, "gone")
        refused(await client.delete("/api/sessions/s3"), 503, "unavailable")

    run(test)


@pytest.mark.parametrize("what", ["sessions/s0", "users/alice"])
def test_subscribing(what: str) -> None:
    async def test(backend: FakeBackend, client: httpx.AsyncClient) -> None:
        options = {"topics": ["price.*"], "where": {"bid": {"gt": 1}}, "conflate": True, "max_rate": 5}
        answer = await client.post(f"/api/{what}/subscribe", json=options)
        assert answer.json() == {"sessions": 1 if "s0" in what else 2}
        answer = await client.post(f"/api/{what}/unsubscribe", json={"topics": "*"})
        assert answer.status_code == 200
        assert [(order["do"], order["options"]) for order in backend.orders] == [
            ("subscribe", options),
            ("unsubscribe", {"topics": "*"}),
        ]

    run(test)


@pytest.mark.parametrize(
    ("do", "body", "status", "code", "field"),
    [
        ("subscribe", b'{"topics":[]}', 400, "bad_request", "topics"),
        ("subscribe", b'{"topics":["a..b"]}', 400, "invalid_topic", "topics[0]"),
        ("subscribe", b'{"topics":["a"],"id":1}', 400, "bad_request", "id"),
        ("subscribe", b'{"topics":["a"],"op":"publish"}', 400, "bad_request", "op"),
        ("subscribe", b'{"topics":["a"],"tpics":1}', 400, "bad_request", "tpics"),
        ("subscribe", b'{"topics":["a"],"max_rate":0}', 400, "bad_request", "max_rate"),
        ("subscribe", b'{"topics":["a"],"where":{"x":{"over":1}}}', 400, "invalid_filter", "where.x.over"),
        ("subscribe", b'{"topics":["a"],"since":{}}', 501, "unsupported", "since"),
        ("subscribe", b"{}", 400, "bad_request", "topics"),
        ("subscribe", b"[]", 400, "bad_request", None),
        ("subscribe", b"{", 400, "bad_request", None),
        ("unsubscribe", b'{"topics":"a"}', 400, "bad_request", "topics"),
        ("unsubscribe", b'{"topics":["a"],"where":{}}', 400, "bad_request", "where"),
    ],
)
def test_what_is_no_subscription(do: str, body: bytes, status: int, code: str, field: str | None) -> None:
    async def test(backend: FakeBackend, client: httpx.AsyncClient) -> None:
        head = {"content-type": "application/json"}
        refused(await client.post(f"/api/users/alice/{do}", content=body, headers=head), status, code, field)
        assert not backend.orders

    run(test)


def test_presence() -> None:
    async def test(backend: FakeBackend, client: httpx.AsyncClient) -> None:
        answer = await client.get("/api/presence", params={"topic": "room"})
        assert answer.json() == {"topic": "room", "users": ["alice", "bob"]}
        refused(await client.get("/api/presence", params={"topic": "hall"}), 400, "bad_request", "topic")
        refused(await client.get("/api/presence", params={"topic": "room.*"}), 400, "invalid_topic", "topic")
        refused(await client.get("/api/presence"), 400, "bad_request", "topic")

    run(test)


def test_topics_are_paged_by_name() -> None:
    async def test(backend: FakeBackend, client: httpx.AsyncClient) -> None:
        first = (await client.get("/api/topics?limit=3")).json()
        assert first == {"topics": [{"topic": "t0"}, {"topic": "t1"}, {"topic": "t2"}], "cursor": "t2"}
        rest = (await client.get("/api/topics", params={"limit": 3, "cursor": first["cursor"]})).json()
        assert rest == {"topics": [{"topic": "t3"}, {"topic": "t4"}], "cursor": None}

    run(test)
