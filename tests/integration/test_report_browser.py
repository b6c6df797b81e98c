"""A report of a load test in a browser: it is readable at every width, in light, dark and print, and nothing runs."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.loadtest.html_report import render, render_comparison
from tests.browser import Browser
from tests.engine.loadtest.lively_report import hostile, lively

CUT = """(width => [...document.querySelectorAll('main *:not(thead, thead *, .seconds *)')].filter(
  (it) => it.getClientRects().length && it.getBoundingClientRect().right > width).map((it) => it.outerHTML))
  (document.documentElement.clientWidth)"""
DRAWN = """[...document.querySelectorAll('path.line')].map((it) => [
  it.getBoundingClientRect().width, getComputedStyle(it).stroke])"""

Page = tuple[Browser, Callable[[Coroutine[Any, Any, Any]], Any], Path]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A browser, what runs it, and where the pages are."""
    command = shutil.which("chromium")
    if command is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("chromium is missing")
    folder = tmp_path_factory.mktemp("reports")
    pages = {
        "report": render(lively()),
        "hostile": render(hostile()),
        "compared": render_comparison(lively(), lively(2)),
    }
    for name, text in pages.items():
        (folder / f"{name}.html").write_text(text)
    with asyncio.Runner() as runner:
        browser = Browser(command)
        runner.run(browser.__aenter__())
        yield browser, runner.run, folder
        runner.run(browser.__aexit__(None, None, None))


@pytest.mark.parametrize("name", ["report", "hostile", "compared"])
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_a_page_is_readable_at_every_width_in_light_and_dark(page: Page, name: str, width: int, dark: bool) -> None:
    browser, run, folder = page

    async def test() -> None:
        await browser.look(width, 1000, dark)
        await browser.open((folder / f"{name}.html").as_uri())
        assert await browser.evaluate(CUT) == []
        background = await browser.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(14, 18, 23)" if dark else "rgb(244, 245, 247)")  # the style is allowed
        lines = await browser.evaluate(DRAWN)
        assert len(lines) >= 10 and all(it[0] > width / 4 and it[1] != "none" for it in lines)
        assert await browser.evaluate("document.querySelectorAll('script, img, iframe, object').length") == 0
        assert await browser.evaluate("performance.getEntriesByType('resource').length") == 0
        assert browser.console == []

    run(test())


def test_the_pointer_is_told_the_values(page: Page) -> None:
    browser, run, folder = page

    async def test() -> None:
        await browser.look(1280, 2000)
        await browser.open((folder / "report.html").as_uri())
        told = await browser.evaluate(
            """(box => document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2).textContent)(
              document.querySelector('.area > svg').getBoundingClientRect())"""
        )
        assert [line.split()[0] for line in told.splitlines()[1:]] == ["worst", "p99", "p50"]

    run(test())


def test_it_prints_in_light_whatever_the_reader_prefers(page: Page) -> None:
    browser, run, folder = page

    async def test() -> None:
        await browser.look(720, 1000, dark=True)
        await browser.open((folder / "report.html").as_uri())
        assert await browser.evaluate("getComputedStyle(document.body).color") == "rgb(228, 232, 237)"
        await browser.printing()
        assert await browser.evaluate("getComputedStyle(document.body).color") == "rgb(26, 31, 38)"
        assert await browser.evaluate(CUT) == []

    run(test())
