"""A process of the load client: ``python -m engine.loadtest.client_process``, told by its stdin what to do."""

from __future__ import annotations

import asyncio
import gc
import signal
import time

import uvloop

from engine.loadtest.commands import (
    Collect,
    Collected,
    Command,
    CutOff,
    Done,
    Drain,
    Load,
    Mark,
    RampUp,
    Second,
    Told,
)
from engine.loadtest.crowd import Crowd
from engine.loadtest.pipe_end import PipeEnd
from engine.loadtest.pulse import BEAT, Pulse


class ClientProcess:
    """Does what the coordinator says, and tells each second how it goes."""

    def __init__(self) -> None:
        self._pipe = PipeEnd()
        self._crowd: Crowd | None = None
        self._number = 0
        self._pings, self._pings_due = 0.0, 0.0  # per beat

    async def run(self) -> None:
        """Until the coordinator has enough, or is gone."""
        self._pulse = pulse = Pulse(self._beat, self._second)
        try:
            await self._pipe.serve(self._answer)
        finally:
            pulse.stop()
            if self._crowd is not None:
                await self._crowd.leave()

    async def _answer(self, command: Command) -> Told:
        if isinstance(command, Load):
            self._number, self._pings = command.number, command.pings * BEAT
            crowd = Crowd(command.target, command.connect_timeout)
            await crowd.find()
            self._crowd = crowd
            return Done()
        crowd = self._loaded()
        match command:
            case RampUp():
                ramped = await crowd.ramp_up(command.first, command.connections, command.batch)
                gc.collect()
                gc.freeze()  # what the connections are made of stays: it need not be looked through again and again
                return ramped
            case Mark():
                crowd.settle()
                crowd.ledger.mark(command.phase, command.first, time.monotonic_ns(), command.afresh)
                return Done()
            case CutOff():
                return Done(count=crowd.cut(command.connections))
            case Drain():
                return Done(count=await crowd.drain(command.last, command.seconds))
            case Collect():
                self._second()  # who has come back since the last one
                return Collected(phases=crowd.figures(command.last), gaps=dict(crowd.gaps), losses=dict(crowd.losses))
            case _:
                raise AssertionError(f"{command!r} is not for clients")

    def _loaded(self) -> Crowd:
        assert self._crowd is not None, "the first command is Load"
        return self._crowd

    def _beat(self) -> None:
        if self._crowd is None:
            return
        self._crowd.settle()
        self._pings_due = min(self._pings_due + self._pings, 1.0 + self._pings)  # after a stall not all at once
        while self._pings_due >= 1.0:
            self._pings_due -= 1.0
            self._crowd.ping()

    def _second(self) -> None:
        crowd = self._crowd
        if crowd is None:
            return
        delivered, latency, answers = crowd.ledger.second()
        cpu, lag_ms = self._pulse.lap()
        self._pipe.tell(
            Second(
                process=self._number,
                t=time.monotonic(),
                open=crowd.open,
                delivered=delivered,
                latency=latency,
                answers=answers,
                recoveries=crowd.recoveries,
                lost=crowd.lost,
                cpu=cpu,
                lag_ms=lag_ms,
                gaps=crowd.gaps_told,
                problems=dict(crowd.problems),
            )
        )
        crowd.recoveries, crowd.lost, crowd.gaps_told = [], 0, 0
        crowd.problems.clear()


def main() -> None:
    """The process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of Ctrl-C the coordinator knows, too
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(ClientProcess().run())


if __name__ == "__main__":
    main()
