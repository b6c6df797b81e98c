"""The broadcaster: encodes once per wire form, joins once per route, gives each client one write per flush.

Nothing here is done per client per event but for sessions in the slow lane and for those whose filters decide, whose
events are not the others'.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from actors.loop_actor import LoopActor
from actors.messages import (
    Disband,
    Finish,
    Hold,
    Join,
    Leave,
    Notice,
    Operations,
    Reached,
    Seal,
    Select,
    Send,
    Tick,
    Urgent,
)
from actors.positions import Positions
from actors.route import Route, Timing
from actors.session import Session
from actors.tracing import WriteTracing
from transport.codes import PRIORITY_RANK
from transport.messages import Publication
from transport.meter import Meter
from transport.pacing import Pacer
from transport.wire_forms import WireForm, gap, skipped

if TYPE_CHECKING:
    from actors.audience import Selection

WRITES_PER_TURN = 256  # one or two ms of kernel time; then reads, pings and heartbeats get their turn
SKIPPED_INTERVAL = 1.0  # s between two `skipped` of a route
POSITION_INTERVAL = 1.0  # s between two `position` of a session that gets events

Member = tuple[Session, Callable[[bytes], int | None]]
"""Who gets a buffer, and what takes it, see :class:`Lane`."""


class _Job(NamedTuple):
    """One flush of one lane, and the rest of it."""

    sessions: list[Session]
    members: Iterator[Member]  # those that are left of them
    buffer: bytes


def _job(sessions: list[Session], buffer: bytes) -> _Job:
    return _Job(sessions, zip(sessions, [session.write for session in sessions], strict=True), buffer)


class Broadcaster(LoopActor):
    """Executes the index's operations in their order.

    Args:
        pacer: when the next flush may start.
        meter: figures of this process.
        sessions: all of this worker.
        processed: told which of the bus's batches have been written; the bus acknowledges then, so that what waits here
            is bounded by the hub's window. What a held route holds does not count: it is bounded by itself.
        tracing: is told what is written, per route and flush; ``None``: nothing is traced.
    """

    def __init__(
        self,
        *,
        pacer: Pacer,
        meter: Meter,
        processed: Callable[[int], None],
        sessions: Callable[[], Iterable[Session]] = tuple,
        tracing: WriteTracing | None = None,
    ) -> None:
        super().__init__()
        self._reached = Positions(sessions)
        self._pacer, self._meter, self._processed = pacer, meter, processed
        self._tracing = tracing
        self._dirty: list[Route] = []
        self._turns: deque[Route] = deque()  # of this flush, that have not been prepared yet
        self._frames: dict[WireForm, dict[int, tuple[Publication, bytes]]] = {}  # of this flush, by identity
        self._selected: list[Select] = []
        self._held: set[Route] = set()  # that wait for their time
        self._jobs: deque[_Job] = deque()
        self._rush: deque[_Job] = deque()  # critical events: written before all else
        self._scheduled = self._rushing = False
        self._began = 0.0
        self._waiting = self._oldest = 0.0  # arrival of the oldest batch for the next flush, and in this one; 0: none
        self._taken = self._flushing = 0  # numbers of the bus's batches
        self._batch = 1  # events of this flush on one route, at most
        self._execute: dict[type, Callable[[Any], None]] = {
            Hold: self._hold,
            Select: self._selected.append,
            Urgent: self._urgent,
            Notice: self._notice,
            Seal: self._seal_routes,
            Join: self._join,
            Send: self._send,
            Leave: self._depart,
            Disband: self._disband,
            Finish: self._finish,
            Reached: self._reached.arrived,
        }

    def on_start(self) -> None:
        """Begin to tell positions."""
        self.later(POSITION_INTERVAL, Tick())

    def on_tick(self, _message: Tick) -> None:
        """Tell positions with the next flush, behind its events."""
        self._reached.due(self.loop.time())
        if self._reached.telling:
            self._schedule()
        self.later(POSITION_INTERVAL, Tick())

    def on_operations(self, message: Operations) -> None:
        """Take a batch from the index. Cost per delivery: one append."""
        dirty = self._dirty
        for op in message.ops:
            if type(op) is tuple:
                routes, publication = op
                for route in routes:
                    if not route.pending:
                        dirty.append(route)
                    route.pending.append(publication)
            else:
                self._execute[type(op)](op)
        if message.sequence:
            self._taken = message.sequence
        if self._dirty or self._selected:
            self._waiting = self._waiting or message.arrived
            if self._scheduled or self._pacer.delay(self.loop.time()) > 0:
                self._schedule()
            else:  # what follows in this turn of the loop goes with the next flush
                self._scheduled = True
                self._flush()
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
        self._flushing, self._batch = self._taken, 1
        self._oldest, self._waiting = self._waiting or time.perf_counter(), 0.0
        self._turns.extend(self._dirty)
        self._dirty.clear()
        self._prepare_selected(time.time())
        if self._reached.telling:
            self._tell_positions()
        self._work()

    def _tell_positions(self) -> None:
        """Behind all that a session gets in this flush, which so takes along nothing that comes while it runs. A cohort
        that gets one buffer gets it in the same write.
        """
        now = time.time()
        while self._turns:
            self._prepare(self._turns.popleft(), now)
        jobs = list(self._jobs)
        last = {session: n for n, job in enumerate(jobs) for session in job.sessions}
        for frame, sessions in self._reached.tell():
            behind: dict[int, list[Session]] = {}
            for session in sessions:
                behind.setdefault(last.get(session, -1), []).append(session)
            for n, some in behind.items():
                if n >= 0 and len(some) == len(jobs[n].sessions):
                    jobs[n] = jobs[n]._replace(buffer=jobs[n].buffer + frame)
                else:
                    jobs.append(_job(some, frame))
        self._jobs = deque(jobs)

    def _prepare(self, route: Route, now: float) -> None:
        """Turn what is pending on a route into jobs; the slow lane takes its frames at once."""
        if route.timing is not None:
            self._prepare_held(route, route.timing, now)
            return
        pending, route.pending = route.pending, []
        if not pending:
            return  # sealed since
        meter = self._meter
        count, members = len(pending), route.size
        if count > self._batch:
            self._batch = count
        observe = meter.delivery.observe_many
        for publication in pending:
            observe(now - publication.ts, members)
        self._trace(pending, members)
        self._reached.sent_to(route)
        if route.delivery.by_priority and count > 1:
            pending.sort(key=_rank)
        for form, lane in list(route.lanes.items()):
            frames = self._encoded(form, pending)
            if lane.fast:
                meter.deliveries += count * len(lane.fast)
                self._jobs.append(_Job(*lane.snapshot(), frames[0] if count == 1 else b"".join(frames)))
            # after the snapshot: a slow session that drains now is in the fast lane from the next flush on
            for session in list(lane.slow):
                session.queue(frames, pending)

    def _encoded(self, form: WireForm, publications: list[Publication]) -> list[bytes]:
        """Each once per flush, not once per cohort."""
        known = self._frames.get(form)
        if known is None:
            known = self._frames[form] = {}
        frames = []
        for publication in publications:
            entry = known.get(id(publication))  # which is its own as long as the entry is there
            if entry is None:
                entry = known[id(publication)] = publication, form.event(publication)
            frames.append(entry[1])
        return frames

    def _prepare_selected(self, now: float) -> None:
        """What filters decide: sessions that were selected for the same of these events share one buffer."""
        if not self._selected:
            return
        selected = self._selected[:]
        self._selected.clear()
        self._trace_selected(selected)
        if any(op.selection.by_priority for op in selected):
            selected.sort(key=lambda op: _rank(op.publication))
        selection = selected[0].selection
        if all(op.selection is selection for op in selected):
            self._prepare_alike(selection, [op.publication for op in selected], now)
            return
        frames: dict[tuple[WireForm, int], bytes] = {}
        chosen: dict[WireForm, dict[Session, list[int]]] = {}
        for place, (selection, publication) in enumerate(selected):
            self._meter.delivery.observe_many(now - publication.ts, selection.size)
            self._reached.sent_to(selection)
            for form, sessions in selection.lanes:
                frame = frames[form, place] = form.event(publication)
                places = chosen.setdefault(form, {})
                for session in sessions:
                    if session.outbox is not None:
                        session.queue([frame], [publication])
                    elif session in places:
                        places[session].append(place)
                    else:
                        places[session] = [place]
        for form, places in chosen.items():
            cohorts: dict[tuple[int, ...], list[Session]] = {}
            for session, wanted in places.items():
                cohorts.setdefault(tuple(wanted), []).append(session)
            for which, cohort in cohorts.items():
                self._meter.deliveries += len(which) * len(cohort)
                self._jobs.append(_job(cohort, b"".join([frames[form, place] for place in which])))

    def _prepare_alike(self, selection: Selection, publications: list[Publication], now: float) -> None:
        """Events of one class, or a single one: nothing to find out per session."""
        meter = self._meter
        self._reached.sent_to(selection)
        for publication in publications:
            meter.delivery.observe_many(now - publication.ts, selection.size)
        for form, sessions in selection.lanes:
            frames = [form.event(publication) for publication in publications]
            slow = [session for session in sessions if session.outbox is not None]
            fast = [session for session in sessions if session.outbox is None]
            if fast:
                meter.deliveries += len(frames) * len(fast)
                self._jobs.append(_job(fast, b"".join(frames)))
            # after the snapshot: a slow session that drains now is not among those written to
            for session in slow:
                session.queue(frames, publications)

    def _trace(self, publications: list[Publication], clients: int) -> None:
        if self._tracing is not None:
            self._tracing.writing(publications, clients)

    def _trace_selected(self, selected: list[Select]) -> None:
        if self._tracing is not None:
            for selection, publication in selected:
                self._tracing.writing([publication], selection.size)

    def _work(self, budget: int = WRITES_PER_TURN) -> None:
        """Write until the budget is used, then go on in the loop's next turn.

        A route is prepared when it is its turn: what came while others were written to goes along, and so does not
        wait for the next flush.
        """
        while budget > 0:
            budget = self._write(self._jobs, budget)
            if not self._turns:
                break
            if not self._jobs:
                self._prepare(self._turns.popleft(), time.time())
        if self._jobs or self._turns:
            self.loop.call_soon(self._work)
        else:
            # The loop's clock stands still during a turn: look at it in the next one.
            self.loop.call_later(0, self._rest)

    def _write(self, jobs: deque[_Job], budget: int) -> int:
        """Write until all is written or the budget is used; what is left of it."""
        while jobs:
            _, members, buffer = jobs[0]
            size = len(buffer)
            for session, send in islice(members, budget):
                budget -= 1
                taken: int | None = 0
                try:
                    taken = send(buffer)
                    if taken == size or taken is None:
                        continue
                except OSError:
                    pass  # no room, or not its turn
                except Exception:
                    self._lost()
                    continue
                try:  # what a socket does not take is the transport's, which knows, too, if the connection is gone
                    session.write(buffer[taken:])
                except Exception:
                    self._lost()
            if budget <= 0:
                break
            jobs.popleft()
        return budget

    def _lost(self) -> None:
        self._meter.dropped["closed"] = self._meter.dropped.get("closed", 0) + 1

    def _rest(self) -> None:
        self._pacer.flushed(self._began, self.loop.time(), self._batch)
        self._meter.broadcast.observe(time.perf_counter() - self._oldest)
        if self._tracing is not None:
            self._tracing.written()
        self._scheduled = False
        self._frames.clear()
        if self._dirty or self._selected:
            self._processed(self._flushing)
            self._schedule()
        else:
            self._processed(self._taken)  # also what came meanwhile and had nothing to send

    # held routes ----------------------------------------------------------------------------------------------------

    def _hold(self, op: Hold) -> None:
        """An event waits: for its window, and for the interval since the last sending."""
        route, timing = op.route, op.route.timing
        assert timing is not None, "the index holds events on held routes"
        holding = timing.holding
        if not len(holding):
            interval, window, *_ = route.delivery
            self._ripen(route, timing, max(self.loop.time() + window, timing.sent + interval))
        holding.put(op.publication)
        if holding.full:
            self._ripen(route, timing, 0.0)

    def _ripen(self, route: Route, timing: Timing, due: float) -> None:
        """Send a held route at loop time ``due``, if it is not sent sooner."""
        if due >= timing.due:
            return
        self._wait_no_more(route, timing)
        timing.due = due
        self._held.add(route)
        delay = due - self.loop.time()
        if delay > 0:
            timing.timer = self.loop.call_later(delay, self._ripe, route)
        else:
            self._ripe(route)

    def _ripe(self, route: Route) -> None:
        self._held.discard(route)
        self._dirty.append(route)
        self._schedule()

    def _wait_no_more(self, route: Route, timing: Timing) -> None:
        """No timer may outlive its reason: it can be 1,000 s, and holds on to the route."""
        self._held.discard(route)
        timing.due = math.inf
        if timing.timer is not None:
            timing.timer.cancel()
            timing.timer = None

    def _prepare_held(self, route: Route, timing: Timing, now: float) -> None:
        self._wait_no_more(route, timing)
        events = timing.holding.take()
        clock = self.loop.time()
        if events:
            timing.sent = clock
            self._reached.sent_to(route)
        pending = [publication for _, publication in events]
        notices = {}
        if clock - timing.told >= SKIPPED_INTERVAL:
            timing.told = clock
            notices = timing.holding.take_skipped()
            self._meter.skipped += sum(notices.values()) * route.size
        for publication in pending:
            self._meter.delivery.observe_many(now - publication.ts, route.size)
        self._trace(pending, route.size)
        if route.delivery.by_priority:
            pending.sort(key=_rank)
        for form, lane in list(route.lanes.items()):
            frames = [form.event(publication) for publication in pending]
            told = b"".join([form.message(skipped(topic, count)) for topic, count in notices.items()])
            if lane.fast:
                self._meter.deliveries += len(pending) * len(lane.fast)
                buffer = form.batch(pending) if route.delivery.batch and pending else b"".join(frames)
                self._jobs.append(_Job(*lane.snapshot(), buffer + told))
            for session in list(lane.slow):
                session.queue(frames, pending, conflate=route.delivery.conflate)
                if told:
                    session.send(told)
        joining, timing.joining = timing.joining, {}
        for session, after in joining.items():
            if not session.closed:
                self._hand_over(session, [publication for number, publication in events if number > after])
                route.enter(session)
        if timing.holding.skipped:  # told in time, also if nothing more comes
            self._ripen(route, timing, timing.told + SKIPPED_INTERVAL)

    def _hand_over(self, session: Session, publications: list[Publication]) -> None:
        """Events for one session alone, at once."""
        if publications and not session.closed:
            self._write_out(time.time())  # what was sent to the route before these is on its way yet
            frames = [session.form.event(publication) for publication in publications]
            if session.outbox is not None:
                session.queue(frames, publications)
            else:
                self._meter.deliveries += len(frames)
                session.send(b"".join(frames))

    def held_events(self) -> int:
        """Events that wait on held routes. O(routes that wait)."""
        return sum(len(route.timing.holding) for route in self._held if route.timing is not None)

    # sealing --------------------------------------------------------------------------------------------------------

    def _seal(self, routes: Iterable[Route]) -> None:
        """Send what is pending on these routes, and what filters have selected, before anything changes."""
        now = time.time()
        for route in routes:
            if route.pending or route.timing is not None:
                self._prepare(route, now)
        self._write_out(now)

    def _write_out(self, now: float) -> None:
        self._prepare_selected(now)
        self._write(self._rush, 1 << 62)
        self._write(self._jobs, 1 << 62)
        if self._tracing is not None:
            self._tracing.written()

    def _seal_routes(self, op: Seal) -> None:
        if op.routes is None:
            self._seal([*self._dirty, *self._held])
            return
        for route in op.routes:
            if route.timing is not None and op.session is not None:
                self._take_over(route, route.timing, op.session)
        self._seal([route for route in op.routes if route.timing is None or op.session is None])

    def _take_over(self, route: Route, timing: Timing, session: Session) -> None:
        """A member gets what waits on a held route now; then it waits to join again. Strangers get nothing."""
        if session in timing.joining:
            after = timing.joining[session]
        elif route in session.routes:
            after = 0
            route.exit(session)
        else:
            return
        self._hand_over(session, timing.holding.peek(after))
        timing.joining[session] = timing.holding.arrived

    # operations -----------------------------------------------------------------------------------------------------

    def _urgent(self, op: Urgent) -> None:
        """A critical event: to all of them before what is pending."""
        # One that is still on its way is first: who gets this one through an outbox could get it sooner.
        self._write(self._rush, 1 << 62)
        routes, selection, publication = op
        frames: dict[WireForm, bytes] = {}
        lanes: dict[WireForm, list[Session]] = {}
        for route in (*routes, *(selection.routes if selection is not None else ())):
            for form, lane in route.lanes.items():
                lanes.setdefault(form, []).extend((*lane.fast, *lane.slow))
            if route.timing is not None:
                route.timing.holding.overtaken(publication)
                for session in route.timing.joining:
                    lanes.setdefault(session.form, []).append(session)
        for form, sessions in selection.lanes if selection is not None else ():
            lanes.setdefault(form, []).extend(sessions)
        if self._tracing is not None:
            self._tracing.writing([publication], sum(map(len, lanes.values())))
        late = time.time() - publication.ts
        for form, members in lanes.items():
            frame = frames[form] = form.event(publication)
            fast = [session for session in members if session.outbox is None]
            self._meter.delivery.observe_many(late, len(members))
            self._meter.deliveries += len(fast)
            self._rush.append(_job(fast, frame))
            for session in members:
                if session.outbox is not None:
                    session.queue([frame], [publication])
        if not self._rushing:
            self._hurry()

    def _hurry(self) -> None:
        self._write(self._rush, WRITES_PER_TURN)
        self._rushing = bool(self._rush)
        if self._rushing:
            self.loop.call_soon(self._hurry)
        elif self._tracing is not None:
            self._tracing.written()

    def _notice(self, op: Notice) -> None:
        self._seal(op.routes)
        frames: dict[WireForm, bytes] = {}
        members = {session: None for route in op.routes for session in route.members()}
        for session in (*members, *op.sessions):
            frame = frames.get(session.form)
            if frame is None:
                frame = frames[session.form] = session.form.message(gap(op.missed))
            session.barrier(frame, (op.missed.topic,))

    def _join(self, op: Join) -> None:
        timing = op.route.timing
        if timing is None:
            self._seal([op.route])
        for session in op.sessions:
            if session.closed:
                continue
            session.linger = max(session.linger, *op.route.delivery[:2])
            if timing is not None and len(timing.holding):
                timing.joining[session] = timing.holding.arrived
            else:
                op.route.enter(session)

    def _depart(self, op: Leave) -> None:
        timing = op.route.timing
        if timing is None:
            self._seal([op.route])
        else:
            self._take_over(op.route, timing, op.session)
            timing.joining.pop(op.session, None)
        op.route.exit(op.session)

    def _disband(self, op: Disband) -> None:
        self._seal([op.route])
        op.route.disband()
        if op.route.timing is not None:
            self._wait_no_more(op.route, op.route.timing)

    def _send(self, op: Send) -> None:
        if self._selected:
            self._write_out(time.time())
        if op.topics:
            self._reached.sent_to(op.session)
        op.session.barrier(op.frames, op.topics)

    def _finish(self, op: Finish) -> None:
        op.session.connection.close(op.code, op.reason)

    def on_stop(self) -> None:
        """Send what is pending; the sessions are closed by their owner."""
        self._seal([*self._dirty, *self._held])


def _rank(publication: Publication) -> int:
    return PRIORITY_RANK[publication.priority]
