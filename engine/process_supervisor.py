"""Starts the engine's processes, restarts those that die or fall silent, and stops them in order.

Supervision is :mod:`actors.supervision`'s, as for actors, one_for_one: a worker that dies concerns no other.
Children of the same role that follow each other start and stop together; roles start in order and stop in reverse. One
task a child goes through its lives; the only other thing is a child's alarm, the time at which it is killed unless it
is heard before.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import secrets
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from types import MappingProxyType
from typing import Any

from actors.backoff import Backoff, BackoffPolicy
from actors.supervision import ChildPolicy, RestartPolicy, Strategy
from engine.forkserver import EXIT_CONFIG, Forked, ForkServer
from transport.errors import ConfigError, HeliographError

READY_TIMEOUT = 30.0  # s from the fork to a child's `ready`
HEARTBEAT_TIMEOUT = 5.0
SHUTDOWN_TIMEOUT = 5.0


class ProcessState(enum.StrEnum):
    """Where a child stands."""

    STOPPED = "stopped"  # not yet started, or for good
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    STOPPING = "stopping"


@dataclass(frozen=True, kw_only=True)
class ChildProcess:
    """How to run a child.

    Attributes:
        role: ``engine.<role>:main`` is what it runs; see :mod:`engine.forkserver`.
        name: unique; also its name on the bus.
        argument: given to ``main``, as it is then and with a fresh ``incarnation``, for each of its lives.
        shutdown: seconds from SIGTERM to SIGKILL.
        wanted: whether :meth:`ProcessSupervisor.start` starts it; else :meth:`ProcessSupervisor.attempt` may, later.
        backoff: of one that runs the code of an application: however often it dies, it is restarted after a pause, and
            the others go on; at the start nobody waits for it once it has died.
    """

    role: str
    name: str
    argument: dict[str, Any]
    shutdown: float = SHUTDOWN_TIMEOUT
    wanted: bool = True
    backoff: BackoffPolicy | None = None


@dataclass(kw_only=True)
class Process:
    """A child as it is now; only its supervisor writes.

    Attributes:
        wanted: whether it should run; what is not is not restarted.
        on_trial: it was started by an attempt and has not been ready yet.
        reason: why it is not ready, empty where there is nothing to say.
        info: what it said with `ready`.
        restarts: since the supervisor started.
    """

    spec: ChildProcess
    wanted: bool
    on_trial: bool = False
    state: ProcessState = ProcessState.STOPPED
    reason: str = ""
    pid: int | None = None
    incarnation: str = ""
    restarts: int = 0
    info: dict[str, Any] = field(default_factory=dict)
    is_settled: asyncio.Event = field(default_factory=asyncio.Event)  # nobody has to wait for it
    killed: str = ""  # why we killed it, in this life
    alarm: asyncio.TimerHandle | None = None


class ProcessSupervisor:
    """Owner of processes; all on one loop. Whoever hears from the children calls :meth:`ready` and :meth:`heard`.

    Args:
        children: in order of start.
        forkserver: forks them; belongs to the caller.
        on_change: called after each change of a child's state.
        on_escalate: called once, with the reason, when it gives up; the caller then stops it.
        heartbeat_timeout: seconds of silence after which a child that was ready is killed.
        ready_timeout: seconds that a child has until it is ready.
    """

    def __init__(
        self,
        children: Sequence[ChildProcess],
        forkserver: ForkServer,
        *,
        on_change: Callable[[Process], None],
        on_escalate: Callable[[str], None],
        heartbeat_timeout: float = HEARTBEAT_TIMEOUT,
        ready_timeout: float = READY_TIMEOUT,
    ) -> None:
        self._policy = RestartPolicy(Strategy.ONE_FOR_ONE, [ChildPolicy(child.name) for child in children])
        self._processes = {child.name: Process(spec=child, wanted=child.wanted) for child in children}
        self._forkserver = forkserver
        self._on_change, self._on_escalate = on_change, on_escalate
        self._heartbeat_timeout, self._ready_timeout = heartbeat_timeout, ready_timeout
        self._loop = asyncio.get_running_loop()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._escalated: asyncio.Future[Exception] = self._loop.create_future()
        self._stopping = False
        self._stop_asked = asyncio.Event()

    @property
    def processes(self) -> Mapping[str, Process]:
        """The children by name, in order of start; live and read-only."""
        return MappingProxyType(self._processes)

    async def start(self) -> None:
        """Start all in order; returns when every one is ready.

        Raises:
            ConfigError: a child ended with the exit code that says so.
            HeliographError: a child needed too many restarts; :meth:`stop` must still be called.
        """
        for members in self._groups():
            group = [process for process in members if process.wanted]
            for process in group:
                self._begin(process)
            ready = asyncio.create_task(_all_ready(group), name="ready")
            try:
                await asyncio.wait((ready, self._escalated), return_when=asyncio.FIRST_COMPLETED)
            finally:
                ready.cancel()
            if self._escalated.done():
                raise self._escalated.result()

    async def attempt(self, names: Sequence[str]) -> None:
        """Start children that were not wanted before; returns when all are ready, and from then on keeps them running.

        Raises:
            HeliographError: one of them ended before it was ready; all of them are stopped again.
        """
        group = [self._processes[name] for name in names]
        for process in group:
            process.wanted, process.on_trial, process.reason = True, True, ""
            self._begin(process)
        tasks = {name: self._tasks[name] for name in names}
        ready = asyncio.create_task(_all_ready(group), name="ready")
        try:
            await asyncio.wait((ready, *tasks.values()), return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        why = [f"{process.spec.name}: {process.reason}" for process in group if tasks[process.spec.name].done()]
        if why:
            await asyncio.gather(*map(self.retire, names))
            raise HeliographError("; ".join(why))

    def abandon(self, name: str) -> None:
        """From now on a child is not restarted when it ends."""
        self._processes[name].wanted = False

    async def retire(self, name: str) -> None:
        """Stop one child for good, as :meth:`stop` does; cancelled, it is stopped all the same."""
        self.abandon(name)
        await self._stop(self._processes[name])

    async def wait_started(self) -> None:
        """Return when all children that are starting now, or their later lives, are ready."""
        await _all_ready([process for process in self._processes.values() if process.state is ProcessState.STARTING])

    async def stop(self) -> None:
        """Stop all in reverse order: SIGTERM, and after the child's ``shutdown`` SIGKILL. Nothing restarts any more."""
        self._stop_begins()
        for group in reversed(self._groups()):
            await asyncio.gather(*map(self._stop, group))

    def kill(self) -> None:
        """SIGKILL to all; a :meth:`stop` that waits for them returns at once."""
        self._stop_begins()
        for process in self._processes.values():
            self._kill(process, "stopped at once")

    def ready(self, name: str, incarnation: str, info: Mapping[str, Any]) -> None:
        """A child said that it is ready; an earlier life's word counts for nothing."""
        process = self._current(name, incarnation)
        if process is not None and process.state is ProcessState.STARTING:
            process.info = dict(info)
            process.pid = info.get("pid", process.pid)  # its word may be here before its forkserver's
            process.is_settled.set()
            process.on_trial = False
            self._expect(process, self._heartbeat_timeout, f"silent for {self._heartbeat_timeout:g} s")
            self._set(process, ProcessState.READY)

    def heard(self, name: str, incarnation: str) -> bool:
        """A child's heartbeat; whether it is the child's present life."""
        process = self._current(name, incarnation)
        if process is not None and process.state is ProcessState.READY:
            self._expect(process, self._heartbeat_timeout, f"silent for {self._heartbeat_timeout:g} s")
        return process is not None

    def _stop_begins(self) -> None:
        self._stopping = True
        self._stop_asked.set()

    def _groups(self) -> list[list[Process]]:
        return [list(group) for _, group in groupby(self._processes.values(), attrgetter("spec.role"))]

    def _current(self, name: str, incarnation: str) -> Process | None:
        process = self._processes.get(name)
        return process if process is not None and process.incarnation == incarnation else None

    def _begin(self, process: Process) -> None:
        name = process.spec.name
        self._tasks[name] = asyncio.create_task(self._keep(process), name=f"process {name}")

    async def _keep(self, process: Process) -> None:
        """One child, life after life."""
        name = process.spec.name
        backoff = None if process.spec.backoff is None else Backoff(process.spec.backoff)
        while True:
            began = self._loop.time()
            reason = await self._live(process)
            if self._stopping:
                reason = ""
                break
            if process.on_trial or not process.wanted:
                if process.state is ProcessState.STOPPING and not process.killed:
                    reason = ""
                process.wanted = process.on_trial = False
                break
            if self._escalated.done():
                break
            if backoff is not None:
                if await self._pause(process, reason, backoff.failed(self._loop.time() - began)):
                    continue
                reason = ""
                break
            decision = self._policy.exited(name, abnormal=True, now=self._loop.time())
            if decision.escalate is not None:
                self._escalate(HeliographError(f"{decision.escalate}; at last: {reason}"))
                break
            process.restarts += 1
            self._set(process, ProcessState.RESTARTING, reason)
        self._set(process, ProcessState.STOPPED, reason)

    async def _pause(self, process: Process, reason: str, seconds: float) -> bool:
        """Between two lives of a child that may die as often as it likes; whether there is another one."""
        process.restarts += 1
        process.is_settled.set()
        self._set(process, ProcessState.RESTARTING, reason)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop_asked.wait()
        return not self._stop_asked.is_set()

    async def _live(self, process: Process) -> str:
        """One life: from the fork to the exit; why it ended."""
        spec = process.spec
        process.incarnation, process.killed = secrets.token_hex(8), ""
        self._set(process, ProcessState.STARTING, process.reason)
        try:
            forked = await self._forkserver.spawn(
                spec.role, spec.name, {**spec.argument, "incarnation": process.incarnation}
            )
        except HeliographError as error:
            return str(error)
        return await self._watch(process, forked)

    async def _watch(self, process: Process, forked: Forked) -> str:
        process.pid = forked.pid
        if self._stopping or not process.wanted:
            self._kill(process, "stopping")
        elif process.state is ProcessState.STARTING:  # it may have been ready before we knew its pid
            self._expect(process, self._ready_timeout, f"not ready after {self._ready_timeout:g} s")
        try:
            code = await asyncio.shield(forked.exit)
        finally:
            process.pid = None
            process.is_settled.clear()
            if process.alarm is not None:
                process.alarm.cancel()
        first = process.spec.backoff is None or not process.restarts  # later it would not be the start that fails
        if code == EXIT_CONFIG and first and not self._stopping and not process.on_trial:
            self._escalate(ConfigError(f"{process.spec.name} refuses its configuration; its log says why"))
        return process.killed or _described(code)

    async def _stop(self, process: Process) -> None:
        task = self._tasks.get(process.spec.name)
        if task is None:
            return
        if process.pid is not None:
            if process.alarm is not None:
                process.alarm.cancel()
            self._set(process, ProcessState.STOPPING)
            self._signal(process, signal.SIGTERM)
            self._expect(process, process.spec.shutdown, f"not done {process.spec.shutdown:g} s after SIGTERM")
        await asyncio.shield(task)

    def _expect(self, process: Process, seconds: float, otherwise: str) -> None:
        """Kill it in ``seconds`` unless this is called again before; ``otherwise`` is then the reason."""
        if process.alarm is not None:
            process.alarm.cancel()
        process.alarm = self._loop.call_later(
            seconds, self._on_alarm, process, self._loop.time() + seconds, seconds, otherwise
        )

    def _on_alarm(self, process: Process, due: float, seconds: float, otherwise: str) -> None:
        if self._loop.time() > due + min(seconds / 2, 1.0):
            # It was us who did not listen (suspended, starved): what the child said may still wait in the socket.
            self._expect(process, seconds, otherwise)
        else:
            self._kill(process, otherwise)

    def _kill(self, process: Process, reason: str) -> None:
        process.killed = reason
        self._signal(process, signal.SIGKILL)

    def _signal(self, process: Process, number: signal.Signals) -> None:
        if process.pid is not None:
            try:
                os.kill(process.pid, number)
            except ProcessLookupError:
                pass  # its exit is on the way to us

    def _escalate(self, error: Exception) -> None:
        if not self._escalated.done():
            self._escalated.set_result(error)
            self._on_escalate(str(error))

    def _set(self, process: Process, state: ProcessState, reason: str = "") -> None:
        process.state, process.reason = state, reason
        self._on_change(process)


async def _all_ready(group: Sequence[Process]) -> None:
    for process in group:
        await process.is_settled.wait()


def _described(code: int) -> str:
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
