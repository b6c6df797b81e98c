"""The router: gives every event its offset and hands it to each worker that has an interested client."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import groupby
from operator import itemgetter
from typing import Protocol

from actors.loop_actor import LoopActor
from actors.messages import Arrived, PeerGone, Staged, Sweep, WindowOpened
from actors.stages import Stages
from actors.subscriptions import PatternIndex
from actors.topic_log import TopicLog
from transport.codec import pack
from transport.codes import ErrorCode, GapReason
from transport.errors import CodecError, RequestError
from transport.messages import Fence, Interest, Missed, Publication, Publish, Published, Refused
from transport.meter import Meter

TOPICS_CACHED = 65_536
SNAPSHOT_EVENTS = 10_000  # of one answer; more is refused, not cut
SWEEP_INTERVAL = 60.0  # s between looks for idle topics


class Peer(Protocol):
    """A worker, feeds process or daemon at the other end of the bus (see :class:`transport.bus_server.Peer`)."""

    out: list[bytes]

    @property
    def window_open(self) -> bool: ...


class Router(LoopActor):
    """Order, interest and answers.

    Args:
        log: offsets and last events; owned by the process, so that it survives this actor.
        wake: tells the bus that peers' queues have grown; once per batch.
        stages: on the way here; ``None``: there are none.
        topic_idle: seconds after which a topic without events is forgotten.
    """

    def __init__(
        self,
        *,
        log: TopicLog,
        wake: Callable[[], None],
        meter: Meter,
        stages: Stages | None = None,
        topic_idle: float = 3600.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self._log, self._wake_bus, self._meter, self._stages = log, wake, meter, stages
        self._topic_idle, self._clock = topic_idle, clock
        self._patterns = PatternIndex()
        self._interested: dict[str, dict[Peer, None]] = {}
        self._patterns_of: dict[Peer, set[str]] = {}
        self._routes: dict[str, tuple[Peer, ...]] = {}
        self._lagging: dict[Peer, dict[tuple[str, str], list[int]]] = {}

    def on_start(self) -> None:
        """Begin the periodic look at idle topics."""
        self.later(SWEEP_INTERVAL, Sweep())

    def on_sweep(self, _message: Sweep) -> None:
        """Forget topics that were idle for long."""
        self._log.forget_idle(self._clock() - self._topic_idle)
        self.later(SWEEP_INTERVAL, Sweep())

    # events ---------------------------------------------------------------------------------------------------------

    def on_arrived(self, message: Arrived) -> None:
        """A batch of one peer, in its order."""
        peer, items = message
        publishes: list[Publish] = []
        for item in items:
            if type(item) is Publish:
                publishes.append(item)
            elif type(item) is Interest:
                # An interest is answered behind the publishes that came before it; with stages those are still on
                # their way, and the answer's positions say so.
                publishes = self._flow(peer, publishes)
                self._interest(peer, item)
        self._flow(peer, publishes)
        self._wake_bus()

    def _flow(self, peer: Peer, publishes: list[Publish]) -> list[Publish]:
        if publishes and self._stages:
            publishes = [publish for _, publish in self._stages.enter([(peer, publish) for publish in publishes])]
        if publishes:
            self._accept(peer, publishes)
        return []

    def on_staged(self, message: Staged) -> None:
        """Publishes that have passed all stages, and answers to those that have not."""
        for peer, sources in groupby(message.batch, itemgetter(0)):
            self._accept(peer, [publish for _, publish in sources])
        for peer, refused in message.refused:
            peer.out.append(pack(refused))
        self._wake_bus()

    def _accept(self, peer: Peer, publishes: list[Publish]) -> None:
        now = self._clock()
        accept, routes, lagging = self._log.accept, self._routes, self._lagging
        results: list[tuple[int, str, int]] = []
        for publish in publishes:
            try:
                publication = accept(publish, now)
            except RequestError as error:
                self._refuse(peer, publish.ref, error)
                continue
            topic = publication.topic
            targets = routes.get(topic)
            if targets is None:
                targets = self._resolve(topic)
            if targets:
                packed = pack(publication)
                for target in targets:
                    if target.window_open:
                        if lagging and target in lagging:
                            self._tell_missed(target)
                        target.out.append(packed)
                    else:
                        self._lag(target, publication)
            if publish.ref:
                results.append((publish.ref, publication.epoch, publication.offset))
        self._meter.events_published += len(publishes)
        if results:
            peer.out.append(pack(Published(results)))

    def _refuse(self, peer: Peer, ref: int, error: RequestError) -> None:
        if ref:
            peer.out.append(pack(Refused(ref, error.code.value, error.message, error.field)))
        else:
            self._meter.dropped["refused"] = self._meter.dropped.get("refused", 0) + 1

    def _resolve(self, topic: str) -> tuple[Peer, ...]:
        if len(self._routes) >= TOPICS_CACHED:
            self._routes.clear()
        targets: dict[Peer, None] = {}
        for pattern in self._patterns.match(topic):
            targets.update(self._interested[pattern])
        found = self._routes[topic] = tuple(targets)
        return found

    # peers that fall behind -----------------------------------------------------------------------------------------

    def _lag(self, peer: Peer, publication: Publication) -> None:
        """The window is closed: remember what the peer misses, one span per topic, and go on."""
        spans = self._lagging.setdefault(peer, {})
        span = spans.setdefault((publication.topic, publication.epoch), [publication.offset, publication.offset])
        span[1] = publication.offset

    def on_window_opened(self, message: WindowOpened) -> None:
        """The peer reads again: first what it missed, then what comes."""
        self._tell_missed(message.peer)
        self._wake_bus()

    def _tell_missed(self, peer: Peer) -> None:
        for (topic, epoch), (first, last) in self._lagging.pop(peer, {}).items():
            peer.out.append(pack(Missed(topic, epoch, first, last, GapReason.OVERFLOW.value)))

    # interest -------------------------------------------------------------------------------------------------------

    def _interest(self, peer: Peer, item: Interest) -> None:
        held = self._patterns_of.setdefault(peer, set())
        changed = [pattern for pattern in item.add if pattern not in held]
        for pattern in changed:
            held.add(pattern)
            self._patterns.add(pattern)
            self._interested.setdefault(pattern, {})[peer] = None
        for pattern in item.remove:
            if pattern in held:
                held.discard(pattern)
                self._drop(pattern, peer)
                changed.append(pattern)
        if changed:
            self._routes.clear()
        if item.ref:
            self._fence(peer, item)

    def _drop(self, pattern: str, peer: Peer) -> None:
        peers = self._interested[pattern]
        del peers[peer]
        if not peers:
            del self._interested[pattern]
            self._patterns.remove(pattern)

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

    def on_peer_gone(self, message: PeerGone) -> None:
        """Forget a dead peer's interest."""
        peer = message.peer
        for pattern in self._patterns_of.pop(peer, ()):
            self._drop(pattern, peer)
        self._lagging.pop(peer, None)
        self._routes.clear()
