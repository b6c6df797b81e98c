"""Keeps events where a disk or a network decides how long that takes: a history on a thread of its own.

The router hands over what must be kept before anybody sees it, and goes on with :class:`~actors.messages.Kept`. All
that waits goes into one append (group commit), so a slow disk makes larger batches, not a longer queue.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from actors.blocking_actor import BlockingActor
from actors.history import Accepted, Expired, History
from actors.messages import Keep, Kept, ReadDone, ReadKept, Sweep
from actors.recall import RECALL_BYTES
from actors.ref import Ref
from transport.codec import join, unpack, unpack_batch
from transport.codes import ErrorCode
from transport.errors import RequestError
from transport.messages import Publish
from transport.topics import matcher

_log = logging.getLogger(__name__)

BATCH_EVENTS: Final = 1_024
"""Of one append."""
BATCH_BYTES: Final = 8 << 20
"""The same in bytes, and one event: a Redis has some seconds to take it."""
PAGE: Final = 1_024
"""Events of one read, at most."""
FIRST_PAGE: Final = 64
"""Events of the first one: they may be large."""
READ_BYTES: Final = RECALL_BYTES
"""Read for one request, more or less."""
READ_EVENTS: Final = 100_000
"""Looked at for one request: some 0.3 s, in which nothing is kept."""
KEEPER_EVENTS: Final = 50_000
"""That the keeper has not answered yet; the router refuses more, as :func:`full`."""
KEEPER_BYTES: Final = 256 << 20
"""The same in bytes, and what comes at a time."""


def full() -> RequestError:
    """What a publisher is told whose event was not taken."""
    return RequestError(ErrorCode.UNAVAILABLE, "too many events wait for the history; repeat it later")


class Load(Protocol):
    """What a keeper has and has not answered."""

    waiting: int
    waiting_bytes: int


def room_beside(load: Load) -> int:
    """So many events more may be handed over."""
    return max(0, KEEPER_EVENTS - load.waiting) if load.waiting_bytes < KEEPER_BYTES else 0


class Keeper(BlockingActor):
    """One per history. Each incarnation opens its own, in its thread: a predecessor may hang in a call.

    Args:
        router: is told :class:`Kept` and :class:`ReadDone`.
        history: opens it.
        pause: seconds for which, after a failure, everything is refused at once: where each attempt may take long,
            those who wait would wait for all of them.
        clock: Unix seconds.
    """

    def __init__(
        self,
        *,
        router: Ref,
        history: Callable[[], History],
        pause: float = 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self._router, self._open, self._pause, self._clock = router, history, pause, clock
        self._history: History | None = None
        self._ends: dict[str, int] | None = None  # offsets that the topics have reached at least, once asked for
        self._resumes = 0.0  # monotonic seconds
        self._error = RequestError(ErrorCode.UNAVAILABLE, "")  # why it pauses
        self._batch: list[tuple[Any, Publish]] = []  # not answered yet
        self._untrimmed = False  # the last trim failed

    def on_start(self) -> None:
        """Open the history."""
        self._history = self._open()

    def on_stop(self) -> None:
        """Let go the history."""
        if self._history is not None:
            self._history.close()

    def on_failure(self, exception_type: Any, exception_value: Any, traceback: Any) -> None:
        """Nobody waits for what was in hand; a successor has the rest."""
        batch, self._batch = self._batch, []
        self._refuse(batch, RequestError(ErrorCode.UNAVAILABLE, "the history failed, the outcome is unknown"))
        self.on_stop()

    def on_keep(self, message: Keep) -> None:
        """Append it with all that waits behind it."""
        self._batch = list(message.batch)
        waiting = self.mailbox.items
        while len(self._batch) < BATCH_EVENTS and waiting and type(waiting[0]) is Keep:
            self._batch += waiting.popleft().batch
            self.mailbox.handled += 1
        while self._batch:
            count = _portion(self._batch)
            self._append(self._batch[:count])
            del self._batch[:count]

    def _append(self, batch: list[tuple[Any, Publish]]) -> None:
        assert self._history is not None, "it has started"
        if time.monotonic() < self._resumes:
            self._refuse(batch, self._error)
            return
        try:
            began = time.perf_counter()
            results = self._keep([publish for _, publish in batch])
            seconds = time.perf_counter() - began
        except RequestError as error:
            self._error, self._resumes = error, time.monotonic() + self._pause
            self._refuse(batch, error)
            return
        answers: list[tuple[Any, Publish, Accepted | RequestError]] = [
            (peer, publish, result) for (peer, publish), result in zip(batch, results, strict=True)
        ]
        for result in results:
            if self._ends is not None and isinstance(result, Accepted) and not result.again:
                self._ends[result.publication.topic] = result.publication.offset
        self._router.tell(Kept(answers, seconds))

    def _keep(self, publishes: list[Publish]) -> list[Accepted | RequestError]:
        assert self._history is not None, "it has started"
        return self._history.append(publishes, self._clock())

    def _refuse(self, batch: list[tuple[Any, Publish]], error: RequestError) -> None:
        if batch:
            self._router.tell(Kept([(peer, publish, error) for peer, publish in batch]))

    def on_read_kept(self, message: ReadKept) -> None:
        """What was kept, behind all that was to be kept before."""
        try:
            done = self._topics(message) if message.behind is None else self._behind(message.behind, message)
        except RequestError as error:
            done = ReadDone(message.token, {}, False, error)
        self._router.tell(done)

    def _topics(self, message: ReadKept) -> ReadDone:
        history = self._history
        assert history is not None, "it has started"
        if self._ends is None:
            self._ends = {head.topic: head.offset for head in history.heads()}
        events: dict[str, list[bytes]] = {}
        room, nbytes = message.limit, READ_BYTES
        for topic, behind in message.after.items():
            read = _oldest if message.oldest else self._newest
            found = read(history, topic, behind, room, nbytes) if room and nbytes > 0 else []
            room -= len(found)
            nbytes -= sum(map(len, found))
            events[topic] = found
        return ReadDone(message.token, events)

    def _newest(self, history: History, topic: str, behind: int, room: int, nbytes: int) -> list[bytes]:
        """The newest events behind an offset, at most ``room``; read backwards, until they are ``nbytes`` or more."""
        begin = end = max(behind, self._ends.get(topic, 0)) if self._ends is not None else behind
        newest: deque[bytes] = deque(maxlen=room)
        while page := history.read(topic, end, FIRST_PAGE):  # others may have appended, too
            newest.extend(page)
            end = _offset(page[-1])
        nbytes -= sum(map(len, newest))
        size = FIRST_PAGE
        while begin > behind and len(newest) < room and nbytes > 0:
            start = max(behind, begin - min(size, room - len(newest)))
            page = history.read(topic, start, begin - start)
            if not page or (first := _offset(page[0])) > begin:
                break  # older ones were let go
            page = page[: begin + 1 - first]
            newest.extendleft(reversed(page))
            nbytes -= sum(map(len, page))
            begin, size = first - 1 if first == start + 1 else behind, min(PAGE, 2 * size)
        return list(newest)

    def _behind(self, mark: int, message: ReadKept) -> ReadDone:
        history = self._history
        assert history is not None, "it has started"
        wanted = [matcher(pattern) for pattern in message.patterns]
        events: dict[str, list[bytes]] = {}
        count = looked = nbytes = 0
        size = FIRST_PAGE
        try:
            while page := history.tail(mark, size):
                mark = page[-1][0]
                looked += len(page)
                size = min(PAGE, 2 * size)
                found = [packed for _, packed in page]
                for packed, publication in zip(found, unpack_batch(join(found)), strict=True):
                    if not any(matches(publication.topic) for matches in wanted):
                        continue
                    nbytes += len(packed)
                    if count == message.limit or nbytes > READ_BYTES:
                        return ReadDone(message.token, events, False)
                    events.setdefault(publication.topic, []).append(packed)
                    count += 1
                if looked >= READ_EVENTS:
                    return ReadDone(message.token, events, False)
        except Expired:
            return ReadDone(message.token, {}, False)
        return ReadDone(message.token, events)

    def on_sweep(self, _message: Sweep) -> None:
        """Trim; the router says when."""
        assert self._history is not None, "it has started"
        try:
            self._history.trim(self._clock())
        except RequestError as error:
            if not self._untrimmed:
                _log.warning("old events of the history cannot be let go: %s", error)
            self._untrimmed = True
        else:
            self._untrimmed = False


def _portion(batch: list[tuple[Any, Publish]]) -> int:
    """How many events go into one append."""
    room = BATCH_BYTES
    for count, (_, publish) in enumerate(batch[:BATCH_EVENTS]):
        if room <= 0:
            return count
        room -= len(publish.data)
    return min(len(batch), BATCH_EVENTS)


def _oldest(history: History, topic: str, behind: int, room: int, nbytes: int) -> list[bytes]:
    """The first events behind an offset, at most ``room``, until they are ``nbytes`` or more."""
    oldest: list[bytes] = []
    size = FIRST_PAGE
    while len(oldest) < room and nbytes > 0 and (page := history.read(topic, behind, min(size, room - len(oldest)))):
        oldest += page
        nbytes -= sum(map(len, page))
        behind, size = _offset(page[-1]), min(PAGE, 2 * size)
    return oldest


def _offset(packed: bytes) -> int:
    offset: int = unpack(packed)[3]
    return offset
