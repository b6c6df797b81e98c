"""What the clients of a worker call and answer: the worker's side of :mod:`actors.call_desk`. On its loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from actors.hub_requests import HubRequests
from actors.identity import check_call, check_serve
from actors.ports import Uplink
from actors.session import Session
from transport.codec import pack
from transport.codes import ErrorCode
from transport.errors import CodecError, RequestError
from transport.messages import Call, CallDone, Calling, Withdraw
from transport.messages import Serve as ServeAtHub
from transport.requests import Call as CallRequest
from transport.requests import Result, Serve
from transport.topics import check_topic

CALLS = frozenset({CallRequest, Serve, Result})
"""The requests that come here."""


class ClientCalls:
    """Knows which sessions serve what, to tell it to the next hub.

    Args:
        uplink: the pipe to the hub.
        asked: what waits for the hub's answer.
        now: Unix seconds.
    """

    def __init__(self, uplink: Uplink, asked: HubRequests, now: Callable[[], float]) -> None:
        self._uplink, self._asked, self._now = uplink, asked, now
        self._callees: dict[str, Session] = {}  # by id: all that have served
        self._served: dict[Session, dict[str, ServeAtHub]] = {}  # by topic, as a new hub is told

    def handle(self, session: Session, request: Any, most: int) -> None:
        """One of :data:`CALLS`.

        Args:
            most: methods that a session may serve, on all topics together.

        Raises:
            RequestError: it is refused.
        """
        if isinstance(request, CallRequest):
            self._call(session, request)
        elif isinstance(request, Serve):
            self._serve(session, request, most)
        else:
            self._done(session, request)

    def _call(self, session: Session, request: CallRequest) -> None:
        check_call(session.identity, check_topic(request.topic), "topic")
        params = session.form.payload(request.params, "params") if bytes(request.params) else b"{}"
        ref = self._asked.new_ref()
        packed = pack(Call(ref, request.topic, request.method, params, session.user))
        self._asked.ask(session, request.id, ref, packed)

    def _serve(self, session: Session, request: Serve, most: int) -> None:
        topic, methods = check_topic(request.topic), list(dict.fromkeys(request.methods))
        check_serve(session.identity, topic, "topic")
        session.clients.check_unowned(session, topic)
        served = self._served.get(session, {})
        others = sum(len(held.methods) for other, held in served.items() if other != topic)
        if methods and others + len(methods) > most:
            raise RequestError(ErrorCode.LIMIT_EXCEEDED, f"at most {most} methods a session", "methods")
        if not methods:
            served.pop(topic, None)
            if not self._uplink.connected:  # the next hub does not hear of it
                session.message(op="ok", id=request.id)
                return
        ref = self._asked.new_ref()
        told = ServeAtHub(ref, session.id, topic, methods, self._now(), session in session.clients.inner)
        if methods:
            self._callees[session.id] = session
            self._served.setdefault(session, {})[topic] = told._replace(ref=0)
        self._asked.ask(session, request.id, ref, pack(told))

    def _done(self, session: Session, request: Result) -> None:
        if request.error is not None and bytes(request.result):
            raise RequestError(ErrorCode.BAD_REQUEST, "either a result or an error", "error")
        if not self._uplink.connected:
            raise RequestError(ErrorCode.UNAVAILABLE, "the hub is away; whoever called was told so")
        result, error = b"", None
        if request.error is not None:
            error = (request.error.code.value, request.error.message, request.error.field)
        else:
            result = session.form.payload(request.result, "result") if bytes(request.result) else b"null"
        self._asked.tell(session, pack(CallDone(request.call, session.id, result, error)))
        session.message(op="ok", id=request.id)

    def calling(self, item: Calling) -> None:
        """The hub wants a session to answer. One that cannot does so through us."""
        session = self._callees.get(item.member)
        if session is None:
            return  # the hub is told by now
        if session.leaving or session.closed:
            self._fail(item, RequestError(ErrorCode.UNAVAILABLE, "who was to answer it leaves; it was not called"))
            return
        try:
            params = session.form.raw(item.params)
        except CodecError as error:
            self._fail(item, RequestError(ErrorCode.BAD_REQUEST, f"for who answers here: {error}", "params"))
            return
        asked = {"call": item.call, "topic": item.topic, "method": item.method, "params": params, "user": item.user}
        frame = session.form.message({"op": "call", **asked})
        if session.has_room(frame):
            session.send(frame)
        else:
            text = f"who answers calls on {item.topic} is behind; it was not called, repeat in a moment"
            self._fail(item, RequestError(ErrorCode.UNAVAILABLE, text))

    def _fail(self, item: Calling, error: RequestError) -> None:
        if self._uplink.connected:
            told = (error.code.value, error.message, error.field)
            self._uplink.send(pack(CallDone(item.call, item.member, b"", told)))

    def restrict(self, session: Session) -> None:
        """Another token has come: what it does not allow to be served is served no more."""
        for topic in list(self._served.get(session, ())):
            try:
                check_serve(session.identity, topic, "topic")
            except RequestError:
                held = self._served[session].pop(topic)
                if self._uplink.connected:
                    self._uplink.send(pack(held._replace(methods=[])))

    def forget(self, session: Session) -> None:
        """It is gone: whoever waits for its answer learns so."""
        if self._callees.pop(session.id, None) is not None:
            self._served.pop(session, None)
            if self._uplink.connected:
                self._uplink.send(pack(Withdraw(session.id)))

    def again(self) -> None:
        """A hub has appeared that knows nobody."""
        for topics in self._served.values():
            for held in topics.values():
                self._uplink.send(pack(held))
