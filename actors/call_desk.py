"""Who answers calls of which topic, and who waits for an answer: the hub's part of ``call``. Pure.

Every call is answered once: by its callee, or, where that goes, takes too long or has too much to do, by the desk. A
hub that starts knows nobody; workers tell it whom they have, and have told their callers that what the last one was
asked has an unknown outcome.
"""

from __future__ import annotations

import secrets
import time
from bisect import insort
from collections.abc import Callable, Mapping
from itertools import count, takewhile
from typing import Any, Final, NamedTuple, Protocol

from transport.codec import pack
from transport.codes import ErrorCode
from transport.errors import CodecError, RequestError
from transport.messages import Call, CallDone, Called, Calling, Refused, Serve, Served, Withdraw

CALL_TIMEOUT: Final = 30.0
"""Seconds that a call waits for its answer."""
UNANSWERED: Final = 64
"""Calls that one session has not answered yet; more are refused."""
METHODS_NAMED: Final = 20  # in the refusal of one that there is not


class Peer(Protocol):
    """A worker at the other end of the bus."""

    out: list[bytes]

    @property
    def window_open(self) -> bool: ...
    def __hash__(self) -> int: ...


class _Offer(NamedTuple):
    """A session's word that it answers calls of a topic. Of several the last in this order has the topic."""

    inner: bool
    since: float
    number: int
    callee: _Callee
    methods: frozenset[str]


class _Callee:
    """A session that serves topics, or has."""

    __slots__ = ("calls", "member", "offers", "peer")

    def __init__(self, peer: Peer, member: str) -> None:
        self.peer, self.member = peer, member
        self.offers: dict[str, _Offer] = {}  # by topic
        self.calls: set[str] = set()  # that it has not answered


class _Waiting(NamedTuple):
    caller: Peer
    ref: int
    what: str  # for people
    callee: _Callee
    deadline: float


