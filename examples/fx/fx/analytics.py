"""The analytics as a service of the engine: both jobs by their schedules, beside the events' way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.cron import CronTrigger

from fx.analytics_options import TIMEZONE, AnalyticsOptions, trigger
from fx.correlation_job import CorrelationJob
from fx.job import Job, Publish, Report, run_logged
from fx.store import JobRun, Store, StoreError
from fx.volatility_job import VolatilityJob
from heliograph import HeliographError, Service

MISFIRE_S: Final = 1_800
"""How late a run may begin, where the loop or the machine was held; later ones are left to the next time."""
RETRY_S: Final = 300.0
"""After a run that failed, if its next one is not sooner."""
STOP_S: Final = 2.0
"""For a run under way, when the service stops; then it is cancelled, and logged as failed."""
_log = logging.getLogger("fx.analytics")


def jobs(store: Store, publish: Publish, options: AnalyticsOptions) -> list[tuple[Job[Report], str]]:
    """Every job with its schedule."""
    return [
        (VolatilityJob(store, publish, options.pairs, options.volatility), options.volatility.schedule),
        (CorrelationJob(store, publish, options.pairs, options.correlation), options.correlation.schedule),
    ]


class AnalyticsService(Service):
    """Runs each job when it is due, never twice at once, and tries again what failed.

    A run that fell into a time when the service was down is made up for at the start, once: the newest matters. So is
    the last one, if it failed or never ended.
    Options: :class:`fx.analytics_options.AnalyticsOptions`.
    """

    def __init__(self, *, name: str, options: Mapping[str, Any], engine: Any) -> None:
        super().__init__(name=name, options=options, engine=engine)
        self.settings = AnalyticsOptions.of(options)
        self.clock = _now
        self.scheduler = AsyncIOScheduler(
            timezone=TIMEZONE,
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": MISFIRE_S},
        )
        self.store = self.settings.store()
        self._jobs: dict[str, Job[Report]] = {}
        self._failures: dict[str, str] = {}
        self._running: set[asyncio.Task[Any]] = set()

    async def on_start(self) -> None:
        """Open the store and begin; fails where the store is away, and is then started again."""
        await self.store.open()
        for job, schedule in jobs(self.store, self.engine.publish, self.settings):
            self._jobs[job.name] = job
            due = trigger(schedule)
            last = await self.store.jobs(job.name, limit=1)
            first = {"next_run_time": _now()} if last and self._owed(last[0], due) else {}
            self.scheduler.add_job(self.run, due, args=[job.name], id=job.name, **first)
        self.scheduler.start()

    async def on_stop(self) -> None:
        """Let a run under way end, then close the store."""
        if self.scheduler.running:
            self.scheduler.pause()
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=STOP_S)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        if self.scheduler.running:
            self.scheduler.shutdown(wait=False)
            await asyncio.sleep(0)  # it ends in the loop's next turn
        await self.store.close()

    async def run(self, name: str) -> Report | None:
        """Run a job now. A failure is logged, reported as ``degraded`` and tried again, and costs the other nothing."""
        task = asyncio.current_task()
        assert task is not None, "a job runs on the loop"
        self._running.add(task)
        try:
            report = await run_logged(self._jobs[name], self.store, self.clock(), self.clock)
        except (StoreError, HeliographError) as error:
            self._failed(name, str(error))
        except Exception as error:
            _log.exception("%s failed", name)
            self._failed(name, f"{type(error).__name__}: {error}")
        else:
            if report.error is None:
                self._failures.pop(name, None)
                self._report()
            else:
                self._failed(name, report.error)
            return report
        finally:
            self._running.discard(task)
        return None

    def _owed(self, last: JobRun, due: CronTrigger) -> bool:
        """Whether the last run has to be repeated, or was to be followed by one before now."""
        when = due.get_next_fire_time(None, last.started)
        return last.status in ("failed", "running") or (when is not None and when <= self.clock())

    def _failed(self, name: str, reason: str) -> None:
        _log.warning("%s failed: %s", name, reason)
        self._failures[name] = reason
        scheduled = self.scheduler.get_job(name)
        again = _now() + timedelta(seconds=RETRY_S)
        if scheduled is not None and (scheduled.next_run_time is None or scheduled.next_run_time > again):
            self.scheduler.modify_job(name, next_run_time=again)
        self._report(RETRY_S)

    def _report(self, retry_in: float | None = None) -> None:
        if self._failures:
            reason = "; ".join(f"{name}: {reason}" for name, reason in sorted(self._failures.items()))
            self.report("degraded", reason, retry_in)
        else:
            self.report("ok")


def _now() -> datetime:
    return datetime.now(UTC)
