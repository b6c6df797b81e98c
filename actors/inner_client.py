"""A client inside the engine: a session of this process without a socket.

It speaks to the same actors as clients do and has the same bounds, but nobody asks it for a token. What a stream's
consumer does not take makes its session slow, as an unread socket would: events wait in its outbox, then are dropped
and told as gaps.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count
from typing import Any, Final, TypeVar

import msgspec

from actors.call_desk import CALL_TIMEOUT
from actors.called_methods import CalledMethods, Handler
from actors.clients import Clients
from transport.client_messages import (
    Bye,
    Called,
    CallMessage,
    EventMessage,
    Gap,
    GapMessage,
    HistoryEvents,
    Message,
    Ok,
    PositionMessage,
    PublishedAt,
    Refusal,
    SnapshotEvents,
    Subscribed,
    decode,
)
from transport.codes import CloseCode, ErrorCode, Priority
from transport.errors import ConnectionLost, RequestError
from transport.event import Event, to_json, to_publish
from transport.frames import unframe
from transport.position import Place, Position
from transport.requests import Call, History, Publish, Request, Result, Serve, Snapshot, Subscribe

ROOM: Final = 1 << 20
"""Bytes of a stream's messages that wait for its consumer; with more its session is slow."""
BATCH: Final = 1_000  # events given out at once

AnswerT = TypeVar("AnswerT", bound=Ok)


class _Connection:
    """What a session wants of its socket (:class:`actors.session.Connection`)."""

    subprotocol: str | None = None
    token: str | None = None
    user: str | None = None
    token_in_query = False
    address = host = "inside"
    buffered = 0

    def __init__(self, clients: Clients) -> None:
        self.ended: str | None = None  # why
        self._readable = asyncio.Event()
        self._readable.set()
        self.write: Callable[[bytes], None] = self._written
        self.session = clients.open_inner(self)

    @property
    def direct(self) -> Callable[[bytes], None]:
        """There is no socket."""
        return self.write

    def _written(self, data: bytes) -> None:
        """Whole frames came."""
        raise NotImplementedError

    def pause_reading(self) -> None:
        """Ask no more: too much is not answered yet."""
        self._readable.clear()

    def resume_reading(self) -> None:
        """Ask again."""
        self._readable.set()

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """End it, from either side; again is without effect."""
        if self.ended is None:
            self.ended = reason or "closed"
            self._readable.set()
            self.session.on_closed(code, reason)
            self._over()

    def _over(self) -> None:
        """Nothing more will come."""


