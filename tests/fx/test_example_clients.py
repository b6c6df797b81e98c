"""The example client in JavaScript, and the page of live prices."""

from __future__ import annotations

import re
import signal
import subprocess

from tests.fx.conftest import Machine, Site, needs, needs_packages
from tests.fx.pages import served
from tests.fx.test_seed_snippets import DEADLINE_S, GUIDE
from tests.integration.harness import ROOT
from tests.javascript import CLIENT, browser_client, environment

EXAMPLES = ROOT / "examples/fx"


def plain(text: str) -> list[str]:
    """Lines without signs, of which the guide's are garbled, and without a client's id."""
    ascii_only = re.sub(r"Client ID: \S+", "Client ID: …", text).encode("ascii", "ignore").decode()
    return [line.strip() for line in ascii_only.strip().splitlines()]


def test_the_client_prints_what_the_guide_says(site: Site) -> None:
    needs_packages()
    (expected,) = re.findall(r"^Expected output:\n```\n(=+\n +FX Data Pipeline.*?)^```", GUIDE, re.M | re.S)
    expected = expected.replace("http://localhost:5001", site.url)
    command = [needs("node"), str(EXAMPLES / "client.js"), site.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment(), text=True, encoding="utf-8") as it:
        assert it.stdout is not None
        try:
            lines: list[str] = []
            while not lines or "Listening for events" not in lines[-1]:
                lines.append(it.stdout.readline())
                assert lines[-1], lines
            site.publish("price_updates", instrument="GBP_USD", bid="1.3000", ask="1.3002", time="2025-11-18T10:00:00Z")
            while "💱 GBP_USD" not in lines[-1]:
                lines.append(it.stdout.readline())
                assert lines[-1], lines
            it.send_signal(signal.SIGINT)
            assert "Disconnected" in it.stdout.read()
            assert it.wait(DEADLINE_S) == 0
        finally:
            it.kill()
    first = plain("".join(lines))[: len(plain(expected))]
    assert [re.sub(r"\d+/1000", "1/1000", line) for line in first] == plain(expected)
    assert lines[-1].strip() == "💱 GBP_USD: bid 1.3, ask 1.3002, mid 1.3001 at 2025-11-18T10:00:00Z"


def test_the_page_of_live_prices(site: Site, machine: Machine) -> None:
    html = (EXAMPLES / "prices.html").read_bytes()
    cdn = "https://cdn.jsdelivr.net/npm/socket.io-client@4.8.4/dist/socket.io.min.js"
    assert cdn.encode() in html
    page = machine.page()

    def row(pair: str) -> str:
        return f"[...document.querySelectorAll('tbody tr')].find(row => row.textContent.startsWith('{pair}'))"

    async def look() -> None:
        site.publish("price_updates", instrument="AUD_NZD", bid="1.0801", ask="1.0803", time="2025-11-18T10:00:00Z")
        with served({"/prices.html": (html, "text/html")}) as address:
            await page.serve(cdn, browser_client(CLIENT), "text/javascript")  # the page knows its SHA-384
            await page.open(f"{address}/prices.html?server={site.url}")
            await page.until("document.getElementById('status').textContent === 'Connected'")
            assert await page.evaluate("document.querySelectorAll('tbody tr').length") == 20
            await page.until(f"{row('AUD/NZD')}.innerText.includes('1.080200')")
            site.publish("price_updates", instrument="AUD_NZD", bid="1.0803", ask="1.0805")
            await page.until(f"{row('AUD/NZD')}.querySelector('td.rises')?.textContent === '1.080400'")
            site.publish("price_updates", instrument="AUD_NZD", bid="1.0802", ask="1.0803")
            await page.until(f"{row('AUD/NZD')}.querySelector('td.falls')?.textContent === '1.080250'")
            site.publish("volatility_alerts", instrument="AUD_NZD", message="AUD_NZD moves")
            await page.until("document.querySelector('#news li')?.textContent.includes('AUD_NZD moves')")
            site.publish("volatility_alerts", instrument="AUD_NZD", volatility=0.1623, threshold=0.15)
            await page.until("document.querySelector('#news li').textContent.endsWith('a year, threshold 15.0 %')")
            assert page.console == []
            await page.open("about:blank")

    machine.run(look())
