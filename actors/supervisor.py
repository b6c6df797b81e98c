"""A supervisor of actors: starts its children in order, restarts those that fail, stops them in reverse order.

It owns their mailboxes (in their specs), so that senders notice nothing of a restart. What it does about an exit is
decided by :class:`~actors.supervision.RestartPolicy`; this is the shell around it. Supervisors nest: one that gives up
fails, and its own supervisor decides.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import pykka

from actors.loop_actor import LoopActor
from actors.mailbox import DEFAULT_CAPACITY, Mailbox, MailboxStatistics, Overflow
from actors.mailbox_actor import Left, MailboxActor
from actors.ref import Ref
from actors.supervision import DEFAULT_INTENSITY, DEFAULT_PERIOD_S, ChildPolicy, Restart, RestartPolicy, Strategy
from transport.errors import ActorError

_log = logging.getLogger(__name__)

SHUTDOWN_TIMEOUT_S: Final = 5.0
"""How long a child may take to stop before it is killed."""

START_TIMEOUT_S: Final = 30.0
"""How long a child's ``on_start`` may take before it counts as failed."""


class TooManyRestarts(ActorError):
    """A supervisor has given up: what it fails with when it escalates."""


class ChildState(enum.StrEnum):
    """Where a child is; changed by ``_Child.enter`` alone."""

    WAITING = "waiting"
    """Not started yet, or between two incarnations: its mailbox keeps what comes."""
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    """For good."""


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """How to make, watch and stop one child. Owns its mailbox: ``spec.ref`` is valid before and across restarts.

    Args:
        name: unique under its supervisor.
        create: makes a new actor that is not started (``lambda: Router(config)``), on the supervisor's thread.
        restart: when it is started again.
        shutdown_timeout: seconds from the wish to stop until it is killed; ``None`` waits (for nested supervisors,
            whose children have deadlines of their own).
        start_timeout: seconds that its ``on_start`` may take.
        intensity: restarts allowed within ``period`` seconds before the supervisor gives up.
        capacity, overflow: of its mailbox.
    """

    name: str
    create: Callable[[], pykka.Actor]
    restart: Restart = Restart.PERMANENT
    shutdown_timeout: float | None = SHUTDOWN_TIMEOUT_S
    start_timeout: float = START_TIMEOUT_S
    intensity: int = DEFAULT_INTENSITY
    period: float = DEFAULT_PERIOD_S
    capacity: int = DEFAULT_CAPACITY
    overflow: Overflow = Overflow.DROP_NEWEST
    mailbox: Mailbox = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "mailbox", Mailbox(self.name, self.capacity, self.overflow))

    @property
    def ref(self) -> Ref:
        """Names the mailbox, not one incarnation."""
        return self.mailbox.ref

    @property
    def policy(self) -> ChildPolicy:
        """What decides over its restarts."""
        return ChildPolicy(self.name, self.restart, self.intensity, self.period)


class StopChildren(NamedTuple):
    """Ask: stop all children for good, in reverse order. The answer is a tuple of Left: who missed the deadline."""


class GetStatistics(NamedTuple):
    """Ask: a :class:`SupervisorStatistics`; answered once all children have started."""


class ChildExited(NamedTuple):
    """The supervisor to itself: a child ended without having been told to."""

    name: str
    incarnation: int
    error: BaseException | None


class ChildStatistics(NamedTuple):
    """One child at an instant. ``restarts`` count all that it has had, for whatever reason."""

    name: str
    state: ChildState
    restarts: int
    mailbox: MailboxStatistics


class SupervisorStatistics(NamedTuple):
    """A supervisor at an instant; children in order of start."""

    name: str
    strategy: Strategy
    children: tuple[ChildStatistics, ...]


