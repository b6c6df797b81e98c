"""Connections to the server under load, in processes of their own: opened, watched, cut, counted."""

from __future__ import annotations

import asyncio
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from engine.loadtest.commands import (
    Collect,
    Collected,
    CutOff,
    Done,
    Drain,
    Load,
    Mark,
    PhaseFigures,
    PublisherSecond,
    Ramped,
    RampUp,
    Second,
)
from engine.loadtest.latency import Latency
from engine.loadtest.processes import ChildProcess
from engine.loadtest.scenario import Scenario
from engine.loadtest.target import Target

MODULE: Final = "engine.loadtest.client_process"
DELIVERIES_PER_PROCESS: Final = 500_000
"""A second; takes 0.55 of a core where it was slow. Two processes for it would only be in the server's way."""
CONNECTIONS_PER_PROCESS: Final = 5_000
PINGS: Final = 20.0
"""A second, over all connections."""
ANSWER_S: Final = 30.0
"""For a process to do what takes no time."""
DRAIN_S: Final = 5.0
"""For the last messages to come."""


@dataclass
class Opened:
    """How opening went. ``times`` are from the begin of an attempt to the answer of its subscription."""

    attempted: int = 0
    opened: int = 0
    failed: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    times: Latency = field(default_factory=Latency)


@dataclass
class PhaseCounts:
    """What all clients together have of the messages published in a phase.

    Attributes:
        delivered: messages that came, over all connections, duplicates included.
        expected: what should have come; ``missing`` of it did not, at ``lacking`` connections, beginning with sequence
            ``first_missing``.
        out_of_order: came, but late.
        silence: seconds, the longest in which nothing came to any client of one process; ``silence_at``: when that
            began, of CLOCK_MONOTONIC.
        latency: from when a message was due to when it was read.
        answers: from a ping to its answer.
    """

    delivered: int = 0
    expected: int = 0
    missing: int = 0
    lacking: int = 0
    first_missing: int | None = None
    duplicates: int = 0
    out_of_order: int = 0
    silence: float = 0.0
    silence_at: float = 0.0
    latency: Latency = field(default_factory=Latency)
    answers: Latency = field(default_factory=Latency)

    def add(self, figures: PhaseFigures) -> None:
        """What another process has."""
        self.delivered += figures.delivered
        self.expected += figures.expected
        self.missing += figures.missing
        self.lacking += figures.lacking
        self.duplicates += figures.duplicates
        self.out_of_order += figures.out_of_order
        firsts = [first for first in (self.first_missing, figures.first_missing) if first is not None]
        self.first_missing = min(firsts, default=None)
        if figures.silence > self.silence:
            self.silence, self.silence_at = figures.silence, figures.silence_at
        self.latency.merge(Latency.decode(figures.latency))
        self.answers.merge(Latency.decode(figures.answers))


@dataclass
class Collection:
    """Everything that was counted. ``gaps``: messages that the server said it would not send, by its reason;
    ``losses``: connections that went unasked, by why."""

    phases: dict[str, PhaseCounts] = field(default_factory=dict)
    gaps: Counter[str] = field(default_factory=Counter)
    losses: Counter[str] = field(default_factory=Counter)


