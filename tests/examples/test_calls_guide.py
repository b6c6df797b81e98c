"""What ``docs/calls.md`` shows is run here, and its numbers are those of the code."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from actors.call_desk import CALL_TIMEOUT, UNANSWERED
from actors.service import callable_methods
from heliograph import Engine, ErrorCode, RequestError
from transport.requests import Call, Serve

GUIDE = (Path(__file__).parents[2] / "docs/calls.md").read_text(encoding="utf-8")


def shown(number: int) -> dict[str, Any]:
    """What a Python snippet defines."""
    names: dict[str, Any] = {}
    exec(GUIDE.split("```python\n")[number].split("```")[0], names)
    return names


def test_what_it_shows_for_clients_works() -> None:
    async def scenario() -> None:
        async with Engine(workers=0, port=0, admin_port=0) as engine, asyncio.timeout(20):
            names = shown(1)
            working = asyncio.create_task(names["work"](engine.url))
            answer = None
            while answer is None:
                try:
                    answer = await names["stop"](engine.url)
                except RequestError as error:
                    assert error.code is ErrorCode.NOT_FOUND, error
            assert answer == {"cancelled": True, "reason": "wrong parameters", "by": None}
            await working

    asyncio.run(scenario())


def test_what_it_shows_for_services_works() -> None:
    service = shown(2)["Backtest"](name="backtest", options={}, engine=None)
    [(topic, methods)] = callable_methods(service).items()
    assert (topic, asyncio.run(methods["cancel"]({}, None))) == ("backtest.main", {"cancelled": True})
    assert service.wanted is False


def test_its_numbers_are_those_of_the_code() -> None:
    assert GUIDE.count(f"{CALL_TIMEOUT:g} s") == 3
    assert f"has {UNANSWERED} calls to answer" in GUIDE
    assert Call.__annotations__["method"].endswith("max_length=64)]")
    assert Serve.__annotations__["methods"].endswith("Meta(max_length=100)]")
    assert "at most 100 methods" in GUIDE and "up to 64 characters" in GUIDE
