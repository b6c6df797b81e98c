"""The process that publishes: ``python -m engine.loadtest.publisher_process``, told by its stdin what to do.

An open loop: each message has its time and is stamped with it, whatever happened to those before. What is late because
the other side takes nothing is the other side's doing, what is late besides is ours; they are counted apart.
"""

from __future__ import annotations

import asyncio
import selectors
import signal
import time
from typing import Final

from engine.loadtest.commands import Command, Done, Publish, Published, PublisherSecond, Publishing, Told
from engine.loadtest.latency import Latency
from engine.loadtest.pipe_end import PipeEnd
from engine.loadtest.pulse import Pulse
from engine.loadtest.schedule import Schedule
from engine.loadtest.sink import RedisSink, Sink, WebSocketSink

BATCH: Final = 256
"""Messages of one write: between two writes it is seen whether the other side takes more."""


def stamped(due: int, sequence: int, length: int) -> bytes:
    """Data of a message that was due at ``due`` (µs), filled up to ``length`` bytes."""
    stamp = b'{"t":%d,"s":%d,"x":"' % (due, sequence)
    return b'%b%b"}' % (stamp, b"x" * (length - len(stamp) - 2))


class PublisherProcess:
    """Does what the coordinator says, and tells each second how it goes."""

    def __init__(self) -> None:
        self._pipe = PipeEnd()
        self._sink: Sink | None = None
        self._payload = 0
        self._next = 0  # sequence
        self._told = self._answered = 0
        self._behind, self._behind_now = Latency(), Latency()  # of the run, and of the second
        self._blocked = self._blocked_now = 0.0  # s

    async def run(self) -> None:
        """Until the coordinator has enough, or is gone."""
        pulse = Pulse(lambda: None, lambda: self._second(pulse))
        try:
            await self._pipe.serve(self._answer)
        finally:
            pulse.stop()
            if self._sink is not None:
                await self._sink.close()

    async def _answer(self, command: Command) -> Told:
        match command:
            case Publishing():
                self._payload = command.payload_bytes
                sink: Sink = (
                    WebSocketSink(command.target, command.connect_timeout)
                    if command.redis_url is None
                    else RedisSink(command.redis_url, command.channel, command.connect_timeout)
                )
                await sink.open()
                self._sink = sink
                return Done()
            case Publish():
                assert self._sink is not None, "the first command is Publishing"
                return await self._publish(self._sink, command.rate, command.count)
            case _:
                raise AssertionError(f"{command!r} is not for the publisher")

    async def _publish(self, sink: Sink, rate: float, count: int) -> Published:
        self._behind.clear()
        self._blocked = 0.0
        first, start = self._next, _now()
        schedule = Schedule(start, rate)
        end = schedule.due(count)
        done, freed = 0, start
        while done < count:
            if not sink.writable.is_set():
                await self._wait(sink, end)
                freed = _now()
                if not sink.writable.is_set():
                    break  # blocked until the end: what was due since then is not published
            now = _now()
            ready = min(schedule.ready(now), count, done + BATCH)
            if ready == done:
                await asyncio.sleep((schedule.due(done) - now) / 1e6)
                continue
            due = [schedule.due(n) for n in range(done, ready)]
            sink.send(self._next, [stamped(at, self._next + n, self._payload) for n, at in enumerate(due)])
            for at in due:
                if at >= freed:
                    self._behind.record(now - at)
                    self._behind_now.record(now - at)
            done, self._next = ready, self._next + len(due)
            if len(due) == BATCH:
                await asyncio.sleep(0)  # answers are read, also while we are behind
        await asyncio.sleep(max(0, end - _now()) / 1e6)
        return Published(
            first=first,
            count=done,
            began=start / 1e6,
            seconds=(_now() - start) / 1e6,
            behind=self._behind.encode(),
            blocked=self._blocked,
        )

    async def _wait(self, sink: Sink, end: int) -> None:
        """Until the other side takes something, but not beyond ``end``."""
        began = _now()
        try:
            async with asyncio.timeout(max(0, end - began) / 1e6):
                await sink.writable.wait()
        except TimeoutError:
            pass
        seconds = (_now() - began) / 1e6
        self._blocked += seconds
        self._blocked_now += seconds

    def _second(self, pulse: Pulse) -> None:
        cpu, lag_ms = pulse.lap()
        sink = self._sink
        if sink is None:
            return
        self._pipe.tell(
            PublisherSecond(
                t=time.monotonic(),
                published=self._next - self._told,
                answered=sink.answered - self._answered,
                errors=dict(sink.errors),
                behind=self._behind_now.encode(),
                blocked=self._blocked_now,
                cpu=cpu,
                lag_ms=lag_ms,
            )
        )
        self._told, self._answered, self._blocked_now = self._next, sink.answered, 0.0
        sink.errors.clear()
        self._behind_now.clear()


def _now() -> int:
    return time.monotonic_ns() // 1_000


def precise_loop() -> asyncio.AbstractEventLoop:
    """Whose timers are exact to some 60 µs: epoll's, and so uvloop's, are to a millisecond, all of it latency."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def main() -> None:
    """The process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of Ctrl-C the coordinator knows, too
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        runner.run(PublisherProcess().run())


if __name__ == "__main__":
    main()
