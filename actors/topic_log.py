"""Topics and their recent events: the router's log. The clock and the source of epochs are passed in.

Offsets rise by one per topic within an epoch. A topic that was idle for long is forgotten and returns with a new epoch.
The log's ``position`` is a place among all accepted events.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

from actors.event_log import EventLog
from actors.history import Accepted, Expired, Head
from actors.recent_keys import RecentKeys
from actors.topic_policy import TopicPolicies
from transport.codec import join, pack, unpack, unpack_batch
from transport.codes import ErrorCode
from transport.errors import CodecError, RequestError
from transport.messages import Publication, Publish
from transport.topics import SYSTEM, is_pattern, matcher

MEMORY_BYTES = 256 * 2**20


class _Topic:
    __slots__ = ("epoch", "last", "offset")

    def __init__(self, epoch: str, offset: int = 0, last: Publication | None = None) -> None:
        self.epoch, self.offset, self.last = epoch, offset, last


class TopicLog:
    """One per hub; a :class:`~actors.history.History`.

    Args:
        max_topics: a publish to a further topic is refused.
        new_epoch: makes a string that was never an epoch before.
        directory: of the files in which a restarted hub finds its events again; ``None``: in memory.
        max_bytes: of recent events together; the oldest go.
        policies: how many events of a topic are kept, and for how long.
        shared: whether positions are those of a log that several engines share: marks come with :meth:`record`, and
            what is accepted here has none of its own.
        idle: seconds without events after which a topic that the files know is forgotten; ``now``: Unix seconds.

    Attributes:
        unrecorded: events that were given their places elsewhere and wait for room here; another's list.

    Raises:
        ConfigError: the directory cannot be used.
    """

    def __init__(
        self,
        max_topics: int,
        new_epoch: Callable[[], str],
        *,
        directory: Path | None = None,
        max_bytes: int = MEMORY_BYTES,
        policies: TopicPolicies | None = None,
        shared: bool = False,
        idle: float = float("inf"),
        now: float = 0.0,
    ) -> None:
        self._max_topics, self._new_epoch = max_topics, new_epoch
        self._policies = TopicPolicies({}) if policies is None else policies
        self._shared, self._now = shared, now
        self.unrecorded: list[Accepted] = []
        self._durable: tuple[str, int] | None = None  # epoch and end of the history of durable topics
        self._topics: dict[str, _Topic] = {}
        self._keys = RecentKeys()
        name = new_epoch()
        self._own_epoch = name  # of topics that are this engine's alone, where the log is shared
        self._log = EventLog(directory, max_bytes, name, name, self._topics.__contains__)
        self._restore(now - idle)

    def _restore(self, before: float) -> None:
        """Take over what a former hub has left."""
        found = [packed for _, packed in self._log.heads()]
        heads: list[Publication] = unpack_batch(join(found)) if found else []
        for last in heads:
            self._topics[last.topic] = _Topic(last.epoch, last.offset, last)
        self.forget_idle(before)
        for known in self._log.recent_keys():
            self._keys.put(*known)

    def __len__(self) -> int:
        return len(self._topics)

    @property
    def id(self) -> str:
        """Name of the log: a position in it says nothing in another."""
        return self._log.log

    @property
    def size(self) -> int:
        """Bytes of recent events."""
        return self._log.size

    # accepting ------------------------------------------------------------------------------------------------------

    def append(self, publishes: Sequence[Publish], now: float) -> list[Accepted | RequestError]:
        """Give events their places and keep them; see :meth:`actors.history.History.append`.

        A hub that is killed right after it does not lose them.

        Raises:
            RequestError: ``unavailable``: they cannot be written; nothing has changed.
        """
        results: list[Accepted | RequestError] = []
        events: list[Accepted] = []
        keys: list[str | None] = []
        keyed = False
        topics = self._topics
        mark, step = self._log.mark, 0 if self._shared else 1
        for publish in publishes:
            _, name, kind, data, key, priority, source_ts, idempotency_key, _ = publish
            topic = topics.get(name)
            if idempotency_key is not None and (again := self._again(publish, now)) is not None:
                results.append(again)
                continue
            if topic is None:
                if len(topics) >= self._max_topics:
                    results.append(self._one_too_many())
                    continue
                try:
                    topic = self._add(name)
                except OSError as error:
                    results.append(_cannot_write(error))
                    continue
            ts = now if topic.last is None or topic.last.ts <= now else topic.last.ts
            publication = Publication(name, topic.epoch, topic.offset + 1, ts, kind, data, key, priority, source_ts)
            try:
                packed = pack(publication)
            except CodecError as error:
                results.append(RequestError(ErrorCode.LIMIT_EXCEEDED, str(error), "data"))
                continue
            topic.offset += 1
            mark += step
            event = Accepted(publication, packed, mark)
            events.append(event)
            results.append(event)
            keys.append(idempotency_key)
            if idempotency_key is not None:
                keyed = True
                self._keys.put(name, idempotency_key, topic.epoch, topic.offset, ts)
        if events:
            self._write(events, keys if keyed else None)
        return results

    def _write(self, events: list[Accepted], keys: list[str | None] | None) -> None:
        topics = self._topics
        try:
            self._log.append(events, keys)
        except OSError as error:
            for publication, *_ in events:
                topics[publication.topic].offset -= 1
            for i in reversed(range(len(events))):
                if keys is not None and (key := keys[i]) is not None:
                    self._keys.drop(events[i].publication.topic, key)
            raise _cannot_write(error) from None
        for event in events:
            publication = event.publication
            topics[publication.topic].last = publication

    def _again(self, publish: Publish, now: float) -> Accepted | None:
        key = publish.idempotency_key
        assert key is not None, "who asks has one"
        place = self._keys.find(publish.topic, key, now)
        if place is None:
            return None
        epoch, offset = place
        known = Publication(publish.topic, epoch, offset, now, publish.type, publish.data)
        return Accepted(known, b"", self._log.mark, again=True)

    def _add(self, name: str) -> _Topic:
        topic = _Topic(self.where(name)[0])
        if not self._log.follows(name, topic.epoch, 1):
            self._log.roll()  # it was here in another epoch
        self._topics[name] = topic
        return topic

    def _one_too_many(self) -> RequestError:
        text = f"the engine keeps at most {self._max_topics} topics (limits.topics)"
        return RequestError(ErrorCode.LIMIT_EXCEEDED, text, "topic")

    def record(self, events: Sequence[Accepted]) -> list[Accepted]:
        """Keep events that were given their places elsewhere; returns those that are new here, as they are kept.

        Their marks count where the log is ``shared``, else they get this log's own. Where only the first of them could
        be written, these are returned: give all of them again.

        Raises:
            RequestError: ``unavailable``: nothing could be written; nothing has changed.
        """
        before: dict[str, _Topic | None] = {}  # the topics of ``batch``
        new: list[Accepted] = []  # written
        batch: list[Accepted] = []
        mark = self._log.mark
        row = 0
        try:
            for publication, packed, given, _ in events:
                name, epoch, offset = publication[:3]
                topic = self._topics.get(name)
                if topic is not None and topic.epoch == epoch and offset <= topic.offset:
                    continue
                if not (topic is not None and topic.epoch == epoch and offset == topic.offset + 1):
                    # A run of offsets ends. What is written before the file changes is where it belongs.
                    self._write_all(batch, row)
                    new += batch
                    batch.clear()
                    before.clear()
                    if not self._log.follows(name, epoch, offset):
                        self._log.roll()
                before.setdefault(name, topic)
                mark, row = given if self._shared else mark + 1, given
                self._topics[name] = _Topic(epoch, offset, publication)
                batch.append(Accepted(publication, packed, mark))
            self._write_all(batch, row)
            new += batch
        except OSError as error:
            for name, topic in before.items():
                if topic is None:
                    del self._topics[name]
                else:
                    self._topics[name] = topic
            if not new:
                raise _cannot_write(error) from None
        return new

    def adopt(self, epoch: str, heads: Iterable[Head], row: int) -> None:
        """Durable topics are kept in a history whose topics begin with ``epoch`` and whose last mark is ``row``.

        Take over where its topics end, as far as :meth:`record` has not said it.
        """
        for head in heads:
            known = self._topics.get(head.topic)
            if known is None or (known.epoch, known.offset) != (head.epoch, head.offset):
                self._topics[head.topic] = _Topic(head.epoch, head.offset, None if known is None else known.last)
        self._durable = (epoch, row)

    def begin(self, epoch: str, mark: int) -> list[str]:
        """The shared log goes on behind ``mark`` with something that does not follow on what is here, perhaps in
        another epoch. What is here is let go, but for where the topics of the same epoch end.

        Returns the topics that were known, without the engine's own.

        Raises:
            RequestError: ``unavailable``: it cannot be written; nothing has changed.
        """
        try:
            self._log.begin(epoch, mark)
        except OSError as error:
            raise _cannot_write(error) from None
        known = [name for name in self._topics if not is_own(name)]
        for name in known:
            if self._topics[name].epoch != epoch:
                del self._topics[name]
        return known

    def ended(self, topics: Iterable[tuple[str, int]]) -> None:
        """So end topics of the shared log of which nothing will be recorded before something new happens."""
        epoch = self._log.log
        for name, offset in topics:
            known = self._topics.get(name)
            if known is None or known.epoch != epoch:
                self._topics[name] = _Topic(epoch, offset)
            elif known.offset < offset:
                self._topics[name] = _Topic(epoch, offset, known.last)

    def _write_all(self, batch: list[Accepted], row: int) -> None:
        if not batch:
            return
        self._log.append(batch)
        if self._durable is not None and row > self._durable[1]:
            self._durable = (self._durable[0], row)

    # looking --------------------------------------------------------------------------------------------------------

    @property
    def position(self) -> str:
        """A place in the whole log: its end. Where there are durable topics, also a place in their history, which is
        known longer."""
        return self._log.position if self._durable is None else f"{self._log.position}:{self._durable[1]}"

    @property
    def mark(self) -> int:
        """The same as a number."""
        return self._log.mark

    def mark_of(self, position: str) -> int:
        """The mark that a position says.

        Raises:
            Expired: it is of another log, or older than this one reaches back.
        """
        log, mark, _ = _parts(position)
        if log != self._log.log or mark is None:
            raise Expired
        self._log.check_reaches(mark)
        return mark

    @staticmethod
    def row_of(position: str) -> int | None:
        """The place in the history of durable topics that a position says, if it says one."""
        return _parts(position)[2]

    def has_mark(self, topic: str) -> bool:
        """Whether the topic's events have marks of their own. The engine's own events in a shared log have that of the
        last shared one."""
        return not (self._shared and is_own(topic))

    def where(self, name: str) -> tuple[str, int]:
        """Epoch and offset of a topic's last event; of a topic without one, the epoch its first will have, and 0.

        A subscription makes no topic: a stranger could fill the table.
        """
        topic = self._topics.get(name)
        if topic is not None:
            return topic.epoch, topic.offset
        if self._shared:
            return (self._own_epoch if is_own(name) else self._log.log), 0
        return (self._durable[0] if self._durable is not None and self.is_durable(name) else self._log.epoch), 0

    def is_durable(self, topic: str) -> bool:
        """Whether the topic is kept in a history elsewhere, too. Costs a match of patterns."""
        return self._durable is not None and self._policies.of(topic).durable

    def last(self, pattern: str) -> list[Publication]:
        """Last events of what a pattern matches. Cost: O(1) for a topic, O(topics) for a wildcard."""
        if not is_pattern(pattern):
            topic = self._topics.get(pattern)
            return [topic.last] if topic is not None and topic.last is not None else []
        match = matcher(pattern)
        return [topic.last for name, topic in self._topics.items() if topic.last is not None and match(name)]

    def page(self, after: str, limit: int, containing: str = "") -> list[Publication]:
        """The last events of topics with a name above ``after``, by name, at most ``limit``.

        Cost: O(topics).

        Args:
            containing: only topics whose name has this in it, however they are capitalised.
        """
        part = containing.lower()
        named = ((name, topic.last) for name, topic in self._topics.items() if name > after and part in name.lower())
        return [last for _, last in heapq.nsmallest(limit, ((n, last) for n, last in named if last is not None))]

    def heads(self) -> Iterator[Head]:
        """All topics."""
        return (Head(name, topic.epoch, topic.offset, topic.last) for name, topic in self._topics.items())

    def first(self, topic: str, after: int = 0) -> int:
        """Offset of the oldest event above ``after`` that is kept, by the log and by the topic's policy; one above the
        last if none.

        Reads an event to see whether it is too old; if it is, some ten to find the first that is not.
        """
        known = self._topics.get(topic)
        if known is None:
            return 1
        policy = self._policies.of(topic)
        head = known.offset
        first = max(self._log.first(topic, known.epoch, head), head - policy.history_size + 1, after + 1)
        if policy.history_age_s is None or first > head:
            return min(first, head + 1)
        oldest = self._now - policy.history_age_s
        if self._ts(topic, known.epoch, first) >= oldest:
            return first
        offsets = range(first, head + 1)
        return first + bisect_left(offsets, oldest, key=lambda offset: self._ts(topic, known.epoch, offset))

    def _ts(self, topic: str, epoch: str, offset: int) -> float:
        ts: float = unpack(self._log.event(topic, epoch, offset))[4]
        return ts

    def read(self, topic: str, after: int, limit: int) -> list[bytes]:
        """Packed events of a topic with offsets above ``after``, oldest first, at most ``limit``."""
        known = self._topics.get(topic)
        if known is None or after >= known.offset:
            return []
        return self._log.read(topic, known.epoch, self.first(topic, after) - 1, limit)

    def events(self, topic: str, after: int) -> Iterator[bytes]:
        """As :meth:`read`, all of them. Reads as it goes; not to be held on to."""
        return self._log.events(topic, self.where(topic)[0], self.first(topic, after) - 1)

    def newest(self, topic: str, after: int, events: int, nbytes: int) -> int:
        """See :meth:`actors.event_log.EventLog.newest`."""
        return self._log.newest(topic, self.where(topic)[0], after, events, nbytes)

    def tail(self, mark: int, limit: int) -> list[tuple[int, bytes]]:
        """Packed events behind ``mark`` of all topics; :class:`~actors.history.Expired` if some of them are gone."""
        return self._log.tail(mark, limit)

    def topics_behind(self, mark: int, topics: Collection[str] | None = None) -> dict[str, tuple[str, int]]:
        """Of ``topics``, or of all, those with events behind ``mark``: epoch and offset of the first of them. Raises as
        :meth:`tail`."""
        return self._log.topics_behind(mark, topics)

    def bytes_behind(self, mark: int) -> int:
        """About how many bytes :meth:`tail` would have to give."""
        return self._log.bytes_behind(mark)

    # letting go -----------------------------------------------------------------------------------------------------

    def trim(self, now: float) -> None:
        """Let go files whose events are all too old. ``now``: Unix seconds."""
        self._now = now
        ages = [policy.history_age_s for policy in self._policies.all() if not policy.durable]
        if None not in ages:
            self._log.drop_before(now - max(age for age in ages if age is not None))

    def forget_idle(self, before: float) -> int:
        """Forget topics whose last event is older than ``before`` (Unix seconds); how many. Of a shared log none: a
        topic that returned would have its old epoch."""
        if self._shared:
            return 0
        idle = [
            name
            for name, topic in self._topics.items()
            if (topic.last is None or topic.last.ts < before) and not self._policies.of(name).durable
        ]
        for name in idle:
            del self._topics[name]
        if idle:
            self._log.begin_epoch(self._new_epoch())  # should one of them return, its offsets begin anew
        return len(idle)

    def close(self) -> None:
        """Let go the files; they stay."""
        self._log.close()


def is_own(topic: str) -> bool:
    """Whether a topic is about one engine, and not shared with others."""
    return topic.startswith(f"{SYSTEM}.")


def _parts(position: str) -> tuple[str, int | None, int | None]:
    """Log, mark and, where it has one, row of a position; ``None`` for what is no number."""
    log, _, rest = position.partition(":")
    mark, _, row = rest.partition(":")
    return log, _number(mark), _number(row)


def _number(digits: str) -> int | None:
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 19 else None


def _cannot_write(error: OSError) -> RequestError:
    text = f"the history cannot be written: {error.strerror}; see to the disk of history.dir, then repeat it"
    return RequestError(ErrorCode.UNAVAILABLE, text)
