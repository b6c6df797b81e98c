"""An application's Socket.IO namespace: what a user of the engine writes to speak its own events with its clients.

One object per worker and namespace, on the worker's loop: nothing in it may block. Clients are told of published events
by :meth:`Namespace.encode`, once for all of them; what they say reaches methods marked with :func:`on`.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from actors.session import Session
from transport.codes import ErrorCode
from transport.errors import ConfigError, RequestError
from transport.messages import Publication
from transport.requests import Subscribe, Unsubscribe
from transport.socketio import Kind, encode
from transport.socketio_form import Reply

if TYPE_CHECKING:
    from actors.namespace_engine import NamespaceEngine

ANY = "*"
"""The name of :func:`on` that stands for all events that no other method takes."""
RESERVED = frozenset({"connect", "connect_error", "disconnect"})
"""Names of events that clients raise by themselves."""
_MARK = "_heliograph_events"

_log = logging.getLogger(__name__)

Method = TypeVar("Method", bound=Callable[..., Any])


class ConnectionRefused(Exception):
    """Raise it in :meth:`Namespace.on_connect`: the client gets ``connect_error`` with this message and data."""

    def __init__(self, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.message, self.data = message, data


def on(name: str) -> Callable[[Method], Method]:
    """Marks a method of a :class:`Namespace` as the one for a client's event.

    It is called with the client and the event's arguments, for ``"*"`` also with the name before them; bytes among the
    arguments are ``bytes``. What it returns is the acknowledgement, if the client asked for one: a tuple is several
    arguments, ``None`` is none. It may be ``async def``: then events of one client may overtake each other.

    A :class:`RequestError` that it raises is the acknowledgement, as ``{"op": "error", "code", "message", "field"}``;
    any other exception is logged, and acknowledged as an ``internal`` one.
    """
    if name in RESERVED:
        raise ValueError(f"clients cannot emit {name!r}; define on_connect and on_disconnect")

    def mark(method: Method) -> Method:
        setattr(method, _MARK, (*getattr(method, _MARK, ()), name))
        return method

    return mark


class Owner(Protocol):
    """Where a client's session is (see :class:`actors.namespace_connection.NamespaceConnection`)."""

    session: Session

    @property
    def namespace(self) -> str: ...
    def disconnect(self) -> None: ...
    def counted(self) -> None: ...


class SocketClient:
    """One client in one namespace. What it is asked to do when it has gone is without effect.

    Attributes:
        data: the application's.
    """

    __slots__ = ("_owner", "data")

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self.data: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"SocketClient({self.id!r}, {self.address!r})"

    @property
    def id(self) -> str:
        """Of its session; the ``sid`` that it knows, too."""
        return self._owner.session.id

    @property
    def address(self) -> str:
        """``host:port``; the host alone behind a trusted proxy."""
        return self._owner.session.connection.address

    @property
    def user(self) -> str | None:
        """Whose it is, by its token; without tokens who it says it is."""
        return self._owner.session.user

    @property
    def topics(self) -> tuple[str, ...]:
        """What it is subscribed to."""
        return tuple(self._owner.session.subscriptions or ())

    def emit(self, name: str, *args: Any) -> None:
        """Send it an event, besides those it is subscribed to: it may overtake events that wait for a slow client.

        Raises:
            RequestError: ``bad_request``, an argument has no JSON form.
        """
        self._owner.session.send(self.packet(name, *args))

    def packet(self, name: str, *args: Any) -> bytes:
        """What :meth:`emit` would send, as frames for a ``reply``; ``bytes`` among the arguments are binary."""
        return encode(Kind.EVENT, self._owner.namespace, data=[name, *args])

    def disconnect(self) -> None:
        """Send it away; it does not come back by itself."""
        self._owner.disconnect()

    def subscribe(self, topics: str | Iterable[str], *, snapshot: bool = False, reply: Reply | None = None) -> None:
        """Events of these topics come from now on; with ``snapshot`` the last of each comes first.

        Where tokens are asked for, the client's has to allow them.

        Args:
            reply: is called with the answer's fields, ``op`` is ``ok`` or ``error`` (``code``, ``message``, ``field``),
                and returns frames (:meth:`packet`), or ``b""``. They are sent where the answer's place is: before the
                first event. It is called once, unless the client goes before the answer is there.
        """
        request = Subscribe(id="", topics=_listed(topics), snapshot=snapshot)
        self._ask(request, self._owner.session.clients.subscribe, reply)

    def unsubscribe(self, topics: str | Iterable[str], *, reply: Reply | None = None) -> None:
        """No more events of these topics; ``"*"``: of none. What it does not have is no error."""
        request = Unsubscribe(id="", topics="*" if topics == "*" else _listed(topics))
        self._ask(request, self._owner.session.clients.unsubscribe, reply)

    def _ask(self, request: Any, ask: Callable[[Session, Any], None], reply: Reply | None) -> None:
        session = self._owner.session
        request.id = self._answer(reply)
        if session.closed or session.leaving:
            request.id({"op": "error", "code": ErrorCode.UNAVAILABLE.value, "message": "the client has gone"})
            return
        try:
            ask(session, request)
        except RequestError as error:
            session.error(request.id, error)

    def _answer(self, reply: Reply | None) -> Reply:
        """What is called by the actors on the events' way, and therefore must not fail."""
        owner = self._owner

        def answer(fields: Mapping[str, Any]) -> bytes:
            try:
                if reply is not None:
                    frames = reply(fields)
                    if isinstance(frames, bytes):
                        return frames
                    raise TypeError(f"a reply returns frames, client.packet(…) or b'', not {frames!r:.100}")
                if fields["op"] == "error":
                    _log.warning("a subscription of the application was refused: %s", fields["message"])
            except Exception:
                _log.exception("the application's reply failed", extra={"namespace": owner.namespace})
            finally:
                owner.counted()
            return b""

        return answer


