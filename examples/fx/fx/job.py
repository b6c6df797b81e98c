"""A job: computes from what is stored, stores what it finds, tells who listens; by the schedule or by hand."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar

from fx.store import Store, StoreError
from heliograph import HeliographError

INSTANT = timedelta(microseconds=1)
"""``before=at + INSTANT`` is "until ``at``"; no store keeps times more finely."""
_log = logging.getLogger("fx.analytics")


class Publish(Protocol):
    """``heliograph.Client.publish``, or that of a service's engine."""

    async def __call__(self, topic: str, data: Any, /, *, type: str, key: str | None = None) -> object:
        """Raises :class:`HeliographError` where it was not, or may not have been, published."""
        ...


class Announcer:
    """Publishes for one run, until it fails: an engine that is away costs one attempt, not one for each pair.

    Attributes:
        alerts: data of the alerts that were published.
        failure: why nothing more is.
    """

    def __init__(self, publish: Publish) -> None:
        self._publish = publish
        self.alerts: list[dict[str, Any]] = []
        self.failure: str | None = None

    async def alert(self, topic: str, data: dict[str, Any], type: str, key: str) -> bool:
        """Whether it was published; one that was not must be found again by the next run."""
        if published := await self._tell(topic, data, type, key):
            self.alerts.append(data)
        return published

    async def data_ready(self, dataset: str, granularity: str, time: datetime, pairs: list[str], rows: int) -> None:
        """New rows are in the table ``dataset``."""
        data = {"dataset": dataset, "granularity": granularity, "time": time, "pairs": pairs, "rows": rows}
        await self._tell("data.ready", data, "data_ready", None)

    async def _tell(self, topic: str, data: dict[str, Any], type: str, key: str | None) -> bool:
        if self.failure is None:
            try:
                await self._publish(topic, data, type=type, key=key)
            except HeliographError as error:
                self.failure = str(error)
        return self.failure is None


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a run has done.

    Attributes:
        rows: that were new or have changed, and are stored.
        alerts: data of those that were published.
        unpublished: why not everything was.
        missing: pairs with too few candles.
    """

    rows: int
    alerts: list[dict[str, Any]] = field(default_factory=list)
    unpublished: str | None = None
    missing: list[str] = field(default_factory=list)

    @property
    def status(self) -> str:
        """As in the table ``cron_job_log``."""
        if self.unpublished is not None:
            return "failed"
        return "ok" if self.rows else "nothing"

    @property
    def error(self) -> str | None:
        """What a failed run tells."""
        return None if self.unpublished is None else f"stored, but not published: {self.unpublished}"


ReportT = TypeVar("ReportT", bound=Report, covariant=True)


class Job(Protocol[ReportT]):
    """Something to do at a time; doing it again changes nothing and tells nobody."""

    @property
    def name(self) -> str:
        """As in the table ``cron_job_log``."""
        ...

    async def run(self, at: datetime) -> ReportT:
        """With everything that was known ``at``; an alert that cannot be published is left for the next run."""
        ...


async def run_logged(job: Job[ReportT], store: Store, at: datetime, clock: Callable[[], datetime]) -> ReportT:
    """Run ``job`` and keep a row of ``cron_job_log`` about it.

    Raises:
        StoreError: also for what is not the job's own failure, as without the row nothing is done.
    """
    run = await store.job_started(job.name, clock())
    try:
        report = await job.run(at)
    except BaseException as error:
        with suppress(StoreError):
            await store.job_finished(run, clock(), "failed", error=f"{type(error).__name__}: {error}")
        raise
    await store.job_finished(run, clock(), report.status, report.rows, report.error)
    _log.info("%s: %s, %d rows, %d alerts", job.name, report.status, report.rows, len(report.alerts))
    return report
