"""The subscription index: topic → audience, and the order in which sessions join and leave.

It reads the hub's pipe in its order and turns it into operations for the broadcaster. A subscription takes effect where
its answer, the fence, stands in that pipe: events before it were for others, every event after it is for the session.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice
from typing import Any

from actors.attendance import Attendance
from actors.audience import Audience
from actors.audiences import Audiences
from actors.filter_index import FilterIndex
from actors.identity import check_subscribe
from actors.loop_actor import LoopActor
from actors.memberships import Memberships
from actors.messages import (
    Answered,
    Downlink,
    Farewell,
    Finish,
    HubFound,
    Join,
    Notice,
    Operations,
    Reached,
    Seal,
    Send,
    SessionClosed,
    SnapshotFor,
    SubscribeFor,
    Sweep,
    UnsubscribeFor,
)
from actors.outstanding import Asked, Outstanding
from actors.ports import Next, Ref, Uplink
from actors.session import Session
from actors.subscription import EVERYTHING, PLAIN, Subscription, delivery
from actors.topic_policy import Strategy, TopicPolicies
from actors.tracing import WriteTracing
from transport.codec import pack, unpack_batch
from transport.codes import ErrorCode, GapReason, Priority
from transport.errors import RequestError
from transport.messages import (
    Assigned,
    Backlog,
    Enlist,
    Fence,
    Interest,
    Mark,
    Missed,
    Publication,
    Ready,
    Refused,
    Traced,
)
from transport.meter import Meter
from transport.requests import Snapshot, Subscribe, Unsubscribe
from transport.topics import is_pattern
from transport.wire_forms import bye, gap

TOPICS_CACHED = 16_384
INTEREST_PATTERNS = 10_000  # in one message to the hub: a few MB at most
SWEEP_INTERVAL = 1.0  # s


class _Seen:
    """The audience of a topic and the last position that came for it."""

    __slots__ = ("audience", "epoch", "offset")

    def __init__(self, audience: Audience, epoch: str, offset: int) -> None:
        self.audience, self.epoch, self.offset = audience, epoch, offset


class Index(LoopActor):
    """Two-way index of this worker's sessions and patterns.

    Args:
        broadcaster: executes the operations.
        clients: gets the hub's answers to publishes, and the users' shares.
        uplink: the pipe to the hub.
        policies: of topics.
        request_timeout: seconds after which a request without the hub's answer is refused as `unavailable`.
        route_ttl: seconds after which a selection that nobody used is forgotten.
        tracing: is told which events are traced; ``None``: none are.
    """

    def __init__(
        self,
        *,
        broadcaster: Next,
        clients: Callable[[], Ref],
        uplink: Uplink,
        meter: Meter,
        policies: TopicPolicies,
        request_timeout: float,
        route_ttl: float = 300.0,
        tracing: WriteTracing | None = None,
    ) -> None:
        super().__init__()
        self._broadcaster, self._clients, self._uplink, self._meter = broadcaster, clients, uplink, meter
        self._request_timeout, self._route_ttl = request_timeout, route_ttl
        self._policies = policies
        self.audiences = Audiences(policies, self._reroute)
        self._attendance = Attendance(lambda topic: policies.of(topic).presence)
        self._outstanding = Outstanding()
        self._memberships = Memberships(uplink)
        self._seen: dict[str, _Seen | None] = {}  # the route cache; None: nobody here wants this topic
        self._position: str | None = None  # everything up to there has come from the hub
        self._aged = 0.0
        # What of the pipe is for us besides events; whether it was: what is not is for the clients actor.
        self._items: dict[type, Callable[[Any, list[Any]], bool]] = {
            Fence: self._fence,
            Mark: self._mark,
            Backlog: self._collect,
            Missed: self._missed,
            Assigned: self._assigned,
            Refused: self._refused,
        }
        if tracing is not None:
            self._items[Traced] = tracing.arrived

    def on_start(self) -> None:
        """Begin the periodic look at deadlines."""
        self._aged = self.loop.time()
        self.later(SWEEP_INTERVAL, Sweep())

    # the hub's pipe -------------------------------------------------------------------------------------------------

    def on_downlink(self, message: Downlink) -> None:
        """A batch in its order. Cost per event that no filter or pacing concerns: one look-up and one append."""
        arrived = time.perf_counter()
        ops: list[Any] = []
        answers: list[Any] = []
        seen_of = self._seen.get
        misses = events = 0
        critical = Priority.CRITICAL.value
        for item in message.items:
            kind = type(item)
            if kind is Publication:
                events += 1
                topic = item.topic
                seen = seen_of(topic)
                if seen is not None:
                    if (item.offset != seen.offset + 1 or item.epoch != seen.epoch) and self._known(seen, item, ops):
                        continue
                    seen.offset = item.offset
                    plain = seen.audience.plain
                    if plain and item.priority != critical:
                        ops.append((plain, item))
                    elif not self._spread(seen.audience, item, ops):
                        misses += 1
                elif topic not in self._seen:
                    misses += 1
                    seen = self._place(topic, item.epoch, item.offset, ops)
                    if seen is not None:
                        self._spread(seen.audience, item, ops)
                    if not item.epoch:
                        self._seen.pop(topic, None)
            else:
                handle = self._items.get(kind)
                if handle is None or not handle(item, ops):
                    answers.append(item)
        self._meter.route_misses += misses
        self._meter.route_hits += events - misses
        if answers:
            self._clients().tell(Answered(answers))
        self._broadcaster.hand(Operations(ops, message.sequence, arrived))

    def _spread(self, audience: Audience, item: Publication, ops: list[Any]) -> bool:
        began = time.perf_counter()
        known = audience.spread(item, ops)
        if not known:
            self._meter.match.observe(time.perf_counter() - began)
        return known

    def _place(self, topic: str, epoch: str, offset: int, ops: list[Any]) -> _Seen | None:
        """Find the audience of a topic that is not in the cache; ``None``: nobody here wants it."""
        if len(self._seen) >= TOPICS_CACHED:
            del self._seen[next(iter(self._seen))]
        began = time.perf_counter()
        audience = self.audiences.find(topic, ops)
        self._meter.match.observe(time.perf_counter() - began)
        seen = self._seen[topic] = None if audience is None else _Seen(audience, epoch, offset)
        return seen

    def _known(self, seen: _Seen, item: Publication, ops: list[Any]) -> bool:
        """Offsets jumped: whether that is all, as it came before; else say what is missing instead of hiding it."""
        if item.epoch == seen.epoch and item.offset <= seen.offset:
            return True
        if not item.epoch:  # it has no place yet, so it is nowhere between others
            self._spread(seen.audience, item, ops)
            return True
        if item.epoch != seen.epoch:
            missed = Missed(item.topic, item.epoch, 1, item.offset - 1, GapReason.EPOCH_CHANGED.value)
        else:
            missed = Missed(item.topic, item.epoch, seen.offset + 1, item.offset - 1, GapReason.OVERFLOW.value)
        if item.epoch != seen.epoch or item.offset > seen.offset + 1:
            ops.append(_notice(seen.audience, missed))
        seen.epoch = item.epoch
        return False

    def _missed(self, item: Missed, ops: list[Any]) -> bool:
        self._meter.dropped[item.reason] = self._meter.dropped.get(item.reason, 0) + item.last - item.first + 1
        known = item.topic in self._seen
        if not item.first:  # the hub knows only where the topic ends
            if not known:
                return True
            item = self._since_seen(item)
        seen = self._seen[item.topic] if known else self._place(item.topic, item.epoch, item.last, ops)
        if seen is None:
            return True  # nobody here wants this topic, so nobody misses it
        if not (known and seen.epoch == item.epoch and seen.offset >= item.last):  # not told already
            seen.epoch, seen.offset = item.epoch, item.last
            ops.append(_notice(seen.audience, item))
        return True

    def _since_seen(self, item: Missed) -> Missed:
        seen = self._seen[item.topic]
        if seen is None or seen.epoch == item.epoch:
            return item._replace(first=1 if seen is None else seen.offset + 1)
        return item._replace(first=1, reason=GapReason.EPOCH_CHANGED.value)

    def _mark(self, item: Mark, ops: list[Any]) -> bool:
        self._position = item.position
        ops.append(Reached(item.position))
        return True

    def _assigned(self, item: Assigned, ops: list[Any]) -> bool:
        """An event for one member of a consumer group."""
        if (op := self._memberships.assigned(item)) is not None:
            ops.append(op)
        return True

    def _collect(self, item: Backlog, _ops: list[Any]) -> bool:
        """A part of what a subscription has missed; its fence follows."""
        self._outstanding.collect(item.ref, unpack_batch(item.body))
        return True

    # requests -------------------------------------------------------------------------------------------------------

    def on_subscribe_for(self, message: SubscribeFor) -> None:
        """Tell the hub of what is new; the subscription begins at the answer. ``request.where`` is parsed by now."""
        session, request, by_server = message
        topics = list(dict.fromkeys(request.topics))
        if request.group is not None:
            enlist = Enlist(self._outstanding.next_ref(), session.id, request.group, topics)
            self._ask(session, request, by_server, enlist)
            return
        exact = [pattern for pattern in topics if not is_pattern(pattern)]
        interest = self._interest(topics, exact, topics if request.snapshot else [], _since(request))
        self._ask(session, request, by_server, interest)

    def on_snapshot_for(self, message: SnapshotFor) -> None:
        """Last events of topics, without a subscription."""
        session, request = message
        self._ask(session, request, False, self._interest([], [], request.topics))

    def _interest(
        self,
        add: list[str],
        exact: list[str],
        snapshot: list[str],
        since: str | dict[str, tuple[str, int]] | None = None,
    ) -> Interest:
        return Interest(self._outstanding.next_ref(), add, [], exact, snapshot, since)

    def _ask(
        self,
        session: Session,
        request: Subscribe | Snapshot | Unsubscribe,
        by_server: bool,
        message: Interest | Enlist,
    ) -> None:
        deadline = self.loop.time() + self._request_timeout
        shared = message
        if isinstance(request, Subscribe) and isinstance(message, Interest) and not by_server:
            shared = self._outstanding.alike(session, message, deadline)
        self._outstanding.put(Asked(session, request, by_server, shared, deadline))
        if shared is message and self._uplink.connected:  # else it goes out with the hello to the next hub
            self._uplink.send(pack(message))

    def _refused(self, item: Refused, _ops: list[Any]) -> bool:
        """A negative ``ref`` is ours: the hub refused an interest."""
        if item.ref >= 0:
            return False
        for asked in self._outstanding.take(-item.ref)[0]:
            self._give_up(asked, RequestError(item.code, item.message, item.field))
        return True

    def _give_up(self, asked: Asked, error: RequestError) -> None:
        self._release(asked.patterns)
        if not asked.by_server:
            asked.session.error(asked.request.id, error)

    def _call_off(self, asked: Asked, error: RequestError) -> None:
        """Give up what the hub has done, or may do yet."""
        self._give_up(asked, error)
        if isinstance(asked.message, Enlist):
            self._memberships.restore(asked.session, asked.message.patterns)

    def _fence(self, fence: Fence, ops: list[Any]) -> bool:
        self._mark(Mark(fence.position), ops)
        group, backlog = self._outstanding.take(fence.ref)
        for asked in group:
            self._take_effect(asked, backlog, fence, ops)
        return True

    def _take_effect(self, asked: Asked, backlog: list[Publication], fence: Fence, ops: list[Any]) -> None:
        session, request = asked.session, asked.request
        if session.closed or session.leaving:
            self._release(asked.patterns)
            if isinstance(asked.message, Enlist):
                self._memberships.leave(session, asked.message.patterns)
            return
        if isinstance(request, Snapshot):
            ops.append(Send(session, session.form.snapshot(request.id, fence.events), ()))
        elif isinstance(request, Unsubscribe):
            self._unsubscribe(session, request, asked.by_server, ops)
        else:
            self._subscribe(asked, request, backlog, fence, ops)

    def _subscribe(
        self, asked: Asked, request: Subscribe, backlog: list[Publication], fence: Fence, ops: list[Any]
    ) -> None:
        session = asked.session
        for topic, (epoch, offset) in fence.positions.items():
            self._epoch_changed(topic, epoch, offset, ops)
        patterns = list(dict.fromkeys(request.topics))
        try:
            session.clients.check_room(session, patterns)
            if session.identity is not None and not asked.by_server:  # another token may have come meanwhile
                for i, pattern in enumerate(request.topics):
                    check_subscribe(session.identity, session.user, pattern, f"topics[{i}]")
            if request.where is not None:
                self.audiences.admit(session, patterns, request.where)
        except RequestError as error:
            self._call_off(asked, error)
            return
        subscription = _subscription(session, request)
        joins = self._take_in(session, patterns, subscription, ops)
        self._release(asked.patterns)
        # Also those it was in before: what is pending there came before the answer.
        routes = {route: None for pattern in patterns for a in self.audiences.of(pattern) for route in a.routes}
        ops.append(Seal([*routes, *(session.private or {}).values()], session))
        answer: dict[str, Any] = {"op": "subscribed"} if asked.by_server else {"op": "ok", "id": request.id}
        answer["topics"] = request.topics
        answer["positions"] = {t: {"epoch": epoch, "offset": offset} for t, (epoch, offset) in fence.positions.items()}
        answer["position"] = fence.position
        if fence.recovered is not None:
            answer["recovered"] = fence.recovered
        form = session.form
        frames = [form.message(answer)]
        frames += [form.message(gap(missed)) for missed in fence.gaps]
        frames += [form.event(event) for event in self._accepted(subscription, _missed_or_last(fence, backlog))]
        ops.append(Send(session, b"".join(frames), tuple(patterns)))
        ops.extend(joins)
        # Need it be told where it is? With a snapshot clients go by what comes after that, else by the answer; an equal
        # position behind that would be one more write for each client that connects.
        if request.snapshot:
            session.position = ""
        elif len(session.subscriptions or ()) == len(patterns) and not asked.by_server:
            session.position = fence.position

    def _accepted(self, subscription: Subscription, events: list[Publication]) -> list[Publication]:
        """Those of a snapshot's events that a subscription wants; by an index, for they and its filter may be large."""
        if subscription.filter is None or not events:
            return events
        index: FilterIndex[Subscription] = FilterIndex()
        index.add(subscription)
        policy = self._policies.of
        return [
            event
            for event in events
            if policy(event.topic).strategy is Strategy.BROADCAST_ALL or index.match(index.class_of(event))
        ]

    def _epoch_changed(self, topic: str, epoch: str, offset: int, ops: list[Any]) -> None:
        """Tell those who are there of a new epoch before somebody joins who begins with it."""
        seen = self._seen.get(topic)
        if seen is not None and seen.epoch != epoch:
            ops.append(_notice(seen.audience, Missed(topic, epoch, 1, offset, GapReason.EPOCH_CHANGED.value)))
            seen.epoch, seen.offset = epoch, offset

    def _take_in(self, session: Session, patterns: list[str], subscription: Subscription, ops: list[Any]) -> list[Join]:
        joins: list[Join] = []
        for pattern in patterns:
            before = session.subscriptions.get(pattern) if session.subscriptions else None
            if before is None:
                self._meter.subscriptions += 1
            elif before.same(subscription):
                continue
            elif (before.group is None) is not (subscription.group is None):
                self._exit(session, [pattern], ops)
                self._meter.subscriptions += 1
            if subscription.group is not None:
                self._memberships.enter(session, pattern, subscription)
                continue
            # Each pattern has a subscription of its own where an index lists it.
            own = subscription if subscription.filter is None else _copy(subscription)
            self.audiences.enter(session, pattern, own, ops, joins)
            self._attendance.enter(session, pattern)
        self._tell_attendance()
        return joins

    def _reroute(self, pattern: str, ops: list[Any]) -> None:
        """The set of patterns changed: topics that match it have another audience from here on."""
        if is_pattern(pattern):
            if self._seen:
                ops.append(Seal(None))
                self._seen.clear()
        elif (seen := self._seen.pop(pattern, None)) is not None:
            ops.append(Seal([*seen.audience.routes]))

    def _tell_attendance(self) -> None:
        if self._uplink.connected and (changes := self._attendance.changes()) is not None:
            self._uplink.send(pack(changes))

    # leaving --------------------------------------------------------------------------------------------------------

    def on_unsubscribe_for(self, message: UnsubscribeFor) -> None:
        """Leave at once, or behind the requests of this session that wait for the hub."""
        session, request, by_server = message
        if self._outstanding.of(session):
            self._ask(session, request, by_server, self._interest([], [], []))
            return
        ops: list[Any] = []
        self._unsubscribe(session, request, by_server, ops)
        self._broadcaster.tell(Operations(ops))

    def _unsubscribe(self, session: Session, request: Unsubscribe, by_server: bool, ops: list[Any]) -> None:
        """Leave the routes, then answer with what is left."""
        held = session.subscriptions or {}
        topics = list(held) if isinstance(request.topics, str) else request.topics
        self._exit(session, topics, ops)
        answer: dict[str, Any] = {"op": "unsubscribed"} if by_server else {"op": "ok", "id": request.id}
        answer["topics"] = list(session.subscriptions or ())
        ops.append(Send(session, session.form.message(answer), ()))

    def on_farewell(self, message: Farewell) -> None:
        """Out of all routes, then `bye`, then the close."""
        session, code, reason, reconnect_in = message
        ops: list[Any] = []
        self._exit(session, list(session.subscriptions or ()), ops)
        ops.append(Send(session, session.form.message(bye(code, reason, reconnect_in)), ()))
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
        held = session.subscriptions or {}
        grouped = []
        for pattern in dict.fromkeys(patterns):
            if pattern in held:
                self._meter.subscriptions -= 1
                self._attendance.leave(session, pattern)
                if held[pattern].group is not None:
                    del held[pattern]
                    grouped.append(pattern)
        if grouped:
            self._memberships.leave(session, grouped)
        self._lose_interest(self.audiences.exit(session, patterns, ops))
        self._tell_attendance()

    def _release(self, patterns: list[str]) -> None:
        """A waiting request is over; patterns that nobody holds are withdrawn from the hub."""
        unwanted = self._outstanding.release(patterns)
        self._lose_interest([pattern for pattern in unwanted if pattern not in self.audiences])

    def _lose_interest(self, patterns: list[str]) -> None:
        gone = [pattern for pattern in patterns if not self._outstanding.wants(pattern)]
        if gone and self._uplink.connected:
            self._uplink.send(pack(Interest(0, [], gone, [], [])))

    # the hub comes and goes -----------------------------------------------------------------------------------------

    def on_hub_found(self, message: HubFound) -> None:
        """Tell a hub everything: what is in force, what has come from a former one, then what waits, in order."""
        if not self._uplink.connected:
            return  # it has gone again; there will be another
        members = iter(self.audiences)
        while some := list(islice(members, INTEREST_PATTERNS)):
            self._uplink.send(pack(Interest(0, some, [], [], [])))
        self._memberships.again()
        for told in self._attendance.again(message.incarnation):
            self._uplink.send(pack(told))
        self._outstanding.begin_anew()
        self._uplink.send(pack(Ready(self._position)))
        for asked in self._outstanding.messages:
            self._uplink.send(pack(asked))

    def on_sweep(self, _message: Sweep) -> None:
        """Answer requests that the hub has not answered in time; forget selections that nobody uses."""
        now = self.loop.time()
        error = RequestError(ErrorCode.UNAVAILABLE, f"no answer from the hub in {self._request_timeout:g} s")
        for ref in self._outstanding.late(now):
            for asked in self._outstanding.take(ref)[0]:
                self._call_off(asked, error)
        if now - self._aged >= self._route_ttl / 2:
            self._aged = now
            self.audiences.age()
        self.later(SWEEP_INTERVAL, Sweep())


def _notice(audience: Audience, missed: Missed) -> Notice:
    return Notice([*audience.routes], audience.selected(), missed)


def _since(request: Subscribe) -> str | dict[str, tuple[str, int]] | None:
    if isinstance(request.since, dict):
        return {topic: (position.epoch, position.offset) for topic, position in request.since.items()}
    return request.since


def _missed_or_last(fence: Fence, backlog: list[Publication]) -> list[Publication]:
    """What has been missed, and the last events of topics of which not all of that can be had."""
    if fence.recovered or not fence.events:
        return backlog
    there = {event.topic for event in backlog}
    return [*backlog, *(event for event in fence.events if event.topic not in there)]


def _subscription(session: Session, request: Subscribe) -> Subscription:
    wanted = delivery(request)
    if request.where is None and wanted == PLAIN and request.group is None:
        return EVERYTHING
    return Subscription(session, request.where, wanted, request.group)


def _copy(subscription: Subscription) -> Subscription:
    return Subscription(subscription.session, subscription.filter, subscription.delivery)