class Namespace:
    """The base of an application's namespace: ``[socketio.namespaces."/"] actor = "package.module:Class"``.

    Args:
        options: ``[socketio.namespaces."…".options]``. Raise ValueError for what is wrong with them.
        engine: the engine as the application's: publish, snapshot, history, census.

    Attributes:
        notices: which of the engine's notices reach clients as events of that name: gap, bye, position, skipped, slow,
            subscribed, unsubscribed, error; ``None``: all.
    """

    notices: frozenset[str] | None = None

    def __init__(self, *, options: Mapping[str, Any], engine: NamespaceEngine) -> None:
        self.options, self.engine = options, engine

    def encode(self, event: Publication) -> bytes | None:
        """A published event as a JSON array, ``["name", argument, …]``, for all clients that are subscribed to it;
        ``None``: they do not get it. ``event.data`` is JSON. Without this method: ``["event", {…}]``, as native clients
        get it."""
        raise NotImplementedError

    def on_connect(self, client: SocketClient, auth: Any) -> Any:
        """A client wants to come in; ``auth`` is what it sent along, or ``None``. May be ``async def``.

        What is sent to it here reaches it behind the news that it is connected.

        Raises:
            ConnectionRefused: it may not.
        """

    def on_disconnect(self, client: SocketClient, reason: str) -> None:
        """A client has gone for which :meth:`on_connect` had returned; once, and not ``async def``. It may have gone
        before it heard that it is connected. An async ``on_connect`` under way is cancelled instead."""

    def subscriptions_of(self, client: SocketClient) -> int:
        """What ``engine.census()`` counts for a client; asked after each answer to its subscribe and unsubscribe."""
        return len(client.topics)


def _listed(topics: str | Iterable[str]) -> list[str]:
    return [topics] if isinstance(topics, str) else list(topics)


class EventMethod(NamedTuple):
    """A method marked with :func:`on`, and how many arguments of a client it takes."""

    call: Callable[..., Any]
    least: int
    most: int | None  # None: any number
    named: bool  # it wants the event's name, too

    def problem(self, given: int) -> str | None:
        """Why it cannot be called with so many arguments."""
        if given >= self.least and (self.most is None or given <= self.most):
            return None
        wanted = f"{self.least}" if self.most == self.least else f"{self.least} to {self.most}"
        return f"{given} arguments, wanted are {wanted if self.most is not None else f'{self.least} or more'}"


def event_methods(namespace: Namespace) -> dict[str, EventMethod]:
    """The methods for clients' events, by name.

    Raises:
        ConfigError: two for one event, or one that cannot be called.
    """
    found: dict[str, EventMethod] = {}
    kind = type(namespace)
    for attribute in dir(kind):
        function = getattr(kind, attribute, None)
        for name in getattr(function, _MARK, ()):
            if name in found:
                raise ConfigError(f"{kind.__qualname__} has two methods for the event {name!r}")
            found[name] = _event_method(getattr(namespace, attribute), named=name == ANY)
    return found


def _event_method(method: Callable[..., Any], *, named: bool) -> EventMethod:
    parameters = inspect.signature(method).parameters.values()
    positional = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    own = 1 + named  # the client, and the name
    least = max(0, sum(each.default is each.empty for each in positional) - own)
    endless = any(each.kind is each.VAR_POSITIONAL for each in parameters)
    if len(positional) < own and not endless:
        raise ConfigError(f"{method.__qualname__} must take the client{' and the name' if named else ''}")
    return EventMethod(method, least, None if endless else len(positional) - own, named)


def check_namespace(kind: type[Namespace]) -> None:
    """Raise :class:`ConfigError` for a class that could not work."""
    if inspect.iscoroutinefunction(kind.on_disconnect):
        raise ConfigError(f"{kind.__qualname__}.on_disconnect must not be async: its client is gone")
    if inspect.iscoroutinefunction(kind.encode):
        raise ConfigError(f"{kind.__qualname__}.encode must not be async: it is on the events' way")
