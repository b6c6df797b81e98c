"""The dashboard in a browser, of a real engine: each panel shows what the API says and follows it, an operator's
actions do what they say, nothing that strangers name becomes markup, and a restart is survived."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from engine import progress
from engine.mock_exchange import MockExchange, ThreadedMockExchange
from engine.mock_faults import Fault
from tests.browser import Browser
from tests.integration.harness import EngineProcess, RawClient

CONFIG = """
[server]
origins = ["https://app.example"]

[metrics]
interval = 0.5

[alerts.hot]
topic = "sensor.*"
field = "value"
when = {{ gte = 80 }}
until = {{ lt = 75 }}
severity = "critical"
message = "Too hot."

[feeds.fx]
url = "{url}"
subscribe = [{{ method = "SUBSCRIBE", params = ["*"], id = 1 }}]
backoff_initial = 0.05
backoff_max = 0.1
max_retries = 3
breaker_open = 120.0
breaker_open_max = 120.0

[feeds.fx.map]
topic = "price.{{symbol}}"
key = "s"
data = {{ price = "p" }}
filter = {{ e = ["tick"] }}
"""
SECRET = "s" * 32
KEYED = f"""
[server]
origins = []
[auth]
secret = "{SECRET}"
[admin.keys.reader]
key = "the-key-of-a-reader"
scopes = ["read"]
[admin.keys.operator]
key = "the-key-of-an-operator"
scopes = ["read", "operate"]
"""
EVIL = "<img/src=x/onerror=alert(1)>"
EVIL_TOPIC = f"sensor.{EVIL[:-1]}"  # `>` is a wildcard
HELPERS = """
window.rows = (panel) => [...document.querySelectorAll(`#${panel} tbody tr`)].map(
  (row) => [...row.cells].map((cell) => cell.innerText.trim()));
window.row = (panel, name) => rows(panel).find((cells) => cells[0].split("\\n")[0] === name);
window.tile = (label) => [...document.querySelectorAll(".tile")].find(
  (tile) => tile.querySelector(".label").innerText === label).querySelector(".value").innerText;
window.press = (label) => {
  const found = document.querySelector(`button[aria-label=${CSS.escape(label)}]`);
  found?.click();
  return found !== null;
};
window.cut = (width) => [...document.querySelectorAll("main *:not(thead, thead *)")].filter(
  (it) => it.getBoundingClientRect().right > width || (it.className === "scroll" && it.scrollWidth > it.clientWidth));
