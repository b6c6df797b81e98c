"""What the router does where several engines share their events over a Redis. Part of its loop.

An event goes to the keeper, which gives it to Redis; its publisher hears of it then. What is to be distributed comes
from the tailer alone, own events and others' alike: so all engines have them in one order, with the same places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from actors.backplane_watch import BackplaneWatch
from actors.catch_up import CatchUp
from actors.history import Accepted
from actors.history_watch import RECENT, HistoryWatch
from actors.interests import Peer
from actors.keeper import full, room_beside
from actors.keeper_desk import Answer
from actors.messages import (
    Drain,
    FromBackplane,
    Keep,
    Kept,
    Resumed,
    Spooled,
    Sweep,
    Tailed,
    Tailing,
    TailOn,
    TailState,
)
from actors.ports import Ref
from actors.redis_history import reason_of
from actors.topic_log import TopicLog, is_own
from transport.codes import ErrorCode
from transport.errors import RequestError
from transport.messages import Interest, Publish, ReadHistory


class BackplaneDesk:
    """Hands events over, takes in what comes back.

    Args:
        keeper: the actor that gives events to Redis; it answers the router.
        tailer: the actor that reads what is there; it answers the router.
        log: the router's.
        catch_up: of the peers that are behind.
        workers: all others.
        history: is told whether the log can be written.
        watch: whether Redis can be had.
        spools: whether the keeper takes events also while it can not.
    """

    def __init__(
        self,
        keeper: Ref,
        tailer: Ref,
        log: TopicLog,
        catch_up: CatchUp,
        workers: Callable[[], Iterable[Peer]],
        history: HistoryWatch,
        watch: BackplaneWatch,
        *,
        spools: bool = False,
    ) -> None:
        self._keeper, self._tailer, self._log, self._catch_up = keeper, tailer, log, catch_up
        self._workers, self._history, self._watch, self._spools = workers, history, watch, spools
        self._place = (log.id, log.mark)  # everything up to there is in the log
        self._quiet = 0  # the mark up to which events are old, and news to nobody
        self._drains = False  # whether the keeper is at it
        self.stuck = False
        self._hears: dict[type, Callable[[Any], None]] = {
            Tailing: lambda _: self.begin(),
            TailState: self._heard,
            Resumed: self._resumed,
            Spooled: self._spooled,
        }

    def begin(self) -> None:
        """Ask the tailer to go on where the log ends."""
        self.stuck = False
        self._tailer.tell(TailOn(*self._place))

    # publishing -----------------------------------------------------------------------------------------------------

    def divert(self, peer: Peer, publishes: list[Publish]) -> tuple[list[Publish], list[tuple[Publish, RequestError]]]:
        """Hand over what is to be shared. Returns what is this engine's own, and what cannot be taken now."""
        own = [publish for publish in publishes if is_own(publish.topic)]
        shared = [publish for publish in publishes if not is_own(publish.topic)] if own else publishes
        watch = self._watch
        if watch.reason is not None and not self._spools:
            why = RequestError(ErrorCode.UNAVAILABLE, "the backplane is away; repeat it later")
            room = 0
        else:
            why = full()
            room = room_beside(watch)
        taken = shared[:room]
        if taken:
            watch.waiting += len(taken)
            watch.waiting_bytes += sum(len(publish.data) for publish in taken)
            self._keeper.tell(Keep([(peer, publish) for publish in taken]))
        refused = [(publish, why) for publish in shared[room:]]
        watch.refused(len(refused))
        return own, refused

    def kept(self, message: Kept) -> tuple[list[Accepted], list[Answer]]:
        """What publishers are told. There is nothing to distribute, as that comes from the tailer, but for what has to
        wait for its place: clients of this node get it now, too."""
        self._watch.waiting -= len(message.results)
        self._watch.waiting_bytes -= sum(len(publish.data) for _, publish, _ in message.results)
        if not self._spools:
            self._watch.silent = _why_not(message)
        waits = [o for _, _, o in message.results if isinstance(o, Accepted) and not (o.publication.epoch or o.again)]
        return waits, [Answer(peer, publish.ref, outcome) for peer, publish, outcome in message.results]

    def sweep(self) -> None:
        """Let the keeper let go what is too old. What it said of Redis is old, too: the next publish shows it."""
        if not self._spools:
            self._watch.silent = None
        if self._watch.reason is None:
            self._keeper.tell(Sweep())

    def read(self, _peer: Peer, _item: Interest | ReadHistory) -> bool:
        """Nothing but this engine's log answers: so it does without Redis."""
        return False

    # what comes back ------------------------------------------------------------------------------------------------

    def take(self, message: Any) -> list[Accepted]:
        """What tailer and keeper say; returns events to be distributed."""
        if type(message) is Tailed:
            return self._tailed(message)
        self._hears[type(message)](message)
        return []

    def _heard(self, state: TailState) -> None:
        """Whether Redis can be had."""
        back = self._watch.heard(state)
        if back and not self._spools:
            self._watch.silent = None
        if self._spools and state.reason is not None:
            self._keeper.tell(state)
        elif self._spools and back:
            self._drain()

    def _spooled(self, message: Spooled) -> None:
        """How many events wait on disk."""
        self._watch.spooled, self._watch.silent = message.waiting, message.away
        self._drains = self._drains and not message.drained
        if message.waiting and message.away is None:
            self._drain()

    def tick(self) -> None:
        """About once a second: try again what does not go by itself."""
        if self.stuck:
            self.begin()
        if self._watch.reason is None and self._spools and (self._watch.silent is not None or self._watch.spooled):
            self._drain()

    def _drain(self) -> None:
        if not self._drains:
            self._drains = True
            self._keeper.tell(Drain())

    def _tailed(self, message: Tailed) -> list[Accepted]:
        """Take events into the log; returns those to be distributed."""
        if (message.epoch, message.behind) != self._place:
            return []  # of a former tailer, or read twice
        try:
            events = self._log.record(message.events)
        except RequestError as error:
            self._stick(error)
            return []
        end = message.events[-1].mark
        if events and self._log.mark < end:
            self._place = (message.epoch, self._log.mark)
            self._stick(RequestError(ErrorCode.UNAVAILABLE, "not everything could be written"))
        else:
            self._unstick()
            self._place = (message.epoch, end)
            self.begin()
        return self._news(events)

    def _news(self, events: list[Accepted]) -> list[Accepted]:
        if not self._quiet:
            return events
        if self._place[1] < self._quiet:
            return []
        quiet, self._quiet = self._quiet, 0
        self._tell_lost(head.topic for head in self._log.heads())
        return [event for event in events if event.mark > quiet]

    def _resumed(self, message: Resumed) -> None:
        """What is in Redis does not lead on from here."""
        if message.place != self._place:
            return  # it was asked for twice, or by a former router
        try:
            known = self._log.begin(message.epoch, message.mark)
        except RequestError as error:
            self._stick(error)
            return
        self._unstick()
        self._log.ended(message.ended)
        self._place, self._quiet = (message.epoch, message.mark), 0
        if self._watch.resumed(message.epoch, message.mark):
            self._tell_lost({**dict.fromkeys(known), **dict(message.ended)})
        else:
            self._quiet = message.last
            self._news([])
        self.begin()

    def _tell_lost(self, topics: Iterable[str]) -> None:
        self._catch_up.restart(self._workers(), [topic for topic in topics if not is_own(topic)])

    def _stick(self, error: RequestError) -> None:
        self.stuck = True
        self._history.failed(RECENT, error.message)

    def _unstick(self) -> None:
        self.stuck = False
        if self._history.troubled:
            self._history.works(RECENT)


def _why_not(message: Kept) -> str | None:
    """Why Redis did not take events."""
    outcomes = (outcome for _, _, outcome in message.results if isinstance(outcome, RequestError))
    return next((reason_of(error) for error in outcomes if error.code is ErrorCode.UNAVAILABLE), None)


class ToBackplaneDesk:
    """The router's ref for those whose messages are the desk's business."""

    def __init__(self, router: Ref) -> None:
        self._router = router

    def tell(self, message: Any) -> None:
        """As :class:`~actors.messages.FromBackplane`."""
        self._router.tell(FromBackplane(message))
