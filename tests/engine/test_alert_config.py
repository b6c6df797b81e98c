"""``[alerts]`` and ``[webhooks]``, and what the admin API makes of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import httpx
import pytest

from actors.alert_store import AlertStore
from engine import admin
from engine.admin_config import Admin, AdminKey
from engine.admin_gate import Gate
from engine.alert_wiring import alert_service
from engine.config import loads, needs_restart, reloaded
from engine.demo import with_demo
from engine.monitor import monitor_specs
from transport.codes import ErrorCode
from transport.errors import ConfigError, RequestError

RULE = "[alerts.cpu]\nseries = 'machine.cpu'\nwhen = { gte = 80 }\n"
EVENTS = "[alerts.cpu]\ntopic = 'load.*'\nfield = 'a.b'\n"


@pytest.mark.parametrize(
    ("text", "field", "says"),
    [
        ("[alerts.cpu]\nseries = 'a'", "alerts.cpu.when", "required"),
        ("[alerts.cpu]\nwhen = { gte = 1 }", "alerts.cpu.series", "exactly one"),
        ("[alerts.cpu]\nseries = 'machine.cpuu'\nwhen = { gte = 1 }", "alerts.cpu.series", "there are cpu"),
        (f"{RULE}[metrics]\ninterval = 0", "alerts.cpu.series", "metrics.interval"),
        (f"{RULE}topic = 'a'", "alerts.cpu.topic", "exactly one"),
        (f"{RULE}field = 'a'", "alerts.cpu.field", "with topic"),
        (f"{RULE}where = {{ a = 1 }}", "alerts.cpu.where", "with topic"),
        ("[alerts.cpu]\ntopic = 'a'\nwhen = { gte = 1 }", "alerts.cpu.field", "with topic"),
        ("[alerts.cpu]\ntopic = 'a..b'\nfield = 'v'\nwhen = { gte = 1 }", "alerts.cpu.topic", "pattern"),
        ("[alerts.cpu]\ntopic = 'system.metrics'\nfield = 'v'\nwhen = { gte = 1 }", "alerts.cpu.topic", "series"),
        ("[alerts.cpu]\ntopic = 'a'\nfield = '.v'\nwhen = { gte = 1 }", "alerts.cpu.field", "empty"),
        (f"{EVENTS}when = {{ above = 1 }}", "alerts.cpu.when.above", "no such operator"),
        (f"{EVENTS}when = {{}}", "alerts.cpu.when", "at least one operator"),
        (f"{EVENTS}when = {{ exists = true }}", "alerts.cpu.when.exists", "without the value"),
        (f"{EVENTS}when = {{ gt = 1 }}\nuntil = {{ lt = [] }}", "alerts.cpu.until.lt", "a number or a string"),
        (f"{EVENTS}when = {{ gt = 1 }}\nwhere = {{ x = {{ y = 1 }} }}", "alerts.cpu.where.x.y", "no such operator"),
        (f"{RULE}severity = 'fatal'", "alerts.cpu.severity", "info"),
        (f"{RULE}for_seconds = -1", "alerts.cpu.for_seconds", ">= 0"),
        (f"{RULE}webhooks = ['ops']", "alerts.cpu.webhooks[0]", "no [webhooks.ops]"),
        ("[webhooks.ops]\nurl = 'ftp://hidden'", "webhooks.ops.url", "https://host/path"),
        ("[webhooks.ops]\nurl = 'http://a'\nheaders = { 'a b' = 'hidden' }", "webhooks.ops.headers.a b", "HTTP header"),
        ("[webhooks.ops]\nurl = 'http://a'\nheaders = { Host = 'hidden' }", "webhooks.ops.headers.Host", "not yours"),
    ],
)
def test_what_cannot_work_is_refused_by_name(text: str, field: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        loads(text)
    assert refused.value.field == field
    assert says in refused.value.message
    assert "hidden" not in str(refused.value)


def test_the_demo_has_rules_for_series_where_there_are_any() -> None:
    assert {*with_demo(loads(""), 1).alerts} == {"demo-price", "demo-cpu"}
    assert {*with_demo(loads("[metrics]\ninterval = 0"), 1).alerts} == {"demo-price"}


def test_rules_and_whose_events_they_see() -> None:
    more = (
        "for_seconds = 3\nseverity = 'critical'\nmessage = 'm'\nwebhooks = ['ops']\n[webhooks.ops]\nurl = 'http://a'\n"
    )
    config = loads(f"{RULE}{more}[alerts.any]\ntopic = '*.x'\nfield = 'a.b'\nwhen = {{ in = [1, 2] }}\n")
    assert config.monitored == ("alerts",)
    spec = alert_service(config, AlertStore(None))
    assert (spec.name, spec.topics) == ("alerts", ("system.metrics", "*.x"))
    rule = config.alerts["cpu"].rule("cpu")
    assert (rule.topic, rule.single, rule.for_s, rule.webhooks) == ("alert.cpu", True, 3.0, ("ops",))
    assert (rule.fires(80), rule.clears(80), rule.clears(79.9)) == (True, False, True)


def test_a_reload_takes_them_and_no_secret_is_shown() -> None:
    old, new = loads(""), loads(f"{RULE}[webhooks.ops]\nurl = 'http://hidden'\nheaders = {{ X = 'hidden' }}\n")
    assert needs_restart(old, new) == []
    assert reloaded(old, new) == new
    assert "hidden" not in repr(new)


def test_when_the_last_rule_goes_somebody_clears_its_alerts() -> None:
    assert monitor_specs(loads("")) == []
    assert [spec.name for spec in monitor_specs(loads(""), AlertStore(None), before=loads(RULE))] == ["alerts"]


class Monitor:
    """A backend whose monitor answers with what it was asked."""

    def __init__(self, error: RequestError | None = None) -> None:
        self.error = error

    async def ask_monitor(self, service: str, method: str, params: dict[str, Any]) -> Any:
        if self.error is not None:
            raise self.error
        return [service, method, params]


def run(test: Callable[[httpx.AsyncClient], Awaitable[None]], backend: Monitor, **fields: Any) -> None:
    async def main() -> None:
        app = admin.application(cast(admin.Backend, backend), Gate(Admin(**fields)))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(base_url="http://127.0.0.1", transport=transport) as client:
            await test(client)

    asyncio.run(main())


PATH = "/api/alerts/cpu/acknowledge"


def test_what_the_admin_api_asks_of_the_monitor() -> None:
    key = {"Authorization": f"Bearer {'k' * 16}"}

    async def test(asked: httpx.AsyncClient) -> None:
        assert (await asked.post(PATH, json={})).status_code == 401
        asked.headers.update(key)
        assert (await asked.get("/api/alerts")).json() == ["alerts", "list", {}]
        body = {"subject": "load.a", "note": "mine"}
        answer = (await asked.post(PATH, json=body)).json()
        assert answer == ["alerts", "acknowledge", {"rule": "cpu", "by": "admin:deploy", **body}]
        assert (await asked.post(PATH, json={"by": "eve"})).status_code == 400
        assert (await asked.post(PATH, json={"note": 1})).json()["error"]["field"] == "note"
        assert (await asked.post(PATH, content="{", headers={"content-type": "application/json"})).status_code == 400

    run(test, Monitor(), keys={"deploy": AdminKey(key="k" * 16, scopes=("read", "operate"))})


def test_without_rules_and_while_the_monitor_is_away() -> None:
    async def none(asked: httpx.AsyncClient) -> None:
        assert (await asked.get("/api/alerts")).json() == {"alerts": [], "more": 0, "rules": []}
        assert (await asked.post(PATH, json={})).status_code == 404

    async def away(asked: httpx.AsyncClient) -> None:
        assert (await asked.get("/api/alerts")).status_code == 503

    run(none, Monitor(RequestError(ErrorCode.NOT_FOUND, "no alerts are configured")))
    run(away, Monitor(RequestError(ErrorCode.UNAVAILABLE, "away")))
