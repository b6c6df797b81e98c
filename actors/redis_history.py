"""The backplane's log: a history in a Redis that several engines share. Redis gives epochs, offsets and marks.

One append is one script (:mod:`actors.redis_scripts`), so a batch is there whole or not at all. Whether what Redis has
acknowledged survives Redis is a matter of its own configuration (``appendonly``); where it has forgotten, a new epoch
begins. A call that fails has an unknown outcome; repeated with the same idempotency key it is safe.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgpack

from actors.history import KEY_LIFETIME, Accepted, Expired, Head
from actors.redis_scripts import APPEND, LOOK, TRIM_LOG, TRIM_TOPIC
from actors.topic_policy import TopicPolicies
from transport.codec import pack, unpack
from transport.codes import ErrorCode
from transport.errors import CodecError, ConfigError, RequestError
from transport.messages import Publication, Publish

if TYPE_CHECKING:
    from redis import Redis

CONNECT_TIMEOUT_S: Final = 3.0
CALL_TIMEOUT_S: Final = 5.0
"""For an answer; later ones count for nothing."""
MAX_WAIT_S: Final = 2.0
"""Longest time for which :meth:`RedisHistory.wait` lets Redis wait; below ``CALL_TIMEOUT_S``."""
LOG_EVENTS: Final = 1_000_000
"""Of all topics together; the oldest go."""
WRITER_LIFETIME: Final = 30 * 86_400
"""Seconds for which it is known what a writer has appended."""
PAGE: Final = 500
"""Topics of one round trip."""
TRIM_EVENTS: Final = 10_000
"""Looked at in one script: some milliseconds in which Redis does nothing else."""
REMEMBERED: Final = 10_000
"""Topics whose policy is remembered."""


class BackplaneError(RequestError):
    """Redis gave no answer, or none that could be used; whether it did what was asked is unknown.

    Attributes:
        reason: why, for operators: it says where Redis is, which is no business of who publishes.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(
            ErrorCode.UNAVAILABLE, "the backplane does not answer, the outcome is unknown; repeat it later"
        )
        self.reason = reason


def reason_of(error: RequestError) -> str:
    """What operators are told of an error."""
    return error.reason if isinstance(error, BackplaneError) else error.message


class Bounds(NamedTuple):
    """What the log has: events with marks above ``reach``, up to ``last``."""

    reach: int
    last: int


