"""A restart of the workers while their clients are served: each client is sent away once, and nobody is refused.

All successors start first, each on the socket of the worker that it follows (:mod:`engine.handover`). When all are
ready the old ones stop accepting, and only then the first client is told to go: wherever it comes back, a new worker
takes it. The old ones then drain one after the other.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Sequence
from typing import Any, NamedTuple

from engine.control import ControlServer
from engine.log import get_logger
from engine.process_supervisor import ProcessSupervisor
from transport.errors import HeliographError


class RestartState(enum.StrEnum):
    """Where a restart stands."""

    STARTING = "starting"  # the successors; the old ones serve everybody
    DRAINING = "draining"
    DONE = "done"
    FAILED = "failed"  # the old ones go on


NO_RESTART: dict[str, Any] = {"state": "none", "workers": 0, "gone": 0, "reason": None}
"""What :meth:`RollingRestart.shown` would say before the first one."""


class Replacement(NamedTuple):
    """A worker and its successor, by name."""

    old: str
    new: str


class RollingRestart:
    """One restart; it begins with :meth:`start`, on the running loop."""

    def __init__(
        self, supervisor: ProcessSupervisor, control: ControlServer, replacements: Sequence[Replacement]
    ) -> None:
        self._supervisor, self._control, self._replacements = supervisor, control, replacements
        self._state, self._gone, self._reason = RestartState.STARTING, 0, ""
        self._task: asyncio.Task[None] | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self._state in (RestartState.DONE, RestartState.FAILED)

    def shown(self) -> dict[str, Any]:
        """``{"state", "workers", "gone", "reason"}``: of ``workers`` old ones so many have gone."""
        return {
            "state": self._state,
            "workers": len(self._replacements),
            "gone": self._gone,
            "reason": self._reason or None,
        }

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name="rolling restart")

    async def stop(self) -> None:
        """Go no further: what runs is left to whoever stops the supervisor."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        log, old = get_logger(), [pair.old for pair in self._replacements]
        log.info("restart_begins", workers=len(old))
        try:
            await self._supervisor.attempt([pair.new for pair in self._replacements])
        except HeliographError as error:
            self._state, self._reason = RestartState.FAILED, str(error)
            log.error("restart_failed", error=self._reason)
            return
        self._state = RestartState.DRAINING
        for name in old:
            self._supervisor.abandon(name)  # one that dies now must not come back and take clients
        left = await asyncio.gather(*(self._control.ask(name, "leave", None) for name in old), return_exceptions=True)
        for name, answer in zip(old, left, strict=True):
            if isinstance(answer, BaseException):  # it hangs or is dead: its clients find the successors all the same
                log.warning("worker_does_not_leave", name=name, error=str(answer))
        for name in old:
            await self._supervisor.retire(name)
            self._gone += 1
        self._state = RestartState.DONE
        log.info("restart_done", workers=len(old))