class WebSocketConnectionManager:
    """All clients of a load test. On the loop that it is used on; call its methods in the order in which they stand.

    Args:
        scenario: how many connections, in which batches, in how many processes.
        on_second: gets each process's figures once a second.
        on_death: gets why a process has ended that nobody asked to; the run is then worth nothing.

    Raises:
        ChildDied: by all methods, when a process has ended or does not answer.
    """

    def __init__(
        self,
        target: Target,
        scenario: Scenario,
        *,
        on_second: Callable[[Second], None],
        on_death: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._target, self._scenario = target, scenario
        on_told = partial(_only_clients, on_second)
        self._children = [
            ChildProcess(f"client-{n}", MODULE, on_told, on_death) for n in range(processes_for(scenario))
        ]

    @property
    def pids(self) -> dict[str, int]:
        """Of the processes, by name, once they are started."""
        return {child.name: child.pid for child in self._children}

    async def start(self) -> None:
        """Start the processes.

        Raises:
            ConfigError: the target cannot be used.
        """
        for child in self._children:
            await child.start()
        pings = PINGS / len(self._children)
        timeout = self._scenario.connect_timeout
        loads = [
            Load(target=self._target, number=n, connect_timeout=timeout, pings=pings)
            for n in range(len(self._children))
        ]
        await asyncio.gather(
            *(child.ask(load, Done, ANSWER_S) for child, load in zip(self._children, loads, strict=True))
        )

    async def ramp_up(self) -> Opened:
        """Open all connections, ``ramp_batch`` at a time over all processes.

        Raises:
            ConfigError: not so many open files are allowed.
        """
        shares = _shares(self._scenario.connections, len(self._children))
        batches = _shares(self._scenario.ramp_batch, len(self._children))
        orders, first = [], 0
        for share, batch in zip(shares, batches, strict=True):
            orders.append(RampUp(first=first, connections=share, batch=max(1, batch)))
            first += share
        within = [
            ANSWER_S + math.ceil(order.connections / order.batch) * self._scenario.connect_timeout for order in orders
        ]
        ramped = await asyncio.gather(
            *(
                child.ask(order, Ramped, seconds)
                for child, order, seconds in zip(self._children, orders, within, strict=True)
            )
        )
        found = Opened()
        for one in ramped:
            found.attempted += one.attempted
            found.opened += one.opened
            found.failed += one.failed
            found.reasons.update(one.reasons)
            found.seconds = max(found.seconds, one.seconds)
            found.times.merge(Latency.decode(one.times))
        return found

    async def mark(self, phase: str, first: int, *, afresh: bool = False) -> None:
        """A phase begins: sequences from ``first`` on, none of which is published yet, belong to it.

        Args:
            afresh: a silence that goes on is counted from now on, as it was wanted.
        """
        order = Mark(phase=phase, first=first, afresh=afresh)
        await asyncio.gather(*(child.ask(order, Done, ANSWER_S) for child in self._children))

    async def cut(self, connections: int) -> int:
        """Break so many, evenly over the processes; how many were. They come back by themselves."""
        shares = _shares(connections, len(self._children))
        done = await asyncio.gather(
            *(
                child.ask(CutOff(connections=share), Done, ANSWER_S)
                for child, share in zip(self._children, shares, strict=True)
            )
        )
        return sum(one.count for one in done)

    async def drain(self, last: int, seconds: float = DRAIN_S) -> int:
        """Wait until all have sequence ``last``; how many connections lack it after so many seconds."""
        order = Drain(last=last, seconds=seconds)
        done = await asyncio.gather(*(child.ask(order, Done, ANSWER_S + seconds) for child in self._children))
        return sum(one.count for one in done)

    async def collect(self, last: int) -> Collection:
        """What was counted; ``last`` is the last sequence that was published, -1 for none."""
        collected = await asyncio.gather(
            *(child.ask(Collect(last=last), Collected, ANSWER_S) for child in self._children)
        )
        found = Collection()
        for one in collected:
            found.gaps.update(one.gaps)
            found.losses.update(one.losses)
            for figures in one.phases:
                found.phases.setdefault(figures.phase, PhaseCounts()).add(figures)
        return found

    async def stop(self) -> None:
        """Close all connections and end the processes; at any time, more than once."""
        await asyncio.gather(*(child.stop() for child in self._children))


def processes_for(scenario: Scenario) -> int:
    """How many processes a scenario's clients need, at most a core each; or as many as it says."""
    if scenario.processes:
        return min(scenario.processes, scenario.connections)
    deliveries = scenario.rate * scenario.connections
    needed = max(
        math.ceil(deliveries / DELIVERIES_PER_PROCESS), math.ceil(scenario.connections / CONNECTIONS_PER_PROCESS)
    )
    return min(needed, os.cpu_count() or 1, scenario.connections)


def _shares(whole: int, parts: int) -> Sequence[int]:
    """``whole`` in equal parts, the first ones greater by one where it does not go."""
    each, left = divmod(whole, parts)
    return [each + (n < left) for n in range(parts)]


def _only_clients(on_second: Callable[[Second], None], told: Second | PublisherSecond) -> None:
    if isinstance(told, Second):
        on_second(told)
