"""Sampling, seen from the engine's loop: when, of what, who is told. :class:`~engine.sampler.Sampler` does the work.

Each sample is kept, shown by ``/metrics`` and, while somebody is subscribed to it, one event on ``system.metrics``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import pykka

from actors.ref import Ref
from actors.reply import AskTimeout
from engine.engine_series import EngineSeries
from engine.log import get_logger
from engine.metrics import Figures
from engine.sampler import ListSeries, ReadSeries, Sample, Sampled, Sampler
from engine.series_store import StoreError
from transport.codes import ErrorCode
from transport.errors import HeliographError, RequestError
from transport.messages import Publish
from transport.meter import Condition, Meter
from transport.topics import METRICS

EVENT_TYPE: Final = "metrics"
COMPONENT: Final = "metrics"
"""Its name in health."""
STALLED_AFTER_S: Final = 5.0
"""A sample that takes so long is in trouble, though it has not failed: a disk or file system hangs."""
STOP_TIMEOUT_S: Final = 2.0
"""For the thread to end; one that hangs is left behind."""
LAST_STEPS_S: Final = 0.5
"""From its word that it ends, for which the loop waits, to its end: microseconds in which the loop is blocked."""


class Sampling:
    """Of one engine, on its loop. The thread begins with the first sample or question and ends with :meth:`stop`.

    Args:
        interval: seconds between samples; 0: there are none.
        path: of the database; ``None``: in memory.
        figures: what the engine knows of itself; gets each sample as ``figures.sampled``.
        processes: their ids by name, those that live now.
        publish: to the hub; may fail with :class:`HeliographError`.
        refresh: brings ``figures`` up to date; ``None``: they come by themselves.
        meter: whose conditions say how it goes.
    """

    def __init__(
        self,
        interval: float,
        path: Path | None,
        figures: Figures,
        processes: Callable[[], Mapping[str, int]],
        publish: Callable[[list[Publish]], Awaitable[Sequence[Any]]],
        meter: Meter,
        refresh: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.interval = interval
        self._path, self._figures, self._processes, self._publish = path, figures, processes, publish
        self._meter, self._refresh = meter, refresh
        self._series = EngineSeries()
        self._sampler: Ref | None = None
        self._task: asyncio.Task[None] | None = None
        self._publishing: asyncio.Task[None] | None = None
        self._over = False
        if interval:
            self._say(None)  # health has the component from the beginning

    def start(self) -> None:
        """Begin to sample."""
        if self.interval:
            self._task = asyncio.create_task(self._sample_on(), name="sample")

    async def stop(self) -> None:
        """End the thread and close the database. Idempotent."""
        self._over = True
        for task in (self._task, self._publishing):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        sampler, self._sampler = self._sampler, None
        if sampler is None:
            return
        thread = sampler.mailbox.thread
        try:
            await sampler.stop_async(timeout=STOP_TIMEOUT_S)
            if thread is not None:
                thread.join(LAST_STEPS_S)
        except AskTimeout:
            get_logger().warning("sampler_hangs")

    # sampling --------------------------------------------------------------------------------------------------------

    async def _sample_on(self) -> None:
        while True:
            # In the middle between two multiples of the interval, so that no lateness of less than half an interval
            # makes two samples of one bucket and none of the next.
            wait = self.interval - (time.time() - self.interval / 2) % self.interval
            await asyncio.sleep(wait if wait > self.interval / 4 else wait + self.interval)
            try:
                await self._sample()
            except Exception as error:
                self._figures.sampled = {}
                self._say(f"nothing is sampled: {error or type(error).__name__}")

    async def _sample(self) -> None:
        if self._refresh is not None:
            await self._refresh()
        lives = self._figures.lives()
        ts = time.time()
        question = Sample(int(ts * 1_000), dict(self._processes()), self._series.take(lives))
        answer = asyncio.ensure_future(self._asked().ask_async(question, timeout=None))
        try:
            done, _ = await asyncio.wait((answer,), timeout=STALLED_AFTER_S)
            if not done:
                self._figures.sampled = {}
                self._say(f"a sample takes longer than {STALLED_AFTER_S:g} s: a disk or file system does not answer")
            sampled: Sampled = await answer
        finally:
            answer.cancel()
        self._figures.sampled = sampled.values
        self._say(sampled.trouble)
        watched = any(life.meter.metrics_watched for life in lives.values())
        if watched and (self._publishing is None or self._publishing.done()):  # else the hub is busy: the next one
            self._publishing = asyncio.create_task(self._tell(ts, sampled.values), name="publish metrics")

    async def _tell(self, ts: float, values: dict[str, float]) -> None:
        event = Publish(0, METRICS, EVENT_TYPE, msgspec.json.encode(values), source_ts=ts)
        try:
            await self._publish([event])
        except HeliographError:
            pass  # without a hub there is nobody to hear it

    def _say(self, reason: str | None) -> None:
        if self._meter.conditions.get(COMPONENT) != (condition := Condition(reason)):
            self._meter.conditions = {**self._meter.conditions, COMPONENT: condition}

    # reading ---------------------------------------------------------------------------------------------------------

    async def names(self) -> list[str]:
        """All series of which something is kept, sorted.

        Raises:
            RequestError: ``unavailable``: the sampler does not answer.
        """
        return await self._ask(ListSeries()) if self.interval else []

    async def read(
        self, names: list[str], start: float, end: float, points: int
    ) -> tuple[dict[str, list[tuple[float, float, float, float]]], float]:
        """See :meth:`engine.series_store.SeriesStore.read`, with times and steps in seconds.

        Raises:
            RequestError: ``not_found``: nothing is sampled; ``unavailable``: the sampler or its disk does not answer.
        """
        if not self.interval:
            raise RequestError(ErrorCode.NOT_FOUND, "nothing is sampled: metrics.interval is 0")
        series, step = await self._ask(ReadSeries(names, int(start * 1_000), int(end * 1_000), points))
        return series, step / 1_000

    async def _ask(self, question: ListSeries | ReadSeries) -> Any:
        try:
            return await self._asked().ask_async(question)
        except AskTimeout:
            raise RequestError(ErrorCode.UNAVAILABLE, "the sampler does not answer; its disk may hang") from None
        except (StoreError, pykka.ActorDeadError) as error:
            raise RequestError(ErrorCode.UNAVAILABLE, str(error)) from error

    def _asked(self) -> Ref:
        if self._over:
            raise RequestError(ErrorCode.UNAVAILABLE, "the engine stops")
        if self._sampler is None:
            self._sampler = Sampler.start(self._path, round(self.interval * 1_000))
        return self._sampler
