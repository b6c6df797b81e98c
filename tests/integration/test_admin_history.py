"""GET /api/history of a running engine."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlencode

import heliograph


def get(url: str, **given: object) -> Any:
    try:
        with urllib.request.urlopen(f"{url}/api/history?{urlencode(given)}", timeout=10) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        return json.load(error)["error"] | {"status": error.code}


def test_events_of_a_topic_are_read_and_what_is_asked_wrongly_is_named() -> None:
    asyncio.run(asyncio.wait_for(scenario(), 30))


async def scenario() -> None:
    async with (
        heliograph.Engine(workers=0, port=0, admin_port=0) as engine,
        heliograph.Client(engine.url) as client,
    ):
        for n in range(5):
            place = await client.publish("a", n)
        assert place is not None

        async def ask(**given: object) -> Any:
            return await asyncio.to_thread(get, engine.admin_url, **given)

        answer = await ask(topic="a", limit=2)
        assert [(event["data"], event["offset"]) for event in answer["events"]] == [(3, 4), (4, 5)]
        assert answer["gap"] is None
        answer = await ask(topic="a", limit=2, epoch=place.epoch, offset=1)
        assert [event["offset"] for event in answer["events"]] == [2, 3]
        answer = await ask(topic="a", epoch="other", offset=1)
        assert (answer["gap"]["reason"], len(answer["events"])) == ("epoch_changed", 5)
        assert (await ask(topic="unknown"))["events"] == []
        for wrong, field in (
            ({}, "topic"),
            ({"topic": "a b"}, "topic"),
            ({"topic": "a", "limit": 0}, "limit"),
            ({"topic": "a", "limit": "x"}, "limit"),
            ({"topic": "a", "epoch": "e"}, "offset"),
            ({"topic": "a", "offset": 1}, "epoch"),
            ({"topic": "a", "epoch": "e", "offset": -1}, "since.offset"),
        ):
            answer = await ask(**wrong)
            assert (answer["status"], answer["field"]) == (400, field)
