"""A load test from begin to end: ``report = await WebSocketLoadTester(scenario).run()``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import msgspec

from engine.cli_admin import ask
from engine.loadtest import latency
from engine.loadtest.assembly import assembled
from engine.loadtest.engine_under_test import EngineUnderTest
from engine.loadtest.judging import judged
from engine.loadtest.machine_facts import machine_facts
from engine.loadtest.processes import ChildDied
from engine.loadtest.progress import Progress
from engine.loadtest.report import Report
from engine.loadtest.run import Run
from engine.loadtest.scenario import Scenario
from transport.errors import HeliographError

INTERRUPTED: Final = "it was interrupted"


class WebSocketLoadTester:
    """Runs a scenario against a server and judges it; used once.

    In a test of your own::

        scenario = Scenario(connections=50, rate=20, seconds=8, target=TargetConfig(url="ws://127.0.0.1:8000/ws"))
        report = await WebSocketLoadTester(scenario).run()
        assert report.verdict == "passed", [judgement.explanation for judgement in report.criteria]

    Args:
        scenario: what to do, and what to reach.
        time_scale: makes it longer or shorter, see :meth:`~engine.loadtest.scenario.Scenario.scaled`.
        start_workers: start an engine for the test, with so many workers, instead of using the scenario's URL.

    Raises:
        ConfigError: the scenario cannot be scaled so, or hdrhistogram is missing.
    """

    def __init__(self, scenario: Scenario, *, time_scale: float = 1.0, start_workers: int | None = None) -> None:
        latency.require()
        self._scenario, self._time_scale = scenario.scaled(time_scale), time_scale
        self._start_workers = start_workers
        self._work: asyncio.Task[None] | None = None
        self._run: Run | None = None
        self._interrupted = False

    def interrupt(self) -> None:
        """End :meth:`run` soon: it returns what was measured until now. On its loop, from a signal handler too."""
        self._interrupted = True
        self._end()

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of the load client, by name, once they are started: to pin them to cores, or to watch them."""
        return self._run.pids if self._run is not None else {}

    async def run(self, on_progress: Callable[[Progress], None] | None = None) -> Report:
        """The judged report. If the task that waits for it is cancelled, once, that is :meth:`interrupt`.

        Processes, sockets and threads are gone when it returns or raises.

        Args:
            on_progress: told once a second and where a phase begins.

        Raises:
            ConfigError: the target cannot be used as the scenario says.
            HeliographError: nobody is there to publish to, or the engine did not start.
        """
        on_progress = on_progress or _unwatched
        if self._start_workers is None:
            return await self._test(self._scenario, on_progress)
        async with EngineUnderTest(self._start_workers) as engine:
            target = msgspec.structs.replace(self._scenario.target, url=engine.url, admin_url=engine.admin_url)
            return await self._test(msgspec.structs.replace(self._scenario, target=target), on_progress)

    async def _test(self, scenario: Scenario, on_progress: Callable[[Progress], None]) -> Report:
        started = datetime.now(UTC).isoformat(timespec="seconds")
        run = self._run = Run(scenario, on_progress, self._end)
        try:
            await self._work_of(run)
            await run.collect()
            machine = await asyncio.to_thread(machine_facts)
            server = await asyncio.to_thread(_server_of, scenario)
            report = assembled(run, started=started, time_scale=self._time_scale, machine=machine, server=server)
        finally:
            await run.stop()
        return judged(report)

    async def _work_of(self, run: Run) -> None:
        """Until it is done or interrupted, or a process of the load client has died."""
        self._work = asyncio.create_task(run.work(), name="load test")
        if self._interrupted:
            self._work.cancel()
        try:
            await asyncio.wait([self._work])
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()  # it is taken for an interrupt
            self.interrupt()
            await asyncio.wait([self._work])
        if self._interrupted:
            run.invalid.append(INTERRUPTED)
        error = None if self._work.cancelled() else self._work.exception()
        if isinstance(error, ChildDied):
            if not run.invalid:  # it is alive, but does not answer
                run.invalid.append(str(error))
        elif error is not None:
            raise error

    def _end(self) -> None:
        if self._work is not None:
            self._work.cancel()


def _unwatched(_progress: Progress) -> None:
    pass


def _server_of(scenario: Scenario) -> str:
    """What the target says of itself, where it has an admin API."""
    if scenario.target.admin_url is None:
        return ""
    try:
        return f"heliograph {ask('GET', scenario.target.admin_url, '/health')['version']}"
    except (HeliographError, KeyError, TypeError):  # it needs a key, or is none
        return ""
