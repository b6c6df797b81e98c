"""The service: jobs by their schedules, also after a failure, a restart, and while it stops."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from actors.inner_client import InnerClient
from fx.analytics import RETRY_S, AnalyticsService
from fx.analytics_options import trigger
from fx.job import Report
from fx.sqlite_store import SqliteStore
from fx.store import JobRun
from tests.fx.analytics_fakes import FakeEngine, candles, hour

HOURLY, DAILY = "hourly_volatility", "daily_correlation"
DEADLINE_S = 20.0
Eventually = Callable[..., Awaitable[None]]


class Gated:
    """A job that waits until it may go on, and fails if told so."""

    name = HOURLY

    def __init__(self) -> None:
        self.go, self.begun, self.error = asyncio.Event(), 0, cast(Exception | None, None)

    async def run(self, at: datetime) -> Report:
        self.begun += 1
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return Report(rows=1)


class Bench:
    """Services on one database, one after the other."""

    def __init__(self, path: Path) -> None:
        self.engine, self._path = FakeEngine(), path

    def service(self, **options: Any) -> AnalyticsService:
        engine = cast(InnerClient, self.engine)
        given = {
            "dsn": f"sqlite:///{self._path}",
            "pairs": ["EUR_USD", "USD_JPY"],
            "volatility": {"periods": 5, "schedule": "0 12 2 3 *"},  # once a year, so no test meets it
            "correlation": {"schedule": "5 0 2 3 *"},
            **options,
        }
        return AnalyticsService(name="analytics", options=given, engine=engine)

    async def runs(self) -> list[tuple[str, str]]:
        """What the database has of them, oldest first; asked by somebody else."""
        store = SqliteStore(self._path)
        await store.open()
        found = [(run.job, run.status) for run in reversed(await store.jobs())]
        await store.close()
        return found


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "fx.db")


def now(service: AnalyticsService, job: str) -> None:
    """As if it were time for it."""
    service.scheduler.modify_job(job, next_run_time=service.clock())


async def in_store(service: AnalyticsService, done: int) -> list[JobRun]:
    """The runs, oldest first, when so many have ended."""
    found: list[JobRun] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(found) < done:
            await asyncio.sleep(0.005)
            found = [run for run in reversed(await service.store.jobs()) if run.finished is not None]
    assert len(found) == done
    return found


def test_the_schedules() -> None:
    service = AnalyticsService(name="analytics", options={}, engine=cast(InnerClient, FakeEngine()))
    hourly, daily = (
        trigger(text) for text in (service.settings.volatility.schedule, service.settings.correlation.schedule)
    )
    assert hourly.get_next_fire_time(None, hour(9.5)) == hour(10) + timedelta(seconds=5)
    assert daily.get_next_fire_time(None, hour(0.5)) == hour(24) + timedelta(minutes=5, seconds=5)
    weekdays = trigger("30 6 * * mon-fri")
    assert weekdays.get_next_fire_time(None, hour(5 * 24)) == hour(7 * 24 + 6.5) + timedelta(seconds=5)


def test_what_is_due_runs_and_tells(bench: Bench) -> None:
    async def test() -> None:
        service = bench.service()
        await service.on_start()
        try:
            jobs = {job.id: job for job in service.scheduler.get_jobs()}
            assert set(jobs) == {HOURLY, DAILY}
            assert all(job.coalesce and job.max_instances == 1 for job in jobs.values())
            assert jobs[HOURLY].next_run_time == trigger("0 12 2 3 *").get_next_fire_time(None, service.clock())
            assert await bench.runs() == []  # nothing was missed: there was no run before
            await service.store.put_candles(candles("EUR_USD", [1.1, 1.12] * 3))
            now(service, HOURLY)
            now(service, DAILY)
            found = await in_store(service, 2)
            assert {(run.job, run.status) for run in found} == {(HOURLY, "ok"), (DAILY, "nothing")}
            assert bench.engine.take() == ["alert.volatility.EUR_USD", "data.ready"]
            now(service, HOURLY)
            await in_store(service, 3)
            assert bench.engine.take() == []
            assert service.condition.reason is None
        finally:
            await service.on_stop()
        assert not service.scheduler.running

    asyncio.run(test())


def test_a_failure_is_reported_and_tried_again_and_costs_the_other_job_nothing(
    bench: Bench, eventually: Eventually
) -> None:
    async def test() -> None:
        service, broken = bench.service(), Gated()
        await service.on_start()
        try:
            service._jobs[HOURLY] = broken
            broken.go.set()
            broken.error = ZeroDivisionError("by zero")
            now(service, HOURLY)
            (run,) = await in_store(service, 1)
            assert (run.job, run.status, run.error) == (HOURLY, "failed", "ZeroDivisionError: by zero")
            await eventually(lambda: service.condition.reason)
            assert service.condition.reason == f"{HOURLY}: ZeroDivisionError: by zero"
            assert not service.condition.down
            again = service.scheduler.get_job(HOURLY).next_run_time
            assert again <= service.clock() + timedelta(seconds=RETRY_S)
            now(service, DAILY)
            await in_store(service, 2)
            assert service.condition.reason is not None  # the other one says nothing about this one
            broken.error = None
            now(service, HOURLY)
            await in_store(service, 3)
            await eventually(lambda: service.condition.reason is None)
        finally:
            await service.on_stop()

    asyncio.run(test())


def test_an_engine_that_takes_no_alerts_is_reported(bench: Bench) -> None:
    async def test() -> None:
        service = bench.service()
        await service.on_start()
        try:
            await service.store.put_candles(candles("EUR_USD", [1.1, 1.12] * 3))
            bench.engine.up = False
            report = await service.run(HOURLY)
            assert report is not None
            assert service.condition.reason == f"{HOURLY}: stored, but not published: nobody there"
            bench.engine.up = True
            await service.run(HOURLY)
            assert bench.engine.take() == ["alert.volatility.EUR_USD", "data.ready"]
            assert service.condition.reason is None
        finally:
            await service.on_stop()

    asyncio.run(test())


@pytest.mark.parametrize(
    ("hours_ago", "status", "made_up"),
    [
        (30, "ok", {HOURLY, DAILY}),
        (1.5, "ok", {HOURLY}),
        (0, "ok", set()),
        (0, "failed", {HOURLY, DAILY}),
        (0, "running", {HOURLY, DAILY}),
    ],
)
def test_a_run_that_is_owed_is_made_up_for_once(bench: Bench, hours_ago: float, status: str, made_up: set[str]) -> None:
    async def test() -> None:
        first, at = bench.service(), hour(12.25)
        await first.store.open()
        for name in (HOURLY, DAILY):
            run = await first.store.job_started(name, at - timedelta(hours=hours_ago))
            await first.store.job_finished(run, at, status)
        await first.store.close()
        service = bench.service()
        service.clock = lambda: at
        await service.on_start()
        try:
            found = await in_store(service, 2 + len(made_up))
            assert {run.job for run in found if run.status == "nothing"} == made_up
        finally:
            await service.on_stop()

    asyncio.run(test())


def test_it_stops_when_the_run_under_way_has_ended(bench: Bench, eventually: Eventually) -> None:
    async def test() -> None:
        service, slow = bench.service(), Gated()
        await service.on_start()
        service._jobs[HOURLY] = slow
        now(service, HOURLY)
        await eventually(lambda: slow.begun)
        stopping = asyncio.create_task(service.on_stop())
        await eventually(lambda: service.scheduler.state == 2)  # paused: nothing more begins
        assert not stopping.done()
        slow.go.set()
        await stopping
        assert await bench.runs() == [(HOURLY, "ok")]

    asyncio.run(test())


def test_a_run_that_does_not_end_is_logged_as_failed(
    bench: Bench, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fx.analytics.STOP_S", 0.01)

    async def test() -> None:
        service, slow = bench.service(), Gated()
        await service.on_start()
        service._jobs[HOURLY] = slow
        now(service, HOURLY)
        await eventually(lambda: slow.begun)
        await service.on_stop()
        assert await bench.runs() == [(HOURLY, "failed")]

    asyncio.run(test())


def test_it_can_be_stopped_before_it_has_started(tmp_path: Path, bench: Bench) -> None:
    async def test() -> None:
        service = bench.service(dsn=f"sqlite:///{tmp_path}")  # a directory
        with pytest.raises(Exception, match=str(tmp_path)):
            await service.on_start()
        await service.on_stop()

    asyncio.run(test())


def test_the_store_is_sqlite(bench: Bench) -> None:
    assert isinstance(bench.service().store, SqliteStore)
