"""What the router does about topics whose history is elsewhere: on disk, in a thread of its own. Part of its loop.

An event of such a topic goes to the keeper first; the workers see it, and its publisher hears of it, once it is kept.
The router's own log has it from then on, too: so what was missed lately is found in one place.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from actors.history import Accepted, Expired
from actors.history_watch import DURABLE, RECENT, HistoryWatch
from actors.interests import Peer
from actors.keeper import full, room_beside
from actors.messages import Keep, Kept, ReadKept, Sweep
from actors.ports import Ref
from actors.recall import RECALL_EVENTS, Since
from actors.sqlite_history import SqliteHistory
from actors.topic_log import TopicLog
from actors.topic_policy import TopicPolicies
from transport.codec import join, unpack_batch
from transport.codes import ErrorCode
from transport.errors import RequestError
from transport.messages import Interest, Publish, ReadHistory

TOPICS_CACHED: Final = 65_536
TAKEN_OVER: Final = 10_000  # events of a topic that a hub takes over from the disk at its start


class Answer(NamedTuple):
    """What a publisher is told of one event."""

    peer: Peer
    ref: int
    outcome: Accepted | RequestError


class KeeperDesk:
    """Hands events over, takes them back, reads what the log has no more.

    Args:
        keeper: the actor; it answers the router.
        log: the router's.
        policies: say which topics are durable.
        watch: is told how it goes.
    """

    def __init__(self, keeper: Ref, log: TopicLog, policies: TopicPolicies, watch: HistoryWatch) -> None:
        self._keeper, self._log, self._policies, self._watch = keeper, log, policies, watch
        self._error: RequestError | None = None  # why the log could not take what was kept
        if log.unrecorded:
            self._error = RequestError(ErrorCode.UNAVAILABLE, "former events wait for the history; repeat it later")
        self._durable: dict[str, bool] = {}

    def is_kept(self, topic: str) -> bool:
        """Whether the topic's history is elsewhere."""
        known = self._durable.get(topic)
        if known is None:
            if len(self._durable) >= TOPICS_CACHED:
                self._durable.clear()
            known = self._durable[topic] = self._policies.of(topic).durable
        return known

    @property
    def stuck(self) -> bool:
        """Whether something is kept that the log could not take: see :meth:`retry`."""
        return self._error is not None

    def divert(self, peer: Peer, publishes: list[Publish]) -> tuple[list[Publish], list[tuple[Publish, RequestError]]]:
        """Hand over what is to be kept elsewhere. Returns the others, and those for which there is no room now."""
        durable = [(peer, publish) for publish in publishes if self.is_kept(publish.topic)]
        if not durable:
            return publishes, []
        taken = durable[: room_beside(self._watch)] if self._error is None else []
        if taken:
            self._watch.handed_over(len(taken), sum(len(publish.data) for _, publish in taken))
            self._keeper.tell(Keep(taken))
        why = full() if self._error is None else self._error
        if self._error is not None:
            self._watch.failed(RECENT, why.message, len(durable))
        return (
            [publish for publish in publishes if not self.is_kept(publish.topic)],
            [(publish, why) for _, publish in durable[len(taken) :]],
        )

    def kept(self, message: Kept) -> tuple[list[Accepted], list[Answer]]:
        """Events to be distributed, which the log has now, and what their publishers are told."""
        self._watch.answered(len(message.results), sum(len(publish.data) for _, publish, _ in message.results))
        self._look(message)
        self._log.unrecorded += [o for _, _, o in message.results if isinstance(o, Accepted) and not o.again]
        answers = [Answer(peer, publish.ref, outcome) for peer, publish, outcome in message.results]
        events = self.retry()
        if (error := self._error) is not None:
            # Kept, but nobody has it yet. To the publisher the outcome is unknown.
            answers = [a if isinstance(a.outcome, RequestError) else a._replace(outcome=error) for a in answers]
        return events, answers

    def retry(self) -> list[Accepted]:
        """Give the log what it could not take; returns what it has now, to be distributed.

        Nothing new goes to the keeper meanwhile, so what waits is bounded, and the order of each topic holds.
        """
        events: list[Accepted] = []
        try:
            while self._log.unrecorded and (some := self._log.record(self._log.unrecorded)):
                events += some  # perhaps only the first of them; those it knows already it passes over
        except RequestError as error:
            self._watch.failed(RECENT, error.message)
            self._error = error
            return events
        if self._error is not None:
            self._watch.works(RECENT)
        self._log.unrecorded, self._error = [], None
        return events

    def _look(self, message: Kept) -> None:
        """What became of it says how the keeper's history is."""
        errors = [o for _, _, o in message.results if isinstance(o, RequestError) and o.code is ErrorCode.UNAVAILABLE]
        if errors:
            self._watch.failed(DURABLE, errors[0].message, len(errors))
        elif self._watch.troubled:
            self._watch.works(DURABLE)

    def sweep(self) -> None:
        """Let the keeper let go what is too old."""
        self._keeper.tell(Sweep())

    # reading --------------------------------------------------------------------------------------------------------

    def read(self, peer: Peer, item: Interest | ReadHistory) -> bool:
        """Whether the log has too little to answer: then the keeper is asked, and answers with the same token."""
        if isinstance(item, Interest):
            request = None if item.since is None else self._missing(item.add, item.since)
        else:
            request = self._missing_page(item)
        if request is None:
            return False
        self._keeper.tell(request._replace(token=(peer, item)))
        return True

    def _missing(self, patterns: Iterable[str], since: Since) -> ReadKept | None:
        if isinstance(since, dict):
            after = {topic: place[1] for topic, place in since.items() if self._lacks(topic, *place)}
            return ReadKept(None, after, RECALL_EVENTS) if after else None
        try:
            self._log.mark_of(since)
        except Expired:
            row = self._log.row_of(since)
            return None if row is None else ReadKept(None, {}, RECALL_EVENTS, row, tuple(patterns))
        return None

    def _missing_page(self, item: ReadHistory) -> ReadKept | None:
        epoch, head = self._log.where(item.topic)
        place = item.since if item.since is not None else (epoch, max(0, head - item.limit))
        if not self._lacks(item.topic, *place):
            return None
        return ReadKept(None, {item.topic: place[1]}, item.limit, oldest=item.since is not None)

    def _lacks(self, topic: str, epoch: str, offset: int) -> bool:
        """Whether there may be events behind a place which the log has no more."""
        present, head = self._log.where(topic)
        return self.is_kept(topic) and epoch == present and offset < min(head, self._log.first(topic) - 1)


