"""A subscription of the asyncio client: what its consumer iterates."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, Protocol, Self, TypedDict

import msgspec

from engine.client_inbox import Inbox
from transport.client_messages import Gap, ServerSubscribed, Subscribed
from transport.client_positions import Positions
from transport.errors import HeliographError
from transport.event import Event
from transport.filters import Filter
from transport.position import Place, Position
from transport.requests import Subscribe
from transport.topics import is_pattern, matches

OnGap = Callable[[Gap], Awaitable[None] | None]
Since = str | dict[str, Position]
_log = logging.getLogger("heliograph.client")


def tell(gap: Gap, on_gap: OnGap | None) -> Awaitable[None] | None:
    """Hand a gap to who wants to know of it, or log it."""
    if on_gap is not None:
        return on_gap(gap)
    span = f"{gap.first} to {gap.last}" if gap.first <= gap.last else "nobody knows which"
    _log.warning("events lost on %s: %s (%s)", gap.topic, span, gap.reason)
    return None


class SubscribeArguments(TypedDict, total=False):
    """The keyword arguments of :meth:`engine.client.Client.subscribe`."""

    where: Any
    snapshot: bool
    conflate: bool
    max_rate: float | None
    window: float
    batch: bool
    group: str | None
    on_gap: OnGap | None
    recover: bool


class SubscriptionOptions(msgspec.Struct, frozen=True):
    """What a subscription asks for besides its topics; see the client protocol."""

    where: Filter | None = None
    snapshot: bool = False
    conflate: bool = False
    max_rate: float | None = None
    window: float = 0.0
    batch: bool = False
    group: str | None = None

    def request(self, topics: list[str], since: Since | None = None) -> Subscribe:
        """The request for it; options that are off are left out."""
        request = Subscribe(
            id=0,
            topics=topics,
            snapshot=self.snapshot,
            where=None if self.where is None else msgspec.Raw(self.where.source),
            conflate=self.conflate,
            max_rate=self.max_rate,
            batch=self.batch,
            group=self.group,
        )
        if self.window:  # a zero is left out only if it is the very default
            request.window = self.window
        if since is not None:
            known = since if isinstance(since, str) else {topic: Place.of(at) for topic, at in since.items()}
            request.since = known
        return request

    @property
    def complete(self) -> bool:
        """Whether every event is wanted, so that a jump in offsets means loss."""
        return self.where is None and not self.conflate and self.max_rate is None and self.group is None


class Owner(Protocol):
    """What a subscription needs of its client."""

    async def enter(self, subscription: Subscription) -> None:
        """Subscribe; returns when the engine has accepted it."""

    async def leave(self, subscription: Subscription) -> None:
        """Unsubscribe, as far as nobody else wants the same."""

    def room_made(self) -> None:
        """An inbox that was full is roomy again."""


class Subscription:
    """``async with client.subscribe(…) as subscription: async for event in subscription: …``.

    Events come in order per topic and priority, each once. What was lost comes as a call of ``on_gap`` between the
    events where it is missing, in the consumer's own task; without ``on_gap`` it is logged. A consumer that does not
    keep up makes the client stop reading (all its subscriptions wait) and the engine conflate or drop, with gaps.

    A member of a consumer group gets what is assigned to it, in the order of assignment: an event may come again, and
    one that another member has not acknowledged comes late.

    Attributes:
        topics: the patterns still subscribed to.
        inbox: whether the engine chooses the patterns, see :meth:`engine.client.Client.inbox`.
        missed: events lost so far, as far as known.
        skipped: events conflated away so far.
    """

    def __init__(
        self,
        owner: Owner,
        topics: tuple[str, ...],
        options: SubscriptionOptions,
        on_gap: OnGap | None,
        capacity: int,
        *,
        inbox: bool = False,
        recover: bool = True,
    ) -> None:
        self.topics, self.options, self.inbox = topics, options, inbox
        self.missed = self.skipped = 0
        self.live = False
        self._recover = recover and not inbox and options.group is None
        self._away = False  # the present connection has not accepted it yet
        self._position = ""  # in the engine's whole log; all before it has come
        self._owner, self._on_gap = owner, on_gap
        self._inbox = Inbox(capacity)
        self._positions = Positions(holes=options.complete, whole=options.complete and options.snapshot)
        self._arrived = asyncio.Event()
        self._blocking = False
        self._ended = False
        self._failure: HeliographError | None = None

    async def __aenter__(self) -> Self:
        await self._owner.enter(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
        await self._owner.leave(self)

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        while True:
            item = await self.next_item()
            if item is None:
                raise StopAsyncIteration
            if isinstance(item, Event):
                return item
            handled = self.tell_gap(item)
            if inspect.isawaitable(handled):
                await handled

    async def next_item(self) -> Event | Gap | None:
        """The next event or gap, ``None`` at the end."""
        while (item := self.take()) is None:
            if self._failure is not None:
                raise self._failure
            if self._ended:
                return None
            if not self.live:
                raise HeliographError("the subscription is not open: use `async with client.subscribe(…) as …`")
            self._arrived.clear()
            await self._arrived.wait()
        return item

    def take(self) -> Event | Gap | None:
        """The next event or gap that is here already, ``None`` if there is none."""
        item = self._inbox.take()
        if self._blocking and self._inbox.roomy:
            self._blocking = False
            self._owner.room_made()
        return item

    def tell_gap(self, gap: Gap) -> Awaitable[None] | None:
        """Count a gap and hand it to ``on_gap``, whose result is returned, or log it."""
        self.missed += max(0, gap.last - gap.first + 1)
        return tell(gap, self._on_gap)

    # What follows is the client's side.

    def wants(self, topic: str) -> bool:
        """Whether a pattern matches.

        Not between a reconnect and the engine's answer: an event that comes meanwhile for another subscription would
        make those before it, which are still to be recovered, look like duplicates. It comes again with them.
        """
        return self.live and not self._away and any(matches(pattern, topic) for pattern in self.topics)

    @property
    def blocking(self) -> bool:
        """Whether the client should not read on before some of this was consumed."""
        return self._blocking

    def subscribed(self, answer: Subscribed | ServerSubscribed) -> None:
        """The engine has accepted it, or begun it by itself: events from here on are ours."""
        self.live = not self._ended
        recovered = answer.recovered if isinstance(answer, Subscribed) else None
        if self._away:
            self._away = False
            if not recovered:
                self._positions.reconnected()
        if recovered is not None:
            return  # what was missed follows, and gaps that say what does not; until then we are where we were
        # The last events of a snapshot are still to come: only a later position has them behind it.
        self._position = "" if self.options.snapshot else answer.position
        for topic, position in answer.positions.items():
            # With a snapshot the event at the position itself is still to come.
            offset = max(0, position.offset - 1) if self.options.snapshot else position.offset
            if (gap := self._positions.start(topic, position.epoch, offset)) is not None:
                self._put(gap)

    def reconnected(self) -> None:
        """The connection is a new one; nothing is ours before the engine has accepted the subscription again."""
        self._away = True

    def reached(self, position: str) -> None:
        """The engine has sent all of this connection's events up to here."""
        if self.live and not self._away:
            self._position = position

    @property
    def since(self) -> Since | None:
        """What to resume after; ``None`` to begin anew.

        Offsets where they say it all, for they hold longer than a position: a topic that was quiet for hours has lost
        nothing, whatever the engine's log has forgotten of others, and durable topics keep theirs.
        """
        if not self._recover:
            return None
        if self.options.complete and not any(is_pattern(topic) for topic in self.topics):
            found = {topic: at for topic in self.topics if (at := self._positions.settled(topic)) is not None}
            if len(found) == len(self.topics):
                return found
        return self._position or None

    def deliver(self, event: Event) -> None:
        """An event that matches."""
        if self.options.group is not None or not event.epoch:
            self._put(event)  # a lower offset is another member's share, and again the same one was not acknowledged
            return
        new, gap = self._positions.admit(event.topic, event.epoch, event.offset, event.priority)
        if gap is not None:
            self._put(gap)
        if new:
            self._put(event)

    def deliver_gap(self, gap: Gap) -> None:
        """The engine told of a gap on a topic that matches."""
        for lost in self._positions.skip(gap):
            self._put(lost)

    def end(self, failure: HeliographError | None = None) -> None:
        """Nothing more will come; the iteration ends, with ``failure`` if there is one, after what is here."""
        if self._ended:
            return
        self._ended, self._failure, self.live = True, failure, False
        self._arrived.set()
        if self._blocking:
            self._blocking = False
            self._owner.room_made()

    def _put(self, item: Event | Gap) -> None:
        self._inbox.put(item)
        self._blocking = self._blocking or self._inbox.full
        self._arrived.set()
