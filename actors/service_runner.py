"""Runs one service, life after life: feeds it from a position on, and waits after a failure."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, TypeVar

import msgspec

from actors.backoff import Backoff, BackoffPolicy
from actors.inner_client import InnerClient, Stream
from actors.loop_actor import LoopActor
from actors.service import Service, callable_methods
from transport.client_messages import Gap
from transport.codes import ErrorCode
from transport.errors import HeliographError, RequestError
from transport.event import Event
from transport.meter import Condition
from transport.position import Position

CALLS_END: Final = 0.5  # s for methods that clients call and that are cancelled
PAGE: Final = 1_000  # events of a topic that are read from the log at once

Result = TypeVar("Result")
_log = logging.getLogger(__name__)


class ServicePolicy(NamedTuple):
    """How long its hooks may take, and when it begins anew."""

    work: float = 30.0  # s for on_start, position, on_events, on_gap, on_position
    stop: float = 3.0  # s for on_stop
    backoff: BackoffPolicy = BackoffPolicy(first_s=0.5, cap_s=30.0, stable_s=10.0)


class ServiceSpec(NamedTuple):
    """What there is to run."""

    name: str
    create: Callable[[InnerClient], Service]
    topics: tuple[str, ...]
    policy: ServicePolicy = ServicePolicy()


class Standing:
    """How a service fares; it outlives the runner.

    Attributes:
        events: that ``on_events`` was given and has taken, those that came again included.
        failures: lives that ended so.
        missed: events that were told as gaps.
    """

    def __init__(self, policy: BackoffPolicy) -> None:
        self.events = self.failures = self.missed = 0
        self.backoff = Backoff(policy)
        self.service: Service | None = None
        self._trouble: str | None = "it starts"
        self._until: float | None = None

    @property
    def condition(self) -> Condition:
        """For ``/health``: what the runner knows, else what the service says."""
        if self._trouble is not None:
            left = None if self._until is None else max(0.0, self._until - time.monotonic())
            return Condition(self._trouble, left)
        return Condition() if self.service is None else self.service.condition

    def goes_well(self) -> None:
        """It takes what it is given."""
        self._trouble = self._until = None

    def hangs(self, text: str) -> None:
        """A hook has taken too long."""
        self._trouble = text

    def failed(self, reason: str, lasted: float) -> float:
        """A life that lasted so many seconds has ended; how long to wait."""
        self.failures += 1
        wait = self.backoff.failed(lasted)
        self._trouble, self._until = reason, time.monotonic() + wait
        return wait


class Finish(NamedTuple):
    """To a runner: let the batch in hand come to its end, stop the service, and begin no other life. Answered then."""


class ServiceRunner(LoopActor):
    """One service of a process, see :class:`actors.service.Service`. The user's errors are none of this actor's.

    Args:
        client: makes a session for each life.
        standing: of the service, owned by whoever outlives this actor.
    """

    def __init__(self, *, spec: ServiceSpec, client: Callable[[], InnerClient], standing: Standing) -> None:
        super().__init__()
        self._spec, self._client, self._standing = spec, client, standing
        self._finishing = asyncio.Event()
        self._stream: Stream | None = None
        self._engine: InnerClient | None = None  # of the present life
        self._turn = asyncio.Lock()  # of that, too: what clients call takes it as well
        self._task: asyncio.Task[None] | None = None

    def on_start(self) -> None:
        """Begin the first life."""
        self._task = self.spawn(self._run(), name=f"service {self._spec.name}")

    async def on_finish(self, _message: Finish) -> None:
        """See :class:`Finish`."""
        self._finishing.set()
        if self._stream is not None:
            self._stream.close()
        if self._engine is not None:  # a method that does not end would hold up what is to come to its end
            await self._engine.end_calls(CALLS_END)
        if self._task is not None:
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        while not self._finishing.is_set():
            began = self.loop.time()
            try:
                await self._live()
            except Exception as error:
                ours = isinstance(error, HeliographError)  # whose text says it all
                reason = str(error) if ours else f"{type(error).__name__}: {error}".removesuffix(": ")
                wait = self._standing.failed(reason, self.loop.time() - began)
                text, name = "service %s failed, begins again in %.1f s: %s", self._spec.name
                fields = {"event": "service_failed", "service": name, "retry_in": round(wait, 3), "error": reason}
                _log.error(text, name, wait, reason, exc_info=None if ours else error, extra=fields)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._finishing.wait()

    async def _live(self) -> None:
        """One life, from the constructor to ``on_stop``; returns when it is to finish."""
        policy, client = self._spec.policy, self._client()
        self._engine, self._turn = client, client.turn
        try:
            service = self._spec.create(client)
            try:
                await self._within(policy.work, service.on_start(), "on_start")
                position = await self._within(policy.work, service.position(), "position")
                for topic, methods in callable_methods(service).items():
                    await client.serve(topic, methods)
                name = self._spec.name
                _log.info("service %s has begun", name, extra={"event": "service_begun", "service": name})
                await self._feed(service, client, position)
            finally:
                self._standing.service = None
                await client.end_calls(CALLS_END)
                await self._bury(service)
        finally:
            self._engine = None
            client.close()

    async def _feed(self, service: Service, client: InnerClient, position: str | None) -> None:
        work, standing = self._spec.policy.work, self._standing
        if not self._spec.topics:
            standing.service = service
            standing.goes_well()
            await self._finishing.wait()
            return
        stream = self._stream = await client.subscribe(self._spec.topics, since=position)
        standing.service = service
        while not self._finishing.is_set():
            try:
                found = await stream.take()
            except HeliographError:
                if self._finishing.is_set():
                    return
                raise
            if isinstance(found, list):
                await self._give(service, found)
            elif isinstance(found, Gap):
                await self._fill(service, client, found)
            else:
                await self._within(work, service.on_position(found.position), "on_position")
            standing.goes_well()

    async def _give(self, service: Service, events: list[Event]) -> None:
        await self._within(self._spec.policy.work, service.on_events(events), "on_events")
        self._standing.events += len(events)

    async def _fill(self, service: Service, client: InnerClient, gap: Gap) -> None:
        """What the service's session has missed, at its place: from the log, page by page; told is what that lacks."""
        at = gap.first
        while at <= gap.last and not self._finishing.is_set():
            try:
                page = await client.history(gap.topic, PAGE, Position(gap.epoch, at - 1))
            except RequestError as error:
                if error.code is ErrorCode.UNAVAILABLE:
                    raise
                page = []
            page = [event for event in page if event.epoch == gap.epoch and at <= event.offset <= gap.last]
            if not page:
                break
            if page[0].offset > at:
                await self._tell(service, msgspec.structs.replace(gap, first=at, last=page[0].offset - 1))
            await self._give(service, page)
            at = page[-1].offset + 1
        if not gap.first <= gap.last < at and not self._finishing.is_set():
            await self._tell(service, msgspec.structs.replace(gap, first=at))

    async def _tell(self, service: Service, gap: Gap) -> None:
        self._standing.missed += max(0, gap.last - gap.first + 1)
        await self._within(self._spec.policy.work, service.on_gap(gap), "on_gap")

    async def _bury(self, service: Service) -> None:
        self._turn = asyncio.Lock()  # whoever has the other one does not end
        try:
            await self._within(self._spec.policy.stop, service.on_stop(), "on_stop")
        except Exception as error:
            _log.error("service %s failed in on_stop: %s", self._spec.name, error, exc_info=error)

    async def _within(self, seconds: float, work: Awaitable[Result], hook: str) -> Result:
        """What a hook returns. One that takes too long is cancelled; until it has ended, no other life begins."""
        turn = self._turn
        try:
            await turn.acquire()
        except BaseException:
            if asyncio.iscoroutine(work):
                work.close()
            raise
        text = f"{hook} has not returned within {seconds:g} s"
        late = self.loop.call_later(seconds, self._standing.hangs, text)
        try:
            async with asyncio.timeout(seconds) as limit:
                return await work
        except TimeoutError:
            if limit.expired():
                raise HeliographError(text) from None
            raise
        finally:
            late.cancel()
            turn.release()
