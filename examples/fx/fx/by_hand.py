"""What the commands share: configuration, the store and the engine that a job needs, its output, and exit codes.

Exit codes: 0 fine, also where nothing was new; 1 failed, or there is no data; 2 bad usage or configuration.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, TypeAlias

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from fx.analytics_options import AnalyticsOptions
from fx.job import Job, Report, ReportT, run_logged
from fx.store import Store, StoreError
from heliograph import Client, Config, ConfigError, ConnectionLost, HeliographError, load_config

ACTOR: Final = "fx.analytics:AnalyticsService"
BESIDE: Final = Path(__file__).parents[1] / "engine.toml"
"""Taken where neither ``--config`` nor ``$HELIOGRAPH_CONFIG`` names another."""
FAILED, BAD_USAGE = 1, 2
OPEN_TIMEOUT_S: Final = 5.0
NAMED: Final = 5  # of the pairs that have nothing; programs get them all

ConfigFile: TypeAlias = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="The engine's (default: $HELIOGRAPH_CONFIG, or engine.toml here)"),
]
At: TypeAlias = Annotated[
    str | None, typer.Option("--at", metavar="TIME", help="Compute as of this time, ISO 8601 (default: now)")
]
Url: TypeAlias = Annotated[
    str | None, typer.Option("--url", metavar="ws://…", help="The engine (default: $HELIOGRAPH_URL, or as configured)")
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="One JSON object on stdout")]

_to_json = msgspec.json.Encoder(decimal_format="number").encode


class Settings(NamedTuple):
    """Of one service, and the engine that it belongs to."""

    file: Path
    options: Mapping[str, Any]
    url: str


def settings(actor: str, file: Path | None = None) -> Settings:
    """The options of the service whose ``actor`` is this class, ``"fx.analytics:AnalyticsService"``.

    Raises:
        ConfigError: no such file, service, or engine that can be reached; names the field.
    """
    file = file or Path(os.environ.get("HELIOGRAPH_CONFIG") or BESIDE)
    config = load_config(file)
    for service in config.services.values():
        if service.actor == actor:
            return Settings(file, service.options, os.environ.get("HELIOGRAPH_URL") or _url(config))
    raise ConfigError(f'has no service with actor = "{actor}"', str(file))


def _url(config: Config) -> str:
    server = config.server
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(server.host, server.host)
    return f"{'ws' if server.tls_cert_file is None else 'wss'}://{host}:{server.port}/ws"


class Hand(NamedTuple):
    """What a command has at hand while it runs; where the engine cannot be reached, ``away`` says why."""

    options: AnalyticsOptions
    store: Store
    client: Client
    away: str | None
    at: datetime

    async def publish(self, topic: str, data: Any, /, *, type: str, key: str | None = None) -> object:
        """See :class:`fx.job.Publish`."""
        if self.away is not None:
            raise ConnectionLost(self.away)
        return await self.client.publish(topic, data, type=type, key=key)

    async def run(self, job: Job[ReportT]) -> ReportT:
        """As the schedule does, with a row in ``cron_job_log``."""
        return await run_logged(job, self.store, self.at, _now)

    def errors(self, report: Report) -> list[str]:
        """Why not everything was published, also where there was nothing to publish."""
        unpublished = report.unpublished or self.away
        return [] if unpublished is None else [f"what was computed is stored, but not published: {unpublished}"]


class Result(NamedTuple):
    """What a command shows: for programs, for people, and what was wrong."""

    json: dict[str, Any]
    tables: Sequence[Table]
    note: str
    errors: list[str]


def command(
    work: Callable[[Hand], Awaitable[Result]], config: Path | None, at: str | None, url: str | None, as_json: bool
) -> int:
    """Do ``work`` and show what it found; the exit code."""
    try:
        result = asyncio.run(_with_all(work, config, time_of(at, "--at"), url))
    except ConfigError as error:
        return complain(error, BAD_USAGE)
    except (HeliographError, StoreError) as error:
        return complain(error, FAILED)
    if as_json:
        sys.stdout.write(_to_json(result.json).decode() + "\n")
    else:
        console = Console()
        for table in result.tables:
            if table.row_count:
                console.print(table)
        console.print(result.note, highlight=False)
    for text in result.errors:
        complain(text, FAILED)
    return FAILED if result.errors else 0


def complain(error: Exception | str, code: int) -> int:
    """Say on stderr what went wrong; returns ``code``."""
    sys.stderr.write(f"fx: {error}\n")
    return code


def summary(job: str, at: datetime, report: Report) -> dict[str, Any]:
    """What every job tells programs."""
    return {
        "job": job,
        "at": at,
        "status": report.status,
        "rows": report.rows,
        "alerts": report.alerts,
        "missing": report.missing,
        "error": report.error,
    }


def note(report: Report) -> str:
    """What every job tells people."""
    rows = f"{report.rows} rows stored" if report.rows else "nothing new"
    named = ", ".join(report.missing[:NAMED]) + (
        f" and {more} more" if (more := len(report.missing) - NAMED) > 0 else ""
    )
    missing = f", too few candles of {named}" if report.missing else ""
    return f"{rows}, {len(report.alerts)} alerts published{missing}"


async def _with_all(
    work: Callable[[Hand], Awaitable[Result]], file: Path | None, at: datetime, url: str | None
) -> Result:
    found = settings(ACTOR, file)
    options = AnalyticsOptions.of(found.options)
    store, away = options.store(), None
    async with AsyncExitStack() as stack:
        stack.push_async_callback(store.close)
        await store.open()
        client = Client(url or found.url, token=os.environ.get("HELIOGRAPH_TOKEN"), open_timeout=OPEN_TIMEOUT_S)
        try:
            await stack.enter_async_context(client)
        except HeliographError as error:
            away = f"{error}; is the engine running? `heliograph run --config {found.file}` starts it"
        return await work(Hand(options, store, client, away, at))


def time_of(text: str | None, option: str) -> datetime:
    """What an option says; ``None`` is now.

    Raises:
        ConfigError: it is no time.
    """
    if text is None:
        return _now()
    try:
        time = datetime.fromisoformat(text)
        time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
        if not 1970 <= time.year < 9999:  # months before and a moment after it are times, too
            raise ValueError
    except (ValueError, OverflowError):
        raise ConfigError(f"a time such as 2026-01-31T12:00:00Z, not {text!r}", option) from None
    return time


def _now() -> datetime:
    return datetime.now(UTC)
