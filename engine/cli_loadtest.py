"""``heliograph loadtest``: run a scenario and judge the server, or compare two reports."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from engine.cli import FAILED, nobody_reads, note
from engine.cli_jobs import clock
from engine.loadtest import latency, summary
from engine.loadtest.progress import Progress
from engine.loadtest.report import Report, read
from engine.loadtest.scenario import load
from transport.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

LINE_S: Final = 5.0
"""Seconds between two lines of progress where there is no terminal."""
BAR: Final = 24  # characters
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Tester(Protocol):
    """What is needed of :class:`~engine.loadtest.tester.WebSocketLoadTester`."""

    async def run(self, on_progress: Callable[[Progress], None] | None = None) -> Report:
        """Until the end, or until it is interrupted."""

    def interrupt(self) -> None:
        """End, and report what was measured."""


def run(
    name: str,
    overrides: Mapping[str, object],
    time_scale: float,
    start_workers: int | None,
    json_file: Path | None,
    html_file: Path | None,
    quiet: bool,
) -> int:
    """Run a scenario; returns 0 where the server passed.

    Args:
        name: a built-in scenario, or the path of a TOML file.
        overrides: dotted fields of the scenario, see :func:`engine.loadtest.scenario.load`.
        time_scale: how many times as long as it says.
        start_workers: workers of an engine to start for it; ``None``: test the one of the scenario.

    Raises:
        ConfigError: a field of the scenario; a file that cannot be written; hdrhistogram is not installed.
    """
    latency.require()
    scenario = load(name, overrides)
    for option, file in (("--json", json_file), ("--html", html_file)):
        if file is not None:
            _check_writable(file, option)
    from engine.loadtest.tester import WebSocketLoadTester

    tester = WebSocketLoadTester(scenario, time_scale=time_scale, start_workers=start_workers)
    report = asyncio.run(_run(tester, quiet))
    if json_file is not None:
        json_file.write_bytes(report.to_json())
    if html_file is not None:
        from engine.loadtest.html_report import render

        html_file.write_text(render(report), encoding="utf-8")
    code = _print(summary.failures(report) if quiet else summary.summary(report))
    return code or (0 if report.verdict == "passed" else FAILED)


def compare(first: Path, second: Path, html_file: Path | None) -> int:
    """Print two reports side by side.

    Raises:
        ConfigError: a file is no report.
        NotComparable: they measured different things.
    """
    a, b = read(first), read(second)
    lines = list(summary.comparison(a, b))
    if html_file is not None:
        _check_writable(html_file, "--html")
        from engine.loadtest.html_report import render_comparison

        html_file.write_text(render_comparison(a, b), encoding="utf-8")
    return _print(lines)


def _check_writable(file: Path, option: str) -> None:
    """Now, and not after five minutes of load."""
    place = file if file.exists() else file.absolute().parent
    if file.is_dir() or not place.exists() or not os.access(place, os.W_OK):
        raise ConfigError(f"cannot write {file}", option)


async def _run(tester: Tester, quiet: bool) -> Report:
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        for number in SIGNALS:
            loop.remove_signal_handler(number)  # a second Ctrl-C does not wait
        note("interrupted; ending with what was measured")
        tester.interrupt()

    for number in SIGNALS:
        loop.add_signal_handler(number, interrupt)
    showing = nullcontext() if quiet else live() if sys.stderr.isatty() else lines()
    with showing as show:
        return await tester.run(show)


@contextmanager
def live() -> Iterator[Callable[[Progress], None]]:
    """A bar on the terminal that is stderr."""
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as screen:
        yield lambda progress: screen.update(bar(progress), refresh=True)


@contextmanager
def lines() -> Iterator[Callable[[Progress], None]]:
    """A line on stderr where a phase begins, and every :data:`LINE_S` seconds of it."""
    last: tuple[str, float] | None = None

    def show(progress: Progress) -> None:
        nonlocal last
        if last is None or progress.phase != last[0] or progress.elapsed >= last[1] + LINE_S:
            last = progress.phase, progress.elapsed
            note(f"{progress.phase} {_clocks(progress)}: {figures(progress)}")

    yield show


def bar(progress: Progress) -> RenderableType:
    """Phase, time and figures for a terminal, in two lines."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    grid.add_row(
        Text(progress.phase, style="bold"),
        ProgressBar(progress.total, min(progress.elapsed, progress.total), width=BAR),
        Text(_clocks(progress)),
    )
    return Group(grid, Text(figures(progress), style="red" if progress.errors else "dim"))


def figures(progress: Progress) -> str:
    """Of the last second."""
    times = "nothing came"
    if progress.p50 is not None and progress.p99 is not None:
        times = f"p50 {progress.p50:.3g} ms, p99 {progress.p99:.3g} ms"
    return (
        f"{progress.open:,}/{progress.connections:,} open, {progress.published:,.0f}/s published, "
        f"{progress.delivered:,.0f}/s delivered, {times}, {progress.errors:,} errors"
    )


def _clocks(progress: Progress) -> str:
    return f"{clock(progress.elapsed)}/{clock(progress.total)}"


def _print(lines: Iterable[summary.Line]) -> int:
    """Coloured where stdout is a terminal. Returns the exit code."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    try:
        for line in lines:
            console.print(Text(line.text, style=line.style))
        sys.stdout.flush()
    except BrokenPipeError:
        return nobody_reads()
    return 0
