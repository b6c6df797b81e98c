"""One run of a scenario: its phases, and what its processes tell meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from engine.loadtest.broadcast import MessageBroadcastTester
from engine.loadtest.client_load import ClientLoad
from engine.loadtest.commands import PublisherSecond, Second
from engine.loadtest.connections import Collection, Opened, WebSocketConnectionManager
from engine.loadtest.latency import Latency
from engine.loadtest.processes import ChildDied
from engine.loadtest.progress import Progress
from engine.loadtest.resources import WebSocketResourceMonitor
from engine.loadtest.scenario import UNJUDGED, Scenario
from engine.loadtest.server_processes import NoWorker, ServerProcesses
from engine.loadtest.stability import ConnectionStabilityTester
from engine.loadtest.target import Target
from engine.loadtest.timeline import Row, Timeline

COLLECT_S: Final = 10.0
"""For the processes to tell what they counted, where the run is over before its time."""
SHORT_DRAIN_S: Final = 2.0
"""For what was published to arrive, where somebody waits for the end."""
DRAIN: Final = "drain"
SECOND: Final = 1.0
"""What a process tells of reaches so far back."""
RECOVERY: Final = "recovery"
PUBLISHER: Final = "publisher"


class Span:
    """A phase, as far as it has come.

    Attributes:
        start, end: s since the ramp-up began.
        seconds: that it is to last.
        first: sequence of the first message that belongs to it; ``published`` so many do, in ``publishing`` seconds.
    """

    def __init__(self, name: str, start: float, seconds: float, first: int) -> None:
        self.name, self.start, self.seconds, self.first = name, start, seconds, first
        self.end: float | None = None
        self.published, self.publishing = 0, 0.0

    def has(self, t: float, reach: float = 0.0) -> bool:
        """Whether it was going on at ``t``, or ``reach`` seconds before."""
        return self.start <= t and (self.end is None or t - reach <= self.end)


class Run:
    """Used once, on one loop: :meth:`work`, then :meth:`collect`, and :meth:`stop` in every case.

    Attributes:
        opened: how the ramp-up went. ``spans``: the phases so far. ``collection``: after :meth:`collect`.
        began: s of CLOCK_MONOTONIC at which the ramp-up began; 0 before it.
        loads: how hard the processes worked, by name.
        errors: what the publisher was refused. ``late``: how far it was behind; ``blocked``: s.
        pause: s, the longest between two phases, in which nothing was due.
        notes, invalid: for the report.
    """

    def __init__(
        self, scenario: Scenario, on_progress: Callable[[Progress], None], on_broken: Callable[[], None]
    ) -> None:
        target = Target.of(scenario)
        self.scenario, self._on_progress, self._on_broken = scenario, on_progress, on_broken
        self.manager = WebSocketConnectionManager(target, scenario, on_second=self._on_second, on_death=self._on_death)
        self.broadcaster = MessageBroadcastTester(
            target, scenario, on_second=self._on_publisher_second, on_death=self._on_death
        )
        self.began = 0.0
        self.opened = Opened()
        self.spans: list[Span] = []
        self.collection = Collection()
        self.loads: dict[str, ClientLoad] = {}
        self.errors: Counter[str] = Counter()
        self.late, self.blocked = Latency(), 0.0
        self.pause = self._idle_since = 0.0
        self.notes: list[str] = []
        self.invalid: list[str] = []
        self.servers: ServerProcesses | None = None
        self.monitor = WebSocketResourceMonitor(self._server_pids)
        self.stability: ConnectionStabilityTester | None = None
        self.timeline: Timeline | None = None
        self._phase = "starting"
        self._troubles = self._told_published = 0
        self._told_t = 0.0
        self._row: Row | None = None

    @property
    def t(self) -> float:
        """Seconds since the ramp-up began."""
        return time.monotonic() - self.began if self.began else 0.0

    @property
    def pids(self) -> dict[str, int]:
        """Of the load client's processes, by name; 0 before one is started."""
        return self.manager.pids | {PUBLISHER: self.broadcaster.pid}

    @property
    def published(self) -> int:
        """Messages; of a phase that goes on, those that were told of."""
        return max(self.broadcaster.published, self._told_published)

    async def work(self) -> None:
        """All of it, until the last message has come or counts as missing.

        Raises:
            ConfigError: target or scenario cannot be used.
            HeliographError: there is no server to publish to.
            ChildDied: a process of ours ended.
        """
        self._tell()
        await self.manager.start()
        await self.broadcaster.start()
        pids = self.pids
        self.loads = {name: ClientLoad(name, pid) for name, pid in pids.items()}
        target = self.scenario.target
        self.servers = await asyncio.to_thread(ServerProcesses, target.url, target.admin_url, pids.values())
        self.monitor.start()
        self.began = time.monotonic()
        self.timeline = Timeline(self.began, len(pids), self._on_row)
        self._enter("ramp-up")
        self.opened = await self.manager.ramp_up()
        if not self.opened.opened:
            return
        self.stability = ConnectionStabilityTester(
            self.opened.opened, self.t, self.manager.cut, lambda: asyncio.to_thread(self._kill_worker)
        )
        for name, seconds in self.scenario.lengths().items():
            await self._run_phase(name, seconds, self.stability)
        self._enter(DRAIN)
        self._pause(time.monotonic())
        await self.manager.drain(self.broadcaster.published - 1)

    async def _run_phase(self, name: str, seconds: float, stability: ConnectionStabilityTester) -> None:
        broken = bool(self.spans) and self.spans[-1].name in UNJUDGED  # its silence was made by us
        await self.manager.mark(name, self.broadcaster.published, afresh=broken)
        span = Span(name, self.t, seconds, self.broadcaster.published)
        self.spans.append(span)
        self._enter(name)
        breaking = asyncio.create_task(self._break(span, stability)) if name == RECOVERY else None
        try:
            published = await self.broadcaster.run(seconds)
            self._pause(published.began)
            self._idle_since = published.began + published.seconds
            span.publishing = seconds
            if breaking is not None:
                await breaking
        finally:
            if breaking is not None:
                breaking.cancel()
            span.end, span.published = self.t, self.published - span.first
            if not span.publishing:  # it was ended; what is known is up to the last second that was told
                span.publishing = max(0.0, self._told_t - span.start)

    def _pause(self, end: float) -> None:
        """From the last phase's end nothing was due until ``end``, as we were not ready."""
        if self._idle_since:
            self.pause = max(self.pause, end - self._idle_since)

    async def _break(self, span: Span, stability: ConnectionStabilityTester) -> None:
        """The faults, evenly over the phase's first half, the first one at its begin; the other is to come back."""
        faults = self.scenario.faults
        steps = int(faults.cut > 0) + faults.kill_workers
        for step in range(steps):
            await asyncio.sleep(max(0.0, span.start + step * span.seconds / 2 / steps - self.t))
            if step == 0 and faults.cut:
                await stability.cut(self.t, faults.cut)
                continue
            try:
                await stability.kill(self.t)
            except NoWorker as error:
                self.notes.append(f"no worker was killed: {error}")
                return

    def _kill_worker(self) -> str:
        assert self.servers is not None, "a phase runs before the server was looked at"
        return self.servers.kill_worker()

    def _server_pids(self) -> dict[str, int]:
        return self.servers.pids() if self.servers is not None else {}

    async def collect(self) -> None:
        """What was counted; nothing where a process is gone."""
        with contextlib.suppress(ChildDied, TimeoutError):
            async with asyncio.timeout(COLLECT_S):
                if self._phase != DRAIN:  # it was interrupted: what has been told is still on its way
                    await self.manager.drain(self.published - 1, SHORT_DRAIN_S)
                self.collection = await self.manager.collect(self.published - 1)
        if self.timeline is not None:
            self.timeline.finish()

    async def stop(self) -> None:
        """End all processes and threads; at any time."""
        try:
            await asyncio.gather(self.manager.stop(), self.broadcaster.stop())
        finally:
            self.monitor.stop()

    # what the processes tell -----------------------------------------------------------------------------------------

    def _on_second(self, second: Second) -> None:
        if self.timeline is not None:
            self.timeline.add(second)
        wanted = False
        if self.stability is not None:
            if any(span.name == RECOVERY and span.has(second.t - self.began, SECOND) for span in self.spans):
                wanted = self.stability.lost(second.lost)
            self.stability.recovered(second.recoveries)
        self._troubles += second.gaps + (0 if wanted else second.lost)
        self._on_load(f"client-{second.process}", second.cpu, second.lag_ms)

    def _on_publisher_second(self, second: PublisherSecond) -> None:
        if self.timeline is not None:
            self.timeline.add_publisher(second)
        self._told_published += second.published
        self._told_t = second.t - self.began
        self.errors.update(second.errors)
        self._troubles += sum(second.errors.values())
        self.late.merge(Latency.decode(second.behind))
        self.blocked += second.blocked
        self._on_load(PUBLISHER, second.cpu, second.lag_ms)

    def _on_load(self, name: str, cpu: float, lag_ms: float) -> None:
        if self.spans and self._phase == self.spans[-1].name:  # the ramp-up may be as hard as it likes
            self.loads[name].add(cpu, lag_ms)

    def _on_death(self, reason: str) -> None:
        self.invalid.append(f"a process of the load client died: {reason}")
        self._on_broken()

    def _on_row(self, row: Row) -> None:
        span = next((span for span in self.spans if span.has(row.t)), None)
        if self.stability is not None:
            self.stability.observe(row.t, row.open, span is not None and span.name not in UNJUDGED)
        self._row = row
        self._tell()

    # who watches -----------------------------------------------------------------------------------------------------

    def _enter(self, phase: str) -> None:
        self._phase = phase
        self._tell()

    def _tell(self) -> None:
        row = self._row
        done = sum(min(span.seconds, (self.t if span.end is None else span.end) - span.start) for span in self.spans)
        self._on_progress(
            Progress(
                phase=self._phase,
                elapsed=done,
                total=self.scenario.seconds,
                open=row.open if row else 0,
                connections=self.scenario.connections,
                published=row.published if row else 0.0,
                delivered=row.delivered if row else 0.0,
                p50=row.p50 if row else None,
                p99=row.p99 if row else None,
                errors=self.opened.failed + self._troubles,
            )
        )
