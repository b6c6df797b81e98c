"""``POST /api/explain``: what is asked of the workers, and what is made of their answers."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest

from tests.engine.test_admin_sessions import FakeBackend, refused, run
from transport.codes import ErrorCode
from transport.errors import RequestError

HEAD = {"content-type": "application/json"}


class Workers(FakeBackend):
    """Two, of which each has the same to say about its own sessions."""

    async def ask_workers(self, order: dict[str, Any]) -> list[Any]:
        self.orders.append(order)
        if self.failure is not None:
            raise self.failure
        return [_found(names[: order["limit"]], len(names), order["session"]) for names in self.workers]


def _found(names: list[str], matched: int, asked: str | None) -> dict[str, Any]:
    rows = [{"session": name} for name in names if asked in (None, name)]
    common = {"strategy": "content_based", "patterns": ["a.*", f"only.{names[0]}"], "groups": ["g"]}
    return {**common, "receivers": len(rows), "matched": matched if asked is None else len(rows), "sessions": rows}


def test_workers_are_asked_and_their_answers_added_up() -> None:
    async def test(backend: FakeBackend, client: httpx.AsyncClient) -> None:
        body = b'{"topic":"a.b","data":{"bid": 1.10},"type":"t","key":"k","limit":4}'
        answer = await client.post("/api/explain", content=body, headers=HEAD)
        assert answer.json() == {
            "topic": "a.b",
            "strategy": "content_based",
            "patterns": ["a.*", "only.s0", "only.s1"],
            "receivers": 5,
            "groups": ["g"],
            "matched": 5,
            "sessions": [{"session": name} for name in ("s0", "s2", "s4", "s1")],
            "truncated": True,
        }
        asked = {"topic": "a.b", "data": b'{"bid": 1.10}', "type": "t", "key": "k", "session": None, "limit": 4}
        assert backend.orders == [{"do": "explain", **asked}]

    run(test, Workers)


def test_one_session() -> None:
    async def test(backend: FakeBackend, client: httpx.AsyncClient) -> None:
        answer = (await client.post("/api/explain", json={"topic": "a", "data": 1, "session": "s3"})).json()
        assert (answer["sessions"], answer["matched"], answer["truncated"]) == ([{"session": "s3"}], 1, False)
        answer = await client.post("/api/explain", json={"topic": "a", "data": 1, "session": "s9"})
        refused(answer, 404, "not_found", "session")
        backend.failure = RequestError(ErrorCode.UNAVAILABLE, "gone")
        refused(await client.post("/api/explain", json={"topic": "a", "data": 1}), 503, "unavailable")
        backend.failure, backend.workers = None, []
        refused(await client.post("/api/explain", json={"topic": "a", "data": 1}), 503, "unavailable")

    run(test, Workers)


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        (b'{"topic":"a.*","data":1}', "invalid_topic", "topic"),
        (b'{"topic":"a"}', "bad_request", "data"),
        (b'{"data":1}', "bad_request", "topic"),
        (b'{"topic":"a","data":1,"limit":0}', "bad_request", "limit"),
        (b'{"topic":"a","data":1,"limit":1001}', "bad_request", "limit"),
        (b'{"topic":"a","data":1,"priority":"low"}', "bad_request", "priority"),
        (b'{"topic":"a","data":NaN}', "bad_request", None),
        (b'{"topic":"a","data":"' + base64.b64decode("/w==") + b'"}', "bad_request", None),
        (b"[]", "bad_request", None),
    ],
)
def test_what_is_no_question(body: bytes, code: str, field: str | None) -> None:
    async def test(backend: FakeBackend, client: httpx.AsyncClient) -> None:
        refused(await client.post("/api/explain", content=body, headers=HEAD), 400, code, field)
        assert not backend.orders

    run(test, Workers)
