"""The router: gives every event its offset and hands it to each worker that has an interested client."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from actors.group_desk import GroupDesk, GroupRoute
from actors.groups import Groups
from actors.interests import Interests, Peer
from actors.loop_actor import LoopActor
from actors.messages import Arrived, GroupsDue, PeerGone, SharesDue, Staged, Sweep, WindowOpened
from actors.route_cache import RouteCache
from actors.stages import Stages
from actors.topic_log import TopicLog
from actors.topic_policy import TopicPolicies
from actors.user_desk import UserDesk
from actors.user_shares import UserShares
from transport.codec import pack
from transport.codes import ErrorCode, GapReason
from transport.errors import CodecError, RequestError
from transport.messages import Fence, Interest, Missed, Publication, Publish, Published, Refused
from transport.meter import Meter

SNAPSHOT_EVENTS = 10_000  # of one answer; more is refused, not cut
GROUP_EVENTS = 10_000  # that wait or are not acknowledged, per group
SWEEP_INTERVAL = 60.0  # s between looks for idle topics


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
        stages: on the way here; ``None``: there are none.
        policies: of topics; ``None``: all have the default.
        groups: of consumers; owned by the process, as the log; ``None``: none yet.
        shares: of users' rates; ``None``: there are no limits.
        topic_idle: seconds after which a topic without events is forgotten.
        routes, route_ttl: topics whose receivers are remembered at most, and for how many seconds.
        clock: Unix seconds, of events. ``monotonic``: seconds of a clock that never falls.
    """

    def __init__(
        self,
        *,
        log: TopicLog,
        wake: Callable[[], None],
        meter: Meter,
        stages: Stages | None = None,
        policies: TopicPolicies | None = None,
        groups: Groups | None = None,
        shares: UserShares | None = None,
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
        self._lagging: dict[Peer, dict[tuple[str, str], list[int]]] = {}
        self._engine = _Engine()
        policies = TopicPolicies({}) if policies is None else policies
        self._groups = GroupDesk(
            groups=Groups(GROUP_EVENTS, meter.dropped) if groups is None else groups,
            policies=policies,
            changed=self._routes.drop_all,
            fence=lambda peer, ref: self._fence(peer, Interest(ref, [], [], [], [])),
            clock=monotonic,
        )
        self._users = UserDesk(
            policies=policies,
            publish=self.publish,
            later=lambda delay_s: self.later(delay_s, SharesDue()),
            shares=shares,
            clock=monotonic,
        )
        self._on_item: dict[type, Callable[[Peer, Any], None]] = {
            Interest: self._on_interest,
            **self._groups.handlers,
            **self._users.handlers,
        }
        """What to do with the messages of peers that are no publishes."""

    def on_start(self) -> None:
        """Begin the periodic looks at idle topics and at consumer groups."""
        self.later(SWEEP_INTERVAL, Sweep())
        self._watch_groups()

    def on_sweep(self, _message: Sweep) -> None:
        """Forget topics that were idle for long."""
        self._log.forget_idle(self._clock() - self._topic_idle)
        self.later(SWEEP_INTERVAL, Sweep())

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
        now, instant = self._clock(), self._monotonic()
        self._routes.expire(instant)
        accept, recent, lagging = self._log.accept, self._routes.recent, self._lagging
        misses = 0
        results: list[tuple[int, str, int]] = []
        for publish in publishes:
            try:
                publication = accept(publish, now)
            except RequestError as error:
                self._refuse(peer, publish.ref, error)
                continue
            topic = publication.topic
            targets = recent.get(topic)
            if targets is None and (targets := self._routes.find(topic)) is None:
                misses += 1
                targets = self._groups.route(topic, self._interests.of(topic))
                self._routes.put(topic, targets, instant)
            if targets:
                packed = pack(publication)
                for target in targets:
                    if target.window_open:
                        if lagging and target in lagging:
                            self._tell_missed(target)
                        target.out.append(packed)
                    else:
                        self._lag(target, publication)
            if type(targets) is GroupRoute:
                self._groups.share_out(targets, publication, instant)
            if publish.ref:
                results.append((publish.ref, publication.epoch, publication.offset))
        meter = self._meter
        meter.events_published += len(publishes)
        meter.router_misses += misses
        meter.router_hits += len(publishes) - misses
        meter.route.observe_many(self._monotonic() - instant, len(publishes))
        if results:
            peer.out.append(pack(Published(results)))

    def _refuse(self, peer: Peer, ref: int, error: RequestError) -> None:
        if ref:
            peer.out.append(pack(Refused(ref, error.code.value, error.message, error.field)))
        else:
            self._meter.dropped["refused"] = self._meter.dropped.get("refused", 0) + 1

    # peers that fall behind -----------------------------------------------------------------------------------------

    def _lag(self, peer: Peer, publication: Publication) -> None:
        """The window is closed: remember what the peer misses, one span per topic, and go on."""
        spans = self._lagging.setdefault(peer, {})
        span = spans.setdefault((publication.topic, publication.epoch), [publication.offset, publication.offset])
        span[1] = publication.offset

    def on_window_opened(self, message: WindowOpened) -> None:
        """The peer reads again: first what it missed, then what comes, and what waited for its members."""
        self._tell_missed(message.peer)
        self._groups.opened(message.peer)
        self._wake_bus()

    def _tell_missed(self, peer: Peer) -> None:
        for (topic, epoch), (first, last) in self._lagging.pop(peer, {}).items():
            peer.out.append(pack(Missed(topic, epoch, first, last, GapReason.OVERFLOW.value)))

    # interest -------------------------------------------------------------------------------------------------------

    def _on_interest(self, peer: Peer, item: Interest) -> None:
        self._routes.drop_all(self._interests.change(peer, item.add, item.remove))
        if item.ref:
            self._fence(peer, item)

    def _fence(self, peer: Peer, item: Interest) -> None:
        events: dict[str, Publication] = {}
        for pattern in item.snapshot:
            for publication in self._log.last(pattern):
                events[publication.topic] = publication
        if len(events) > SNAPSHOT_EVENTS:
            self._too_much(peer, item, f"a snapshot of {len(events)} topics; at most {SNAPSHOT_EVENTS} in one answer")
            return
        positions = {name: self._log.where(name) for name in item.exact}
        try:
            fence = pack(Fence(item.ref, self._log.position, positions, list(events.values())))
        except CodecError as error:
            self._too_much(peer, item, f"a snapshot of {len(events)} topics: {error}")
            return
        if peer in self._lagging:
            self._tell_missed(peer)
        peer.out.append(fence)

    def _too_much(self, peer: Peer, item: Interest, text: str) -> None:
        peer.out.append(pack(Refused(-item.ref, ErrorCode.LIMIT_EXCEEDED.value, text, "topics")))

    def on_shares_due(self, _message: SharesDue) -> None:
        """Shares of users' rates that were given up a window ago can be had again."""
        self._users.tick()
        self._wake_bus()

    def on_peer_gone(self, message: PeerGone) -> None:
        """Forget a dead peer's interest."""
        peer = message.peer
        self._routes.drop_all(self._interests.gone(peer))
        self._lagging.pop(peer, None)
        self._groups.gone(peer)
        self._users.gone(peer)
        self._wake_bus()