class _Child:
    """One child's present incarnation, watched. Everything but the Watcher methods runs on the supervisor's loop."""

    def __init__(self, spec: ChildSpec, supervisor: Supervisor) -> None:
        self.spec = spec
        self.state = ChildState.WAITING
        self.actor: MailboxActor | None = None
        self.incarnation = 0
        self._supervisor = supervisor
        self._up = self._gone = asyncio.Event()

    def enter(self, state: ChildState) -> None:
        _log.debug("child %s of %s: %s", self.spec.name, self._supervisor.name, state)
        self.state = state

    async def start(self) -> None:
        """Starts a new incarnation and waits until it is up. A failure to start is reported as an exit."""
        self.incarnation += 1
        self._up, self._gone = asyncio.Event(), asyncio.Event()
        self.enter(ChildState.STARTING)
        try:
            actor = self.spec.create()
            if not isinstance(actor, MailboxActor):
                raise TypeError(f"child {self.spec.name} must be a LoopActor or a BlockingActor, not {type(actor)}")
            self.actor = actor
            actor.launch(self.spec.mailbox, self)
        except Exception as error:
            _log.error("child %s does not start: %r", self.spec.name, error, exc_info=error)
            self._note_exit(error)
            return
        if not await _happens(self._up, self.spec.start_timeout):
            left = actor.kill()
            _log.error("child %s did not start within %s s; killed: %s", self.spec.name, self.spec.start_timeout, left)
            self._note_exit(ActorError(f"{self.spec.name} did not start in time"))

    async def stop(self) -> Left | None:
        """Stops the present incarnation, if any; kills it at its deadline, and then says what was left behind."""
        if self.actor is None or not self._runs():
            return None
        self.enter(ChildState.STOPPING)
        self.actor.stop()
        left = None
        if not await _happens(self._gone, self.spec.shutdown_timeout):
            left = self.actor.kill()
            _log.warning("child %s did not stop within %s s; killed: %s", left.name, self.spec.shutdown_timeout, left)
        self.enter(ChildState.WAITING)
        return left

    def kill(self) -> Left | None:
        """Ends the present incarnation at once."""
        if self.actor is None or not self._runs():
            return None
        self.enter(ChildState.WAITING)
        return self.actor.kill()

    def retire(self) -> None:
        """No incarnation will follow: what is told to it are dead letters from here on."""
        self.enter(ChildState.STOPPED)
        if self.actor is not None:
            self.actor.retire()
        self.spec.mailbox.close()

    def statistics(self) -> ChildStatistics:
        restarts = max(0, self.incarnation - 1)
        return ChildStatistics(self.spec.name, self.state, restarts, self.spec.mailbox.statistics())

    # The Watcher protocol: on the child's own thread, which may outlive the loop.

    def started(self, actor: MailboxActor) -> None:
        with contextlib.suppress(RuntimeError):
            self._supervisor.loop.call_soon_threadsafe(self._started, actor)

    def exited(self, actor: MailboxActor, error: BaseException | None) -> None:
        with contextlib.suppress(RuntimeError):
            self._supervisor.loop.call_soon_threadsafe(self._exited, actor, error)

    # Back on the loop; by then the actor may have been killed and replaced.

    def _started(self, actor: MailboxActor) -> None:
        if actor is self.actor and self.state is ChildState.STARTING:
            self.enter(ChildState.RUNNING)
            self._up.set()

    def _exited(self, actor: MailboxActor, error: BaseException | None) -> None:
        if actor is self.actor:
            self._note_exit(error)

    def _note_exit(self, error: BaseException | None) -> None:
        self._up.set()
        self._gone.set()
        if self.state in (ChildState.STARTING, ChildState.RUNNING):
            self.enter(ChildState.WAITING)
            self._supervisor.mailbox.put_control(ChildExited(self.spec.name, self.incarnation, error))

    def _runs(self) -> bool:
        return self.state in (ChildState.STARTING, ChildState.RUNNING, ChildState.STOPPING)


class Supervisor(LoopActor):
    """See the module. ``Supervisor.start(children=[...])``, or the child of another one.

    Stop it by ``await ref.stop_async(timeout=...)``; it answers when all children have stopped.

    Args:
        children: in order of start. A spec serves one supervisor, over all of that one's incarnations.
        strategy: who is restarted with a child that ended.
        on_escalate: called with the reason when the restarts of a child exceed its intensity, after all children
            have stopped; the supervisor fails then.
        clock: seconds that never go back.

    Raises:
        ConfigError: a name twice, or a bad intensity or period.
    """

    def __init__(
        self,
        children: Sequence[ChildSpec],
        *,
        strategy: Strategy = Strategy.ONE_FOR_ONE,
        on_escalate: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._policy = RestartPolicy(strategy, [spec.policy for spec in children])
        self._children = {spec.name: _Child(spec, self) for spec in children}
        self._on_escalate = on_escalate
        self._clock = clock

    async def on_start(self) -> None:  # type: ignore[override]  # pykka's hooks are not coroutines
        for child in self._children.values():
            await child.start()

    async def on_child_exited(self, exited: ChildExited) -> None:
        child = self._children[exited.name]
        if exited.incarnation != child.incarnation or child.state is not ChildState.WAITING:
            return  # restarted or stopped meanwhile, for a sibling's sake
        decision = self._policy.exited(exited.name, abnormal=exited.error is not None, now=self._clock())
        if decision.escalate is not None:
            raise TooManyRestarts(decision.escalate) from exited.error
        if exited.name not in decision.start:
            child.retire()
            return
        anew = ", ".join(decision.start)
        fields = {"event": "actor_restarted", "actor": exited.name, "restarts": anew, "error": repr(exited.error)}
        _log.warning("%s restarts %s: %s ended (%r)", self, anew, exited.name, exited.error, extra=fields)
        for name in decision.stop:
            await self._children[name].stop()
            if name not in decision.start:
                self._children[name].retire()
        for name in decision.start:
            await self._children[name].start()

    async def on_stop_children(self, _: StopChildren) -> tuple[Left, ...]:
        left = await self._stop_all()
        self._retire_children()
        return left

    def on_get_statistics(self, _: GetStatistics) -> SupervisorStatistics:
        return self.statistics()

    def statistics(self) -> SupervisorStatistics:
        """A snapshot, on the supervisor's thread; elsewhere ask :class:`GetStatistics`."""
        children = tuple(child.statistics() for child in self._children.values())
        return SupervisorStatistics(self.name, self._policy.strategy, children)

    async def on_stop(self) -> None:  # type: ignore[override]
        await self._stop_all()

    async def on_failure(  # type: ignore[override]
        self, exception_type: Any, exception_value: Any, traceback: Any
    ) -> None:
        await self._stop_all()
        if isinstance(exception_value, TooManyRestarts) and self._on_escalate is not None:
            self._on_escalate(str(exception_value))

    def kill(self) -> Left:
        """Its children first, so that none is left without an owner."""
        left = [child.kill() for child in reversed(self._children.values())]
        name, depth, running = super().kill()
        return Left(name, depth, running + tuple(f"{one.name}: {one.running}" for one in left if one and one.running))

    def retire(self) -> None:
        """Its children's mailboxes close with its own."""
        super().retire()
        self._retire_children()

    async def _stop_all(self) -> tuple[Left, ...]:
        left = [await child.stop() for child in reversed(self._children.values())]
        return tuple(one for one in left if one is not None)

    def _retire_children(self) -> None:
        for child in self._children.values():
            child.retire()


async def _happens(event: asyncio.Event, within_s: float | None) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await event.wait()
    return event.is_set()
