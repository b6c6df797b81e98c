"""The broadcaster: encodes once per wire form, joins once per route, gives each client one write per flush.

Nothing here is done per client per event but for sessions in the slow lane.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from actors.loop_actor import LoopActor
from actors.messages import Disband, Finish, Join, Leave, Notice, Operations, Seal, Send
from actors.route import Route
from transport.meter import Meter
from transport.pacing import Pacer
from transport.wire_forms import WireForm, gap

WRITES_PER_TURN = 1024  # about 5 ms of kernel time; then reads, pings and heartbeats get their turn


class _Job(NamedTuple):
    """The rest of one flush of one lane."""

    writes: Iterator[Callable[[bytes], None]]
    buffer: bytes


class Broadcaster(LoopActor):
    """Executes the index's operations in their order.

    Args:
        pacer: when the next flush may start.
        meter: figures of this process.
        processed: told which of the bus's batches have been written; the bus acknowledges then, so that what waits here
            is bounded by the hub's window.
    """

    def __init__(self, *, pacer: Pacer, meter: Meter, processed: Callable[[int], None]) -> None:
        super().__init__()
        self._pacer, self._meter, self._processed = pacer, meter, processed
        self._dirty: list[Route] = []
        self._jobs: deque[_Job] = deque()
        self._scheduled = False
        self._began = 0.0
        self._taken = self._flushing = 0  # numbers of the bus's batches
        self._execute: dict[type, Callable[[Any], None]] = {
            Notice: self._notice,
            Seal: self._seal_routes,
            Join: self._join,
            Send: self._send,
            Leave: self._depart,
            Disband: self._disband,
            Finish: self._finish,
        }

    def on_operations(self, message: Operations) -> None:
        """Take a batch from the index. Cost per delivery: one append."""
        dirty = self._dirty
        for op in message.ops:
            if type(op) is tuple:
                route, publication = op
                if not route.pending:
                    dirty.append(route)
                route.pending.append(publication)
            else:
                self._execute[type(op)](op)
        if message.sequence:
            self._taken = message.sequence
        if dirty:
            self._schedule()
        elif not self._scheduled and message.sequence:
            self._processed(message.sequence)

    def configure(self, pacer: Pacer) -> None:
        """Take a new pacing at a reload."""
        self._pacer = pacer

    # the flush ------------------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        if self._scheduled:
            return
        self._scheduled = True
        delay = self._pacer.delay(self.loop.time())
        if delay > 0:
            self.loop.call_later(delay, self._flush)
        else:
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._began = self.loop.time()
        self._flushing = self._taken
        dirty, self._dirty = self._dirty, []
        now = time.time()
        for route in dirty:
            self._prepare(route, now)
        self._work()

    def _prepare(self, route: Route, now: float) -> None:
        """Turn what is pending on a route into jobs; the slow lane takes its frames at once."""
        pending, route.pending = route.pending, []
        if not pending:
            return  # sealed since
        meter = self._meter
        count, members = len(pending), len(route.members)
        observe = meter.delivery.observe_many
        for publication in pending:
            observe(now - publication.ts, members)
        for form, lane in list(route.lanes.items()):
            encode = form.event
            frames = [encode(publication) for publication in pending]
            if lane.fast:
                meter.deliveries += count * len(lane.fast)
                # a snapshot: sessions may come and go while a long flush gives way to the loop
                writes = iter(list(lane.fast.values()))
                self._jobs.append(_Job(writes, frames[0] if count == 1 else b"".join(frames)))
            # after the snapshot: a slow session that drains now is in the fast lane from the next flush on
            for session in list(lane.slow):
                session.queue(frames, pending)

    def _work(self, budget: int = WRITES_PER_TURN) -> None:
        """Write until the budget is used, then go on in the loop's next turn."""
        jobs = self._jobs
        while jobs:
            writes, buffer = jobs[0]
            while True:
                try:
                    for write in writes:
                        write(buffer)
                        budget -= 1
                        if budget <= 0:
                            self.loop.call_soon(self._work)
                            return
                    break
                except Exception:
                    self._meter.dropped["closed"] = self._meter.dropped.get("closed", 0) + 1
            jobs.popleft()
        # The loop writes to the sockets after this callback: look at the clock in its next turn.
        self.loop.call_later(0, self._rest)

    def _rest(self) -> None:
        self._pacer.flushed(self._began, self.loop.time())
        self._scheduled = False
        self._processed(self._flushing)
        if self._dirty:
            self._schedule()

    def _seal(self, route: Route) -> None:
        """Send what is pending on a route before its membership changes."""
        if route.pending:
            self._prepare(route, time.time())
        while self._jobs:
            writes, buffer = self._jobs.popleft()
            for write in writes:
                try:
                    write(buffer)
                except Exception:
                    self._meter.dropped["closed"] = self._meter.dropped.get("closed", 0) + 1

    # operations -----------------------------------------------------------------------------------------------------

    def _seal_routes(self, op: Seal) -> None:
        for route in list(self._dirty) if op.routes is None else op.routes:
            self._seal(route)

    def _notice(self, op: Notice) -> None:
        self._seal(op.route)
        frames: dict[WireForm, bytes] = {}
        for form, lane in list(op.route.lanes.items()):
            frame = frames.setdefault(form, form.message(gap(op.missed)))
            for session in [*lane.fast, *lane.slow]:
                session.send(frame)

    def _join(self, op: Join) -> None:
        self._seal(op.route)
        for session in op.sessions:
            if not session.closed:
                op.route.enter(session)

    def _depart(self, op: Leave) -> None:
        self._seal(op.route)
        op.route.exit(op.session)

    def _disband(self, op: Disband) -> None:
        self._seal(op.route)
        op.route.disband()

    def _send(self, op: Send) -> None:
        op.session.send(op.frame)

    def _finish(self, op: Finish) -> None:
        op.session.connection.close(op.code, op.reason)

    def on_stop(self) -> None:
        """Send what is pending; the sessions are closed by their owner."""
        for route in self._dirty:
            self._seal(route)
