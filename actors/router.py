"""The router: gives every event its offset and hands it to each worker that has an interested client."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from actors.backplane_desk import BackplaneDesk
from actors.backplane_watch import BackplaneWatch
from actors.call_desk import CallDesk
from actors.catch_up import CatchUp
from actors.group_desk import GroupDesk, GroupRoute
from actors.groups import Groups
from actors.history import Accepted
from actors.history_watch import RECENT, TRIMMING, HistoryWatch
from actors.interests import Interests, Peer
from actors.keeper_desk import Answer, KeeperDesk
from actors.loop_actor import LoopActor
from actors.messages import (
    Advance,
    Arrived,
    CallsDue,
    FromBackplane,
    GroupsDue,
    Kept,
    MarkDue,
    PeerGone,
    ReadDone,
    SharesDue,
    Staged,
    Sweep,
    WindowOpened,
)
from actors.ports import Ref
from actors.recall import NOTHING_OLDER, Older, page, recall
from actors.route_cache import RouteCache
from actors.seats import Seats
from actors.stages import Stages
from actors.topic_log import TopicLog
from actors.topic_policy import TopicPolicies
from actors.tracing import RouteTracing
from actors.user_desk import UserDesk
from actors.user_shares import UserShares
from transport.codec import join, pack
from transport.codes import ErrorCode
from transport.errors import CodecError, RequestError
from transport.messages import (
    Backlog,
    Fence,
    HistoryPage,
    Interest,
    Mark,
    Publication,
    Publish,
    Published,
    ReadHistory,
    Ready,
    Refused,
    Traced,
)
from transport.meter import Meter
from transport.topics import METRICS, is_pattern, is_system

SNAPSHOT_EVENTS = 10_000  # of one answer; more is refused, not cut
GROUP_EVENTS = 10_000  # that wait or are not acknowledged, per group
SWEEP_INTERVAL = 10.0  # s between looks for idle topics and old events
MARK_INTERVAL = 1.0  # s between words to workers for which nothing came
BACKLOG_PART = 256 * 1024  # bytes of missed events in one message
BACKLOG_BYTES = 1 << 20  # of one answer, beyond which the peer's next request waits
BACKLOG_TOPICS = 1_000  # the same, looked at for one answer


_log = logging.getLogger(__name__)


class _Engine:
    """Who publishes the engine's own events: it asks for no answers."""

    window_open: Final = True

    def __init__(self) -> None:
        self.out: list[bytes] = []


