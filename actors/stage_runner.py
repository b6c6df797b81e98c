"""Between the hub's loop and a stage's thread: feeds the stage, waits for it no longer than allowed, does without it.

The loop never waits for a stage. What wants it waits here, in order, and goes to its thread in batches; meanwhile other
topics pass. Measured, with a stage that does nothing: a single event is back after 70 µs, of which the loop and the
thread work 35; in full batches an event costs 2 µs, most of it for the check of what comes back.

Whatever a stage does not do, because it raises, hangs, returns nonsense, is behind or is left alone after failures in
a row (:mod:`actors.breaker`), the policy decides: the event goes on as it came or is dropped, in its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Final, NamedTuple, Protocol

from actors.breaker import BreakerPolicy, BreakerState, CircuitBreaker
from actors.loop_actor import LoopActor, Timer
from actors.mailbox import Mailbox
from actors.mailbox_actor import MailboxActor
from actors.messages import Staged, StageDone, StageEnded, StageOverdue, StageStarted, StageWork
from actors.shown import shown
from actors.stage import Stage
from actors.stage_batch import Answer, Nonsense, Outcome, Source, StageBatch, StageFailure
from transport.meter import Meter

_log = logging.getLogger(__name__)

BATCH_EVENTS: Final = 256
"""Events that a stage gets at once, at most: its deadline is for so many, however many come together."""
WAITING_EVENTS: Final = 10_000
WAITING_BYTES: Final = 64 << 20
"""Of events that wait for one stage; exceeded by what comes at once."""
START_TIMEOUT_S: Final = 10.0
"""For ``on_start``. Events wait so long for a stage's first instance; for a later one as long as for a batch."""
STOP_TIMEOUT_S: Final = 1.0
"""For what a stage is at, and its ``on_stop``, when the engine ends."""
HUNG_THREADS: Final = 3
"""Threads of one stage that were given up and have not returned yet; with so many none is added."""
LOG_INTERVAL_S: Final = 10.0
"""Between two lines about the same kind of failure."""
BREAKER: Final = BreakerPolicy(failures=5, successes=1)


class StageState(Enum):
    """What the present instance is at. Changed by :meth:`StageRunner._go` alone."""

    DOWN = "down"
    """There is none."""
    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    LATE = "late"
    """Starting or busy, but nobody waits for it any more."""


class StagePolicy(NamedTuple):
    """``timeout_s`` for a batch; ``drop``: a failure costs the event, else it goes on as it came."""

    timeout_s: float = 1.0
    drop: bool = False


class Forward(Protocol):
    """Where results go: :meth:`actors.stages.Stages.forward`."""

    def __call__(self, passed: list[Source], refused: list[Answer]) -> None: ...


