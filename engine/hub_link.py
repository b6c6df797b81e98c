"""Talking to the hub from the engine's own process: the daemon's admin API and the embedded engine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import zmq

from engine.config import Config
from engine.links import bus_client
from transport.codec import pack
from transport.codes import ErrorCode
from transport.errors import HeliographError, RequestError
from transport.messages import HistoryPage, Publish, Published, ReadHistory, Refused, Users, WhoIsPresent
from transport.position import Position

LINK_TIMEOUT = 10.0  # s for a hub to answer at start
PUBLISH_TIMEOUT = 5.0  # s for the hub to answer
IN_FLIGHT = 10_000  # publishes; one more is refused as unavailable


class HubLink:
    """A peer of the hub that publishes, asks, and waits for the answers. On one loop."""

    def __init__(self, config: Config, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, name: str) -> None:
        self._link = bus_client(config, context, endpoint, self, name)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._next_ref = 0

    def start(self) -> None:
        """Look for the hub."""
        self._link.start()

    def stop(self) -> None:
        """Leave; whoever waits for an answer is refused."""
        self._link.stop()

    @property
    def connected(self) -> bool:
        """Whether the hub is there."""
        return self._link.connected

    async def wait_connected(self) -> None:
        """Return when a hub has answered.

        Raises:
            HeliographError: none did within :data:`LINK_TIMEOUT`.
            ConnectionLost: the link was stopped.
        """
        try:
            async with asyncio.timeout(LINK_TIMEOUT):
                await self._link.writable()
        except TimeoutError:
            raise HeliographError(f"the hub did not answer within {LINK_TIMEOUT:g} s") from None

    async def publish(self, batch: list[Publish]) -> list[Position]:
        """Publish in order; the positions once the hub has accepted all; one without epoch waits on disk for its place.

        Raises:
            RequestError: ``unavailable`` without a hub or answer (some may have been accepted), or the hub's refusal.
        """
        return await self._ask(batch)

    async def users(self, topic: str) -> list[str]:
        """Who is present on ``topic``, sorted.

        Raises:
            RequestError: ``unavailable`` without a hub or answer, or the hub's refusal.
        """
        [users] = await self._ask([WhoIsPresent(0, topic)])
        return list(users)

    async def history(self, topic: str, limit: int, since: Position | None) -> HistoryPage:
        """Events that are kept of ``topic``; see :class:`transport.messages.ReadHistory`.

        Raises:
            RequestError: ``unavailable`` without a hub or answer, or the hub's refusal.
        """
        place = None if since is None else (since.epoch, since.offset)
        [page] = await self._ask([ReadHistory(0, topic, limit, place)])
        assert isinstance(page, HistoryPage), "what a hub answers to it"
        return page

    async def _ask(self, questions: Sequence[Publish | WhoIsPresent | ReadHistory]) -> list[Any]:
        if not self._link.connected or len(self._waiting) + len(questions) > IN_FLIGHT:
            raise RequestError(ErrorCode.UNAVAILABLE, "the hub is away or busy; repeat in a moment")
        loop = asyncio.get_running_loop()
        answers: dict[int, asyncio.Future[Any]] = {}
        for question in questions:
            self._next_ref += 1
            answers[self._next_ref] = loop.create_future()
            self._link.out.append(pack(question._replace(ref=self._next_ref)))
        self._waiting |= answers
        self._link.wake()
        try:
            async with asyncio.timeout(PUBLISH_TIMEOUT):
                await asyncio.wait(answers.values())
        except TimeoutError:
            raise RequestError(
                ErrorCode.UNAVAILABLE, f"no answer from the hub in {PUBLISH_TIMEOUT:g} s; the outcome is unknown"
            ) from None
        finally:
            for ref in answers:
                self._waiting.pop(ref, None)
        return [answer.result() for answer in answers.values()]

    # the link --------------------------------------------------------------------------------------------------------

    def on_server(self, incarnation: str) -> None:
        """A hub answers; there is nothing to tell it."""

    def on_batch(self, items: list[Any]) -> None:
        """Answers to publishes and questions."""
        for item in items:
            if type(item) is Published:
                for ref, epoch, offset in item.results:
                    self._answer(ref, Position(epoch, offset))
            elif type(item) is Users:
                self._answer(item.ref, item.users)
            elif type(item) is HistoryPage:
                self._answer(item.ref, item)
            elif type(item) is Refused:
                self._fail(item.ref, RequestError(item.code, item.message, item.field))

    def on_window(self, open: bool) -> None:
        """``IN_FLIGHT`` bounds what waits."""

    def on_lost(self, reason: str) -> None:
        """What was in flight has an unknown outcome."""
        for ref in tuple(self._waiting):
            self._fail(
                ref, RequestError(ErrorCode.UNAVAILABLE, f"the hub went away ({reason}); the outcome is unknown")
            )

    def _answer(self, ref: int, result: Any) -> None:
        answer = self._waiting.pop(ref, None)
        if answer is not None and not answer.done():
            answer.set_result(result)

    def _fail(self, ref: int, error: RequestError) -> None:
        answer = self._waiting.pop(ref, None)
        if answer is not None and not answer.done():
            answer.set_exception(error)
            answer.exception()  # retrieved: its waiter may have timed out
