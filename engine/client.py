"""The asyncio client: connects, comes back after a loss, recovers what it missed, drops duplicates, tells gaps."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import inspect
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeAlias, TypedDict, TypeVar, Unpack, overload

import msgspec

from actors.backoff import Backoff, BackoffPolicy
from actors.call_desk import CALL_TIMEOUT
from actors.called_methods import CalledMethods, Handler
from engine.client_calls import ServedTopic
from engine.client_connection import ClientConnection
from engine.client_parameters import Parameters
from engine.client_routes import ClientRoutes
from engine.client_subscription import OnGap, Subscription, SubscriptionOptions, tell
from engine.sync_client import SyncClient
from transport.client_messages import (
    Authenticated,
    Called,
    CallMessage,
    HeldSubscriptions,
    HistoryEvents,
    Ok,
    Pong,
    PresentUsers,
    PublishedAt,
    Slow,
    SnapshotEvents,
    Subscribed,
    Unsubscribed,
)
from transport.codes import ErrorCode, Priority
from transport.errors import ConnectionLost, HeliographError, RequestError
from transport.event import Event, to_json
from transport.filters import Filter
from transport.position import Position
from transport.requests import (
    Ack,
    Auth,
    Call,
    History,
    Ping,
    Presence,
    Publish,
    Request,
    Result,
    Serve,
    Snapshot,
    Stats,
    Subscriptions,
    Unsubscribe,
)

DEFAULT_URL = "ws://127.0.0.1:8765/ws"
REQUEST_TIMEOUT_S = 10.0
OPEN_TIMEOUT_S = 10.0
MAX_QUEUE = 1_000
RECONNECT = BackoffPolicy(first_s=0.5, cap_s=30.0)
RENEWAL = 0.8  # of a token's life; then a function is asked for another
RENEWAL_LEAST_S = 0.5
HANDLERS_END_S = 1.0  # for handlers of calls that are cancelled
_REPEAT_CODES = frozenset((ErrorCode.UNAVAILABLE, ErrorCode.RATE_LIMITED))

Token: TypeAlias = str | Callable[[], str | Awaitable[str]]
AnswerT = TypeVar("AnswerT")
ModelT = TypeVar("ModelT")
_log = logging.getLogger("heliograph.client")


class State(StrEnum):
    """Where a client stands; the log tells each change."""

    NEW = "new"
    CONNECTING = "connecting"
    OPEN = "open"
    CLOSED = "closed"


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
        self.url = url
        self._token = token
        self._request_timeout, self._open_timeout = request_timeout, open_timeout
        self._tls_ca_file = tls_ca_file
        self._connect_within, self._max_queue, self._policy = connect_within, max_queue, reconnect
        self._state = State.NEW
        self._failure: HeliographError | None = None
        self._connection: ClientConnection | None = None
        self._changed = asyncio.Event()  # set while OPEN or CLOSED
        self._room = asyncio.Event()
        self._routes = ClientRoutes()
        self._methods = CalledMethods()
        self._keeper: asyncio.Task[None] | None = None

    @staticmethod
    def sync(url: str = DEFAULT_URL, **options: Unpack[ClientOptions]) -> SyncClient:
        """A client for code without a loop; takes the same arguments and runs in a thread of its own."""
        return SyncClient(lambda: Client(url, **options))

    @property
    def state(self) -> State:
        """Where the client stands now."""
        return self._state

    @property
    def session(self) -> str:
        """The engine's name for the present connection; empty without one."""
        return self._connection.welcome.session if self._connection is not None else ""

    async def __aenter__(self) -> Self:
        assert self._state is State.NEW, "a Client is entered once"
        self._become(State.CONNECTING)
        self._keeper = asyncio.create_task(self._keep(), name="heliograph-client")
        try:
            await self._changed.wait()
            if self._failure is not None:
                raise self._failure
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
        self._end(None)
        await self._methods.end(HANDLERS_END_S)
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
            self._keeper = None

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
        return Subscription(self, tuple(dict.fromkeys(topics)), options, on_gap, self._max_queue, recover=recover)

    def inbox(self, on_gap: OnGap | None = None) -> Subscription:
        """What the engine has subscribed this session to by itself: its user's own topic ``user.ID``, and what an
        operator has ordered. A context manager and iterator as :meth:`subscribe` gives it; leaving it unsubscribes
        from nothing. Without an inbox such events are dropped, unless a subscription wants them."""
        return Subscription(self, (), SubscriptionOptions(), on_gap, self._max_queue, inbox=True)

    async def unsubscribe(self, *topics: str) -> list[str]:
        """End these patterns in all subscriptions, without arguments all; returns the patterns left."""

        def accepted(answer: Unsubscribed) -> None:
            # Only here: what the engine sent before its answer still belongs to the subscriptions.
            self._routes.unsubscribed(topics, answer.topics)

        request = Unsubscribe(id=0, topics=list(topics) or "*")
        return (await self._request(request, Unsubscribed, on_answer=accepted)).topics

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
        return (await self._request(request, PublishedAt, repeat=safe, insist=safe)).position()

    async def snapshot(self, topics: str | list[str]) -> list[Event]:
        """The last event of each of these topics that has one."""
        wanted = [topics] if isinstance(topics, str) else list(topics)
        answer = await self._request(Snapshot(id=0, topics=wanted), SnapshotEvents)
        return [message.event() for message in answer.events]

    async def history(
        self, topic: str, limit: int = 100, since: Position | None = None, on_gap: OnGap | None = None
    ) -> list[Event]:
        """At most ``limit`` (up to 1,000) events of a topic, oldest first: the last ones, or the first after ``since``.

        Args:
            on_gap: called with a :class:`Gap`, sync or async, if some events after ``since`` are no longer kept; none
                logs it.
        """
        answer = await self._request(History(id=0, topic=topic, limit=limit, since=since), HistoryEvents)
        if answer.gap is not None:
            told = tell(answer.gap.gap(), on_gap)
            if inspect.isawaitable(told):
                await told
        return [message.event() for message in answer.events]

    async def stats(self) -> dict[str, Any]:
        """The engine's public figures."""
        figures: dict[str, Any] = _body(await self._request(Stats(id=0), dict[str, Any]), "stats")
        return figures

    async def subscriptions(self) -> dict[str, dict[str, Any]]:
        """The patterns that this session has subscribed to, as the engine sees it, with their options."""
        held = await self._request(Subscriptions(id=0), HeldSubscriptions)
        return {pattern: held.options.get(pattern, {}) for pattern in held.subscriptions}

    async def presence(self, topic: str) -> list[str]:
        """The users that are subscribed to exactly this topic, sorted; ``bad_request`` where it has no presence."""
        return (await self._request(Presence(id=0, topic=topic), PresentUsers)).users

    async def ack(self, event: Event) -> None:
        """This member of a consumer group is done with ``event``; unacknowledged it is given to another in time.

        An acknowledgement that comes too late, or again, is no error.
        """
        await self._request(Ack(id=0, topic=event.topic, epoch=event.epoch, offset=event.offset), Ok)

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
        answer = await self._request(request, Called, repeat=False, within=timeout)
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
        return ServedTopic(self, topic, {**(methods or {}), **named})

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
        return (await self._request(Ping(id=0), Pong)).ts

    async def _request(
        self,
        request: Request,
        answer: type[AnswerT],
        *,
        repeat: bool = True,
        insist: bool = False,
        on_answer: Callable[[AnswerT], None] | None = None,
        within: float | None = None,
    ) -> AnswerT:
        """``repeat`` after a lost connection, ``insist`` while the engine is ``unavailable``; ``within`` seconds, else
        ``request_timeout``."""
        seconds = self._request_timeout if within is None else within
        refused: RequestError | None = None
        backoff = self._patience()
        try:
            async with asyncio.timeout(seconds):
                while True:
                    connection = await self._connected()
                    try:
                        return await connection.request(request, answer, on_answer)
                    except ConnectionLost:
                        if not repeat:
                            raise
                        refused = None
                    except RequestError as error:
                        if not insist or error.code != ErrorCode.UNAVAILABLE:
                            raise
                        refused = error
                        await asyncio.sleep(backoff.failed())
        except TimeoutError:
            if refused is not None:
                raise refused from None
            what = "answer; outcome unknown" if self._state is State.OPEN else "connection"
            raise ConnectionLost(f"{self.url}: after {seconds:g} s no {what}") from None

    async def _connected(self) -> ClientConnection:
        while self._connection is None:
            self._check_open()
            await self._changed.wait()
        return self._connection

    def _check_open(self) -> None:
        if self._state is State.NEW:
            raise HeliographError("the client is not open: use `async with Client(url) as client`")
        if self._state is State.CLOSED:
            raise self._failure or ConnectionLost("the client is closed")

    # The owner's side of subscriptions

    async def enter(self, subscription: Subscription) -> None:
        """Subscribe; see :class:`engine.client_subscription.Owner`."""
        if subscription.inbox:
            self._check_open()
            self._routes.add_inbox(subscription)
            return
        self._routes.add(subscription)
        try:
            request = subscription.options.request(list(subscription.topics))
            await self._request(request, Subscribed, on_answer=partial(self._routes.accepted, subscription))
        except BaseException:
            subscription.end()
            await self.leave(subscription)
            raise

    async def leave(self, subscription: Subscription) -> None:
        """Unsubscribe; see :class:`engine.client_subscription.Owner`."""
        gone = self._routes.remove(subscription)
        if gone and self._connection is not None:
            with contextlib.suppress(HeliographError, TimeoutError):  # the next connection will not have them
                async with asyncio.timeout(self._request_timeout):
                    await self._connection.request(Unsubscribe(id=0, topics=gone), Unsubscribed)

    # The owner's side of topics that are served

    async def begin_serving(self, served: ServedTopic) -> None:
        """See :class:`engine.client_calls.Owner`."""
        self._check_open()
        if not served.methods:
            raise RequestError(ErrorCode.BAD_REQUEST, "name at least one method", "methods")
        if served.topic in self._methods.handlers:
            raise RequestError(ErrorCode.CONFLICT, f"this client serves {served.topic} already", "topic")
        self._methods.handlers[served.topic] = served.methods  # the first call may come with the answer
        try:
            await self._request(Serve(id=0, topic=served.topic, methods=list(served.methods)), Ok, insist=True)
        except BaseException:
            await self.end_serving(served)
            raise

    async def end_serving(self, served: ServedTopic) -> None:
        """See :class:`engine.client_calls.Owner`."""
        if self._methods.handlers.get(served.topic) is not served.methods:
            return  # it could not be served again
        del self._methods.handlers[served.topic]
        if self._connection is not None:
            with contextlib.suppress(HeliographError, TimeoutError):  # the next connection will not serve it
                async with asyncio.timeout(self._request_timeout):
                    await self._connection.request(Serve(id=0, topic=served.topic, methods=[]), Ok)

    async def _serve_again(self, connection: ClientConnection, topic: str, methods: Mapping[str, Handler]) -> None:
        backoff = self._patience()
        while self._methods.handlers.get(topic) is methods:
            try:
                await connection.request(Serve(id=0, topic=topic, methods=list(methods)), Ok)
                return
            except RequestError as error:
                if error.code not in _REPEAT_CODES:
                    _log.error("%s cannot be served again: %s", topic, error)
                    self._methods.handlers.pop(topic, None)
                    return
                await asyncio.sleep(backoff.failed())

    def _called(self, connection: ClientConnection, message: CallMessage) -> None:
        async def answer(result: Result) -> None:
            await connection.request(result, Ok)

        self._methods.called(message, answer)

    def room_made(self) -> None:
        """Read on; see :class:`engine.client_subscription.Owner`."""
        self._room.set()

    # The connection's keeper

    async def _keep(self) -> None:
        try:
            await self._stay_connected()
        except HeliographError as error:
            self._end(error)
        except Exception as error:
            _log.exception("the client failed")
            self._end(ConnectionLost(f"the client failed: {error!r}"))

    async def _stay_connected(self) -> None:
        clock = asyncio.get_running_loop().time
        backoff = Backoff(self._policy)
        give_up: float | None = clock() + self._connect_within
        token = ""
        refused: RequestError | None = None  # of the last token: the one after it is another, and the last try
        while True:
            lasted, bye_delay = 0.0, None
            try:
                before, token = token, await self._current_token()
                if refused is not None and token == before:
                    raise refused
                connection = await ClientConnection.open(self.url, token or None, self._open_timeout, self._tls_ca_file)
                give_up, refused = None, None
                opened = clock()
                why = await self._serve(connection)
                lasted = clock() - opened
                if (refusal := connection.refusal()) is not None:
                    raise refusal
                bye_delay = connection.bye.reconnect_in if connection.bye is not None else None
            except ConnectionLost as error:
                if give_up is not None and clock() >= give_up:
                    raise
                why = str(error)
            except RequestError as error:
                if refused is not None or error.code is not ErrorCode.UNAUTHORIZED or not callable(self._token):
                    raise
                refused = error
                why = str(error)  # another token may be let in, once
            delay = backoff.failed(lasted)
            if bye_delay is not None and backoff.failures == 1:
                delay = bye_delay * random.random()  # the engine knows when it will be back
            self._become(State.CONNECTING, f"{why}; reconnecting in {delay:.1f} s")
            await asyncio.sleep(delay)

    async def _current_token(self) -> str:
        if not callable(self._token):
            return self._token or ""
        try:
            token = self._token()
            return await token if inspect.isawaitable(token) else token
        except Exception as error:
            # Most likely the service that mints tokens is away, which passes as a lost connection does.
            raise ConnectionLost(f"the token function raised {type(error).__name__}") from error

    async def _serve(self, connection: ClientConnection) -> str:
        """Until the connection is lost; returns why."""

        def lost() -> None:
            self._connection = None
            self._become(State.CONNECTING)
            self._room.set()

        connection.on_request, connection.on_lost = self._room.set, lost
        self._connection = connection
        self._become(State.OPEN, f"connected to {self.url}")
        why = ""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._watch(connection), name="heliograph-client-watch")
                if callable(self._token) and connection.welcome.expires is not None:
                    renewal = self._renew(connection, connection.welcome.expires)
                    tasks.create_task(renewal, name="heliograph-client-token")
                for subscription in self._routes.reconnected():
                    tasks.create_task(self._resubscribe(connection, subscription), name="heliograph-client-resubscribe")
                for topic, methods in self._methods.handlers.items():
                    again = self._serve_again(connection, topic, methods)
                    tasks.create_task(again, name="heliograph-client-serve")
                await self._read(connection)
        except* ConnectionLost as losses:
            why = str(losses.exceptions[0])
        finally:
            await connection.close()
        return why

    async def _read(self, connection: ClientConnection) -> None:
        while True:
            while connection.quiet and self._routes.blocking:
                self._room.clear()
                await self._room.wait()
            message = await connection.receive()
            if isinstance(message, Slow):
                _log.warning(
                    "this client reads too slowly: %d of %d queued in the engine", message.queued, message.limit
                )
            elif isinstance(message, CallMessage):
                self._called(connection, message)
            else:
                self._routes.deliver(message)

    async def _watch(self, connection: ClientConnection) -> None:
        # Liveness by requests, while reading: a stopped reader would not see the answer, and blames nobody.
        while True:
            received = connection.received
            await asyncio.sleep(connection.welcome.ping_interval)
            if connection.received == received and not self._routes.blocking:
                try:
                    async with asyncio.timeout(self._request_timeout):
                        await connection.request(Ping(id=0), Pong)
                except TimeoutError:
                    raise ConnectionLost(f"{self.url} is silent") from None
                except RequestError as error:
                    _log.debug("ping was refused: %s", error)  # an answer, so the engine lives

    async def _renew(self, connection: ClientConnection, expires: float) -> None:
        """Send another token before the present one ends. What fails is tried again; at the end the engine closes."""
        while True:
            left = expires - (await connection.request(Ping(id=0), Pong)).ts  # by the engine's clock
            await asyncio.sleep(max(RENEWAL_LEAST_S, RENEWAL * left))
            try:
                request = Auth(id=0, token=await self._current_token())
            except ConnectionLost as error:  # not this connection's: see there
                _log.warning("no new token: %s", error)
                continue
            try:
                expires = (await connection.request(request, Authenticated)).expires
            except RequestError as error:
                _log.warning("a new token was refused: %s", error)

    async def _resubscribe(self, connection: ClientConnection, subscription: Subscription) -> None:
        accepted = partial(self._routes.accepted, subscription)
        backoff = self._patience()
        resume = True
        while subscription.live:
            since = subscription.since if resume else None
            try:
                request = subscription.options.request(list(subscription.topics), since)
                await connection.request(request, Subscribed, on_answer=accepted)
                return
            except RequestError as error:
                if since is not None and (error.field or "").startswith("since"):
                    _log.warning("%s cannot be recovered: %s", ", ".join(subscription.topics), error)
                    resume = False  # an engine without history; the first event of each topic shows the hole
                    continue
                if error.code not in _REPEAT_CODES:
                    _log.error("could not subscribe to %s again: %s", ", ".join(subscription.topics), error)
                    subscription.end(error)
                    return
                await asyncio.sleep(backoff.failed())

    def _patience(self) -> Backoff:
        """Between repetitions of one request: however long the engine took to refuse, it is no success."""
        return Backoff(dataclasses.replace(self._policy, stable_s=float("inf")))

    def _become(self, state: State, why: str = "") -> None:
        if self._state is State.CLOSED:
            return
        if state is not self._state or why:
            level = logging.INFO if state is State.OPEN or not why else logging.WARNING
            _log.log(level if why else logging.DEBUG, "%s", why or state)
        self._state = state
        if state in (State.OPEN, State.CLOSED):
            self._changed.set()
        else:
            self._changed.clear()

    def _end(self, failure: HeliographError | None) -> None:
        if self._state is State.CLOSED:
            return
        self._failure = failure
        self._become(State.CLOSED)
        self._routes.end(failure)
        self._room.set()


def _priority(priority: Priority | str | None) -> Priority | None:
    try:
        return None if priority is None else Priority(priority)
    except ValueError:
        allowed = ", ".join(Priority)
        raise RequestError(ErrorCode.BAD_REQUEST, f"{priority!r} is none of {allowed}", "priority") from None


def _body(answer: dict[str, Any], name: str) -> Any:
    # The figures are the answer without its envelope, or under one name of their own.
    return answer.get(name, {field: value for field, value in answer.items() if field not in ("op", "id")})
