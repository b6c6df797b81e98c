"""The snippets of the testing guide, as they stand in it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.fx.conftest import Machine, Site
from tests.fx.pages import served
from tests.integration.harness import ROOT
from tests.javascript import SEEDS_CLIENT, browser_client

# Its signs were garbled before it came to us, and stay so.
GUIDE = (ROOT / "tests/data/websocket_guide.md").read_text(encoding="utf-8")
CDN = "https://cdn.socket.io/4.5.4/socket.io.min.js"
DEADLINE_S = 30


def snippet(language: str, *marks: str) -> str:
    """The only code block of a language with all of ``marks``."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.M | re.S)
    (found,) = (block for block in blocks if all(mark in block for mark in marks))
    return str(found)


def at(site: Site, code: str) -> str:
    """The snippet for the port that the server has: 5001, unless somebody else had taken it."""
    assert "http://localhost:5001" in code
    return code.replace("http://localhost:5001", site.url)


def test_the_python_snippet(site: Site, tmp_path: Path) -> None:
    code = at(site, snippet("python", "sio.wait()", "def connection_established"))
    file = tmp_path / "test_websocket.py"
    file.write_text(code, encoding="utf-8")
    environ = os.environ | {"PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, file], stdout=subprocess.PIPE, env=environ, text=True, encoding="utf-8"
    ) as it:
        assert it.stdout is not None
        try:
            lines: list[str] = []

            def read_until(mark: str) -> None:
                while not lines or mark not in lines[-1]:  # the test's own deadline ends a snippet that says nothing
                    lines.append(it.stdout.readline().rstrip("\n") if it.stdout else "")
                    assert lines[-1] or it.poll() is None, lines

            read_until("Subscribed")
            waits = time.monotonic() + 3.5  # it asks for this and that, a second between, and then only listens
            while time.monotonic() < waits:
                site.publish("price_updates", instrument="EUR_USD", bid="1.12134", ask="1.12172")
                lines.append("")
                read_until("Price:")
                time.sleep(0.1)
            it.send_signal(signal.SIGINT)
            lines += it.stdout.read().split("\n")
            assert it.wait(DEADLINE_S) in (0, -signal.SIGINT), lines
        finally:
            it.kill()
    text = "\n".join(filter(None, lines))
    # Its handlers run in threads, so that lines may lose their ends to one another.
    assert re.search(r"Client ID: \S{8,}", text), text
    for said in ("Connected", "Pairs: 20", "Subscribed to 2 pairs", "Price: EUR_USD = 1.12153"):
        assert said in text, text
    assert "Disconnected" in text


def test_the_page(site: Site, machine: Machine) -> None:
    html = at(site, snippet("html", "<title>WebSocket Test</title>"))
    assert f'<script src="{CDN}"></script>' in html
    page = machine.page()

    async def look() -> None:
        with served({"/test_websocket.html": (html.encode(), "text/html")}) as address:
            await page.serve(CDN, browser_client(SEEDS_CLIENT), "text/javascript")
            await page.open(f"{address}/test_websocket.html")
            assert page.asked == [CDN]
            await page.until("document.getElementById('status').textContent.includes('Connected')")
            await page.click("button[onclick='subscribe()']")
            # The page shows no confirmation, so it is asked for.
            await page.until(
                "new Promise(done => socket.emit('get_subscriptions', info => done(info.pair_count === 2)))"
            )
            site.publish("price_updates", instrument="GBP_USD", bid="1.5", ask="1.6")
            site.publish("price_updates", instrument="USD_JPY", bid="150", ask="151")
            await page.until("document.getElementById('prices').textContent === 'GBP_USD: 1.55'")
            await page.click("button[onclick='getPrices()']")
            async with asyncio.timeout(DEADLINE_S):
                while not page.console:
                    await asyncio.sleep(0.01)
            assert page.console[0].startswith("Prices: ")
            await page.click("button[onclick='unsubscribe()']")
            await page.until(
                "new Promise(done => socket.emit('get_subscriptions', info => done(info.pair_count === 0)))"
            )
            await page.open("about:blank")

    machine.run(look())