class RedisHistory:
    """A :class:`~actors.history.History`; its marks rise by one, on all engines alike. Blocking; one thread.

    It connects with its first call, and again after a failure with the next one.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``.
        password: beats that of the URL.
        prefix: of the keys.
        policies: how many events of a topic are kept, and for how long.
        max_topics: an event of a further topic is refused.
        new_epoch: makes a string that was never an epoch before.
        log_events: of all topics together, some more.

    Raises:
        ConfigError: the package redis is missing, or the URL is none.
    """

    def __init__(
        self,
        url: str,
        password: str | None,
        prefix: str,
        policies: TopicPolicies,
        max_topics: int,
        new_epoch: Callable[[], str],
        *,
        log_events: int = LOG_EVENTS,
    ) -> None:
        self._redis: Any = _client(url, password)  # the library's own types allow str everywhere
        self._base = f"{{{prefix}}}"
        self._policies, self._max_topics, self._new_epoch, self._log_events = (
            policies,
            max_topics,
            new_epoch,
            log_events,
        )
        ages = [policy.history_age_s for policy in policies.all()]
        self._log_age_s = None if None in ages else max(age for age in ages if age is not None)
        self._append, self._look, self._trim_topic, self._trim_log = map(
            self._redis.register_script, (APPEND, LOOK, TRIM_TOPIC, TRIM_LOG)
        )
        self._sizes: dict[str, int] = {}
        self._known = ("", 0, "")  # epoch, and mark and nonce of an entry that Redis must have, if it has that mark
        self._cursor = 0

    @property
    def epoch(self) -> str:
        """Of the log, as the last call has seen it; "" before the first one."""
        return self._known[0]

    def trust(self, epoch: str, mark: int) -> None:
        """Whoever reads has got events of this log up to ``mark`` from Redis, perhaps in a former life. Where Redis has
        less, it has lost them, and the next call begins another log."""
        if (epoch, mark) > self._known[:2] or epoch != self.epoch:
            self._known = (epoch, mark, "")

    # accepting ------------------------------------------------------------------------------------------------------

    def append(
        self, publishes: Sequence[Publish], now: float, *, writer: tuple[str, int] | None = None
    ) -> list[Accepted | RequestError]:
        """See :meth:`actors.history.History.append`. One round trip; some 10 µs of Redis's time an event.

        ``writer``: a name that nobody else has, and the number of the first event; further ones have the next numbers.
        What Redis has of this writer, as no number is above the last that it has got, is not appended again, and has
        offset 0 in the answer.
        """
        nonce = secrets.token_hex(8)
        args: list[Any] = [nonce, repr(now), self._max_topics, self._log_events, int(KEY_LIFETIME)]
        args += ("", 0, 0) if writer is None else (*writer, WRITER_LIFETIME)
        errors: dict[int, RequestError] = {}
        for n, (_, topic, kind, data, key, priority, source_ts, once, _) in enumerate(publishes):
            try:  # what could not be packed at the end must not get a place
                pack(Publication(topic, "", 2**62, now, kind, data, key, priority, source_ts))
            except CodecError as error:
                errors[n] = RequestError(ErrorCode.LIMIT_EXCEEDED, str(error), "data")
                continue
            body = msgpack.packb((kind, data, key, priority, source_ts))
            args += (topic, self._size(topic), (once or "").encode("utf-8", "surrogatepass"), body)
        with self._errors():
            epoch, placed = self._append(keys=[self._base], args=[self._new_epoch(), *self._known, *args])
        self._see(epoch.decode())
        places = iter(placed)
        return [
            errors[n] if n in errors else self._accepted(publish, next(places), nonce)
            for n, publish in enumerate(publishes)
        ]

    def _accepted(self, publish: Publish, place: list[bytes], nonce: str) -> Accepted | RequestError:
        if place[0] == b"full":
            text = f"the engines keep at most {self._max_topics} topics (limits.topics)"
            return RequestError(ErrorCode.LIMIT_EXCEEDED, text, "topic")
        _, topic, kind, data, key, priority, source_ts, _, _ = publish
        if place[0] == b"done":
            return Accepted(Publication(topic, self.epoch, 0, 0.0, kind, data), b"", 0, again=True)
        offset, mark, ts = int(place[1]), int(place[2]), float(place[3])
        if place[0] == b"again":
            return Accepted(Publication(topic, self.epoch, offset, ts, kind, data), b"", mark, again=True)
        publication = Publication(topic, self.epoch, offset, ts, kind, data, key, priority, source_ts)
        self._known = (self.epoch, mark, nonce)
        return Accepted(publication, pack(publication), mark)

    def _size(self, topic: str) -> int:
        size = self._sizes.get(topic)
        if size is None:
            if len(self._sizes) >= REMEMBERED:
                self._sizes.clear()
            size = self._sizes[topic] = max(1, self._policies.of(topic).history_size)
        return size

    # looking --------------------------------------------------------------------------------------------------------

    def bounds(self) -> Bounds:
        """What the log has now."""
        with self._errors():
            epoch, last, oldest, _ = self._look(keys=[self._base], args=[self._new_epoch(), *self._known])
        self._see(epoch.decode())
        return Bounds(_mark(oldest) - 1 if oldest else int(last), int(last))

    def heads(self) -> Iterator[Head]:
        """See :meth:`actors.history.History.heads`."""
        self.bounds()
        cursor = -1
        seen: set[bytes] = set()  # HSCAN may say a field twice
        while cursor:
            with self._errors():
                cursor, page = self._redis.hscan(f"{self._base}:heads", max(cursor, 0), count=PAGE)
                ends = {name: value.split() for name, value in page.items() if name not in seen}
                seen |= ends.keys()
                found = self._entries([int(mark) for _, mark, _ in ends.values()])
            for (name, (offset, _, _)), entry in zip(ends.items(), found, strict=True):
                last = None if entry is None else _publication(entry)
                yield Head(name.decode(), self.epoch, int(offset), last)

    def _entries(self, marks: list[int]) -> list[Mapping[bytes, bytes] | None]:
        pipe = self._redis.pipeline(transaction=False)
        for mark in marks:
            pipe.xrange(f"{self._base}:log", f"{mark}-0", f"{mark}-0")
        return [found[0][1] if found else None for found in pipe.execute()]

    def ended(self, mark: int) -> Iterator[tuple[str, int]]:
        """Topics whose last event is not behind ``mark``, and its offset. Some may come twice."""
        cursor = -1
        while cursor:
            with self._errors():
                cursor, page = self._redis.hscan(f"{self._base}:heads", max(cursor, 0), count=PAGE)
            for name, value in page.items():
                offset, last, _ = value.split()
                if int(last) <= mark:
                    yield name.decode(), int(offset)

    def first(self, topic: str) -> int:
        """See :meth:`actors.history.History.first`."""
        reach = self.bounds().reach
        index = self._index(topic)
        with self._errors():
            after = 0
            while found := self._redis.xrange(index, f"({after}-{2**63}", count=PAGE):
                for place, _ in found:
                    offset, mark = _place(place)
                    if mark > reach:
                        return offset
                    after = offset
            head = self._redis.hget(f"{self._base}:heads", topic)
        return 1 if head is None else int(head.split()[0]) + 1

    def read(self, topic: str, after: int, limit: int) -> list[bytes]:
        """See :meth:`actors.history.History.read`. Two round trips; O(answer)."""
        self.bounds()
        with self._errors():
            places = self._redis.xrange(self._index(topic), f"{after + 1}-0", count=limit)
            entries = self._entries([_place(place)[1] for place, _ in places])
        return [pack(_publication(entry)) for entry in entries if entry is not None]

    def _index(self, topic: str) -> str:
        return f"{self._base}:t:{topic}"

    def tail(self, mark: int, limit: int) -> list[tuple[int, bytes]]:
        """See :meth:`actors.history.History.tail`. It has events that a topic's own policy let go, too."""
        self._check(mark)
        with self._errors():
            found = self._redis.xrange(f"{self._base}:log", f"{mark + 1}-0", count=limit)
        return [(event.mark, event.packed) for event in self._tailed(mark, found)]

    def wait(self, mark: int, limit: int, timeout_s: float) -> list[Accepted]:
        """As :meth:`tail`; where nothing is there yet, it waits for ``timeout_s``, at most ``MAX_WAIT_S``."""
        self._check(mark)
        wait_ms = max(1, int(min(timeout_s, MAX_WAIT_S) * 1_000))
        log = f"{self._base}:log"
        with self._errors():
            found = self._redis.xread({log: f"{mark}-0"}, count=limit, block=wait_ms)
        return self._tailed(mark, found[0][1]) if found else []

    def _check(self, mark: int) -> None:
        before = self.epoch
        reach, last = self.bounds()
        if before and self.epoch != before:
            raise Expired("Redis has lost its log, another one has begun")
        if not reach <= mark <= last:
            raise Expired(f"the log has {reach} to {last}, not {mark}")

    def _tailed(self, mark: int, found: list[tuple[bytes, Mapping[bytes, bytes]]]) -> list[Accepted]:
        if found and _mark(found[0][0]) != mark + 1:
            self._check(mark)  # it may have been trimmed since
        events = []
        for place, entry in found:
            publication = self._read_entry(place, entry)
            if publication.epoch != self.epoch:
                raise Expired("Redis has lost its log, another one has begun")
            self._known = (self.epoch, _mark(place), entry[b"n"].decode())
            events.append(Accepted(publication, pack(publication), _mark(place)))
        return events

    def _read_entry(self, place: bytes, entry: Mapping[bytes, bytes]) -> Publication:
        try:
            return _publication(entry)
        except (CodecError, LookupError, ValueError, TypeError):
            name = place.decode()
            text = (
                f"somebody else writes the backplane's log: {name} is no event; DEL '{self._base}:epoch' begins another"
            )
            raise BackplaneError(text) from None

    def _see(self, epoch: str) -> None:
        if epoch != self.epoch:
            self._known = (epoch, 0, "")

    # letting go -----------------------------------------------------------------------------------------------------

    def trim(self, now: float) -> None:
        """See :meth:`actors.history.History.trim`. Some hundred topics with each call, in turn."""
        self.bounds()
        with self._errors():
            if self._log_age_s is not None:
                self._trim_log(keys=[self._base], args=[repr(now - self._log_age_s), TRIM_EVENTS])
            self._cursor, page = self._redis.hscan(f"{self._base}:heads", self._cursor, count=PAGE)
            pipe = self._redis.pipeline(transaction=False)
            for name in page:
                policy = self._policies.of(name.decode())
                before = "" if policy.history_age_s is None else repr(now - policy.history_age_s)
                args = [name, policy.history_size, before, TRIM_EVENTS]
                self._trim_topic(keys=[self._base], args=args, client=pipe)
            pipe.execute()

    def close(self) -> None:
        """See :meth:`actors.history.History.close`."""
        self._redis.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        from redis.exceptions import RedisError

        try:
            yield
        except (RedisError, OSError, ValueError, LookupError) as error:  # the last two: what no Redis answers
            self._redis.connection_pool.disconnect()
            raise BackplaneError(f"Redis does not answer: {error}".rstrip(".")) from error