class InnerClient(_Connection):
    """What :class:`heliograph.Client` is for another program, without reconnecting: there is nothing that could break.

    All of it on the loop of ``clients``. Requests fail with :class:`RequestError`, ``unavailable``, while the hub is
    away; what was under way then has an unknown outcome. With too many requests unanswered
    (:attr:`ClientLimits.unacknowledged_publishes`) the next one waits.

    Attributes:
        turn: held while a handler of :meth:`serve` runs.
    """

    def __init__(self, clients: Clients) -> None:
        super().__init__(clients)
        self._clients = clients
        self.turn = asyncio.Lock()
        self._methods = CalledMethods(self.turn)
        self._ids = count(1)
        self._pending: dict[int | str, tuple[asyncio.Future[Any], type[Any]]] = {}
        self._streams: set[Stream] = set()

    async def publish(
        self,
        topic: str,
        data: Any,
        *,
        type: str = "message",
        key: str | None = None,
        priority: Priority | None = None,
        idempotency_key: str | None = None,
    ) -> Position | None:
        """Publish one event; its position once it is where its topic promises, ``None``: it waits on disk for one.

        Raises:
            RequestError: ``bad_request``, ``invalid_topic``, ``forbidden``, ``limit_exceeded``, ``unavailable``.
        """
        event = Event.of(topic, data, type=type, key=key, priority=priority)
        checked = to_publish(event, idempotency_key=idempotency_key)
        request = Publish(
            id=0,
            topic=topic,
            data=msgspec.Raw(checked.data),
            type=type,
            key=key,
            priority=None if priority is None else Priority(priority),
            idempotency_key=idempotency_key,
        )
        return (await self._ask(request, PublishedAt)).position()

    async def snapshot(self, topics: str | Iterable[str]) -> list[Event]:
        """The last event of each topic that matches and has one."""
        answer = await self._ask(Snapshot(id=0, topics=_listed(topics)), SnapshotEvents)
        return [message.event() for message in answer.events]

    async def history(self, topic: str, limit: int = 100, since: Position | None = None) -> list[Event]:
        """At most ``limit`` (up to 1,000) events of a topic, oldest first: the last ones, or the first after ``since``.

        What is no longer kept is not in it.
        """
        place = None if since is None else Place.of(since)
        answer = await self._ask(History(id=0, topic=topic, limit=limit, since=place), HistoryEvents)
        return [message.event() for message in answer.events]

    async def call(self, topic: str, method: str, params: Any = None, *, timeout: float = CALL_TIMEOUT) -> Any:  # noqa: ASYNC109
        """What whoever serves ``topic`` answers to ``method``; without ``params`` it gets an empty map.

        Raises:
            RequestError: the one that is called has raised it; ``not_found``: nobody serves the topic, or not this
                method; ``rate_limited``: it has too much to answer; ``unavailable``: it went, or gave no answer within
                ``timeout`` seconds, at most 30: the outcome is unknown.
        """
        request = Call(
            id=0, topic=topic, method=method, params=msgspec.Raw(to_json({} if params is None else params, "params"))
        )
        try:
            async with asyncio.timeout(timeout):
                return msgspec.json.decode((await self._ask(request, Called)).result)
        except TimeoutError:
            text = f"{method} of {topic}: no answer within {timeout:g} s; the outcome is unknown"
            raise RequestError(ErrorCode.UNAVAILABLE, text) from None

    async def serve(self, topic: str, methods: Mapping[str, Handler]) -> None:
        """From now on calls of these methods on this very topic are answered here; an empty map ends it.

        Serving a topic again replaces its methods. Of several sessions that serve a topic the newest has it; when that
        one ends, the one before. One handler at a time runs, for 30 s at most.

        Raises:
            RequestError: refused: ``forbidden`` below ``system`` and ``user``, ``unavailable`` without a hub.
        """
        before = self._methods.handlers.get(topic)
        self._methods.handlers[topic] = dict(methods)  # before the answer: the first call may come with it
        try:
            await self._ask(Serve(id=0, topic=topic, methods=list(methods)), Ok)
        except BaseException:
            self._methods.handlers.pop(topic, None)  # it may have ended meanwhile
            if before is not None:
                self._methods.handlers[topic] = before
            raise
        if not methods:
            self._methods.handlers.pop(topic, None)

    async def end_calls(self, within: float) -> None:
        """Cancel the handlers that run, and begin no other; whoever called is told when this client is closed."""
        await self._methods.end(within)

    async def subscribe(
        self, topics: str | Iterable[str], *, since: str | None = None, snapshot: bool = False
    ) -> Stream:
        """Events of these topics, from now on or, with ``since``, from that position on; the caller closes it.

        Raises:
            RequestError: refused, or no hub within ``limits.request_timeout``.
        """
        self._check_open()
        stream = Stream(self._clients, self._streams)
        try:
            request = Subscribe(id=0, topics=_listed(topics), since=since, snapshot=snapshot)
            self._clients.serve(stream.session, request)
            await stream.begin()
        except BaseException:
            stream.close()
            raise
        return stream

    def _written(self, data: bytes) -> None:
        for _, raw in unframe(data):
            message = decode(raw)
            if isinstance(message, CallMessage):
                self._methods.called(message, self._answer)
            elif isinstance(message, Ok | Refusal) and message.id is not None:
                answer, kind = self._pending.get(message.id, (None, Ok))
                if answer is None or answer.done():
                    continue  # nobody waits any longer
                if isinstance(message, Refusal):
                    answer.set_exception(message.error())
                else:
                    answer.set_result(msgspec.json.decode(raw, type=kind))

    async def _answer(self, result: Result) -> None:
        await self._ask(result, Ok)

    async def _ask(self, request: Request, kind: type[AnswerT]) -> AnswerT:
        while not self._readable.is_set():  # one by one: whoever was woken before may have used up the room
            await self._readable.wait()
        self._check_open()
        request.id = next(self._ids)
        answer: asyncio.Future[AnswerT] = asyncio.get_running_loop().create_future()
        self._pending[request.id] = (answer, kind)
        try:
            self._clients.serve(self.session, request)
            return await answer
        finally:
            del self._pending[request.id]

    def _check_open(self) -> None:
        if self.ended is not None:
            raise _lost(self.ended)

    def _over(self) -> None:
        for answer, _ in self._pending.values():
            if not answer.done():
                answer.set_exception(_lost(f"{self.ended}; the outcome is unknown"))
        for stream in list(self._streams):
            stream.close(reason=self.ended or "")