window.search = (id, text) => {
  const field = document.getElementById(id);
  field.value = text;
  field.dispatchEvent(new Event("input"));
};
window.answer = (word, text) => {
  const dialog = document.querySelector("dialog[open]");
  const field = dialog?.querySelector("input");
  if (field && text !== undefined) field.value = text;
  const button = [...(dialog?.querySelectorAll("button") ?? [])].find((each) => each.innerText === word);
  button?.click();
  return button !== undefined;
};
true
"""


class Desk:
    """An engine, what feeds it, and a browser that shows its dashboard."""

    def __init__(
        self,
        page: Browser,
        run: Callable[[Coroutine[Any, Any, Any]], Any],
        engine: EngineProcess,
        exchange: ThreadedMockExchange,
    ) -> None:
        self.page, self.run, self.engine, self.exchange = page, run, engine, exchange

    async def open(self, url: str | None = None, live: bool = True) -> Browser:
        """The dashboard, when it is live."""
        await self.page.look(1280, 2000)  # all panels are in view
        await self.page.open(f"{url or self.engine.admin_url}/")
        await self.page.evaluate(HELPERS)
        if live:
            await self.is_live()
        return self.page

    async def is_live(self) -> None:
        """The page is connected and has shown a round of answers."""
        await self.page.until("document.getElementById('connection').innerText.includes('live')")
        await self.page.until("rows('processes').length > 2 && rows('topics').length > 0")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """One engine and one browser for all tests, each of which opens the page anew."""
    command = shutil.which("chromium")
    if command is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("chromium is missing")
    with asyncio.Runner() as runner, MockExchange.threaded(rate=20.0) as exchange:
        engine = EngineProcess(CONFIG.format(url=exchange.url), workers=2)
        browser = Browser(command)
        try:
            runner.run(browser.__aenter__())
            desk = Desk(browser, runner.run, engine, exchange)
            yield desk
            runner.run(browser.__aexit__(None, None, None))
            code, engine = desk.engine.stop(), desk.engine
        finally:
            left = engine.destroy()
            print(engine.tail)
        assert (code, left) == (0, [])


def quiet(page: Browser) -> None:
    """Nothing went wrong in the page."""
    assert page.console == []


def publish(desk: Desk, topic: str, data: Any, kind: str = "message") -> None:
    event = {"topic": topic, "data": data, "type": kind}
    assert desk.engine.admin("/api/publish", "POST", event)[0] == 200


def test_the_panels_show_what_the_api_says_and_follow_it(desk: Desk) -> None:
    async def test() -> None:
        page = await desk.open()
        health, stats = (desk.engine.admin(path)[1] for path in ("/health", "/stats"))
        await page.until("document.getElementById('engine').innerText.includes('ok')")
        facts = await page.evaluate("['node', 'version'].map((id) => document.getElementById(id).innerText)")
        assert facts == [health["node"], health["version"]]

        shown = {row[0]: row for row in await page.evaluate("rows('processes')")}
        assert set(shown) == {"daemon", *health["components"]} - {"feed:fx"}
        assert {"hub", "feeds", "monitor", "worker-0", "worker-1"} <= set(shown)
        assert all("ok" in row[1] for row in shown.values())
        await page.until("row('processes', 'worker-1')[3].includes('MiB')")  # of the metrics' event

        async with RawClient(f"{desk.engine.url}?user=alice") as client:
            await client.subscribe("price.>", "note.*")
            await page.until("tile('Clients') === '2'")
            await page.until("row('sessions', 'alice')?.[2].includes('fast')")
            assert "3 topics" in (await page.evaluate("row('sessions', 'alice')"))[5]
            await page.until("parseFloat(tile('Deliveries')) > 5")
            await page.until("parseFloat(row('topics', 'price.BTC-USD')[2]) > 1")
        await page.until("tile('Clients') === '1' && row('sessions', 'alice') === undefined")

        feed = await page.evaluate("row('feeds', 'fx')")
        assert [word in cell for word, cell in zip(("connected", "closed"), feed[1:], strict=False)] == [True, True]
        assert stats["feeds"]["fx"]["address"] in feed[0]
        charts = await page.evaluate(
            "[...document.querySelectorAll('.plot')].map((it) => it.getAttribute('aria-label'))"
        )
        assert [label.split(".")[0] for label in charts] == [
            "Throughput, per second",
            "Latency, accepted to written",
            "Processor per process, of one core",
        ]
        assert await page.evaluate("document.querySelectorAll('.plot canvas').length") == 3
        assert "requests/s" in await page.evaluate("document.getElementById('load').innerText")
        quiet(page)

    desk.run(test())


def test_topics_are_found_and_their_last_event_is_shown(desk: Desk) -> None:
    async def test() -> None:
        for n in range(60):
            publish(desk, f"room.n{n:02d}", {"n": n})
        page = await desk.open()
        await page.until("rows('topics').length === 25")
        await page.until("press('Next topics')")
        await page.until("rows('topics').length === 25 && row('topics', 'room.n00') !== undefined")
        await page.evaluate("search('topic-filter', 'M.N5')")
        await page.until("rows('topics').length === 10")
        await page.until("press('Last event of room.n53')")
        await page.until("document.querySelector('dialog pre')?.innerText.includes('53')")
        assert await page.evaluate("document.querySelector('dialog h2').innerText") == "room.n53"
        await page.until("answer('Close')")
        publish(desk, "room.n53", {"n": 1_000})
        await page.until("row('topics', 'room.n53')[3] === '2'")
        quiet(page)

    desk.run(test())


def test_a_session_is_disconnected(desk: Desk) -> None:
    async def test() -> None:
        async with RawClient(f"{desk.engine.url}?user=mallory") as client:
            page = await desk.open()
            await page.until("press('Disconnect session mallory')")
            assert await page.evaluate("document.querySelector('dialog h2').innerText") == "Disconnect mallory?"
            assert await page.evaluate("document.activeElement.innerText") == "Cancel"  # what Enter would do
            await page.until("answer('Cancel')")
            await page.until("press('Disconnect session mallory')")
            assert client.closed is None
            await page.until("answer('Disconnect')")
            await page.until("row('sessions', 'mallory') === undefined")
            await page.until("document.getElementById('said').innerText.includes('mallory was disconnected')")
            async with asyncio.timeout(10):
                await client._reader
            assert client.closed == 4003
        quiet(page)

    desk.run(test())


def test_an_alert_fires_is_acknowledged_and_clears(desk: Desk) -> None:
    async def test() -> None:
        page = await desk.open()
        assert await page.evaluate("document.title") == "heliograph"
        publish(desk, "sensor.oven", {"value": 91})
        await page.until("row('alerts', 'hot: sensor.oven')")
        found = await page.evaluate("row('alerts', 'hot: sensor.oven')")
        assert "Too hot." in found[0]
        assert "critical" in found[1]
        assert found[2] == "91"
        assert await page.evaluate("document.title") == "(1) heliograph"
        await page.until("document.getElementById('heard').innerText.startsWith('Alert hot for sensor.oven fired')")
        assert await page.evaluate("press('Acknowledge alert hot')")
        await page.until("answer('Acknowledge', 'I open the door')")
        await page.until("row('alerts', 'hot: sensor.oven')[4].includes('I open the door')")
        [alert] = desk.engine.admin("/api/alerts")[1]["alerts"]
        assert alert["acknowledged"]["note"] == "I open the door"
        await page.until("document.title === 'heliograph'")
        publish(desk, "sensor.oven", {"value": 20})
        await page.until("row('alerts', 'hot: sensor.oven') === undefined")
        await page.evaluate("document.querySelector('#alerts details').open = true")
        assert (await page.evaluate("row('alerts', 'hot')"))[2] == "value of sensor.*"
        quiet(page)

    desk.run(test())


def test_a_job_is_followed_and_cancelled(desk: Desk, tmp_path: Path) -> None:
    async def test() -> None:
        page = await desk.open()
        stages = {"load": 1, "backtest": 3}
        with pytest.raises(progress.Cancelled, match="not now"):
            async with progress.job("backtest-17", stages=stages, url=desk.engine.url, directory=tmp_path) as job:
                with job.stage("load", total=1):
                    job.step()
                with job.stage("backtest", total=4) as stage:
                    stage.step(2)
                    await page.until("row('jobs', 'backtest-17')?.[2].startsWith('62.5 %')")
                    assert "running" in await page.evaluate("row('jobs', 'backtest-17')[1]")
                    parts = "[...document.querySelectorAll('#jobs tbody tr:first-child .fill')]"
                    assert await page.evaluate(f"{parts}.map((fill) => fill.style.width)") == ["100%", "50%"]
                    assert await page.evaluate("press('Cancel job backtest-17')")
                    await page.until("answer('Cancel the job', 'not now')")
                    async with asyncio.timeout(20):
                        while True:
                            job.check()
                            await asyncio.sleep(0.01)
        await page.until("row('jobs', 'backtest-17')[1].includes('cancelled')")
        assert await page.evaluate("press('Cancel job backtest-17')") is False
        quiet(page)

    desk.run(test())


def test_a_feed_that_fails_counts_down_and_is_reset(desk: Desk) -> None:
    async def test() -> None:
        page = await desk.open()
        await page.until("row('feeds', 'fx')[1].includes('connected')")
        desk.exchange.fault = Fault.REFUSE
        await page.until("row('feeds', 'fx')[2].includes('open') && /^in 1 min/.test(row('feeds', 'fx')[3])")
        assert "reconnecting" in await page.evaluate("row('feeds', 'fx')[1]")
        await page.until("document.getElementById('engine').innerText.includes('degraded')")
        before = await page.evaluate("row('feeds', 'fx')[3]")
        await page.until(f"row('feeds', 'fx')[3] !== {json.dumps(before)}")
        desk.exchange.fault = Fault.NONE
        assert await page.evaluate("press('Reset feed fx')")
        await page.until("answer('Reset')")
        await page.until("row('feeds', 'fx')[1].includes('connected') && row('feeds', 'fx')[2].includes('closed')")
        quiet(page)

    desk.run(test())


def test_names_are_text(desk: Desk, tmp_path: Path) -> None:
    async def test() -> None:
        user = EVIL_TOPIC.replace(".", "_")
        publish(desk, EVIL_TOPIC, {"value": 99, EVIL: EVIL}, EVIL)
        async with (
            RawClient(f"{desk.engine.url}?user={quote(user)}"),
            progress.job(EVIL, url=desk.engine.url, directory=tmp_path) as job,
        ):
            job.message = EVIL
            page = await desk.open()
            await page.evaluate("search('topic-filter', 'onerror')")
            for panel, name in (("topics", EVIL), ("sessions", user), ("alerts", EVIL_TOPIC), ("jobs", EVIL)):
                await page.until(f"document.getElementById({panel!r}).innerText.includes({json.dumps(name)})")
            await page.until(f"press({json.dumps(f'Last event of {EVIL_TOPIC}')})")
            await page.until("document.querySelector('dialog pre')?.innerText.includes('99')")
            await page.until("answer('Close')")
            await page.until(f"press({json.dumps(f'Disconnect session {user}')})")
            await page.until("answer('Cancel')")
        assert await page.evaluate("document.querySelectorAll('img').length") == 0
        publish(desk, EVIL_TOPIC, {"value": 1})
        quiet(page)
        refused = "(() => { try { document.body.innerHTML = '<p>'; return false } catch { return true } })()"
        assert await page.evaluate(refused)  # the policy holds

    desk.run(test())


def test_figures_are_readable(desk: Desk) -> None:
    async def test() -> None:
        page = await desk.open()
        made = """import('/static/format.js').then((f) => [
          f.number(0.4217), f.number(1234.5), f.number(2.5e6), f.number(NaN), f.count(1234567), f.percent(99.95),
          f.bytes(512), f.bytes(1536), f.bytes(3.5 * 2 ** 30),
          f.milliseconds(0), f.milliseconds(0.4), f.milliseconds(1500),
          f.duration(59.6), f.duration(3600), f.duration(90061), f.age(0.4), f.age(3700), f.age(undefined)])"""
        assert await page.evaluate(made) == [
            *("0.42", "1,235", "2.5 M", "–", "1,234,567", "100 %"),
            *("512 B", "1.5 KiB", "3.5 GiB", "0 ms", "0.4 ms", "1.5 s"),
            *("60 s", "1 h", "1 d 1 h", "now", "1 h ago", "–"),
        ]

    desk.run(test())


def test_the_past_and_the_present_are_one_line(desk: Desk) -> None:
    async def test() -> None:
        page = await desk.open()
        script = """import('/static/board.js').then(({ Board }) => {
          const board = new Board();
          const shown = (name) => board.times.map((time, i) => [time, board.column(name)[i]]);
          board.metrics(20, {"engine.events": 5});
          board.metrics(20, {"engine.events": 6});
          board.metrics(21, {"engine.events": 7, "machine.load": 1});
          board.metrics(21, {"engine.events": 8});
          board.history({"engine.events": [[10, 0, 1, 2], [20, 0, 4, 9]], "process.hub.cpu": [[10, 2, 3, 4]]});
          const found = [shown("engine.events"), shown("process.hub.cpu"), board.now, board.column("machine.load")];
          for (let time = 22; time < 2000; time++) board.metrics(time, {"engine.events": time});
          const stats = {events_published: 10, deliveries: 0, events_dropped: {}, connections: 3};
          board.stats(stats);
          return [...found, board.times.length <= 1000, board.times.length === board.column("engine.events").length,
                  board.now["engine.connections"] ?? null];
        })"""
        events, cpu, now, load, bounded, aligned, connections = await page.evaluate(script)
        assert events == [[10, 1], [20, 4], [21, 7]]
        assert cpu == [[10, 3], [20, None], [21, None]]
        assert now == {"engine.events": 7, "machine.load": 1}
        assert load == [None] * 3  # not drawn, not kept
        assert bounded and aligned
        assert connections is None  # metrics go before what is made of /stats

    desk.run(test())


def test_it_can_be_used_with_keys_and_on_a_telephone(desk: Desk) -> None:
    async def test() -> None:
        page = await desk.open()
        key = "document.body.dispatchEvent(new KeyboardEvent('keydown', { key: %s, bubbles: true }))"
        await page.evaluate(key % "'/'")
        assert await page.evaluate("document.activeElement.id") == "topic-filter"
        await page.evaluate("document.activeElement.blur()")
        await page.evaluate(key % "'8'")
        assert await page.evaluate("document.activeElement.id") == "sessions"
        await page.evaluate(key % "'?'")
        await page.until("answer('Close')")
        themes = []
        for _ in range(3):
            await page.evaluate(key % "'t'")
            themes.append(
                await page.evaluate(
                    "[document.documentElement.dataset.theme, getComputedStyle(document.body).backgroundColor]"
                )
            )
        assert [theme for theme, _ in themes] == ["light", "dark", "auto"]
        assert themes[0][1] == themes[2][1] != themes[1][1]
        unnamed = (
            "[...document.querySelectorAll('button, input, section, table')].filter((it) => !(it.ariaLabel || "
            "it.textContent.trim() || it.labels?.length || it.getAttribute('aria-labelledby'))).length"
        )
        assert await page.evaluate(unnamed) == 0
        for width in (390, 760, 1280):
            await page.look(width, 800)
            await page.until(f"innerWidth === {width} && document.documentElement.scrollWidth <= {width}")
            await page.until(f"cut({width}).length === 0")
        quiet(page)

    desk.run(test())


def test_it_survives_a_restart(desk: Desk) -> None:
    async def test() -> None:
        page = await desk.open()
        await page.evaluate("window.same = 7")
        admin_port = int(desk.engine.admin_url.rpartition(":")[2])
        port, config = desk.engine.port, CONFIG.format(url=desk.exchange.url)
        assert desk.engine.stop() == 0
        await page.until("document.getElementById('engine').innerText.includes('no answer')")
        await page.until("document.getElementById('trouble').innerText.includes('may be old')")
        await page.until("/reconnecting in \\d+ s/.test(document.getElementById('connection').innerText)")
        desk.engine.destroy()
        desk.engine = EngineProcess(config, workers=2, port=port, admin_port=admin_port)
        await page.until("document.getElementById('engine').innerText.includes('ok')", 40.0)
        await desk.is_live()
        await page.until("parseFloat(tile('Events in')) > 1 && row('feeds', 'fx')[1].includes('connected')")
        assert await page.evaluate("document.getElementById('trouble').hidden && window.same") == 7

    desk.run(test())


def test_a_key_is_asked_for_and_the_engine_makes_the_token(desk: Desk) -> None:
    engine = EngineProcess(KEYED, workers=0)

    async def test() -> None:
        page = await desk.open(engine.admin_url, live=False)
        await page.until("answer('Open', 'a wrong one')")
        await page.until("document.querySelector('dialog p')?.innerText.includes('does not know')")
        await page.until("answer('Open', 'the-key-of-a-reader')")
        await desk.is_live()
        shown = "[...document.querySelectorAll('#sessions tbody button')].map((it) => getComputedStyle(it).display)"
        await page.until("row('sessions', 'dashboard') !== undefined")
        assert await page.evaluate(shown) == ["none"]
        await page.evaluate("sessionStorage.setItem('heliograph-key', 'the-key-of-an-operator')")
        await desk.open(engine.admin_url)
        await page.until("row('sessions', 'dashboard') !== undefined")
        assert "none" not in await page.evaluate(shown)
        await page.evaluate("sessionStorage.clear()")

    try:
        desk.run(test())
        assert engine.stop() == 0
    finally:
        assert engine.destroy() == []


def test_a_token_that_others_make_is_asked_for(desk: Desk, tmp_path: Path) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    file = tmp_path / "public.pem"
    file.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    engine = EngineProcess(f'[auth]\npublic_key_file = "{file}"', workers=0)
    claims = {
        "sub": "olga",
        "exp": time.time() + 600,
        "heliograph": {"subscribe": ["system.>", "alert.>", "progress.>"]},
    }

    async def test() -> None:
        page = await desk.open(engine.admin_url, live=False)
        await page.until("answer('Connect', 'no token')")
        await page.until("document.querySelector('dialog p')?.innerText.startsWith('The engine has refused')")
        await page.until(f"answer('Connect', {json.dumps(jwt.encode(claims, private, 'ES256'))})")
        await page.until("row('sessions', 'olga') !== undefined")
        await desk.is_live()
        await page.evaluate("sessionStorage.clear()")

    try:
        desk.run(test())
        assert engine.stop() == 0
    finally:
        assert engine.destroy() == []
