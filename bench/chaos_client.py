"""The two kinds of clients of :mod:`bench.chaos`: who recovers, and who repeats until it is answered."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any, Self

from bench.chaos_log import Acknowledged, Ledger, Receiver
from bench.churn_client import Message, Socket

JITTER_S = 1.0  # full jitter before a return
AGAIN_S = 0.1  # until a request that was `unavailable` is repeated
ANSWER_S = 30.0  # longest wait for an answer, and for everything to be there at the end
LOOK_S = 0.05
UNANSWERED = 900  # publishes of one publisher; more wait


class _Connected:
    """A client that comes back whenever its connection ends: ``async with``.

    Attributes:
        jitter_s: within which it comes back.
        outage: the longest time in seconds from the loss of a connection until :meth:`_back`.
        connections: how many it has had. ``refused``: how many it has not got.
    """

    def __init__(self, host: str, port: int, faults: Callable[[str], None], rng: random.Random) -> None:
        self._host, self._port, self._fault, self._rng = host, port, faults, rng
        self.jitter_s = JITTER_S
        self._socket: Socket | None = None
        self._lost: float | None = None
        self.outage = 0.0
        self.connections = self.refused = 0

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(self._stay())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        self.leave()

    async def _stay(self) -> None:
        while True:
            try:
                async with asyncio.timeout(ANSWER_S):
                    self._socket = await Socket.connect(self._host, self._port, self._receive)
            except OSError:  # timeouts, too
                self.refused += 1
                await asyncio.sleep(self._rng.random() * AGAIN_S)
                continue
            self.connections += 1
            self._connected()
            await self._socket.closed
            if self._lost is None:
                self._lost = self._loop.time()
            await asyncio.sleep(self._rng.random() * self.jitter_s)

    def leave(self) -> None:
        """Cut the connection; it comes back."""
        if self._socket is not None:
            self._socket.leave(abort=True)

    def _send(self, **fields: Any) -> None:
        if self._socket is not None and not self._socket.closed.done():
            self._socket.send(**fields)

    def _back(self) -> None:
        if self._lost is not None:
            self.outage = max(self.outage, self._loop.time() - self._lost)
            self._lost = None

    def _connected(self) -> None:
        raise NotImplementedError

    def _receive(self, message: Message) -> None:
        raise NotImplementedError


class Watcher(_Connected):
    """Subscribes, recovers, tells its receiver everything.

    Attributes:
        byes: how often it was sent away.
    """

    def __init__(self, host: str, port: int, receiver: Receiver, heard: Callable[[], None], rng: random.Random) -> None:
        super().__init__(host, port, receiver.gap, rng)
        self.receiver, self._heard = receiver, heard
        self.byes = 0

    def _connected(self) -> None:
        since = self.receiver.since()
        self._send(op="subscribe", id=1, topics=self.receiver.patterns, **({} if since is None else {"since": since}))

    def _receive(self, message: Message) -> None:
        op = message.op
        if op == "event":
            assert message.data is not None
            self.receiver.event(message.topic, message.epoch, message.offset, message.data.n)
            self._heard()
        elif op == "position":
            self.receiver.position(message.position)
        elif op == "ok":
            epochs = {topic: place.epoch for topic, place in message.positions.items()}
            self.receiver.subscribed(epochs, message.position, message.recovered)
            self._back()
        elif op == "error" and message.code == "unavailable":
            self._loop.call_later(AGAIN_S, self._connected)
        elif op == "bye":
            self.byes += 1
        elif op != "welcome":
            self._fault(f"{message}")


class Publisher(_Connected):
    """Publishes at a rate, each event with a key of its own, and again until it is acknowledged.

    Args:
        numbers: of its events, unlike those of any other publisher.
        ledger: of what was acknowledged.

    Attributes:
        unanswered: topics by number. ``sent``: events. ``repeats``: how often one was sent again.
    """

    def __init__(
        self, host: str, port: int, ledger: Ledger, topics: Sequence[str], rate: float, numbers: int, name: str
    ) -> None:
        super().__init__(host, port, ledger.faults.add, random.Random(numbers))
        self._ledger, self._topics, self._rate, self._first, self._name = ledger, topics, rate, numbers, name
        self.unanswered: dict[int, str] = {}
        self._stopped = False
        self._may = asyncio.Event()
        self._may.set()
        self.sent = self.repeats = 0

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._publishing = asyncio.create_task(self._publish())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._publishing.cancel()
        await asyncio.wait([self._publishing])
        await super().__aexit__()

    def pause(self) -> None:
        """Nothing new for now."""
        self._may.clear()

    def go_on(self) -> None:
        """The opposite."""
        self._may.set()

    async def stop(self) -> None:
        """No more; returns when everything is acknowledged."""
        self._stopped = True
        await self._publishing
        deadline = self._loop.time() + ANSWER_S
        while self.unanswered and self._loop.time() < deadline:
            await asyncio.sleep(LOOK_S)
        for number in self.unanswered:
            self._fault(f"publish {number} was never answered")

    async def _publish(self) -> None:
        due = self._loop.time()
        while not self._stopped:
            due += 1 / self._rate
            if (delay := due - self._loop.time()) > 0:
                await asyncio.sleep(delay)
            while len(self.unanswered) >= UNANSWERED:
                await asyncio.sleep(LOOK_S)
            if not self._may.is_set():
                await self._may.wait()
                due = self._loop.time()
            number = self._first + self.sent
            self.unanswered[number] = self._topics[number % len(self._topics)]
            self.sent += 1
            self._say(number)

    def _say(self, number: int) -> None:
        topic = self.unanswered[number]
        key = f"{self._name}-{number}"
        self._send(op="publish", id=number, topic=topic, data={"n": number}, idempotency_key=key)

    def _again(self, number: int) -> None:
        if number in self.unanswered:
            self.repeats += 1
            self._say(number)

    def _connected(self) -> None:
        for number in self.unanswered:
            self.repeats += 1
            self._say(number)

    def _receive(self, message: Message) -> None:
        if message.op == "ok":
            assert message.id is not None
            topic = self.unanswered.pop(message.id, None)
            if topic is not None:
                self._ledger.see("publisher", topic, message.epoch, message.offset, message.id)
            self._back()
        elif message.op == "error":
            assert message.id is not None
            if message.code == "unavailable":
                self._loop.call_later(AGAIN_S, self._again, message.id)
            else:
                self._fault(f"publisher: {message}")
        elif message.op not in ("welcome", "bye"):
            self._fault(f"publisher: {message}")


class Crowd:
    """Many watchers in this process: ``async with``.

    Attributes:
        silence: the longest time in seconds in which nobody got anything, between two events.
    """

    def __init__(self, host: str, port: int, receivers: Sequence[Receiver]) -> None:
        self.watchers = [
            Watcher(host, port, receiver, self._hear, random.Random(n)) for n, receiver in enumerate(receivers)
        ]
        self.receivers = receivers
        self.events = 0
        self.silence = 0.0
        self._heard: float | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        for watcher in self.watchers:
            await watcher.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        for watcher in self.watchers:
            await watcher.__aexit__()

    def _hear(self) -> None:
        now = self._loop.time()
        if self._heard is not None and now - self._heard > self.silence:
            self.silence = now - self._heard
        self._heard = now
        self.events += 1

    async def ready(self) -> None:
        """Until all have subscribed."""
        async with asyncio.timeout(ANSWER_S):
            while not all(receiver.begun for receiver in self.receivers):
                await asyncio.sleep(LOOK_S)

    async def complete(self, ledger: Ledger, acknowledged: Acknowledged) -> None:
        """Until all have everything; or say who lacks what. ``ledger``: what these here have seen."""
        ends = acknowledged.ends()
        deadline = self._loop.time() + ANSWER_S
        while any(receiver.lacks(ends) for receiver in self.receivers) and self._loop.time() < deadline:
            await asyncio.sleep(LOOK_S)
        for receiver in self.receivers:
            for topic in receiver.lacks(ends):
                ledger.faults.add(f"{receiver.name}: {topic} ends with {receiver.at[topic]}, not {ends[topic]}")
        ledger.agree(acknowledged)