class Stream(_Connection):
    """A subscription: what comes, in order. One task takes from it.

    Bounded: beyond :data:`ROOM` its session is slow, and what its outbox cannot hold is a :class:`Gap`.
    """

    def __init__(self, clients: Clients, siblings: set[Stream]) -> None:
        self._frames: Iterator[tuple[bool, bytes]] = iter(())
        self._taking = 0  # bytes of the buffer that the frames are from
        self._buffers: deque[bytes | PositionMessage] = deque()
        self._next: Gap | PositionMessage | None = None  # behind events that were given out
        self._size = 0
        self._paused = False
        self._arrived = asyncio.Event()
        self._siblings = siblings
        super().__init__(clients)
        siblings.add(self)

    async def begin(self) -> None:
        """Return when the subscription is in force; raises :class:`RequestError` where it is not to be."""
        while not self._buffers:
            if self.ended is not None:
                raise _lost(self.ended)
            await self._wait()
        raw = self._raw()
        assert raw is not None, "frames came"
        message = decode(raw)
        if isinstance(message, Refusal):
            raise message.error()
        if position := msgspec.json.decode(raw, type=Subscribed).position:
            # The answer came alone, with all that was missed before it: that is everything up to its position.
            self._buffers.appendleft(PositionMessage(position))

    async def take(self, most: int = BATCH) -> list[Event] | Gap | PositionMessage:
        """What is next: events, at most ``most``, or a gap; or a position: all up to there was given out before.

        Raises:
            ConnectionLost: the stream has ended, and everything was taken.
        """
        while True:
            if (found := self._take(most)) is not None:
                return found
            if self.ended is not None:
                raise _lost(self.ended)
            await self._wait()

    def _written(self, data: bytes) -> None:
        self._buffers.append(data)
        self._size += len(data)
        self._arrived.set()
        if self._size > ROOM and not self._paused:
            self._paused = True
            self.session.on_paused()

    @property
    def buffered(self) -> int:  # type: ignore[override]
        """Bytes that wait for the consumer."""
        return self._size

    async def _wait(self) -> None:
        self._arrived.clear()
        await self._arrived.wait()

    def _take(self, most: int) -> list[Event] | Gap | PositionMessage | None:
        if self._next is not None:
            following, self._next = self._next, None
            return following
        events: list[Event] = []
        while len(events) < most and (message := self._message()) is not None:
            if isinstance(message, EventMessage):
                events.append(message.event())
            elif isinstance(message, GapMessage | PositionMessage):
                following = message.gap() if isinstance(message, GapMessage) else message
                if not events:
                    return following
                self._next = following
                break
            elif isinstance(message, Bye):
                self.close(message.code, message.reason)
        return events or None

    def _message(self) -> Message | None:
        """The next message, of those that are known; ``None``: there is none yet."""
        while True:
            if (raw := self._raw()) is not None:
                if (message := decode(raw)) is not None:
                    return message
            elif self._buffers:
                told = self._buffers.popleft()
                assert isinstance(told, PositionMessage), "frames would have been taken"
                return told
            else:
                return None

    def _raw(self) -> bytes | None:
        """The next frame's payload; ``None``: none came, or first there is a position."""
        while True:
            for _, raw in self._frames:
                return raw
            if self._taking:
                self._size -= self._taking
                self._taking = 0
                if self._paused and self._size <= ROOM // 2:
                    self._paused = False
                    self.session.on_resumed()  # may write at once
            if not self._buffers or isinstance(self._buffers[0], PositionMessage):
                return None
            buffer = self._buffers.popleft()
            assert isinstance(buffer, bytes), "it is no position"
            self._frames, self._taking = unframe(buffer), len(buffer)

    def _over(self) -> None:
        self._siblings.discard(self)
        self._arrived.set()


def _listed(topics: str | Iterable[str]) -> list[str]:
    return [topics] if isinstance(topics, str) else list(topics)


def _lost(why: str) -> ConnectionLost:
    return ConnectionLost(f"this part of the engine has lost its session: {why}")
