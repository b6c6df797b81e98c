"""Reads on in the log that several engines share, on a thread of its own: what any of them has kept comes from here.

One batch at a time: it reads on when the router has taken the former one. So a slow router is a tailer that waits.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from actors.backoff import Backoff, BackoffPolicy
from actors.blocking_actor import BlockingActor
from actors.history import Expired
from actors.messages import Resumed, Tailed, Tailing, TailOn, TailState
from actors.ports import Ref
from actors.redis_history import BackplaneError, RedisHistory
from actors.topic_log import TopicLog

_log = logging.getLogger(__name__)

BATCH_EVENTS: Final = 1_000
FIRST_BATCH_EVENTS: Final = 125
"""They may be large."""
BATCH_BYTES: Final = 8 << 20
"""Beyond which the next batch has fewer events."""
WAIT_S: Final = 0.5
"""For events, before the mailbox is looked at again: an end waits for it."""
RETRY: Final = BackoffPolicy(0.1, 2.0)
START_S: Final = 5.0
"""For what others have kept: a hub that takes longer to start is taken for dead."""
RESUME_EVENTS: Final = 100_000
"""That are read of what is older than the moment at which an engine begins, or begins anew: some seconds."""


class Look(NamedTuple):
    """To the tailer by itself: go on."""


class Tail:
    """A place in the shared log.

    Args:
        history: to be read; of this thread.
    """

    def __init__(self, history: RedisHistory) -> None:
        self._history = history
        self._epoch, self._mark = "", 0
        self._limit = FIRST_BATCH_EVENTS

    def seek(self, epoch: str, mark: int) -> None:
        """Go on behind ``mark`` of log ``epoch``."""
        self._epoch, self._mark = epoch, mark
        self._history.trust(epoch, mark)

    def read(self, wait_s: float) -> Tailed | Resumed | None:
        """What follows; ``None``: nothing yet. It does not move on.

        Raises:
            BackplaneError: the log cannot be read.
        """
        history = self._history
        try:
            events = history.wait(self._mark, self._limit, wait_s)
        except Expired:
            reach, last = history.bounds()
            mark = max(reach, last - RESUME_EVENTS)
            return Resumed((self._epoch, self._mark), history.epoch, mark, last, list(history.ended(mark)))
        if not events:
            return None
        small = sum(len(event.packed) for event in events) < BATCH_BYTES
        self._limit = min(BATCH_EVENTS, 2 * self._limit) if small else max(1, len(events) // 2)
        return Tailed(self._epoch, self._mark, events)

    def close(self) -> None:
        """Let go the connection."""
        self._history.close()


class Tailer(BlockingActor):
    """One per hub. Each incarnation has a connection of its own: a predecessor may hang in a call.

    Args:
        router: is told :class:`Tailed`, :class:`Resumed`, :class:`TailState`.
        history: makes the connection.
        sleep: called with seconds.
    """

    def __init__(
        self,
        *,
        router: Ref,
        history: Callable[[], RedisHistory],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__()
        self._router, self._open, self._sleep = router, history, sleep
        self._tail: Tail | None = None
        self._backoff = Backoff(RETRY)
        self._well = False  # whether the router knows that it can be read
        self._asked = False  # whether the router waits for something
        self._looks = False  # whether a Look is in the mailbox

    def on_start(self) -> None:
        """Ask where to begin."""
        self._tail = Tail(self._open())
        self._router.tell(Tailing())

    def on_stop(self) -> None:
        """Let go the connection."""
        if self._tail is not None:
            self._tail.close()

    def on_failure(self, exception_type: Any, exception_value: Any, traceback: Any) -> None:
        """A successor goes on."""
        self.on_stop()

    def on_tail_on(self, message: TailOn) -> None:
        """Go on there."""
        assert self._tail is not None, "it has started"
        self._tail.seek(message.epoch, message.mark)
        self._asked = True
        self._read()

    def on_look(self, _message: Look) -> None:
        """Go on waiting."""
        self._looks = False
        if self._asked:
            self._read()

    def _look_again(self) -> None:
        if not self._looks:
            self._looks = True
            self.actor_ref.tell(Look())

    def _read(self) -> None:
        assert self._tail is not None, "it has started"
        try:
            found = self._tail.read(WAIT_S)
        except BackplaneError as error:
            delay = self._backoff.failed()
            self._well = False
            self._router.tell(TailState(error.reason, delay))
            self._sleep(delay)
            self._look_again()
            return
        if not self._well:
            self._well = True
            self._backoff.reset()
            self._router.tell(TailState(None))
        if found is None:
            self._look_again()
        else:
            self._asked = False
            self._router.tell(found)


def catch_up_at_start(history: RedisHistory, log: TopicLog, clock: Callable[[], float] = time.monotonic) -> str | None:
    """Take over what other engines have kept while this one was away, before anybody asks. Returns why it cannot be
    had, if it cannot. What others keep meanwhile the tailer brings, and all that is not here in time.

    Raises:
        RequestError: the log cannot be written.
    """
    tail, give_up = Tail(history), clock() + START_S
    end: int | None = None  # of the shared log, as it was at the beginning
    try:
        while clock() < give_up and (end is None or log.mark < end):
            tail.seek(log.id, log.mark)
            found = tail.read(0.0)
            if isinstance(found, Resumed):
                log.begin(found.epoch, found.mark)
                log.ended(found.ended)
                end = found.last
            elif found is None or not log.record(found.events):
                break
            elif end is None:
                end = history.bounds().last
    except BackplaneError as error:
        return error.reason
    return None
