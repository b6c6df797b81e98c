"""``heliograph jobs``: how far jobs are, live on a terminal, as lines elsewhere; and asking one to stop."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from engine.cli import complain, nobody_reads, note, printable
from engine.cli_client import line_of, notices
from engine.client import Client
from engine.client_subscription import Subscription
from engine.job_board import MAX_JOBS, SILENT, JobBoard, Watched
from engine.job_progress import PREFIX, Report, topic_of
from transport.codes import ErrorCode
from transport.errors import RequestError
from transport.event import Event

if TYPE_CHECKING:
    from rich.console import RenderableType

TOPICS: Final = f"{PREFIX}.*"
REFRESH_S: Final = 0.25  # of the screen, also without an event: silence is to be seen, too
PER_SECOND: Final = 4.0  # updates per job
BAR: Final = 30  # characters
COLOURS: Final = {"running": "cyan", SILENT: "yellow", "done": "green", "failed": "red", "cancelled": "magenta"}
NOTHING: Final = "no job has told this engine how far it is"


def show(url: str, token: str | None, as_json: bool) -> int:
    """Print the jobs that the engine knows of, once: those that run, and those that ended within the last hour."""
    notices(logging.WARNING)
    events, now = asyncio.run(_known(url, token))
    board = JobBoard()
    told = [event for event in events if board.take(event, event.ts) is not None]
    rows = (f"{line}\n".encode() for line in table(board.jobs(), now))
    try:
        sys.stdout.buffer.writelines(map(line_of, told) if as_json else rows)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        return nobody_reads()
    if not told:
        note(NOTHING)
    return 0


def watch(url: str, token: str | None, as_json: bool) -> int:
    """Show jobs until Ctrl-C: bars on a terminal, else, or with ``as_json``, each update as a line of NDJSON."""
    notices(logging.WARNING)
    try:
        asyncio.run(_lines(url, token) if as_json or not sys.stdout.isatty() else _bars(url, token))
    except KeyboardInterrupt:
        pass  # the usual way to end it
    except BrokenPipeError:
        return nobody_reads()
    return 0


def cancel(url: str, token: str | None, job: str, reason: str | None) -> int:
    """Ask a job to stop; it does so when it looks."""
    notices(logging.WARNING)
    return asyncio.run(_cancel(url, token, job, reason))


async def _cancel(url: str, token: str | None, job: str, reason: str | None) -> int:
    async with Client(url, token=token) as client:
        try:
            await client.call(topic_of(job), "cancel", {} if reason is None else {"reason": reason})
        except RequestError as error:
            if error.code is not ErrorCode.NOT_FOUND:
                raise
            return complain(f"job {job!r} does not run, or cannot reach this engine")
    note(f"job {job!r} was asked to stop")
    return 0


async def _known(url: str, token: str | None) -> tuple[list[Event], float]:
    """The last event of each job, and the engine's time."""
    async with Client(url, token=token) as client, client.subscribe(TOPICS, snapshot=True) as events:
        now = await client.ping()  # the snapshot comes before this answer
        found = []
        while (item := events.take()) is not None:
            if isinstance(item, Event):
                found.append(item)
        return found, now


def _subscribe(client: Client) -> Subscription:
    # Only the present matters, so a pause of the connection is no gap to be told of.
    return client.subscribe(TOPICS, snapshot=True, max_rate=PER_SECOND, recover=False, on_gap=lambda _: None)


async def _lines(url: str, token: str | None) -> None:
    async with Client(url, token=token) as client, _subscribe(client) as events:
        async for event in events:
            sys.stdout.buffer.write(line_of(event))
            sys.stdout.buffer.flush()


async def _bars(url: str, token: str | None) -> None:
    from rich.live import Live

    board = JobBoard()
    async with Client(url, token=token) as client, _subscribe(client) as events:
        ahead = await client.ping() - time.time()  # of our clock

        async def read() -> None:
            async for event in events:
                board.take(event, event.ts - ahead)

        reading = asyncio.create_task(read(), name="jobs")
        try:
            with Live(auto_refresh=False) as screen:
                while not reading.done():
                    most = max(1, screen.console.height - 1)  # the cursor's line; drawing 1,000 jobs takes 0.6 s
                    screen.update(bars(board.jobs(), time.time(), most), refresh=True)
                    await asyncio.wait({reading}, timeout=REFRESH_S)
            reading.result()
        finally:
            reading.cancel()


def bars(jobs: Sequence[Watched], now: float, most: int = MAX_JOBS) -> RenderableType:
    """The jobs for a terminal, in at most so many lines."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    if not jobs:
        grid.add_row(Text(NOTHING, style="dim"))
    shown = jobs if len(jobs) <= most else jobs[: most - 1]
    for watched in shown:
        state, report = watched.state(now), watched.report
        colour = COLOURS[state]
        grid.add_row(
            Text(printable(report.job), style="bold"),
            Text(state, style=colour),
            ProgressBar(1.0, report.progress, width=BAR, complete_style=colour, finished_style=colour),
            *(Text(cell) for cell in _cells(report)),
        )
    if len(shown) == len(jobs):
        return grid
    return Group(grid, Text(f"and {len(jobs) - len(shown)} more: heliograph jobs --once", style="dim"))


def table(jobs: Sequence[Watched], now: float) -> list[str]:
    """The jobs as lines of text, with a heading; none without jobs."""
    rows = [("JOB", "STATE", "PROGRESS", "STAGE", "TIME", "LEFT", "NOTE")]
    rows += [(printable(watched.report.job), watched.state(now), *_cells(watched.report)) for watched in jobs]
    if not jobs:
        return []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _cells(report: Report) -> tuple[str, str, str, str, str]:
    stage = next((stage for stage in report.stages if stage.name == report.stage), None)
    shown = "-"
    if stage is not None:
        of = "" if stage.total is None else f"/{stage.total:,.10g}"
        shown = f"{printable(stage.name)} {stage.done:,.10g}{of}"
    life = f"attempt {report.attempt}" if report.attempt > 1 else ""
    notes = (life, printable(report.message or ""), printable(report.error or ""))
    return (
        f"{report.progress:.1%}",
        shown,
        clock(report.elapsed),
        "-" if report.eta is None else clock(report.eta),
        "; ".join(filter(None, notes)),
    )


def clock(seconds: float) -> str:
    """``0:09``, ``1:05`` or ``2:03:05``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{rest:02}"
    return f"{minutes}:{rest:02}"
