"""What the hub does about consumer groups, from and to its peers. Part of the router's loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from actors.consumer_group import Group, Handed, Lane
from actors.groups import Groups
from actors.interests import Peer
from actors.topic_policy import Strategy, TopicPolicies, TopicPolicy
from transport.codec import pack
from transport.codes import ErrorCode
from transport.errors import RequestError
from transport.messages import Ack, Delist, Enlist, Publication, Refused

SWEEP_INTERVAL_S: Final = 1.0
"""Between looks for late acknowledgements, at most; a quarter of the shortest ``ack_timeout`` where that is shorter."""
SWEEP_INTERVAL_LEAST_S: Final = 0.01


class GroupRoute(tuple[Peer, ...]):  # noqa: SLOT001  a tuple takes none
    """The peers that get all events of a topic, as for any topic, and the groups of which one member gets each.

    A tuple, so that the route of a topic without groups is nothing but one.
    """

    lanes: tuple[tuple[Group, Lane], ...]
    policy: TopicPolicy


class GroupDesk:
    """Memberships, assignments and acknowledgements.

    Args:
        groups: belongs to the process, so that it survives the router.
        policies: in which topics there are groups, and whether their members acknowledge.
        changed: hears of patterns for whose topics :meth:`route` has another answer now.
        fence: answers request number so and so of a peer at this place of its pipe.
        clock: seconds that never fall.

    Attributes:
        handlers: what a peer may say, by the type of it.
        interval: seconds between calls of :meth:`sweep`; ``None``: no topic has groups.
    """

    def __init__(
        self,
        *,
        groups: Groups,
        policies: TopicPolicies,
        changed: Callable[[Iterable[str]], None],
        fence: Callable[[Peer, int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._groups, self._policies = groups, policies
        self._changed, self._fence, self._clock = changed, fence, clock
        self.handlers: Mapping[type, Callable[[Any, Any], None]] = {
            Enlist: self.on_enlist,
            Delist: self.on_delist,
            Ack: self.on_ack,
        }
        balanced = [policy for policy in policies if policy.strategy is Strategy.LOAD_BALANCED]
        pauses = [policy.ack_timeout_s / 4 for policy in balanced if policy.acks]
        shortest = max(SWEEP_INTERVAL_LEAST_S, min([SWEEP_INTERVAL_S, *pauses]))
        self.interval = shortest if balanced else None

    def on_enlist(self, peer: Peer, item: Enlist) -> None:
        """A session wants to be in a group: answered by a fence, behind which it may be given events, or refused.

        Each pattern must have the strategy load_balanced. Of the topics that it matches some may have another one:
        their events come to no group.
        """
        try:
            for pattern in item.patterns:
                strategy = self._policies.of(pattern).strategy
                if strategy is not Strategy.LOAD_BALANCED:
                    text = f'{pattern} is {strategy}: consumer groups need [topics."{pattern}"] strategy load_balanced'
                    raise RequestError(ErrorCode.CONFLICT, text, "group")
            self._changed(self._groups.enlist(peer, item, self._clock()))
        except RequestError as error:
            if item.ref:
                peer.out.append(pack(Refused(-item.ref, error.code.value, error.message, error.field)))
            return
        if item.ref:
            self._fence(peer, item.ref)

    def on_delist(self, peer: Peer, item: Delist) -> None:
        """A session is out of groups, or has ended."""
        self._groups.delist(peer, item, self._clock())

    def on_ack(self, _peer: Peer, item: Ack) -> None:
        """A member is done with an event; one that it never had, or that is done, is ignored."""
        self._groups.acknowledge(item)

    def gone(self, peer: Peer) -> None:
        """A peer is dead: what its members had goes to others."""
        self._groups.gone(peer, self._clock())
        self.flow()

    def opened(self, peer: Peer) -> None:
        """A peer keeps up again."""
        self._groups.opened(peer)
        self.flow()

    def sweep(self) -> None:
        """To be called every :attr:`interval`."""
        self._changed(self._groups.sweep(self._clock()))
        self.flow()

    def route(self, topic: str, peers: tuple[Peer, ...]) -> tuple[Peer, ...]:
        """``peers``, or a :class:`GroupRoute` of them where the topic has groups."""
        policy = self._policies.of(topic)
        if policy.strategy is Strategy.LOAD_BALANCED and (lanes := self._groups.lanes(topic)):
            route = GroupRoute(peers)
            route.lanes, route.policy = lanes, policy
            return route
        return peers

    def share_out(self, route: GroupRoute, publication: Publication, now: float) -> None:
        """A new event, to one member of each group: one packing per group, because it says to whom."""
        for group, lane in route.lanes:
            handed = group.take(lane, publication, route.policy, now)
            if handed is not None:
                _send(handed)

    def flow(self) -> None:
        """Send what waited and can go now; once per batch of messages."""
        for handed in self._groups.flow(self._clock()):
            _send(handed)


def _send(handed: Handed) -> None:
    handed.peer.out.append(pack(handed.assigned))
