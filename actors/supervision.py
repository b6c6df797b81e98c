"""Who is stopped and started after a child has ended: Erlang/OTP's supervision, as data and without a clock.

The same policy serves actors (:mod:`actors.supervisor`) and operating system processes. It only decides; the caller
stops and starts, and reports each exit that it did not cause itself.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from transport.errors import ConfigError

DEFAULT_INTENSITY: Final = 10
"""Restarts of one child within :data:`DEFAULT_PERIOD_S` that are still taken for bad luck."""

DEFAULT_PERIOD_S: Final = 60.0


class Restart(enum.StrEnum):
    """When a child that ended by itself is started again."""

    PERMANENT = "permanent"
    """Always."""
    TRANSIENT = "transient"
    """When it failed, not when it finished."""
    TEMPORARY = "temporary"
    """Never, not even when it was stopped for a sibling's sake."""


class Strategy(enum.StrEnum):
    """Who is restarted with the child that ended."""

    ONE_FOR_ONE = "one_for_one"
    ONE_FOR_ALL = "one_for_all"
    REST_FOR_ONE = "rest_for_one"
    """It and those that were started after it."""


class ChildPolicy(NamedTuple):
    """What the policy knows of a child.

    More than ``intensity`` (0: none is allowed) restarts for its own exits within any ``period`` seconds escalate.
    """

    name: str
    restart: Restart = Restart.PERMANENT
    intensity: int = DEFAULT_INTENSITY
    period: float = DEFAULT_PERIOD_S


class Decision(NamedTuple):
    """What to do now, in this order. All empty: nothing, the child that ended stays down for good.

    ``stop``: names of running children, in reverse order of start; those not in ``start`` stay down for good.
    ``start``: names, in order of start. ``escalate``: why the supervisor itself must give up; then the rest is empty.
    """

    stop: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    escalate: str | None = None


class RestartPolicy:
    """The restarts of one supervisor's children.

    Args:
        strategy: who is restarted with a child.
        children: in order of start; all are taken to run.

    Raises:
        ConfigError: a name twice, a negative intensity or a period that is not positive.
    """

    def __init__(self, strategy: Strategy, children: Sequence[ChildPolicy]) -> None:
        self.strategy = Strategy(strategy)
        self._children = {child.name: child for child in children}
        if len(self._children) != len(children):
            names = [child.name for child in children]
            twice = next(name for name in names if names.count(name) > 1)
            raise ConfigError(f"two children are called {twice}", field="children")
        for child in children:
            if child.intensity < 0:
                raise ConfigError(f"must not be negative, is {child.intensity}", field=f"{child.name}.intensity")
            if child.period <= 0:
                raise ConfigError(f"must be positive, is {child.period}", field=f"{child.name}.period")
        self._alive = dict.fromkeys(self._children)  # a set in order of start
        self._restarted: dict[str, deque[float]] = {name: deque() for name in self._children}

    @property
    def alive(self) -> tuple[str, ...]:
        """Names of the children that run, or that the last decision starts, in order of start."""
        return tuple(self._alive)

    def exited(self, name: str, *, abnormal: bool, now: float) -> Decision:
        """A child ended by itself.

        Args:
            name: of the child.
            abnormal: it failed, rather than finished.
            now: seconds on a clock that never goes back.

        Raises:
            KeyError: no child of that name.
        """
        child = self._children[name]
        if name not in self._alive:  # it stays down already
            return Decision()
        if child.restart is Restart.TEMPORARY or (child.restart is Restart.TRANSIENT and not abnormal):
            del self._alive[name]
            return Decision()
        restarted = self._restarted[name]
        while restarted and restarted[0] <= now - child.period:
            restarted.popleft()
        if len(restarted) >= child.intensity:
            return Decision(escalate=f"{name} needs more than {child.intensity} restarts within {child.period:g} s")
        restarted.append(now)

        affected = self._affected(name)
        stop = tuple(reversed([other for other in affected if other != name]))
        for other in stop:
            if self._children[other].restart is Restart.TEMPORARY:
                del self._alive[other]
        return Decision(stop, tuple(other for other in affected if other in self._alive))

    def _affected(self, name: str) -> list[str]:
        """``name`` and the running children that share its fate, in order of start."""
        alive = list(self._alive)
        match self.strategy:
            case Strategy.ONE_FOR_ONE:
                return [name]
            case Strategy.ONE_FOR_ALL:
                return alive
            case Strategy.REST_FOR_ONE:
                return alive[alive.index(name) :]