class Router(LoopActor):
    """Order, interest and answers.

    Args:
        log: offsets and last events; owned by the process, so that it survives this actor.
        wake: tells the bus that peers' queues have grown; once per batch.
        keeper: of durable topics, or of all where there is a backplane; ``None``: there is neither.
        tailer, backplane: of the backplane; the second is told how it goes, and owned by the process, as the log.
        spools: whether the keeper takes events also while the backplane is away.
        watch: is told what can be kept and what not; owned by the process, as the log; ``None``: nobody looks.
        stages: on the way here; ``None``: there are none.
        policies: of topics; ``None``: all have the default.
        groups: of consumers; owned by the process, as the log; ``None``: none yet.
        shares: of users' rates; ``None``: there are no limits.
        seats: of Socket.IO clients; ``None``: there are none.
        topic_idle: seconds after which a topic without events is forgotten.
        tracing: of the events whose publishers have chosen them; ``None``: nobody chooses.
        routes, route_ttl: topics whose receivers are remembered at most, and for how many seconds.
        clock: Unix seconds, of events. ``monotonic``: seconds of a clock that never falls.
    """

    def __init__(
        self,
        *,
        log: TopicLog,
        wake: Callable[[], None],
        meter: Meter,
        keeper: Ref | None = None,
        tailer: Ref | None = None,
        spools: bool = False,
        backplane: BackplaneWatch | None = None,
        watch: HistoryWatch | None = None,
        stages: Stages | None = None,
        policies: TopicPolicies | None = None,
        groups: Groups | None = None,
        shares: UserShares | None = None,
        seats: Seats | None = None,
        tracing: RouteTracing | None = None,
        topic_idle: float = 3600.0,
        routes: int = 65_536,
        route_ttl: float = 300.0,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._log, self._wake_bus, self._meter, self._stages = log, wake, meter, stages
        self._topic_idle, self._clock, self._monotonic = topic_idle, clock, monotonic
        self._interests = Interests()
        self._routes: RouteCache[tuple[Peer, ...]] = RouteCache(routes, route_ttl)
        self._told_mark = 0
        self._workers: dict[Peer, None] = {}  # peers that have said Ready
        self._catch_up = CatchUp(log, self._interests.of, self._reply)
        self._engine = _Engine()
        policies = TopicPolicies({}) if policies is None else policies
        self._watch = HistoryWatch() if watch is None else watch
        self._keeper: KeeperDesk | BackplaneDesk | None = None
        self._backplane: BackplaneDesk | None = None
        if keeper is not None and tailer is not None and backplane is not None:
            self._keeper = self._backplane = BackplaneDesk(
                keeper, tailer, log, self._catch_up, lambda: self._workers, self._watch, backplane, spools=spools
            )
        elif keeper is not None:
            self._keeper = KeeperDesk(keeper, log, policies, self._watch)
        self._groups = GroupDesk(
            groups=Groups(GROUP_EVENTS, meter.dropped) if groups is None else groups,
            policies=policies,
            changed=self._routes.drop_all,
            fence=lambda peer, ref: self._fence(peer, Interest(ref, [], [], [], [])),
            clock=monotonic,
        )
        self._seats, self._tracing = seats, tracing
        self._users = UserDesk(
            policies=policies,
            publish=self.publish,
            later=lambda delay_s: self.later(delay_s, SharesDue()),
            shares=shares,
            clock=monotonic,
        )
        self._calls = CallDesk(later=lambda delay_s: self.later(delay_s, CallsDue()), clock=monotonic)
        self._on_item: dict[type, Callable[[Peer, Any], None]] = {
            Interest: self._on_interest,
            Ready: self._on_ready,
            ReadHistory: self._on_read_history,
            **self._groups.handlers,
            **self._users.handlers,
            **self._calls.handlers,
            **({} if seats is None else seats.handlers),
        }
        """What to do with the messages of peers that are no publishes."""

    def on_start(self) -> None:
        """Begin the periodic looks at idle topics and at consumer groups."""
        self.later(SWEEP_INTERVAL, Sweep())
        self.later(MARK_INTERVAL, MarkDue())
        self._watch_groups()
        if self._backplane is not None:
            self._backplane.begin()

    def on_sweep(self, _message: Sweep) -> None:
        """Forget topics that were idle for long, and events that are too old."""
        now = self._clock()
        try:
            self._log.forget_idle(now - self._topic_idle)
            self._log.trim(now)
        except OSError as error:
            self._watch.failed(TRIMMING, error.strerror or str(error))
        else:
            self._watch.works(TRIMMING)
        if self._keeper is not None:
            self._keeper.sweep()
        self.later(SWEEP_INTERVAL, Sweep())

    def on_mark_due(self, _message: MarkDue) -> None:
        """Tell workers for which nothing came how far the log is."""
        if self._log.mark != self._told_mark:
            self._told_mark = self._log.mark
            self._tell_mark(quiet=True)
            self._wake_bus()
        if self._seats is not None:
            self._seats.tick()
            self._wake_bus()
        if self._backplane is not None:
            self._backplane.tick()
        elif isinstance(self._keeper, KeeperDesk) and self._keeper.stuck:
            self._settle_kept(self._keeper.retry(), [])
        self.later(MARK_INTERVAL, MarkDue())

    def on_groups_due(self, _message: GroupsDue) -> None:
        """Give to others what members of groups have not acknowledged in time."""
        self._groups.sweep()
        self._wake_bus()
        self._watch_groups()

    def _watch_groups(self) -> None:
        if self._groups.interval is not None:
            self.later(self._groups.interval, GroupsDue())

    # events ---------------------------------------------------------------------------------------------------------

    def on_arrived(self, message: Arrived) -> None:
        """A batch of one peer, in its order."""
        peer, items = message
        publishes: list[Publish] = []
        for item in items:
            if type(item) is Publish:
                publishes.append(item)
            elif (handler := self._on_item.get(type(item))) is not None:
                # It is answered behind the publishes that came before it; those in stages are still on their way, and
                # a fence's positions say so.
                self._flow(peer, publishes)
                publishes = []
                handler(peer, item)
        self._flow(peer, publishes)
        self._groups.flow()
        self._wake_bus()

    def publish(self, event: Publish) -> None:
        """Accept an event of the engine itself, which passes no stage; ``ref`` is 0. In this actor's handlers only."""
        assert event.ref == 0, "nobody to answer"
        self._accept(self._engine, [event])
        self._wake_bus()

    def _flow(self, peer: Peer, publishes: list[Publish]) -> None:
        if publishes and self._stages:
            publishes = [publish for _, publish in self._stages.enter([(peer, publish) for publish in publishes])]
        if publishes:
            self._accept(peer, publishes)

    def on_staged(self, message: Staged) -> None:
        """Publishes that have passed all stages, and answers to those that have not."""
        for peer, sources in groupby(message.batch, itemgetter(0)):
            self._accept(peer, [publish for _, publish in sources])
        for peer, refused in message.refused:
            peer.out.append(pack(refused))
        self._wake_bus()

    def _accept(self, peer: Peer, publishes: list[Publish]) -> None:
        """Give events their places, keep them, hand them on, answer: in this order, so that nobody has seen what a
        successor of this hub would not know."""
        if self._keeper is not None:
            publishes, spare = self._keeper.divert(peer, publishes)
            for publish, why in spare:
                self._refuse(peer, publish.ref, why)
            if not publishes:
                return
        instant = self._monotonic()
        try:
            outcomes = self._log.append(publishes, self._clock())
        except RequestError as error:
            self._watch.failed(RECENT, error.message, len(publishes))
            for publish in publishes:
                self._refuse(peer, publish.ref, error)
            return
        if self._watch.troubled:
            self._watch.works(RECENT)
        self._trace(publishes, outcomes, instant)
        events: list[Accepted] = []
        results: list[tuple[int, str, int]] = []
        for publish, outcome in zip(publishes, outcomes, strict=True):
            if type(outcome) is not Accepted:
                self._refuse(peer, publish.ref, outcome)  # type: ignore[arg-type]
                continue
            if not outcome.again:
                events.append(outcome)
            if publish.ref:
                results.append((publish.ref, outcome.publication.epoch, outcome.publication.offset))
        self._distribute(events, instant)
        if results:
            peer.out.append(pack(Published(results)))

    def _trace(self, publishes: Sequence[Publish], outcomes: Sequence[Any], instant: float) -> None:
        if self._tracing is not None:
            self._tracing.accepted(zip(publishes, outcomes, strict=True), self._monotonic() - instant)

    def on_kept(self, message: Kept) -> None:
        """What was to be kept elsewhere is, or is refused."""
        assert self._keeper is not None, "who keeps was asked"
        if message.seconds:
            self._meter.keep.observe(message.seconds)
        if self._tracing is not None:
            self._tracing.accepted(((publish, outcome) for _, publish, outcome in message.results), message.seconds)
        self._settle_kept(*self._keeper.kept(message))

    def _settle_kept(self, events: list[Accepted], answers: list[Answer]) -> None:
        if events:
            self._distribute(events, self._monotonic())
        for peer, ref, outcome in answers:
            if isinstance(outcome, RequestError):
                self._refuse(peer, ref, outcome)
            elif ref:
                epoch, offset = outcome.publication[1:3]
                peer.out.append(pack(Published([(ref, epoch, offset)])))
        self._groups.flow()
        self._wake_bus()

    def on_from_backplane(self, message: FromBackplane) -> None:
        """Events of this engine and of others, in the order of all; or how those do who read and keep them."""
        assert self._backplane is not None, "somebody was asked"
        self._settle_kept(self._backplane.take(message.what), [])

    def _distribute(self, events: list[Accepted], instant: float) -> None:
        """Hand events to the workers that are interested, in order."""
        self._routes.expire(instant)
        recent, behind = self._routes.recent, self._catch_up.behind
        if self._tracing is not None:
            self._tell_traced(self._tracing.distributing(events))
        misses = 0
        for event in events:
            publication, packed, *_ = event
            topic = publication.topic
            targets = recent.get(topic)
            if targets is None and (targets := self._routes.find(topic)) is None:
                misses += 1
                targets = self._groups.route(topic, self._interests.of(topic))
                self._routes.put(topic, targets, instant)
            for target in targets:
                if behind and target in behind:
                    continue
                if target.window_open:
                    target.out.append(packed)
                else:
                    self._catch_up.stop_at(target, event)
            if type(targets) is GroupRoute and publication.epoch:
                self._groups.share_out(targets, publication, instant)
        self._tell_mark()
        if self._tracing is not None:
            self._tracing.distributed()
        meter = self._meter
        meter.events_published += len(events)
        meter.router_misses += misses
        meter.router_hits += len(events) - misses
        meter.route.observe_many(self._monotonic() - instant, max(1, len(events)))

    def _tell_traced(self, events: list[Traced]) -> None:
        for traced in events:
            packed = pack(traced)
            for target in self._routes.find(traced.topic) or self._interests.of(traced.topic):
                if target.window_open and target not in self._catch_up.behind:
                    target.out.append(packed)

    def _tell_mark(self, *, quiet: bool = False) -> None:
        """Behind the events of this turn: what a worker has seen, should this hub die; with ``quiet`` also to those
        for which nothing came."""
        mark = b""
        behind = self._catch_up.behind
        for worker in self._workers:
            if (quiet or worker.out) and worker not in behind:
                mark = mark or pack(Mark(self._log.position))
                worker.out.append(mark)

    def _refuse(self, peer: Peer, ref: int, error: RequestError) -> None:
        if ref:
            peer.out.append(pack(Refused(ref, error.code.value, error.message, error.field)))
        else:
            self._meter.dropped["refused"] = self._meter.dropped.get("refused", 0) + 1

    # peers that are behind ------------------------------------------------------------------------------------------

    def on_window_opened(self, message: WindowOpened) -> None:
        """The peer reads again: first what it has missed, and what waited for its members."""
        self._groups.opened(message.peer)
        self._advance(message.peer)
        self._wake_bus()

    def on_advance(self, message: Advance) -> None:
        """A peer that lacks more than one turn's worth gets the next part."""
        self._advance(message.peer)
        self._wake_bus()

    def _advance(self, peer: Peer) -> None:
        if self._catch_up.advance(peer):
            self.later(0, Advance(peer))

    def _on_ready(self, peer: Peer, item: Ready) -> None:
        self._workers[peer] = None
        self._catch_up.begin(peer, item.position)
        self._advance(peer)

    # interest -------------------------------------------------------------------------------------------------------

    def _on_interest(self, peer: Peer, item: Interest) -> None:
        if peer not in self._workers and peer not in self._catch_up.behind:
            self._catch_up.expect(peer)
        self._interest_changed(self._interests.change(peer, item.add, item.remove))
        if item.ref:
            self._fence(peer, item)

    def _interest_changed(self, patterns: Collection[str]) -> None:
        self._routes.drop_all(patterns)
        if any(map(is_system, patterns)):  # nothing else matches it
            self._meter.metrics_watched = int(bool(self._interests.of(METRICS)))

    def _fence(self, peer: Peer, item: Interest) -> None:
        """Answer at this place of the peer's pipe, or where it is level with the log."""
        if self._catch_up.wait(peer, item):
            return
        if self._keeper is None or not self._keeper.read(peer, item):
            self._answer_interest(peer, item, NOTHING_OLDER)

    def on_read_done(self, message: ReadDone) -> None:
        """What was missed of durable topics and the log has no more."""
        peer, item = message.token
        older = NOTHING_OLDER if message.error else Older(message.events, message.complete)
        if isinstance(item, ReadHistory):
            self._answer_history(peer, item, older)
        elif not self._catch_up.wait(peer, item):  # it has fallen behind meanwhile, and is read again then
            self._answer_interest(peer, item, older)
        self._wake_bus()

    def _answer_interest(self, peer: Peer, item: Interest, older: Older) -> None:
        events: dict[str, Publication] = {}
        for pattern in item.snapshot:
            for publication in self._log.last(pattern):
                events[publication.topic] = publication
        if len(events) > SNAPSHOT_EVENTS:
            self._too_much(peer, item, f"a snapshot of {len(events)} topics; at most {SNAPSHOT_EVENTS} in one answer")
            return
        positions = {name: self._log.where(name) for name in item.exact}
        recalled = None if item.since is None else recall(self._log, item.add, item.since, older)
        complete, gaps = (None, []) if recalled is None else (recalled.complete, recalled.gaps)
        try:
            fence = pack(Fence(item.ref, self._log.position, positions, list(events.values()), complete, gaps))
        except CodecError as error:
            self._too_much(peer, item, f"a snapshot of {len(events)} topics: {error}")
            return
        nbytes = len(fence)
        for some in _parts(recalled.events if recalled is not None else []):
            packed = pack(Backlog(item.ref, join(some)))
            peer.out.append(packed)
            nbytes += len(packed)
        peer.out.append(fence)
        patterns = item.snapshot if item.since is None else item.add
        self._sent(peer, nbytes, len(self._log) if any(map(is_pattern, patterns)) else 0)

    def _sent(self, peer: Peer, nbytes: int, topics: int = 0) -> None:
        """A large answer has been sent, or one for which many topics were looked at. What is asked for next waits: else
        a few requests could fill the memory, or take all the time."""
        if (nbytes > BACKLOG_BYTES or topics > BACKLOG_TOPICS) and peer not in self._catch_up.behind:
            self._catch_up.lag(peer, self._log.mark)
            self.later(0, Advance(peer))

    def _reply(self, peer: Peer, item: Interest | ReadHistory) -> None:
        """Answer what has waited."""
        (self._fence if type(item) is Interest else self._on_read_history)(peer, item)  # type: ignore[arg-type]

    def _on_read_history(self, peer: Peer, item: ReadHistory) -> None:
        if self._catch_up.wait(peer, item):
            return
        if self._keeper is None or not self._keeper.read(peer, item):
            self._answer_history(peer, item, NOTHING_OLDER)

    def _answer_history(self, peer: Peer, item: ReadHistory, older: Older) -> None:
        if self._catch_up.wait(peer, item):
            return
        events, gap = page(self._log, item.topic, item.limit, item.since, older)
        try:
            packed = pack(HistoryPage(item.ref, join(events), gap))
        except CodecError as error:
            peer.out.append(pack(Refused(item.ref, ErrorCode.LIMIT_EXCEEDED.value, str(error), "topic")))
            return
        peer.out.append(packed)
        self._sent(peer, len(packed))

    def _too_much(self, peer: Peer, item: Interest, text: str) -> None:
        peer.out.append(pack(Refused(-item.ref, ErrorCode.LIMIT_EXCEEDED.value, text, "topics")))

    def on_shares_due(self, _message: SharesDue) -> None:
        """Shares of users' rates that were given up a window ago can be had again."""
        self._users.tick()
        self._wake_bus()

    def on_calls_due(self, _message: CallsDue) -> None:
        """Calls that nobody has answered in time are answered."""
        self._calls.tick()
        self._wake_bus()

    def on_peer_gone(self, message: PeerGone) -> None:
        """Forget a dead peer's interest."""
        peer = message.peer
        self._interest_changed(self._interests.gone(peer))
        self._catch_up.gone(peer)
        self._workers.pop(peer, None)
        self._groups.gone(peer)
        self._users.gone(peer)
        self._calls.gone(peer)
        if self._seats is not None:
            self._seats.gone(peer)
        self._wake_bus()


def _parts(events: list[bytes]) -> Iterator[list[bytes]]:
    """Runs of about :data:`BACKLOG_PART` bytes."""
    part: list[bytes] = []
    room = BACKLOG_PART
    for event in events:
        part.append(event)
        room -= len(event)
        if room <= 0:
            yield part
            part, room = [], BACKLOG_PART
    if part:
        yield part
