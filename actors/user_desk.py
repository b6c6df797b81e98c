"""What the hub does about users: who is present where, and how their rates are divided. Part of the router's loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import msgspec

from actors.presence import Entry, Presence
from actors.topic_policy import TopicPolicies
from actors.user_shares import Told, UserShares
from transport.codec import pack
from transport.codes import ErrorCode
from transport.errors import CodecError
from transport.messages import Present, Publish, Refused, Seated, ShareTaken, Users, WhoIsPresent

JOIN = "join"
LEAVE = "leave"
"""Types of the events on a topic whose policy announces; their data is ``{"user": …}``, their key the user."""


class Peer(Protocol):
    """A worker or the daemon at the other end of the bus."""

    out: list[bytes]

    def __hash__(self) -> int: ...


class UserDesk:
    """Presence and shares, from and to the peers of the hub.

    Args:
        policies: which topics have presence and announce it.
        publish: takes an event of the engine itself, on the router's loop.
        later: has :meth:`tick` called after so many seconds; asked for once at a time.
        shares: of ``delivery.user_rate``; ``None``: users have no limit.
        clock: seconds that never fall.

    Attributes:
        handlers: what a peer may say, by the type of it. Who is to be answered finds it in ``peer.out``.
    """

    def __init__(
        self,
        *,
        policies: TopicPolicies,
        publish: Callable[[Publish], None],
        later: Callable[[float], object],
        shares: UserShares | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policies, self._publish, self._later, self._clock = policies, publish, later, clock
        self._presence = Presence()
        self._shares = shares
        self._waits = False
        self.handlers: Mapping[type, Callable[[Any, Any], None]] = {
            Present: self.on_present,
            WhoIsPresent: self.on_who_is_present,
            Seated: self.on_seated,
            ShareTaken: self.on_share_taken,
        }

    def on_present(self, peer: Peer, item: Present) -> None:
        """A worker's users have come to topics or left them."""
        joined, left = self._presence.report(peer, item)
        self._announce(JOIN, joined)
        self._announce(LEAVE, left)

    def on_who_is_present(self, peer: Peer, item: WhoIsPresent) -> None:
        """Answered with :class:`Users`, or refused where the topic has no presence."""
        if not self._policies.of(item.topic).presence:
            message = f'presence is not enabled for {item.topic}; set presence in [topics."PATTERN"]'
            peer.out.append(pack(Refused(item.ref, ErrorCode.BAD_REQUEST.value, message, "topic")))
            return
        users = self._presence.users(item.topic)
        try:
            answer = pack(Users(item.ref, users))
        except CodecError as error:
            message = f"{len(users)} users are too many for one answer: {error}"
            answer = pack(Refused(item.ref, ErrorCode.LIMIT_EXCEEDED.value, message, "topic"))
        peer.out.append(answer)

    def on_seated(self, peer: Peer, item: Seated) -> None:
        """A worker has the first session of users, or no longer one."""
        if self._shares is not None:
            self._tell(self._shares.seated(peer, item, self._clock()))

    def on_share_taken(self, peer: Peer, item: ShareTaken) -> None:
        """A worker has put a share in force."""
        if self._shares is not None:
            self._tell(self._shares.taken(peer, item.user, item.version, self._clock()))

    def gone(self, peer: Peer) -> None:
        """A peer is dead: its users leave, its shares go to others."""
        self._announce(LEAVE, self._presence.gone(peer))
        if self._shares is not None:
            self._tell(self._shares.gone(peer, self._clock()))

    def tick(self) -> None:
        """The time that :attr:`later` was asked for has passed."""
        self._waits = False
        if self._shares is not None:
            self._tell(self._shares.tick(self._clock()))

    def _tell(self, told: Told) -> None:
        assert self._shares is not None
        for peer, share in told:
            peer.out.append(pack(share))  # type: ignore[attr-defined]  # who was seated is a Peer
        if not self._waits and (due := self._shares.due) is not None:
            self._waits = True
            self._later(max(0.0, due - self._clock()))

    def _announce(self, kind: str, entries: Iterable[Entry]) -> None:
        for topic, user in entries:
            if self._policies.of(topic).announce:
                self._publish(Publish(0, topic, kind, msgspec.json.encode({"user": user}), key=user))