class StageRunner(LoopActor):
    """One per stage, on the hub's loop; see the module.

    Args:
        stage: its name.
        create: makes an instance, not started; called for the first batch after each failure that ended one.
        clock: monotonic seconds, of the breaker and the log.
    """

    def __init__(
        self,
        *,
        stage: str,
        create: Callable[[], Stage],
        forward: Forward,
        meter: Meter,
        policy: StagePolicy,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._stage, self._create, self._forward, self._meter = stage, create, forward, meter
        self._policy, self._clock = policy, clock
        self._breaker = CircuitBreaker(BREAKER, clock, self._note_breaker)
        self._at = StageState.DOWN
        self._instance: Stage | None = None
        self._batch: StageBatch | None = None  # what the instance is at, if its result is awaited
        self._deadline: Timer | None = None
        self._waiting: deque[Source] = deque()
        self._waiting_bytes = 0
        self._next_number = 1
        self._patience = START_TIMEOUT_S
        self._hung: list[threading.Thread] = []
        self._ended = asyncio.Event()  # the present instance has
        self._told: dict[StageFailure, float] = {}

    def on_start(self) -> None:
        """Begin with an instance, so that the first batch finds one."""
        self._launch()

    async def on_stop(self) -> None:  # type: ignore[override]
        """End the instance. One that does not end is left to itself; its thread keeps nobody from ending."""
        instance = self._instance
        if instance is None:
            return
        instance.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._ended.wait()
        thread = instance.mailbox.thread
        if self._ended.is_set() and thread is not None:
            thread.join(STOP_TIMEOUT_S)  # it has nothing left to do
        else:
            _log.warning("stage %s does not end; left behind: %s", self._stage, instance.kill().running)

    async def on_failure(self, exception_type: object, exception_value: object, traceback: object) -> None:  # type: ignore[override]
        """A successor begins with an instance of its own."""
        await self.on_stop()

    # what comes -----------------------------------------------------------------------------------------------------

    def on_staged(self, message: Staged) -> None:
        """Events that want this stage."""
        waiting, batch = self._waiting, message.batch
        if len(waiting) >= WAITING_EVENTS or self._waiting_bytes >= WAITING_BYTES:
            if self._policy.drop:
                self._conclude(self._batch_of(batch).failed(StageFailure.OVERFLOW))
                return
            # Nothing may overtake: to let this one on, all before it must go, what the stage is at included.
            self._give_up(StageFailure.OVERFLOW)
        waiting.extend(batch)
        self._waiting_bytes += sum(len(publish.data) for _, publish in batch)
        self._continue()

    # what the stage says --------------------------------------------------------------------------------------------

    def started(self, actor: MailboxActor) -> None:
        """On the stage's thread: ``on_start`` is done."""
        assert isinstance(actor, Stage)
        self.actor_ref.tell(StageStarted(actor))

    def exited(self, actor: MailboxActor, error: BaseException | None) -> None:
        """On the stage's thread, as the last thing there."""
        assert isinstance(actor, Stage)
        self.actor_ref.tell(StageEnded(actor, error))
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            self.loop.call_soon_threadsafe(self._note_end, actor)

    def _note_end(self, actor: MailboxActor) -> None:
        if actor is self._instance:  # a predecessor's thread may be slow to say so
            self._ended.set()

    def on_stage_started(self, message: StageStarted) -> None:
        """It may have a batch."""
        if message.stage is self._instance:
            self._patience = self._policy.timeout_s
            self._go(StageState.IDLE)
            self._continue()

    def on_stage_done(self, message: StageDone) -> None:
        """The result of a batch; too late it counts for nothing."""
        if message.stage is not self._instance:
            return
        batch, self._batch = self._batch, None
        self._go(StageState.IDLE)
        if batch is not None:
            outcome = message.outcome
            (self._breaker.failed if outcome.failed else self._breaker.succeeded)()
            self._conclude(outcome)
        self._continue()

    def on_stage_ended(self, message: StageEnded) -> None:
        """It failed, or thought that it was through."""
        if message.stage is not self._instance:
            return
        reason = StageFailure.NONSENSE if isinstance(message.error, Nonsense) else StageFailure.RAISED
        self._lose(reason, shown(message.error))
        self._continue()

    def on_stage_overdue(self, message: StageOverdue) -> None:
        """It may hang: nobody waits on. The thread cannot be ended; should it return, it finds that it is through."""
        instance = self._instance
        if instance is None or message.stage is not instance:
            return
        if self._at is StageState.STARTING:
            self._give_up(StageFailure.TIMEOUT)
            return
        thread = instance.mailbox.thread
        instance.kill()
        if thread is not None:
            self._hung.append(thread)
        self._lose(StageFailure.TIMEOUT, "not done in time")
        self._continue()

    # the stage's life -----------------------------------------------------------------------------------------------

    def _go(self, state: StageState, deadline_s: float | None = None) -> None:
        """Enter a state, which lasts for ``deadline_s`` at most."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        _log.debug("stage %s: %s", self._stage, state.value)
        self._at = state
        if deadline_s is not None:
            assert self._instance is not None
            self._deadline = self.later(deadline_s, StageOverdue(self._instance))

    def _launch(self) -> None:
        self._hung = [thread for thread in self._hung if thread.is_alive()]
        self._note_bypass()
        if len(self._hung) >= HUNG_THREADS:
            return
        self._ended.clear()
        try:
            self._instance = self._create()
            self._instance.launch(Mailbox(f"stage {self._stage}"), self)
        except Exception as error:
            fields = {"event": "stage_not_made", "stage": self._stage, "error": shown(error)}
            _log.error("stage %s cannot be made: %s", self._stage, shown(error), exc_info=error, extra=fields)
            self._lose(StageFailure.RAISED, shown(error))
            return
        self._go(StageState.STARTING, self._patience)

    def _lose(self, reason: StageFailure, error: str) -> None:
        """The instance is no more."""
        batch, self._batch, self._instance = self._batch, None, None
        self._go(StageState.DOWN)
        self._breaker.failed()
        if batch is not None:
            self._conclude(batch.failed(reason, error))
        else:
            self._tell({reason: 0}, error)

    def _give_up(self, reason: StageFailure) -> None:
        """Let on all that waits for the stage, what it is at included, and wait for it no more until it is done."""
        assert self._waits(), f"stage {self._stage} is {self._at}: nothing waits for it"
        self._go(StageState.LATE, START_TIMEOUT_S if self._at is StageState.STARTING else self._policy.timeout_s)
        batch, self._batch = self._batch, None
        if batch is not None:
            self._conclude(batch.failed(reason))
        self._release(reason)

    # what waits -----------------------------------------------------------------------------------------------------

    def _continue(self) -> None:
        """Give the stage its next batch, if it can have one, or do without it; after all that changes something."""
        if self._waits() or not self._waiting:
            return
        usable = self._breaker.state is not BreakerState.OPEN
        if usable and self._at is StageState.DOWN:
            self._launch()
        if self._waits():
            return
        if usable and self._at is StageState.IDLE:
            assert self._instance is not None
            self._batch = self._take(BATCH_EVENTS)
            self._go(StageState.BUSY, self._policy.timeout_s)
            self._instance.actor_ref.tell(StageWork(self.actor_ref, self._batch))
        else:
            self._release(StageFailure.BYPASSED)

    def _waits(self) -> bool:
        return self._at is StageState.STARTING or self._at is StageState.BUSY

    def _take(self, count: int) -> StageBatch:
        waiting = self._waiting
        sources = [waiting.popleft() for _ in range(min(count, len(waiting)))]
        self._waiting_bytes -= sum(len(publish.data) for _, publish in sources)
        return self._batch_of(sources)

    def _batch_of(self, sources: list[Source]) -> StageBatch:
        first, self._next_number = self._next_number, self._next_number + len(sources)
        return StageBatch(self._stage, sources, first, self._policy.drop)

    def _release(self, reason: StageFailure) -> None:
        if self._waiting:
            self._conclude(self._take(len(self._waiting)).failed(reason))

    def _conclude(self, outcome: Outcome) -> None:
        if outcome.faults:
            self._tell(outcome.faults, outcome.error)
            dropped = self._meter.dropped
            if outcome.dropped:
                dropped["stage"] = dropped.get("stage", 0) + outcome.dropped
        self._forward(outcome.passed, outcome.refused)

    # what people are told -------------------------------------------------------------------------------------------

    def _tell(self, faults: dict[StageFailure, int], error: str) -> None:
        now, counted = self._clock(), self._meter.stage_failures
        for reason, times in faults.items():
            label = f"{self._stage}:{reason}"
            counted[label] = counted.get(label, 0) + times
            told = self._told.get(reason)
            if told is None or now - told >= LOG_INTERVAL_S:
                self._told[reason] = now
                what = "dropped" if self._policy.drop else "left as they are"
                fields = {"event": "stage_fails", "stage": self._stage, "reason": reason.value, "error": error}
                _log.warning("stage %s: events %s (%s) %s", self._stage, what, reason, error, extra=fields)

    def _note_breaker(self, old: BreakerState, new: BreakerState) -> None:
        self._note_bypass()
        fields = {"event": "stage_breaker", "stage": self._stage, "from": old.value, "state": new.value}
        _log.warning("stage %s: breaker %s, was %s", self._stage, new, old, extra=fields)

    def _note_bypass(self) -> None:
        bypassed = self._breaker.state is not BreakerState.CLOSED or len(self._hung) >= HUNG_THREADS
        self._meter.stages_bypassed[self._stage] = int(bypassed)
