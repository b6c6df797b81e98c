"""``docs/alert-rules.md``: its configuration, its messages and its numbers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from actors import alarms, webhook
from actors.alert_rule import PRIORITY
from actors.alert_store import AlertStore
from engine.alert_wiring import alert_service
from engine.config import loads
from tests.actors.test_alert_service import Stand
from transport.event import Event

GUIDE = (Path(__file__).parents[2] / "docs/alert-rules.md").read_text(encoding="utf-8")


def snippets(language: str) -> list[str]:
    return [part.split("```")[0] for part in GUIDE.split(f"```{language}\n")[1:]]


def test_its_configuration_and_what_is_told_of_it() -> None:
    [text] = snippets("toml")
    config = loads(text)
    assert alert_service(config, AlertStore(None)).topics == ("system.metrics", "volatility.*")
    in_event, in_webhook = (msgspec.json.decode(text) for text in snippets("json"))

    async def scenario() -> None:
        stand = Stand()
        service = await stand.begin([table.rule(name) for name, table in config.alerts.items()])
        for offset, at in enumerate((1_700_000_000.0, 1_700_000_010.0), 1):
            data = {"machine.cpu": 93.5}
            await service.on_events([Event.of("system.metrics", data, epoch="e", offset=offset, ts=at)])
        assert stand.engine.published[0][:3] == (in_webhook["topic"], in_webhook["type"], in_webhook["key"])
        [alert] = (await service.answer("list", {}))["alerts"]
        await service.on_stop()
        assert alert == in_event == in_webhook["data"]

    asyncio.run(scenario())


def test_its_numbers_are_those_of_the_code() -> None:
    assert f"at most {alarms.SUBJECTS:,}:" in GUIDE
    policy = webhook.PATIENT
    assert f"no answer within {policy.timeout:g} s" in GUIDE
    assert f"({policy.backoff.first_s:g} s at most at first, then longer, up to {policy.backoff.cap_s:g} s)" in GUIDE
    breaker = policy.breaker
    assert f"After {breaker.failures} failures in a row" in GUIDE
    assert f"for {breaker.open_s:g} s, then twice as long each time, up to {breaker.open_max_s:g} s" in GUIDE
    assert policy.too_old == 3_600
    assert "for an hour" in GUIDE
    assert f"({', '.join(map(str, sorted(webhook.HOPELESS)))})" in GUIDE
    assert f"where {webhook.ROOM:,} wait" in GUIDE
    for severity, priority in PRIORITY.items():
        assert f"| `{severity}` | {priority}" in GUIDE