def take_over(history: SqliteHistory, log: TopicLog) -> None:
    """What a former hub has kept on disk and not told anybody, or what the log has lost: at the start of a hub.

    What the log has no room for waits in ``log.unrecorded``.

    Raises:
        RequestError: ``unavailable``: the history cannot be read.
    """
    heads = list(history.heads())
    waiting: dict[str, list[Accepted]] = {}
    for i, head in enumerate(heads):
        epoch, offset = log.where(head.topic)
        after = offset if epoch == head.epoch else head.offset - 1
        if after >= head.offset:
            if after > head.offset:  # it was not durable for a while, or an old copy was put back
                history.skip(head.topic, after)
                heads[i] = head._replace(offset=after)
            continue
        packed = history.read(head.topic, max(after, head.offset - TAKEN_OVER), TAKEN_OVER)
        found = unpack_batch(join(packed)) if packed else []
        events = [Accepted(event, event_packed, 0) for event, event_packed in zip(found, packed, strict=True)]
        if waiting or not _recorded(log, events):
            waiting[head.topic] = events
    log.unrecorded = [event for events in waiting.values() for event in events]
    # A row at which nothing that waits has been told: it may come again to those who go on from there.
    row = history.bounds()[0 if waiting else 1]
    log.adopt(history.epoch, [head for head in heads if head.topic not in waiting], row)


def _recorded(log: TopicLog, events: list[Accepted]) -> bool:
    try:
        while log.record(events):
            pass  # perhaps only the first of them; those it knows already it passes over
    except RequestError:
        return False
    return True
