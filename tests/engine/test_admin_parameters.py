"""Live parameters in the admin API, before a monitor that keeps what it is asked."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import httpx
import pytest

from engine import admin
from engine.admin_config import Admin, AdminKey
from engine.admin_gate import Gate
from engine.admin_monitor import no_service
from transport.codes import ErrorCode
from transport.errors import RequestError

KEYS = {"ops": AdminKey(key="o" * 16, scopes=("operate", "read")), "see": AdminKey(key="s" * 16, scopes=("read",))}
OPEN, KEYED = Admin(), Admin(keys=KEYS)


class FakeBackend:
    def __init__(self, failure: RequestError | None) -> None:
        self.asked: list[tuple[str, str, dict[str, Any]]] = []
        self.failure = failure

    async def ask_monitor(self, service: str, method: str, params: dict[str, Any]) -> Any:
        self.asked.append((service, method, params))
        if self.failure is not None:
            raise self.failure
        return {"asked": method}


def ask(
    method: str,
    path: str,
    *,
    admin_table: Admin = OPEN,
    key: str = "",
    failure: RequestError | None = None,
    **options: Any,
) -> tuple[int, Any, list[tuple[str, str, dict[str, Any]]]]:
    """Status, body, and what the monitor was asked."""

    async def main() -> tuple[int, Any, list[tuple[str, str, dict[str, Any]]]]:
        backend = FakeBackend(failure)
        transport = httpx.ASGITransport(admin.application(cast(admin.Backend, backend), Gate(admin_table)))
        async with httpx.AsyncClient(base_url="http://127.0.0.1", transport=transport) as client:
            headers = {"x-api-key": key, **options.pop("headers", {})}
            answer = await client.request(method, path, headers=headers, **options)
            return answer.status_code, answer.json(), backend.asked

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("method", "path", "body", "asked", "params"),
    [
        ("GET", "/api/parameters/p", None, "get", {}),
        ("GET", "/api/parameters/p/history?limit=2&before=7", None, "history", {"limit": 2, "before": 7}),
        ("PATCH", "/api/parameters/p", {"values": {"a": 1}}, "set", {"values": {"a": 1}}),
        ("PATCH", "/api/parameters/p", [1], "set", [1]),  # the service says what is wrong with it
    ],
)
def test_what_the_service_is_asked(method: str, path: str, body: object, asked: str, params: object) -> None:
    status, answer, calls = ask(method, path, **({} if body is None else {"json": body}))
    assert (status, answer) == (200, {"asked": asked})
    assert calls == [("parameters", asked, {"name": "p", "by": "admin", "params": params})]


def test_a_change_is_made_in_the_name_of_the_key() -> None:
    change = {"values": {"a": 1}}
    status, _, [(_, _, params)] = ask("PATCH", "/api/parameters/p", admin_table=KEYED, key="o" * 16, json=change)
    assert (status, params["by"]) == (200, "admin:ops")
    status, answer, calls = ask("PATCH", "/api/parameters/p", admin_table=KEYED, key="s" * 16, json=change)
    assert (status, answer["error"]["code"], calls) == (403, "forbidden", [])
    assert ask("GET", "/api/parameters", admin_table=KEYED, key="s" * 16)[0] == 200


def test_where_none_is_configured_the_list_is_empty() -> None:
    none = no_service("parameters")
    assert ask("GET", "/api/parameters", failure=none)[:2] == (200, {"parameters": []})
    assert ask("GET", "/api/parameters/p", failure=none)[0] == 404
    away = RequestError(ErrorCode.UNAVAILABLE, "it is away")
    assert ask("GET", "/api/parameters", failure=away)[0] == 503


@pytest.mark.parametrize(
    ("method", "path", "options", "field"),
    [
        ("GET", "/api/parameters?x=1", {}, "x"),
        ("GET", "/api/parameters/p?x=1", {}, "x"),
        ("GET", "/api/parameters/p/history?limit=-1", {}, "limit"),
        ("GET", f"/api/parameters/p/history?before={'9' * 16}", {}, "before"),
        ("PATCH", "/api/parameters/p", {"content": "{", "headers": {"content-type": "application/json"}}, None),
        ("PATCH", "/api/parameters/p", {"content": "{}", "headers": {"content-type": "text/plain"}}, "Content-Type"),
        ("PATCH", "/api/parameters/p", {"json": {"values": {"a": 1 << 64}}}, "values"),
    ],
)
def test_a_wrong_request_is_named_and_goes_nowhere(
    method: str, path: str, options: dict[str, Any], field: str | None
) -> None:
    status, answer, calls = ask(method, path, **options)
    assert (status, answer["error"]["code"], answer["error"]["field"], calls) == (400, "bad_request", field, [])
