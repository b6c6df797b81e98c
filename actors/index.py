"""The subscription index: topic → route, and the order in which sessions join and leave routes.

It reads the hub's pipe in its order and turns it into operations for the broadcaster. A subscription takes effect where
its answer, the fence, stands in that pipe: events before it were for others, every event after it is for the session.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice
from typing import Any, NamedTuple

from actors.clients import Ref, Uplink
from actors.loop_actor import LoopActor
from actors.messages import (
    Answered,
    Disband,
    Downlink,
    Farewell,
    Finish,
    HubFound,
    Join,
    Leave,
    Notice,
    Operations,
    Seal,
    Send,
    SessionClosed,
    SnapshotFor,
    SubscribeFor,
    Sweep,
    UnsubscribeFor,
)
from actors.route import Route
from actors.session import Session
from actors.subscriptions import PatternIndex
from transport.codec import pack
from transport.codes import ErrorCode, GapReason
from transport.errors import RequestError
from transport.messages import Fence, Interest, Missed, Publication, Published, Refused
from transport.meter import Meter
from transport.requests import Snapshot, Subscribe, Unsubscribe
from transport.topics import is_pattern

TOPICS_CACHED = 16_384
INTEREST_PATTERNS = 10_000  # in one message to the hub: a few MB at most
SWEEP_INTERVAL = 1.0  # s


class _Seen:
    """The route of a topic and the last position that came for it."""

    __slots__ = ("epoch", "offset", "route")

    def __init__(self, route: Route, epoch: str, offset: int) -> None:
        self.route, self.epoch, self.offset = route, epoch, offset


class _Pending(NamedTuple):
    """A request that waits for its fence."""

    session: Session
    request: Subscribe | Snapshot | Unsubscribe
    interest: Interest
    deadline: float


class Index(LoopActor):
    """Two-way index of this worker's sessions and patterns.

    Args:
        broadcaster: executes the operations.
        clients: gets the hub's answers to publishes.
        uplink: the pipe to the hub.
        request_timeout: seconds after which a request without the hub's answer is refused as `unavailable`.
    """

    def __init__(
        self,
        *,
        broadcaster: Ref,
        clients: Callable[[], Ref],
        uplink: Uplink,
        meter: Meter,
        request_timeout: float,
    ) -> None:
        super().__init__()
        self._broadcaster, self._clients, self._uplink, self._meter = broadcaster, clients, uplink, meter
        self._request_timeout = request_timeout
        self._patterns = PatternIndex()
        self._members: dict[str, dict[Session, None]] = {}
        self._waiting: dict[str, int] = {}  # pattern → requests that wait for a fence
        self._seen: dict[str, _Seen | None] = {}  # the route cache; None: nobody here wants this topic
        self._routes: dict[tuple[str, ...], Route] = {}
        self._routes_of: dict[str, set[Route]] = {}
        self._pending: dict[int, _Pending] = {}
        self._asking: dict[Session, int] = {}  # how many of its requests wait for a fence
        self._next_ref = 0

    def on_start(self) -> None:
        """Begin the periodic look at deadlines."""
        self.later(SWEEP_INTERVAL, Sweep())

    # the hub's pipe -------------------------------------------------------------------------------------------------

    def on_downlink(self, message: Downlink) -> None:
        """A batch in its order. Cost per event: one look-up and one append."""
        ops: list[Any] = []
        answers: list[Published | Refused] = []
        seen_of = self._seen.get
        misses = events = 0
        for item in message.items:
            kind = type(item)
            if kind is Publication:
                events += 1
                topic = item.topic
                seen = seen_of(topic)
                if seen is not None:
                    if item.offset != seen.offset + 1 or item.epoch != seen.epoch:
                        self._hole(seen, item, ops)
                    seen.offset = item.offset
                    ops.append((seen.route, item))
                elif topic not in self._seen:
                    misses += 1
                    self._resolve(item, ops)
            elif kind is Fence:
                self._fence(item, ops)
            elif kind is Missed:
                self._missed(item, ops)
            elif not self._refused(item):
                answers.append(item)
        self._meter.route_misses += misses
        self._meter.route_hits += events - misses
        if answers:
            self._clients().tell(Answered(answers))
        self._broadcaster.tell(Operations(ops, message.sequence))

    def _resolve(self, item: Publication, ops: list[Any]) -> None:
        seen = self._place(item.topic, item.epoch, item.offset, ops)
        if seen is not None:
            ops.append((seen.route, item))

    def _place(self, topic: str, epoch: str, offset: int, ops: list[Any]) -> _Seen | None:
        """Find, or make, the route of a topic that is not in the cache; ``None``: nobody here wants it."""
        if len(self._seen) >= TOPICS_CACHED:
            del self._seen[next(iter(self._seen))]
        began = time.perf_counter()
        patterns = self._patterns.match(topic)
        self._meter.match.observe(time.perf_counter() - began)
        if not patterns:
            self._seen[topic] = None
            return None
        route = self._routes.get(patterns)
        if route is None:
            route = self._routes[patterns] = Route(patterns)
            for pattern in patterns:
                self._routes_of.setdefault(pattern, set()).add(route)
                for session in self._members.get(pattern, ()):
                    route.members[session] = route.members.get(session, 0) + 1
            if route.members:
                ops.append(Join(route, list(route.members)))
        seen = self._seen[topic] = _Seen(route, epoch, offset)
        return seen

    def _hole(self, seen: _Seen, item: Publication, ops: list[Any]) -> None:
        """Offsets jumped: say so instead of hiding it."""
        if item.epoch != seen.epoch:
            missed = Missed(item.topic, item.epoch, 1, item.offset - 1, GapReason.EPOCH_CHANGED.value)
        else:
            missed = Missed(item.topic, item.epoch, seen.offset + 1, item.offset - 1, GapReason.OVERFLOW.value)
        if item.epoch != seen.epoch or item.offset > seen.offset + 1:
            ops.append(Notice(seen.route, missed))
        seen.epoch = item.epoch

    def _missed(self, item: Missed, ops: list[Any]) -> None:
        self._meter.dropped[item.reason] = self._meter.dropped.get(item.reason, 0) + item.last - item.first + 1
        known = item.topic in self._seen
        seen = self._seen[item.topic] if known else self._place(item.topic, item.epoch, item.last, ops)
        if seen is None:
            return  # nobody here wants this topic, so nobody misses it
        if known and seen.epoch == item.epoch and seen.offset >= item.last:
            return  # told already
        seen.epoch, seen.offset = item.epoch, item.last
        ops.append(Notice(seen.route, item))

    # requests -------------------------------------------------------------------------------------------------------

    def on_subscribe_for(self, message: SubscribeFor) -> None:
        """Tell the hub of what is new; the subscription begins at the answer."""
        session, request, _ = message
        topics = list(dict.fromkeys(request.topics))
        for pattern in topics:
            self._waiting[pattern] = self._waiting.get(pattern, 0) + 1
        exact = [pattern for pattern in topics if not is_pattern(pattern)]
        self._ask(session, request, topics, exact, topics if request.snapshot else [])

    def on_snapshot_for(self, message: SnapshotFor) -> None:
        """Last events of topics, without a subscription."""
        self._ask(message.session, message.request, [], [], message.request.topics)

    def _ask(
        self,
        session: Session,
        request: Subscribe | Snapshot | Unsubscribe,
        add: list[str],
        exact: list[str],
        snapshot: list[str],
    ) -> None:
        self._next_ref = ref = self._next_ref + 1
        interest = Interest(ref, add, [], exact, snapshot)
        self._pending[ref] = _Pending(session, request, interest, self.loop.time() + self._request_timeout)
        self._asking[session] = self._asking.get(session, 0) + 1
        if self._uplink.connected:  # else it goes out with the hello to the next hub
            self._uplink.send(pack(interest))

    def _refused(self, item: Any) -> bool:
        """A negative ``ref`` is ours: the hub refused an interest."""
        if type(item) is not Refused or item.ref >= 0:
            return False
        pending = self._take(-item.ref)
        if pending is not None:
            self._give_up(pending, RequestError(item.code, item.message, item.field))
        return True

    def _take(self, ref: int) -> _Pending | None:
        """A request that waits no longer."""
        pending = self._pending.pop(ref, None)
        if pending is not None:
            left = self._asking[pending.session] - 1
            if left:
                self._asking[pending.session] = left
            else:
                del self._asking[pending.session]
        return pending

    def _give_up(self, pending: _Pending, error: RequestError) -> None:
        self._release(pending.interest.add)
        pending.session.error(pending.request.id, error)

    def _fence(self, fence: Fence, ops: list[Any]) -> None:
        pending = self._take(fence.ref)
        if pending is None:
            return
        session, request = pending.session, pending.request
        if session.closed or session.leaving:
            self._release(pending.interest.add)
            return
        if isinstance(request, Snapshot):
            ops.append(Send(session, session.form.snapshot(request.id, fence.events)))
            return
        if isinstance(request, Unsubscribe):
            self._unsubscribe(session, request, ops)
            return
        for topic, (epoch, offset) in fence.positions.items():
            self._epoch_changed(topic, epoch, offset, ops)
        joined: dict[Route, None] = {}
        for pattern in pending.interest.add:
            self._take_in(session, pattern, joined, ops)
        self._release(pending.interest.add)
        positions = {t: {"epoch": epoch, "offset": offset} for t, (epoch, offset) in fence.positions.items()}
        # Also those it was in before: what is pending there came before the answer.
        routes = {route: None for pattern in pending.interest.add for route in self._routes_of.get(pattern, ())}
        if routes:
            ops.append(Seal(list(routes)))
        answer = {"op": "ok", "id": request.id, "topics": request.topics, "positions": positions}
        ops.append(Send(session, session.form.message({**answer, "position": fence.position})))
        ops.extend(Send(session, session.form.event(event)) for event in fence.events)
        ops.extend(Join(route, [session]) for route in joined)

    def _epoch_changed(self, topic: str, epoch: str, offset: int, ops: list[Any]) -> None:
        """Tell those who are there of a new epoch before somebody joins who begins with it."""
        seen = self._seen.get(topic)
        if seen is not None and seen.epoch != epoch:
            ops.append(Notice(seen.route, Missed(topic, epoch, 1, offset, GapReason.EPOCH_CHANGED.value)))
            seen.epoch, seen.offset = epoch, offset

    def _take_in(self, session: Session, pattern: str, joined: dict[Route, None], ops: list[Any]) -> None:
        if session.subscriptions is None:
            session.subscriptions = {}
        if pattern in session.subscriptions:
            return
        session.subscriptions[pattern] = None
        self._meter.subscriptions += 1
        self._members.setdefault(pattern, {})[session] = None
        if self._patterns.add(pattern):
            self._reroute(pattern, ops)
        for route in self._routes_of.get(pattern, ()):
            count = route.members[session] = route.members.get(session, 0) + 1
            if count == 1:
                joined[route] = None

    def _reroute(self, pattern: str, ops: list[Any]) -> None:
        """The set of patterns changed: topics that match it have another route from here on."""
        if is_pattern(pattern):
            if self._seen:
                ops.append(Seal(None))
                self._seen.clear()
        elif (seen := self._seen.pop(pattern, None)) is not None:
            ops.append(Seal([seen.route]))

    # leaving --------------------------------------------------------------------------------------------------------

    def on_unsubscribe_for(self, message: UnsubscribeFor) -> None:
        """Leave at once, or behind the requests of this session that wait for the hub."""
        session, request, _ = message
        if session in self._asking:
            self._ask(session, request, [], [], [])
            return
        ops: list[Any] = []
        self._unsubscribe(session, request, ops)
        self._broadcaster.tell(Operations(ops))

    def _unsubscribe(self, session: Session, request: Unsubscribe, ops: list[Any]) -> None:
        """Leave the routes, then answer with what is left."""
        held = session.subscriptions or {}
        topics = list(held) if isinstance(request.topics, str) else request.topics
        self._exit(session, topics, ops)
        ops.append(
            Send(
                session,
                session.form.message({"op": "ok", "id": request.id, "topics": list(session.subscriptions or ())}),
            )
        )

    def on_farewell(self, message: Farewell) -> None:
        """Out of all routes, then `bye`, then the close."""
        session, code, reason, reconnect_in = message
        ops: list[Any] = []
        self._exit(session, list(session.subscriptions or ()), ops)
        bye: dict[str, Any] = {"op": "bye", "code": code, "reason": reason, "reconnect": reconnect_in is not None}
        if reconnect_in is not None:
            bye["reconnect_in"] = reconnect_in
        ops.append(Send(session, session.form.message(bye)))
        ops.append(Finish(session, code, reason))
        self._broadcaster.tell(Operations(ops))

    def on_session_closed(self, message: SessionClosed) -> None:
        """Forget everything of a session."""
        session = message.session
        ops: list[Any] = []
        self._exit(session, list(session.subscriptions or ()), ops)
        if ops:
            self._broadcaster.tell(Operations(ops))

    def _exit(self, session: Session, patterns: list[str], ops: list[Any]) -> None:
        unused: list[str] = []
        for pattern in patterns:
            if session.subscriptions is None or pattern not in session.subscriptions:
                continue
            del session.subscriptions[pattern]
            self._meter.subscriptions -= 1
            members = self._members[pattern]
            del members[session]
            for route in self._routes_of.get(pattern, ()):
                count = route.members[session] - 1
                if count:
                    route.members[session] = count
                else:
                    del route.members[session]
                    ops.append(Leave(route, session))
            if not members:
                del self._members[pattern]
                unused.append(pattern)
        self._retire(unused, ops)

    def _release(self, patterns: list[str]) -> None:
        """A waiting request is over; patterns that nobody holds are withdrawn from the hub."""
        unused = []
        for pattern in patterns:
            left = self._waiting[pattern] - 1
            if left:
                self._waiting[pattern] = left
            else:
                del self._waiting[pattern]
                if pattern not in self._members:
                    unused.append(pattern)
        self._retire(unused, [])

    def _retire(self, patterns: list[str], ops: list[Any]) -> None:
        for pattern in patterns:
            if self._patterns.remove(pattern):
                self._reroute(pattern, ops)
                for route in self._routes_of.pop(pattern, ()):
                    self._routes.pop(route.patterns, None)
                    for other in route.patterns:
                        if other in self._routes_of:
                            self._routes_of[other].discard(route)
                            if not self._routes_of[other]:
                                del self._routes_of[other]
                    ops.append(Disband(route))
        gone = [pattern for pattern in patterns if pattern not in self._waiting]
        if gone and self._uplink.connected:
            self._uplink.send(pack(Interest(0, [], gone, [], [])))

    # the hub comes and goes -----------------------------------------------------------------------------------------

    def on_hub_found(self, message: HubFound) -> None:
        """Tell a hub everything: what is in force, then what waits, in the order of asking."""
        if not self._uplink.connected:
            return  # it has gone again; there will be another
        members = iter(self._members)
        while some := list(islice(members, INTEREST_PATTERNS)):
            self._uplink.send(pack(Interest(0, some, [], [], [])))
        for pending in self._pending.values():
            self._uplink.send(pack(pending.interest))

    def on_sweep(self, _message: Sweep) -> None:
        """Answer requests that the hub has not answered in time."""
        now = self.loop.time()
        for ref in [ref for ref, pending in self._pending.items() if pending.deadline <= now]:
            error = RequestError(ErrorCode.UNAVAILABLE, f"no answer from the hub in {self._request_timeout:g} s")
            if (pending := self._take(ref)) is not None:
                self._give_up(pending, error)
        self.later(SWEEP_INTERVAL, Sweep())
