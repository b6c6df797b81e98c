"""The clients actor: owns the sessions of a worker, answers what needs no hub, hands on what does."""

from __future__ import annotations

import logging
import random
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any, NamedTuple

from actors.admission import Admission, AuthPolicy
from actors.client_calls import CALLS, ClientCalls
from actors.hub_requests import HubRequests
from actors.identity import check_presence, check_publish, check_subscribe, check_unowned
from actors.loop_actor import LoopActor
from actors.messages import (
    Answered,
    Farewell,
    HubLost,
    SessionClosed,
    SnapshotFor,
    SubscribeFor,
    Sweep,
    UnsubscribeFor,
)
from actors.neighbours import Neighbours
from actors.occupancy import Occupancy
from actors.ports import Ref, Uplink
from actors.rated_users import RatedUsers
from actors.request_checks import check_group, check_patterns, check_room, check_since
from actors.session import Connection, Session
from actors.slow_lane import SlowLane
from transport.codec import pack
from transport.codes import ByeReason, CloseCode, ErrorCode
from transport.errors import RequestError
from transport.filters import Filter
from transport.messages import (
    Ack,
    Calling,
    Publication,
    Publish,
    ReadHistory,
    Seat,
    Seated,
    Share,
    ShareTaken,
    WhoIsPresent,
)
from transport.meter import Meter
from transport.requests import Ack as AckRequest
from transport.requests import Auth, Ping, Presence, Request, Snapshot, Stats, Subscribe, Subscriptions, Unsubscribe
from transport.requests import History as HistoryRequest
from transport.requests import Publish as PublishRequest
from transport.socketio_form import SOCKET_IO
from transport.topics import check_readable, check_topic, is_user, user_topic
from transport.wire_forms import JsonForm, MsgpackForm, WireForm

PROTOCOL = 1
SWEEP_INTERVAL = 1.0  # s
UNWELCOME = (CloseCode.POLICY, CloseCode.UNAUTHORIZED, CloseCode.KICKED)
RECONNECT_SPREAD = 2.0  # s; clients of a worker that goes come back spread over this

_log = logging.getLogger(__name__)


class ClientLimits(NamedTuple):
    """Bounds on what one client may ask for."""

    connections: int  # sessions of this worker
    message_bytes: int
    topics_per_request: int
    subscriptions: int  # patterns in force of one session
    unacknowledged_publishes: int  # of one session; beyond, its socket is not read
    outbox_bytes: int
    outbox_events: int
    write_chunk: int  # bytes moved to the transport at a time from the slow lane
    disconnect_slow: bool  # a full outbox closes (4008) instead of dropping the oldest events
    ping_interval: float  # s, told in `welcome`
    connections_per_ip: int | None = None  # sessions of this worker
    sessions_per_user: int | None = None  # the same


class Unwelcome(Exception):
    """Why a connection gets no session, as `bye` says it; ``error``: what is wrong with its token."""

    def __init__(self, code: CloseCode, reason: ByeReason, message: str, error: RequestError | None = None) -> None:
        super().__init__(message)
        self.code, self.reason, self.message, self.error = code, reason, message, error