class CallDesk:
    """Calls from and to the sessions of the hub's peers. Cost of a call: O(1); of an offer: O(those for its topic).

    Args:
        later: has :meth:`tick` called after so many seconds; asked for once at a time.
        clock: seconds that never fall.

    Attributes:
        handlers: what a peer may say, by the type of it. Who is to be answered finds it in ``peer.out``.
    """

    def __init__(self, *, later: Callable[[float], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._later, self._clock = later, clock
        self._offers: dict[str, list[_Offer]] = {}  # by topic, the one in force last
        self._callees: dict[Peer, dict[str, _Callee]] = {}
        self._waiting: dict[str, _Waiting] = {}  # the oldest first
        self._life, self._numbers = secrets.token_hex(4), count(1)
        self._ticking = False
        self.handlers: Mapping[type, Callable[[Any, Any], None]] = {
            Serve: self.on_serve,
            Withdraw: self.on_withdraw,
            Call: self.on_call,
            CallDone: self.on_call_done,
        }

    def __len__(self) -> int:
        """How many calls wait for their answer."""
        return len(self._waiting)

    # who answers ----------------------------------------------------------------------------------------------------

    def on_serve(self, peer: Peer, item: Serve) -> None:
        """A session serves a topic, or no longer."""
        callees = self._callees.setdefault(peer, {})
        callee = callees.get(item.member)
        if callee is not None:
            self._take_back(callee, item.topic)
        if item.methods:
            if callee is None:
                callee = callees[item.member] = _Callee(peer, item.member)
            offer = _Offer(item.inner, item.since, next(self._numbers), callee, frozenset(item.methods))
            callee.offers[item.topic] = offer
            insort(self._offers.setdefault(item.topic, []), offer)
        if item.ref:
            peer.out.append(pack(Served(item.ref)))

    def on_withdraw(self, peer: Peer, item: Withdraw) -> None:
        """A session has gone."""
        callee = self._callees.get(peer, {}).pop(item.member, None)
        if callee is not None:
            self._bury(callee)

    def gone(self, peer: Peer) -> None:
        """A peer is dead, with its sessions: who called one of them learns so, whom they called answers nobody."""
        for callee in self._callees.pop(peer, {}).values():
            self._bury(callee)
        for number in [number for number, waiting in self._waiting.items() if waiting.caller is peer]:
            self._settle(number)

    def _bury(self, callee: _Callee) -> None:
        for topic in list(callee.offers):
            self._take_back(callee, topic)
        for number in sorted(callee.calls):
            self._give_up(number, "who was to answer it has gone")

    def _take_back(self, callee: _Callee, topic: str) -> None:
        if (offer := callee.offers.pop(topic, None)) is not None:
            offers = self._offers[topic]
            offers.remove(offer)
            if not offers:
                del self._offers[topic]

    # calls ----------------------------------------------------------------------------------------------------------

    def on_call(self, peer: Peer, item: Call) -> None:
        """Answered at once where nobody can be asked."""
        try:
            offer = self._find(item)
            number = f"{self._life}-{next(self._numbers)}"
            calling = Calling(number, offer.callee.member, item.topic, item.method, item.params, item.user)
            packed = pack(calling)
        except (RequestError, CodecError) as error:
            refusal = error if isinstance(error, RequestError) else RequestError(ErrorCode.LIMIT_EXCEEDED, str(error))
            _refuse(peer, item.ref, refusal)
            return
        what = f"{item.method} of {item.topic}"
        self._waiting[number] = _Waiting(peer, item.ref, what, offer.callee, self._clock() + CALL_TIMEOUT)
        offer.callee.calls.add(number)
        offer.callee.peer.out.append(packed)
        self._watch()

    def _find(self, item: Call) -> _Offer:
        offers = self._offers.get(item.topic)
        if not offers:
            raise RequestError(ErrorCode.NOT_FOUND, f"nobody answers calls on {item.topic}", "topic")
        offer = offers[-1]
        if item.method not in offer.methods:
            known = sorted(offer.methods)
            more = f" and {len(known) - METHODS_NAMED} more" if len(known) > METHODS_NAMED else ""
            text = f"{item.topic} has no method {item.method!r}, but {', '.join(known[:METHODS_NAMED])}{more}"
            raise RequestError(ErrorCode.NOT_FOUND, text, "method")
        if len(offer.callee.calls) >= UNANSWERED:
            text = f"who answers calls on {item.topic} has {UNANSWERED} to answer already; repeat in a moment"
            raise RequestError(ErrorCode.RATE_LIMITED, text)
        if not offer.callee.peer.window_open:
            text = f"who answers calls on {item.topic} is behind; it was not called, repeat in a moment"
            raise RequestError(ErrorCode.UNAVAILABLE, text)
        return offer

    def on_call_done(self, peer: Peer, item: CallDone) -> None:
        """A callee answers. One that comes too late, again, or from somebody else is for nobody."""
        waiting = self._waiting.get(item.call)
        if waiting is None or (waiting.callee.peer, waiting.callee.member) != (peer, item.member):
            return
        self._settle(item.call)
        if item.error is not None:
            waiting.caller.out.append(pack(Refused(waiting.ref, *item.error)))
        else:
            waiting.caller.out.append(pack(Called(waiting.ref, item.result)))

    def tick(self) -> None:
        """The time that ``later`` was asked for has passed."""
        self._ticking = False
        now = self._clock()
        late = takewhile(lambda item: item[1].deadline <= now, self._waiting.items())
        for number in [number for number, _ in late]:  # not all of them: tens of thousands may wait
            self._give_up(number, f"no answer within {CALL_TIMEOUT:g} s")
        self._watch()

    def _watch(self) -> None:
        if not self._ticking and self._waiting:
            self._ticking = True
            oldest = next(iter(self._waiting.values()))
            self._later(max(0.0, oldest.deadline - self._clock()))

    def _give_up(self, number: str, why: str) -> None:
        waiting = self._settle(number)
        text = f"{waiting.what}: {why}; the outcome is unknown"
        _refuse(waiting.caller, waiting.ref, RequestError(ErrorCode.UNAVAILABLE, text))

    def _settle(self, number: str) -> _Waiting:
        waiting = self._waiting.pop(number)
        waiting.callee.calls.discard(number)
        return waiting


def _refuse(peer: Peer, ref: int, error: RequestError) -> None:
    peer.out.append(pack(Refused(ref, error.code.value, error.message, error.field)))
