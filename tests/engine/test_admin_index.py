"""``GET /api/index``: what is asked of the workers, and what a worker says of its index."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from actors import index_check
from actors.audiences import Statistics
from engine import worker as module
from tests.actors.test_fanout import Spine
from tests.actors.test_fanout import run as run_spine
from tests.engine.test_admin_sessions import FakeBackend, refused, run


class Workers(FakeBackend):
    """Two with something to say."""

    async def ask_workers(self, order: dict[str, Any]) -> list[Any]:
        self.orders.append(order)
        return [{"worker": "worker-0", "patterns": 1}, {"worker": "worker-1", "patterns": 2}]


def test_workers_are_asked_and_their_answers_shown() -> None:
    async def test(backend: FakeBackend, client: httpx.AsyncClient) -> None:
        found = {"workers": [{"worker": "worker-0", "patterns": 1}, {"worker": "worker-1", "patterns": 2}]}
        for query in ("", "?check=0", "?check=1"):
            assert (await client.get(f"/api/index{query}")).json() == found
        assert backend.orders == [{"do": "index", "check": check} for check in (False, False, True)]
        refused(await client.get("/api/index?check=yes"), 400, "bad_request", "check")
        refused(await client.get("/api/index?chk=1"), 400, "bad_request", "chk")

    run(test, Workers)


def test_a_worker_says_how_much_there_is_and_whether_it_is_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(spine: Spine) -> None:
        worker = spine.worker
        clients = [spine.connect() for _ in range(3)]
        wheres = (None, {"s": ["A", "B"]}, [{"v": {"gte": 1, "lt": 5}}, {"s": "A"}])
        for client, where in zip(clients, wheres, strict=True):
            await spine.answer(client, spine.request(client, op="subscribe", topics=["t", "u.*"], where=where))
        sized = Statistics(2, 6, 4, 0, 0, clauses=6, fields=4, values=4, thresholds=4)
        found = await worker.order({"do": "index", "check": False})
        assert found == {"worker": "worker-0", **sized._asdict()}
        found = await worker.order({"do": "index", "check": True})
        assert found == {"worker": "worker-0", **sized._asdict(), "problems": [], "complete": True}
        monkeypatch.setattr(index_check, "FILTERS", 1)
        found = await worker.order({"do": "index", "check": True})
        assert (found["problems"], found["complete"]) == ([], False)
        monkeypatch.undo()
        for client in clients:
            assert client.session is not None and client.session.subscriptions is not None
            del client.session.subscriptions["t"]
            client.session.subscriptions["nowhere"] = client.session.subscriptions["u.*"]
        found = await worker.order({"do": "index", "check": True})
        assert (len(found["problems"]), found["complete"]) == (4, True)
        monkeypatch.setattr(module, "PROBLEMS", 2)
        found = await worker.order({"do": "index", "check": True})
        assert (len(found["problems"]), found["complete"]) == (2, False)
        monkeypatch.setattr(module, "CHECK_TIMEOUT", 0.0)
        found = await worker.order({"do": "index", "check": True})
        assert (len(found["problems"]), found["complete"]) == (1, False)

    run_spine(scenario)
