"""How the engine ends connections that did nothing wrong: `bye` says why; and ``docs/closing.md`` says it all.

Those that did: ``test_bad_input.py``; tokens: ``test_auth.py``; limits: ``test_door.py``; operators: ``test_users.py``;
slow clients: ``test_slow_client.py``; drains: ``test_life_cycle.py``.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from actors.clients import UNWELCOME, Clients
from heliograph import Engine
from tests.integration.harness import EngineProcess, RawClient
from transport.codes import ByeReason, CloseCode
from transport.requests import Stats

DOCUMENT = Path(__file__).parents[2] / "docs" / "closing.md"
DEADLINE = 20.0
Eventually = Callable[..., Awaitable[None]]


async def ended(client: RawClient, eventually: Eventually) -> tuple[int | None, dict[str, object]]:
    """The close code, and what came last before it."""
    await eventually(lambda: client.closed is not None, DEADLINE)
    last = dict(client.messages[-1])
    assert 0 <= last.pop("reconnect_in") <= 10
    return client.closed, last


def test_a_bug_here_ends_one_session_which_comes_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, eventually: Eventually
) -> None:
    handle, bugs = Clients.handle, ["one", "another"]

    def fail(clients: Clients, session: object, request: object) -> None:
        if isinstance(request, Stats) and bugs:
            raise RuntimeError(bugs.pop())
        handle(clients, session, request)  # type: ignore[arg-type]

    monkeypatch.setattr(Clients, "handle", fail)

    async def test() -> None:
        async with Engine(workers=0, port=0, admin_port=0) as engine, RawClient(engine.url) as other:
            async with RawClient(engine.url) as client:
                client.send("stats")
                bye = {"op": "bye", "code": 1011, "reason": "internal", "reconnect": True}
                assert await ended(client, eventually) == (1011, bye)
            assert (await other.request("ping"))["op"] == "ok"
            async with engine.client() as back, back.subscribe("a.topic") as events:
                session = back.session
                async with asyncio.timeout(DEADLINE):
                    await back.stats()  # asked again, over the next connection
                assert back.session != session
                await engine.publish("a.topic", 1)
                async with asyncio.timeout(DEADLINE):
                    assert (await anext(aiter(events))).data == 1

    asyncio.run(test())
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == ["the session failed"] * 2
    assert any("1011 internal" in record.message for record in caplog.records if record.name == "heliograph.client")


def test_a_full_worker_says_so(engine_process: Callable[..., EngineProcess], eventually: Eventually) -> None:
    engine = engine_process(limits__connections=1)

    async def test() -> None:
        async with RawClient(engine.url) as first, RawClient(engine.url) as second:
            bye = {"op": "bye", "code": 1013, "reason": "limit", "reconnect": True}
            assert await ended(second, eventually) == (1013, bye)
            assert (await first.request("ping"))["op"] == "ok"

    asyncio.run(test())


def test_every_code_and_reason_is_documented() -> None:
    rows = re.findall(r"^\| (\d{4}) \| (.*?) \|.*\| (yes|no)\b.*\|$", DOCUMENT.read_text(), re.MULTILINE)
    reasons = {reason for _, cell, _ in rows for reason in re.findall(r"`(\w+)`", cell)}
    assert reasons == set(ByeReason)
    never = {CloseCode.NORMAL, CloseCode.POLICY}  # what clients and feeds send, or proxies
    assert {int(code) for code, _, _ in rows} == set(CloseCode) - never
    assert {int(code) for code, _, back in rows if back == "no"} == set(UNWELCOME) - never
