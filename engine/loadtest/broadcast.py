"""Publishing on a schedule that nothing slows down, by a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from engine.loadtest.commands import Done, Publish, Published, PublisherSecond, Publishing, Second
from engine.loadtest.connections import ANSWER_S
from engine.loadtest.processes import ChildProcess
from engine.loadtest.scenario import Scenario
from engine.loadtest.target import Target

MODULE: Final = "engine.loadtest.publisher_process"


class MessageBroadcastTester:
    """Publishes what every client is to get, to the target or to a Redis that it reads.

    Data is ``{"t":…,"s":…,"x":"…"}``: when the message was due, in µs of CLOCK_MONOTONIC, and its sequence, which goes
    on from one run to the next. On the loop that it is used on.

    Args:
        scenario: how fast, how long a message is, and which way it goes.
        on_second: gets the process's figures once a second.
        on_death: gets why the process has ended, if nobody asked it to.

    Attributes:
        published: messages given to the socket by the runs that are over: sequences below it.

    Raises:
        ChildDied: by all methods, when the process has ended or does not answer.
    """

    def __init__(
        self,
        target: Target,
        scenario: Scenario,
        *,
        on_second: Callable[[PublisherSecond], None],
        on_death: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._target, self._scenario = target, scenario
        self._child = ChildProcess("publisher", MODULE, partial(_only_publisher, on_second), on_death)
        self.published = 0

    @property
    def pid(self) -> int:
        """Of the process, once it is started."""
        return self._child.pid

    async def start(self) -> None:
        """Start the process, and connect it.

        Raises:
            ConfigError: there is no connection to be had.
        """
        publish, scenario = self._scenario.publish, self._scenario
        await self._child.start()
        await self._child.ask(
            Publishing(
                target=self._target,
                payload_bytes=scenario.payload_bytes,
                connect_timeout=scenario.connect_timeout,
                redis_url=publish.redis_url if publish.via == "redis" else None,
                channel=publish.channel or scenario.topic,
            ),
            Done,
            ANSWER_S + scenario.connect_timeout,
        )

    async def run(self, seconds: float) -> Published:
        """Publish for so long, and return then; what the other side does not take in this time is not published."""
        rate = self._scenario.rate
        order = Publish(rate=rate, count=round(rate * seconds))
        published = await self._child.ask(order, Published, ANSWER_S + seconds)
        self.published = published.first + published.count
        return published

    async def stop(self) -> None:
        """End the process; at any time, more than once."""
        await self._child.stop()


def _only_publisher(on_second: Callable[[PublisherSecond], None], told: Second | PublisherSecond) -> None:
    if isinstance(told, PublisherSecond):
        on_second(told)
