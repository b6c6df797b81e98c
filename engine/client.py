"""The asyncio client: connects, comes back after a loss, recovers what it missed, drops duplicates, tells gaps."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, TypedDict, TypeVar, Unpack, overload

import msgspec

from actors.backoff import BackoffPolicy
from actors.call_desk import CALL_TIMEOUT
from actors.called_methods import Handler
from engine.client_calls import ServedTopic
from engine.client_keeper import ClientKeeper
from engine.client_link import ClientLink, State
from engine.client_parameters import Parameters
from engine.client_served import ClientServed
from engine.client_subscription import OnGap, Subscription, SubscriptionOptions, tell
from engine.client_subscriptions import ClientSubscriptions
from engine.client_token import ClientToken, Token
from engine.sync_client import SyncClient
from transport.client_messages import (
    Called,
    Figures,
    HeldSubscriptions,
    HistoryEvents,
    Ok,
    Pong,
    PresentUsers,
    PublishedAt,
    SnapshotEvents,
)
from transport.codes import ErrorCode, Priority
from transport.errors import RequestError
from transport.event import Event, to_json
from transport.filters import Filter
from transport.position import Place, Position
from transport.requests import (
    Ack,
    Call,
    History,
    Ping,
    Presence,
    Publish,
    Snapshot,
    Stats,
    Subscriptions,
)

DEFAULT_URL = "ws://127.0.0.1:8765/ws"
REQUEST_TIMEOUT_S = 10.0
OPEN_TIMEOUT_S = 10.0
MAX_QUEUE = 1_000
RECONNECT = BackoffPolicy(first_s=0.5, cap_s=30.0)

ModelT = TypeVar("ModelT")


class ClientOptions(TypedDict, total=False):
    """The keyword arguments of :class:`Client`."""

    token: Token | None
    request_timeout: float
    tls_ca_file: str | None
    open_timeout: float
    connect_within: float
    max_queue: int
    reconnect: BackoffPolicy


class Client:
    """A connection to the engine that comes back by itself, from ``async with`` to its end; on one loop.

    Promised: events of a subscription in order per topic and priority, none twice. After a loss of the connection what
    was missed comes first, as far as the engine's history reaches; what is known to be lost is told as a
    :class:`~transport.client_messages.Gap`. A publish whose connection is lost before its answer raises
    :class:`ConnectionLost` and may or may not have happened (with an ``idempotency_key`` it is repeated instead); all
    other requests are repeated.

    Args:
        url: ``ws://HOST:PORT/ws``.
        token: sent as ``Authorization: Bearer``; a function, sync or async, is called for each connection, before the
            token ends, and once more after a refusal.
        request_timeout: seconds a request may take, waiting for a connection included.
        tls_ca_file: PEM file of the authorities that are trusted for ``wss://``; ``None``: the system's.
        open_timeout: seconds one attempt to connect may take.
        connect_within: seconds for which entering repeats a failed first connect; 0 is one attempt.
        max_queue: events that wait per subscription; beyond them the client stops reading its socket.
        reconnect: how long to wait between attempts.

    Raises:
        ConnectionLost: on entering, nobody answers at ``url``; from requests, see above.
        RequestError: refused; ``code`` says why. After a refusal for good (no token, kicked) everything raises it.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        token: Token | None = None,
        request_timeout: float = REQUEST_TIMEOUT_S,
        tls_ca_file: str | None = None,
        open_timeout: float = OPEN_TIMEOUT_S,
        connect_within: float = 0.0,
        max_queue: int = MAX_QUEUE,
        reconnect: BackoffPolicy = RECONNECT,
    ) -> None:
        self._max_queue = max_queue
        self._link = ClientLink(url, request_timeout, reconnect)
        self._subscriptions = ClientSubscriptions(self._link)
        self._served = ClientServed(self._link)
        self._keeper = ClientKeeper(
            self._link,
            self._subscriptions,
            self._served,
            token=ClientToken(token),
            tls_ca_file=tls_ca_file,
            open_timeout=open_timeout,
            connect_within=connect_within,
        )

    @staticmethod
    def sync(url: str = DEFAULT_URL, **options: Unpack[ClientOptions]) -> SyncClient:
        """A client for code without a loop; takes the same arguments and runs in a thread of its own."""
        return SyncClient(lambda: Client(url, **options))

    @property
    def url(self) -> str:
        """Of the engine."""
        return self._link.url

    @property
    def state(self) -> State:
        """Where the client stands now."""
        return self._link.state

    @property
    def session(self) -> str:
        """The engine's name for the present connection; empty without one."""
        return self._link.session

    async def __aenter__(self) -> Self:
        assert self._link.state is State.NEW, "a Client is entered once"
        self._keeper.start()
        try:
            await self._link.settled()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; iterations end, requests in flight raise :class:`ConnectionLost`, handlers of calls are
        cancelled."""
        await self._keeper.close()

    # Requests

    def subscribe(
        self,
        *topics: str,
        where: Any = None,
        snapshot: bool = False,
        conflate: bool = False,
        max_rate: float | None = None,
        window: float = 0.0,
        batch: bool = False,
        group: str | None = None,
        on_gap: OnGap | None = None,
        recover: bool = True,
    ) -> Subscription:
        """Subscribe to topics or patterns: a context manager and iterator of :class:`Event`.

        A subscription gets every event that the client receives, one of its patterns matches and its ``where`` accepts,
        also those that came for another, overlapping subscription.

        Args:
            where: only events whose fields hold: a map like ``{"tier": "daily", "confidence": {"gte": 0.8}}``, or a
                list of maps of which any may hold; see :mod:`transport.filters`.
            snapshot: first the last event of each topic that has one; after a reconnect only where what was missed
                cannot be had.
            conflate: of what waits in the engine, only the newest per key; ``skipped`` counts the others.
            max_rate: events per second and key (per topic where there is no key); implies ``conflate``.
            window: seconds, up to 1, for which the engine collects events and sends them together.
            batch: what is sent together comes as one message; here it makes no difference but the cost.
            group: a consumer group, for topics whose strategy is ``load_balanced``: each event goes to one of its
                members. Where acknowledgements are on, say with :meth:`ack` that you are done with it. Goes with none
                of the other options, and the engine gives each client one membership: use a client per member.
            on_gap: called with a :class:`Gap` where events are missing, sync or async; none logs it.
            recover: after a reconnect first what was missed meanwhile. Without it what comes is current at once, and
                what was missed is told as a gap; for screens that need only the present, with ``snapshot``.

        Raises:
            RequestError: ``invalid_filter``, naming the field of ``where``; at once. The engine's refusals and
                ``conflict`` come on entering.
        """
        if not topics:
            raise RequestError(ErrorCode.BAD_REQUEST, "name at least one topic or pattern", "topics")
        options = SubscriptionOptions(
            where=None if where is None else Filter.parse(where),
            snapshot=snapshot,
            conflate=conflate,
            max_rate=max_rate,
            window=window,
            batch=batch,
            group=group,
        )
        return Subscription(
            self._subscriptions, tuple(dict.fromkeys(topics)), options, on_gap, self._max_queue, recover=recover
        )

    def inbox(self, on_gap: OnGap | None = None) -> Subscription:
        """What the engine has subscribed this session to by itself: its user's own topic ``user.ID``, and what an
        operator has ordered. A context manager and iterator as :meth:`subscribe` gives it; leaving it unsubscribes
        from nothing. Without an inbox such events are dropped, unless a subscription wants them."""
        return Subscription(self._subscriptions, (), SubscriptionOptions(), on_gap, self._max_queue, inbox=True)

    async def unsubscribe(self, *topics: str) -> list[str]:
        """End these patterns in all subscriptions, without arguments all; returns the patterns left."""
        return await self._subscriptions.unsubscribe(topics)

    async def publish(
        self,
        topic: str,
        data: Any,
        type: str = "message",
        key: str | None = None,
        priority: Priority | str | None = None,
        idempotency_key: str | None = None,
    ) -> Position | None:
        """Publish ``data`` (see :func:`transport.event.to_json`); returns its position when the engine has accepted it.

        With an ``idempotency_key``, up to 128 characters, the publish is repeated after a lost connection and while the
        engine is ``unavailable``, for as long as ``request_timeout``; the engine accepts one event of that topic and
        key within 5 minutes. ``None`` only where ``backplane.on_outage = "local"``: the event is kept and delivered on
        this node, and gets its place when Redis is back.

        Raises:
            ConnectionLost: the outcome is unknown.
            RequestError: refused, nothing was published; after ``unavailable`` the outcome is unknown.
        """
        request = Publish(
            id=0,
            topic=topic,
            data=msgspec.Raw(to_json(data)),
            type=type,
            key=key,
            priority=_priority(priority),
            idempotency_key=idempotency_key,
        )
        safe = idempotency_key is not None
        return (await self._link.request(request, PublishedAt, repeat=safe, insist=safe)).position()

    async def snapshot(self, topics: str | list[str]) -> list[Event]:
        """The last event of each of these topics that has one."""
        wanted = [topics] if isinstance(topics, str) else list(topics)
        answer = await self._link.request(Snapshot(id=0, topics=wanted), SnapshotEvents)
        return [message.event() for message in answer.events]

    async def history(
        self, topic: str, limit: int = 100, since: Position | None = None, on_gap: OnGap | None = None
    ) -> list[Event]:
        """At most ``limit`` (up to 1,000) events of a topic, oldest first: the last ones, or the first after ``since``.

        Args:
            on_gap: called with a :class:`Gap`, sync or async, if some events after ``since`` are no longer kept; none
                logs it.
        """
        place = None if since is None else Place.of(since)
        answer = await self._link.request(History(id=0, topic=topic, limit=limit, since=place), HistoryEvents)
        if answer.gap is not None:
            told = tell(answer.gap.gap(), on_gap)
            if inspect.isawaitable(told):
                await told
        return [message.event() for message in answer.events]

    async def stats(self) -> dict[str, Any]:
        """The engine's public figures."""
        return (await self._link.request(Stats(id=0), Figures)).stats

    async def subscriptions(self) -> dict[str, dict[str, Any]]:
        """The patterns that this session has subscribed to, as the engine sees it, with their options."""
        held = await self._link.request(Subscriptions(id=0), HeldSubscriptions)
        return {pattern: held.options.get(pattern, {}) for pattern in held.subscriptions}

    async def presence(self, topic: str) -> list[str]:
        """The users that are subscribed to exactly this topic, sorted; ``bad_request`` where it has no presence."""
        return (await self._link.request(Presence(id=0, topic=topic), PresentUsers)).users

    async def ack(self, event: Event) -> None:
        """This member of a consumer group is done with ``event``; unacknowledged it is given to another in time.

        An acknowledgement that comes too late, or again, is no error.
        """
        await self._link.request(Ack(id=0, topic=event.topic, epoch=event.epoch, offset=event.offset), Ok)

    async def call(self, topic: str, method: str, params: Any = None, *, timeout: float = CALL_TIMEOUT) -> Any:  # noqa: ASYNC109
        """What whoever serves ``topic`` answers to ``method``; without ``params`` it gets an empty map.

        Never repeated: what has happened is unknown after ``unavailable`` and :class:`ConnectionLost`.

        Args:
            timeout: seconds, waiting for a connection included; the engine waits 30 at most.

        Raises:
            RequestError: the one that is called has raised it; ``not_found``: nobody serves the topic, or not this
                method; ``rate_limited``: it has too much to answer; ``unavailable``: it went, or gave no answer.
            ConnectionLost: the connection was lost, or nothing came within ``timeout``.
        """
        request = Call(id=0, topic=topic, method=method)
        if params is not None:
            request.params = msgspec.Raw(to_json(params, "params"))
        answer = await self._link.request(request, Called, repeat=False, within=timeout)
        return msgspec.json.decode(answer.result)

    def serve(self, topic: str, methods: Mapping[str, Handler] | None = None, /, **named: Handler) -> ServedTopic:
        """Answer calls on this very topic, as long as the context that this gives is entered::

            async with client.serve("progress.job-17", cancel=cancel): ...

        ``cancel(params, caller)``, sync or async, returns what has a JSON form; ``caller`` is the user who calls,
        ``None`` where there are no tokens. A :class:`RequestError` that it raises is the caller's; any other error is
        logged, and the caller gets ``internal``. Handlers run side by side, each for 30 s at most. After a reconnect
        the topic is served again. Of several sessions that serve a topic the newest has it; when that one ends, the one
        before. While a subscription of this client is full, no calls come.

        Raises:
            RequestError: on entering: ``forbidden`` where this token does not allow to publish there, and below
                ``system`` and ``user``; ``conflict``: this client serves the topic already.
        """
        return ServedTopic(self._served, topic, {**(methods or {}), **named})

    @overload
    def parameters(self, name: str) -> Parameters[dict[str, Any]]: ...
    @overload
    def parameters(self, name: str, model: type[ModelT]) -> Parameters[ModelT]: ...
    def parameters(self, name: str, model: type[Any] = dict) -> Parameters[Any]:
        """``[parameters.NAME]`` of the engine, as long as the context that this gives is entered: the newest values,
        as ``model`` (a msgspec Struct, a pydantic model) or a ``dict``; see
        :class:`~engine.client_parameters.Parameters`.

        Raises:
            RequestError: on entering: ``not_found``: there are none of that name; ``forbidden``; ``bad_request``: they
                do not fit the model.
        """
        return Parameters(self, name, model)

    async def ping(self) -> float:
        """The engine's time, Unix seconds."""
        return (await self._link.request(Ping(id=0), Pong)).ts


def _priority(priority: Priority | str | None) -> Priority | None:
    try:
        return None if priority is None else Priority(priority)
    except ValueError:
        allowed = ", ".join(Priority)
        raise RequestError(ErrorCode.BAD_REQUEST, f"{priority!r} is none of {allowed}", "priority") from None