class Clients(LoopActor):
    """Sessions and their requests.

    Args:
        version: of the engine, for `welcome`.
        node: this machine's name.
        index: the subscription index of this worker.
        uplink: the pipe to the hub.
        stats: the public figures, for the `stats` op.
        user_window: seconds of the users' sliding windows; none: users have no rate.
        auth: whether clients need a token, and which.
        publish: makes what the hub is asked to accept; :meth:`actors.tracing.PublishTracing.publish` also chooses.
    """

    def __init__(
        self,
        *,
        version: str,
        node: str,
        limits: ClientLimits,
        index: Ref,
        uplink: Uplink,
        meter: Meter,
        now: Callable[[], float],
        stats: Callable[[], Mapping[str, Any]],
        user_window: float | None = None,
        auth: AuthPolicy = AuthPolicy(),  # noqa: B008  it is immutable
        publish: Callable[..., Publish] = Publish,
    ) -> None:
        super().__init__()
        self._version, self._node, self._index, self._uplink = version, node, index, uplink
        self._meter, self._now, self._stats = meter, now, stats
        self._made = publish
        self._json, self._msgpack = JsonForm(), MsgpackForm()
        self.subprotocols = [self._json.subprotocol, self._msgpack.subprotocol]
        self.sessions: dict[str, Session] = {}
        self.inner: set[Session] = set()
        """Sessions of parts of this process (:class:`actors.inner_client.InnerClient`): they need no token, are subject
        to no limit on clients, in no figure of them, and stay when clients are sent away."""
        self.owned: frozenset[str] = frozenset()
        """Topics of which the engine has the say (:attr:`Config.owned_topics`): no client publishes or serves there."""
        self.users: dict[str, set[Session]] = {}
        self._asked = HubRequests(uplink, limits.unacknowledged_publishes)
        self._calls = ClientCalls(uplink, self._asked, now)
        self._rated = None if user_window is None else RatedUsers(user_window, self._tell_hub)
        self._admission = Admission(auth, now, time.monotonic)
        self._draining = False
        self.slow_lane = SlowLane(limits, meter)
        self.occupancy = Occupancy(uplink)
        self.configure(limits)

    def on_start(self) -> None:
        """Begin the periodic look at tokens, and at users who have a rate."""
        self.later(SWEEP_INTERVAL, Sweep())

    def configure_auth(self, auth: AuthPolicy) -> None:
        """Take other keys, at a reload; see :meth:`Admission.configure`."""
        self._admission.configure(auth, self.sessions.values())

    def configure(self, limits: ClientLimits) -> None:
        """Take new limits, at start and at a reload."""
        self._limits = limits
        self._welcome: dict[str, Any] = {
            "op": "welcome",
            "protocol": PROTOCOL,
            "server": f"heliograph/{self._version}",
            "session": "",
            "node": self._node,
            "ping_interval": limits.ping_interval,
            "limits": {
                "message_bytes": limits.message_bytes,
                "topics_per_request": limits.topics_per_request,
                "subscriptions": limits.subscriptions,
                "unacknowledged_publishes": limits.unacknowledged_publishes,
            },
        }
        self._neighbours = Neighbours(limits.connections_per_ip, self.sessions.values())
        self.slow_lane.limits = limits
        self._asked.most = limits.unacknowledged_publishes

    # the door -------------------------------------------------------------------------------------------------------

    def open(self, connection: Connection) -> Session:
        """A handshake is done: the connection's session. Called by the listener on this loop.

        Who is unwelcome has one too, and is told by `bye`.
        """
        form: WireForm = self._msgpack if connection.subprotocol == self._msgpack.subprotocol else self._json
        session, unwelcome = self._arrive(connection, form)
        session.send(form.message({**self._welcome, "session": session.id, **self._admission.greeting(session)}))
        if unwelcome is not None:
            if unwelcome.error is not None:
                self._refuse(session, None, unwelcome.error)
            else:
                self.dismiss(session, unwelcome.code, unwelcome.reason)
        elif session.user is not None:
            self._seat(session, session.user)
        return session

    def enter(self, connection: Connection, form: WireForm) -> Session:
        """As :meth:`open`, for one that is welcomed, or told why not, by whoever calls; it needs its token by now.

        Raises:
            Unwelcome: there is no session.
        """
        session, unwelcome = self._arrive(connection, form)
        if unwelcome is None and session.identity is None and self._admission.required:
            error = RequestError(ErrorCode.UNAUTHORIZED, "connect with a token", "token")
            unwelcome = _unauthorized(error)
        if unwelcome is None and session.user is not None and self._is_busy(session.user):
            unwelcome = Unwelcome(CloseCode.LIMIT, ByeReason.LIMIT, "the user has too many sessions")
        if unwelcome is not None:
            if unwelcome.error is not None:
                _log.info("a token was refused: %s", unwelcome.message, extra={"address": session.connection.address})
            self.forget(session, unwelcome.code)
            raise unwelcome
        if session.user is not None:
            self._seat(session, session.user)
        return session

    def _arrive(self, connection: Connection, form: WireForm) -> tuple[Session, Unwelcome | None]:
        """A session that counts, and why it must go again."""
        session = Session(secrets.token_urlsafe(9), connection, form, self)
        session.connected_at = self._now()
        self.sessions[session.id] = session
        self._meter.connections += 1
        self._meter.socketio += form.subprotocol == SOCKET_IO
        unwelcome = None
        crowded = not self._neighbours.came(session)
        try:
            self._admission.arrive(session)
        except RequestError as error:
            unwelcome = _unauthorized(error)
        if self._draining:
            unwelcome = Unwelcome(CloseCode.RESTART, ByeReason.DRAIN, "the server restarts; connect again")
        elif len(self.sessions) > self._limits.connections:
            unwelcome = Unwelcome(CloseCode.TRY_LATER, ByeReason.LIMIT, "the server has too many clients; try later")
        elif crowded:
            unwelcome = Unwelcome(CloseCode.LIMIT, ByeReason.LIMIT, "too many clients from this address")
        return session, unwelcome

    def open_inner(self, connection: Connection) -> Session:
        """The session of a part of this process; it is not welcomed. On this loop."""
        session = Session(secrets.token_urlsafe(9), connection, self._json, self)
        self.inner.add(session)
        return session

    @property
    def everybody(self) -> Iterable[Session]:
        """All sessions, inner ones too."""
        return chain(self.sessions.values(), self.inner)

    def _refuse(self, session: Session, request_id: int | str | None, error: RequestError) -> None:
        """Its token is no good: say why, then close."""
        _log.info("a token was refused: %s", error.message, extra={"address": session.connection.address})
        session.error(request_id, error)
        self.dismiss(session, CloseCode.UNAUTHORIZED, ByeReason.UNAUTHORIZED)

    def _seat(self, session: Session, user: str) -> None:
        """The session is one of the user's: it gets what is published to the user, unless the user has too many."""
        if self._is_busy(user):
            self.dismiss(session, CloseCode.LIMIT, ByeReason.LIMIT)
            return
        if self._rated is not None:
            session.rate()
            if user not in self.users:
                self._rated.came(user)
        self.users.setdefault(user, set()).add(session)
        self._index.tell(SubscribeFor(session, Subscribe(id=0, topics=[user_topic(user)]), by_server=True))

    def _is_busy(self, user: str) -> bool:
        """Whether the user has as many sessions as it may."""
        most = self._limits.sessions_per_user
        return most is not None and len(self.users.get(user, ())) >= most

    def _unseat(self, session: Session, user: str) -> None:
        sessions = self.users.get(user)
        if sessions is not None:
            sessions.discard(session)
            if not sessions:
                del self.users[user]
                if self._rated is not None:
                    self._rated.went(user)

    def forget(self, session: Session, code: int) -> None:
        """A connection is gone: nothing of its session stays."""
        if session in self.inner:
            self.inner.discard(session)
            self._asked.forget(session)
            self._calls.forget(session)
            self._index.tell(SessionClosed(session))
            return
        if self.sessions.pop(session.id, None) is None:
            return
        self._meter.connections -= 1
        self._meter.socketio -= session.form.subprotocol == SOCKET_IO
        self._meter.disconnects[code] = self._meter.disconnects.get(code, 0) + 1
        self._asked.forget(session)
        self._calls.forget(session)
        self._neighbours.went(session)
        self._admission.forget(session)
        if session.user is not None:
            self._unseat(session, session.user)
        self._index.tell(SessionClosed(session))

    def dismiss(self, session: Session, code: CloseCode, reason: ByeReason, reconnect_in: float | None = None) -> None:
        """Close from our side: out of the routes first, then `bye`, then the close frame."""
        if session.leaving or session.closed:
            return
        session.leaving = True
        self._asked.let_go(session)
        self._calls.forget(session)  # it is not heard any more: whoever called it need not wait for its close
        if reconnect_in is None:
            reconnect_in = self.reconnect_in(code)
        self._index.tell(Farewell(session, code, reason, reconnect_in))

    def reconnect_in(self, code: int) -> float | None:
        """Seconds after which whoever is closed with this code may come back; none: not as it is."""
        return None if code in UNWELCOME else round(random.uniform(0, RECONNECT_SPREAD), 3)

    def send_away(self, most: int, *, patient: bool = True) -> int:
        """Say `bye` to ``most`` of those who are here, and from now on to whoever comes; how many are still to be told.

        Who waits for the hub's answers is read no more and stays until it has them, or until this is called without
        patience.
        """
        self._draining = True
        left = 0
        for session in list(self.sessions.values()):
            if session.leaving:
                continue
            if most > 0 and not (patient and session.unacknowledged):
                most -= 1
                self.dismiss(session, CloseCode.RESTART, ByeReason.DRAIN)
                continue
            left += 1
            if most > 0:
                self._asked.part(session)
                self._calls.forget(session)  # it is not read, so it answers no calls
        return left

    # requests -------------------------------------------------------------------------------------------------------

    def handle(self, session: Session, request: Request) -> None:
        """One request; raises :class:`RequestError` for the session to answer."""
        kind = type(request)
        if session.identity is None and self._admission.required and kind is not Auth and kind is not Ping:
            raise RequestError(ErrorCode.UNAUTHORIZED, "send `auth` with a token first")
        self.serve(session, request)

    def serve(self, session: Session, request: Request) -> None:
        """One request of a session that may come in; raises as :meth:`handle`."""
        kind = type(request)
        if kind is PublishRequest:
            self._publish(session, request)  # type: ignore[arg-type]
        elif kind is Subscribe:
            self.subscribe(session, request)  # type: ignore[arg-type]
        elif kind is Unsubscribe:
            self.unsubscribe(session, request)  # type: ignore[arg-type]
        elif kind is Snapshot:
            self._snapshot(session, request)  # type: ignore[arg-type]
        elif kind is HistoryRequest:
            self._history(session, request)  # type: ignore[arg-type]
        elif kind is Presence:
            self._presence(session, request)  # type: ignore[arg-type]
        elif kind is AckRequest:
            self._ack(session, request)  # type: ignore[arg-type]
        elif kind in CALLS:
            self._calls.handle(session, request, self._limits.subscriptions)
        elif kind is Auth:
            self._authenticate(session, request)  # type: ignore[arg-type]
        else:
            self._tell(session, request)

    def _tell(self, session: Session, request: Request) -> None:
        """What is known here."""
        kind = type(request)
        if kind is Subscriptions:
            self._tell_subscriptions(session, request.id)
        elif kind is Stats:
            session.message(op="ok", id=request.id, stats=dict(self._stats()))
        elif kind is Ping:
            session.message(op="ok", id=request.id, ts=self._now())

    def _authenticate(self, session: Session, request: Auth) -> None:
        """A first token or another one. The first must be good; with a bad one later, the one before holds."""
        try:
            identity = self._admission.identify(request.token)
            if session.user not in (None, identity.user):
                text = f"this session is {session.user}'s; to be another user, connect again"
                raise RequestError(ErrorCode.FORBIDDEN, text, "token")
        except RequestError as error:
            if session.identity is not None or not self._admission.required:
                raise
            self._refuse(session, request.id, error)
            return
        before, guest = session.identity, self._admission.is_guest(session)
        self._admission.admit(session, identity)
        session.message(op="ok", id=request.id, user=identity.user, expires=identity.expires)
        if session.user is None:
            session.user = identity.user
            self._seat(session, identity.user)
        others = guest or (before is not None and before.grants is not identity.grants)
        if others:
            self._calls.restrict(session)
        if others and session.subscriptions and not session.leaving:
            # Not those that an operator ordered, nor the user's own: they never needed the token. (Which of a guest's
            # an operator ordered nobody knows.)
            held = [p for p in session.subscriptions if not is_user(p) and (before is None or before.may_subscribe(p))]
            lost = [p for p in held if not identity.may_subscribe(p)]
            if lost:
                self._index.tell(UnsubscribeFor(session, Unsubscribe(id=0, topics=lost), by_server=True))

    def _tell_subscriptions(self, session: Session, request_id: int | str) -> None:
        held = session.subscriptions or {}
        options = {pattern: options for pattern, subscription in held.items() if (options := subscription.options)}
        session.message(op="ok", id=request_id, subscriptions=list(held), options=options)

    def _publish(self, session: Session, request: PublishRequest) -> None:
        topic = check_topic(request.topic)
        check_publish(session.identity, topic, "topic")
        self.check_unowned(session, topic)
        data = session.form.payload(request.data)
        ref = self._asked.new_ref()
        priority = None if request.priority is None else request.priority.value
        publish = self._made(
            ref, topic, request.type, data, request.key, priority, idempotency_key=request.idempotency_key
        )
        self._asked.ask(session, request.id, ref, pack(publish))

    def check_unowned(self, session: Session, topic: str) -> None:
        """Raise :class:`RequestError`, ``forbidden``, where a client would speak for the engine."""
        if session not in self.inner:
            check_unowned(topic, self.owned, "topic")

    def _presence(self, session: Session, request: Presence) -> None:
        check_presence(session.identity, session.user, check_topic(request.topic), "topic")
        ref = self._asked.new_ref()
        self._asked.ask(session, request.id, ref, pack(WhoIsPresent(ref, request.topic)))

    def _history(self, session: Session, request: HistoryRequest) -> None:
        topic = check_topic(request.topic)
        check_subscribe(session.identity, session.user, topic, "topic")
        since = None if request.since is None else (request.since.epoch, request.since.offset)
        ref = self._asked.new_ref()
        self._asked.ask(session, request.id, ref, pack(ReadHistory(ref, topic, request.limit, since)))

    def _check_subscribe(self, session: Session, topics: list[str], field: str = "topics") -> None:
        """Raise :class:`RequestError` where the session may not read one of these patterns."""
        for i, pattern in enumerate(topics):
            check_subscribe(session.identity, session.user, pattern, f"{field}[{i}]")

    def subscribe(self, session: Session, request: Subscribe, *, by_server: bool = False) -> None:
        """For the session, or for an operator (``by_server``): the session is told ``subscribed`` then.

        Raises:
            RequestError: this session cannot have it.
        """
        check_patterns(request.topics, self._limits.topics_per_request)
        if by_server:  # an operator decides what a token cannot; even so, what is a user's stays the user's
            for i, pattern in enumerate(request.topics):
                check_readable(pattern, session.user, f"topics[{i}]")
        else:
            self._check_subscribe(session, request.topics)
        self.check_room(session, request.topics)
        check_group(request)
        check_since(request)
        if request.where is not None:
            request.where = Filter.parse(request.where)
        self._index.tell(SubscribeFor(session, request, by_server))

    def check_room(self, session: Session, topics: list[str]) -> None:
        """Raise :class:`RequestError` if a session cannot have these patterns, too.

        To be asked again when they take effect: of requests that wait for the hub there may be many.
        """
        check_room(session.subscriptions or (), topics, self._limits.subscriptions)

    def _ack(self, session: Session, request: AckRequest) -> None:
        check_topic(request.topic)
        if not self._uplink.connected:
            raise RequestError(ErrorCode.UNAVAILABLE, "the hub is away; the event may be assigned again")
        self._asked.tell(session, pack(Ack(session.id, request.topic, request.epoch, request.offset)))
        session.message(op="ok", id=request.id)

    def unsubscribe(self, session: Session, request: Unsubscribe, *, by_server: bool = False) -> None:
        """The opposite of :meth:`subscribe`; what the session does not have is no error."""
        if isinstance(request.topics, str):
            if request.topics != "*":
                raise RequestError(ErrorCode.BAD_REQUEST, 'a list of topics, or "*" for all', "topics")
        else:
            check_patterns(request.topics, self._limits.topics_per_request)
        self._index.tell(UnsubscribeFor(session, request, by_server))

    def _snapshot(self, session: Session, request: Snapshot) -> None:
        check_patterns(request.topics, self._limits.topics_per_request)
        self._check_subscribe(session, request.topics)
        self._index.tell(SnapshotFor(session, request))

    # answers of the hub ---------------------------------------------------------------------------------------------

    def on_answered(self, message: Answered) -> None:
        """Publishes were accepted or refused, users were looked up, methods were called."""
        for item in message.items:
            if not self._asked.answered(item):
                self._take(item)
        self._asked.release()

    def _take(self, item: Any) -> None:
        """A call of a session here, or this worker's part of what is bounded in the whole engine."""
        if type(item) is Calling:
            self._calls.calling(item)
        elif type(item) is Seat:
            self.occupancy.answered(item)
        elif type(item) is Share and self._rated is not None:
            self._rated.take(item, item.user in self.users)

    def hub_found(self) -> None:
        """A hub answers. Called by the worker on this loop, before the index tells of its interest."""
        if self._rated is not None:
            self._rated.again(self.users)
        self.occupancy.again()
        self._calls.again()
        self._asked.release()  # the window of this link is open

    def on_sweep(self, _message: Sweep) -> None:
        """Send away whose token has ended, or never came. Tell users with a rate what they did not get lately, if
        nothing came since that it would precede."""
        self.later(SWEEP_INTERVAL, Sweep())
        late, expired = self._admission.due()
        for session in late:
            self.dismiss(session, CloseCode.UNAUTHORIZED, ByeReason.UNAUTHORIZED)
        for session in expired:
            self.dismiss(session, CloseCode.UNAUTHORIZED, ByeReason.TOKEN_EXPIRED)
        if self._rated is not None:
            self._rated.sweep()
            for sessions in self.users.values():
                for session in sessions:
                    session.settle()

    def admit(self, session: Session, publication: Publication) -> bool:
        """Whether the session's user may get this event, by the user's rate."""
        assert self._rated is not None, "only then a session is rated"
        assert session.user is not None, "only users have a rate"
        return self._rated.admit(session.user, publication)

    def _tell_hub(self, message: Seated | ShareTaken) -> None:
        if self._uplink.connected:  # else it is told everything when it is found
            self._uplink.send(pack(message))

    def on_hub_lost(self, message: HubLost) -> None:
        """What was in flight may or may not have been accepted."""
        self._asked.hub_lost(message.reason)

    def release(self) -> None:
        """The uplink has room again."""
        self._asked.release()


def _unauthorized(error: RequestError) -> Unwelcome:
    return Unwelcome(CloseCode.UNAUTHORIZED, ByeReason.UNAUTHORIZED, error.message, error)
