"""The client for code without a loop: an asyncio :class:`Client` in a thread of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, overload

from actors.call_desk import CALL_TIMEOUT
from engine.client_parameters import SyncParameters
from engine.client_subscription import tell
from engine.loop_thread import LoopThread
from transport.codes import Priority
from transport.errors import ConnectionLost, HeliographError
from transport.event import Event

if TYPE_CHECKING:
    from actors.called_methods import Handler
    from engine.client import Client
    from engine.client_calls import ServedTopic
    from engine.client_subscription import OnGap, SubscribeArguments, Subscription
    from transport.client_messages import Gap
    from transport.position import Position

CLOSE_TIMEOUT_S = 5.0
T = TypeVar("T")
ModelT = TypeVar("ModelT")


class SyncClient:
    """``with Client.sync(url) as client: client.publish(…)``; works in Jupyter, where a loop is running already.

    Every method may be called from any thread and blocks only that one; Ctrl-C interrupts a wait and leaves the client
    usable. Promises and errors are those of :class:`engine.client.Client`. Without ``with``, call :meth:`open` and
    :meth:`close`.
    """

    def __init__(self, create: Callable[[], Client]) -> None:
        self._create = create
        self._client: Client | None = None
        self._thread: LoopThread[Client] | None = None

    def open(self) -> Self:
        """Connect; raises as entering a :class:`Client` does."""
        if self._thread is not None:
            raise HeliographError("the client is open already")
        self._thread = LoopThread("heliograph-client", self._create)
        try:
            self._client = self._thread.start()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Close the connection and end the thread; iterations end."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.stop(CLOSE_TIMEOUT_S)
        self._client = None

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def subscribe(self, *topics: str, **options: Unpack[SubscribeArguments]) -> SyncSubscription:
        """As :meth:`Client.subscribe`; ``on_gap`` is a plain function, called in the iterating thread."""
        _check_plain(options.get("on_gap"))
        return SyncSubscription(self, self._opened().subscribe(*topics, **options))

    def inbox(self, on_gap: OnGap | None = None) -> SyncSubscription:
        """As :meth:`Client.inbox`; ``on_gap`` as with :meth:`subscribe`."""
        _check_plain(on_gap)
        return SyncSubscription(self, self._opened().inbox(on_gap))

    def unsubscribe(self, *topics: str) -> list[str]:
        """As :meth:`Client.unsubscribe`."""
        return self.run(self._opened().unsubscribe(*topics))

    def publish(
        self,
        topic: str,
        data: Any,
        type: str = "message",
        key: str | None = None,
        priority: Priority | str | None = None,
        idempotency_key: str | None = None,
    ) -> Position | None:
        """As :meth:`Client.publish`."""
        return self.run(self._opened().publish(topic, data, type, key, priority, idempotency_key))

    def publish_soon(
        self,
        topic: str,
        data: Any,
        type: str = "message",
        key: str | None = None,
        priority: Priority | str | None = None,
        idempotency_key: str | None = None,
    ) -> concurrent.futures.Future[Position | None]:
        """Publish many without waiting, in order; the future has the outcome. Leave at most 1,000 unanswered."""
        return self.start(self._opened().publish(topic, data, type, key, priority, idempotency_key))

    def snapshot(self, topics: str | list[str]) -> list[Event]:
        """As :meth:`Client.snapshot`."""
        return self.run(self._opened().snapshot(topics))

    def history(
        self, topic: str, limit: int = 100, since: Position | None = None, on_gap: OnGap | None = None
    ) -> list[Event]:
        """As :meth:`Client.history`; ``on_gap`` is a plain function, called in this thread."""
        _check_plain(on_gap)
        gaps: list[Gap] = []
        events = self.run(self._opened().history(topic, limit, since, gaps.append))
        for gap in gaps:
            tell(gap, on_gap)
        return events

    def stats(self) -> dict[str, Any]:
        """As :meth:`Client.stats`."""
        return self.run(self._opened().stats())

    def subscriptions(self) -> dict[str, dict[str, Any]]:
        """As :meth:`Client.subscriptions`."""
        return self.run(self._opened().subscriptions())

    def presence(self, topic: str) -> list[str]:
        """As :meth:`Client.presence`."""
        return self.run(self._opened().presence(topic))

    def ack(self, event: Event) -> None:
        """As :meth:`Client.ack`."""
        self.run(self._opened().ack(event))

    def call(self, topic: str, method: str, params: Any = None, *, timeout: float = CALL_TIMEOUT) -> Any:
        """As :meth:`Client.call`."""
        return self.run(self._opened().call(topic, method, params, timeout=timeout))

    def serve(self, topic: str, methods: Mapping[str, Handler] | None = None, /, **named: Handler) -> SyncServed:
        """As :meth:`Client.serve`, for ``with``. Handlers are called in the client's own thread: what takes long there
        holds up everything, and a call of this client waits for itself (:class:`WouldDeadlock`)."""
        return SyncServed(self, self._opened().serve(topic, methods, **named))

    @overload
    def parameters(self, name: str) -> SyncParameters[dict[str, Any]]: ...
    @overload
    def parameters(self, name: str, model: type[ModelT]) -> SyncParameters[ModelT]: ...
    def parameters(self, name: str, model: type[Any] = dict) -> SyncParameters[Any]:
        """As :meth:`Client.parameters`; what it delivers to is told on the client's thread."""
        return SyncParameters(self, self._opened().parameters(name, model))

    def ping(self) -> float:
        """As :meth:`Client.ping`."""
        return self.run(self._opened().ping())

    def _opened(self) -> Client:
        if self._client is None:
            raise HeliographError("the client is not open: use `with Client.sync(url) as client` or client.open()")
        return self._client

    def start(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Run a coroutine on the client's loop."""
        return self._running(work).submit(work)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the client's loop and wait for it; an interrupt cancels it."""
        return self._running(work).run(work)

    def _running(self, work: Coroutine[Any, Any, Any]) -> LoopThread[Client]:
        if self._thread is None:
            work.close()
            raise ConnectionLost("the client is closed")
        return self._thread


def _check_plain(on_gap: OnGap | None) -> None:
    if inspect.iscoroutinefunction(on_gap):
        raise TypeError("on_gap of a sync client is a plain function")


class SyncServed:
    """``with client.serve("progress.job-17", cancel=cancel): …``."""

    def __init__(self, client: SyncClient, served: ServedTopic) -> None:
        self._client, self._served = client, served

    def __enter__(self) -> Self:
        self._client.run(self._served.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._client.run(self._served.__aexit__(None, None, None))
        except ConnectionLost:
            pass  # nobody calls any more


class SyncSubscription:
    """``with client.subscribe("price.*") as subscription: for event in subscription: …``.

    Events cross over from the client's thread in batches. One thread at a time may iterate.
    """

    def __init__(self, client: SyncClient, subscription: Subscription) -> None:
        self._client, self._subscription = client, subscription
        self._items: deque[Event | Gap] = deque()

    @property
    def topics(self) -> tuple[str, ...]:
        """The patterns still subscribed to."""
        return self._subscription.topics

    @property
    def missed(self) -> int:
        """Events lost so far, as far as known."""
        return self._subscription.missed

    @property
    def skipped(self) -> int:
        """Events conflated away so far."""
        return self._subscription.skipped

    @property
    def waiting(self) -> int:
        """Events that are here already and not yet iterated."""
        return len(self._items)

    def __enter__(self) -> Self:
        self._client.run(self._subscription.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._client.run(self._subscription.__aexit__(None, None, None))
        except ConnectionLost:
            pass  # nothing left to unsubscribe from

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        event = self._next(None)
        if event is None:
            raise StopIteration
        return event

    def get(self, timeout: float | None = None) -> Event:
        """The next event.

        Raises:
            TimeoutError: none came within ``timeout`` seconds.
            ConnectionLost: the subscription has ended.
        """
        event = self._next(timeout)
        if event is None:
            raise ConnectionLost("the subscription has ended")
        return event

    def _next(self, timeout: float | None) -> Event | None:
        while True:
            if not self._items:
                self._fetch(timeout)
                if not self._items:
                    return None
            item = self._items.popleft()
            if isinstance(item, Event):
                return item
            self._subscription.tell_gap(item)

    def _fetch(self, seconds: float | None) -> None:
        self._client.run(self._batch(seconds))

    async def _batch(self, seconds: float | None) -> None:
        # Filled on the loop's thread, so that an interrupt of the one that waits loses nothing.
        async with asyncio.timeout(seconds):
            item = await self._subscription.next_item()
        while item is not None:
            self._items.append(item)
            item = self._subscription.take()