def _client(url: str, password: str | None) -> Redis:
    try:
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError:
        raise ConfigError("needs the package redis: pip install 'heliograph[redis]'", "backplane.url") from None
    options: dict[str, Any] = {} if password is None else {"password": password}
    try:
        client = Redis.from_url(
            url,
            protocol=2,
            socket_timeout=CALL_TIMEOUT_S,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            **({} if url.startswith("unix:") else {"socket_keepalive": True}),
            retry=Retry(NoBackoff(), 0),  # an append that is repeated without our knowledge would be there twice
        )
        client.connection_pool.connection_kwargs.update(options)  # the URL's own would win
        client.connection_pool.make_connection()  # it does not connect yet
    except ValueError:
        raise ConfigError("must be redis://…, rediss://… or unix://…", "backplane.url") from None
    except TypeError:
        raise ConfigError("has an option behind its ? that there is not", "backplane.url") from None
    return client


def _place(place: bytes) -> tuple[int, int]:
    major, _, minor = place.partition(b"-")
    return int(major), int(minor)


def _mark(place: bytes) -> int:
    return _place(place)[0]


def _publication(entry: Mapping[bytes, bytes]) -> Publication:
    kind, data, key, priority, source_ts = unpack(entry[b"b"])
    topic, epoch = entry[b"t"].decode(), entry[b"e"].decode()
    return Publication(topic, epoch, int(entry[b"o"]), float(entry[b"s"]), kind, data, key, priority, source_ts)
