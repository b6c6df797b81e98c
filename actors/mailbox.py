"""A bounded queue of messages that belongs to a name, not to an actor, and outlives its restarts.

An actor attaches itself as the one consumer and detaches when it ends; what is queued waits for its successor.
Any thread may put; only the attached actor takes. Correct without a lock on the way, because the interpreter makes
``deque.append``, ``popleft`` and attribute writes atomic and orders them the same for all threads.
"""

from __future__ import annotations

import enum
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pykka
from pykka._envelope import Envelope

from actors.ref import Halt, Ref
from transport.errors import ActorError, MailboxFull

if TYPE_CHECKING:
    from actors.reply import Reply

_log = logging.getLogger(__name__)

DEFAULT_CAPACITY: Final = 10_000
"""Messages that wait in a mailbox at most."""


class Overflow(enum.StrEnum):
    """What a full mailbox does with one message more."""

    DROP_NEWEST = "drop_newest"
    DROP_OLDEST = "drop_oldest"
    REFUSE = "refuse"
    """``tell`` raises MailboxFull: the sender decides. An ask gets that error with any policy."""


class MailboxStatistics(NamedTuple):
    """Counts since the mailbox was made, over all incarnations of its actor.

    ``handled`` include the unknown ones; ``dropped`` met a full mailbox; ``failed`` ended an actor, or were in hand
    when it ended; ``dead_letters`` met a closed mailbox; ``unknown`` had no handler; ``depth`` wait now.
    """

    handled: int
    dropped: int
    failed: int
    dead_letters: int
    unknown: int
    depth: int


class Mailbox:
    """See the module. The bound may be exceeded by one message for each thread that puts at the same instant.

    Args:
        name: of the actor; appears in errors, logs and statistics.
        capacity: messages that may wait, > 0.
        overflow: what happens to one more.
    """

    def __init__(self, name: str, capacity: int = DEFAULT_CAPACITY, overflow: Overflow = Overflow.DROP_NEWEST) -> None:
        if capacity < 1:
            raise ValueError(f"capacity of mailbox {name} must be at least 1, not {capacity}")
        self.name = name
        self.capacity = capacity
        self.overflow = Overflow(overflow)
        self.items: deque[Any] = deque()
        """What waits: bare messages (told) and pykka envelopes (asked). Only the attached actor takes from it."""
        self.handled = self.failed = self.unknown = 0  # written by the attached actor only
        self.thread: threading.Thread | None = None
        """The thread that runs, or last ran, the actor; ``None`` before the first one."""
        self.ref = Ref(self)
        self._dropped = self._dead_letters = 0  # written under the lock
        self._lock = threading.Lock()
        self._limit = capacity  # 0 when closed, so that one comparison on the way finds both full and closed
        self._owner: pykka.Actor | None = None
        self._armed = True  # True: the consumer will look without being woken, or there is none
        self._wake: Callable[[], object] = _nothing
        self._run: Callable[[], None] | None = None
        self._overflowing = False

    @property
    def closed(self) -> bool:
        """True once no actor will come any more."""
        return self._limit == 0

    def statistics(self) -> MailboxStatistics:
        """A snapshot; any thread."""
        return MailboxStatistics(
            self.handled, self._dropped, self.failed, self._dead_letters, self.unknown, len(self.items)
        )

    # What senders use, on any thread.

    def put(self, item: Any) -> None:
        """Queues a message, or an envelope with a reply; never blocks, and raises only MailboxFull (REFUSE)."""
        if len(self.items) >= self._limit and not self._make_room(item):
            return
        self.items.append(item)
        if not self._armed:
            self._armed = True
            self._wake()

    def hand(self, item: Any) -> None:
        """As :meth:`put`, but a consumer on this thread that rests is done with it before this returns.

        A turn of the loop less, 10 µs or 100 if nothing was going on. Not amid what must be done before it is handled.
        """
        run = self._run
        if self._armed or run is None or not self._limit or threading.current_thread() is not self.thread:
            self.put(item)
            return
        self._armed = True
        self.items.append(item)
        run()

    def put_control(self, item: Any) -> None:
        """Queues beyond the bound: for stops and exits, of which there are few and none may be lost."""
        if self.closed and not self._make_room(item):
            return
        self.items.append(item)
        if not self._armed:
            self._armed = True
            self._wake()

    # What the consumer uses.

    def attach(
        self,
        actor: pykka.Actor,
        thread: threading.Thread,
        wake: Callable[[], None],
        run: Callable[[], None] | None = None,
    ) -> None:
        """Makes ``actor`` the consumer. It looks at once, then calls :meth:`rest`; ``wake`` tells it to look again.

        ``wake`` is called on the sender's thread, at most once between two rests but for a rare race. ``run`` lets it
        look at once, on its own thread only; none where it takes its time.

        Raises:
            ActorError: the mailbox is closed or has a consumer.
        """
        with self._lock:
            if self.closed:
                raise ActorError(f"mailbox {self.name} is closed: its actor was stopped for good")
            if self._owner is not None:
                raise ActorError(f"mailbox {self.name} already has an actor: {self._owner}")
            self._owner, self.thread, self._wake, self._run = actor, thread, wake, run
        self.ref.bind(actor)

    def rest(self) -> bool:
        """True: nothing waits, and the next message wakes the consumer. False: look again, something waits."""
        self._armed = False
        if self.items:
            self._armed = True  # a sender may have woken us as well; a second look does no harm
            return False
        self._overflowing = False
        return True

    def detach(self, actor: pykka.Actor) -> bool:
        """``actor`` takes no more; what waits, waits for its successor. False if it was not the consumer (any more)."""
        with self._lock:
            if self._owner is not actor:
                return False
            self._owner, self._wake, self._run, self._armed = None, _nothing, None, True
            return True

    def close(self) -> int:
        """No actor will come any more: what waits and what still comes are dead letters, questions get ActorDeadError.

        Returns the number of messages that waited. Any thread; closing again does nothing.
        """
        with self._lock:
            self._limit, self._owner, self._run = 0, None, None
        # Whoever passed the check in put() just before wakes us to bury its message too.
        self._wake, self._armed = self._bury, False
        return self._bury()

    # pykka's inbox protocol, for its own tools; the actors of this package take from `items`.

    def get(self) -> Envelope[Any]:
        """The next message as pykka wants it; raises ``queue.Empty`` instead of blocking."""
        try:
            item = self.items.popleft()
        except IndexError:
            raise queue.Empty from None
        return item if isinstance(item, Envelope) else Envelope(item)

    def empty(self) -> bool:
        """Whether nothing waits."""
        return not self.items

    def _make_room(self, item: Any) -> bool:
        """The slow way: full or closed. True if ``item`` may be queued after all."""
        victim, first = item, False
        with self._lock:
            if self.closed:
                self._dead_letters += not _is_halt(item)
            elif len(self.items) < self._limit:
                return True
            else:
                self._dropped += 1
                first, self._overflowing = not self._overflowing, True
                if self.overflow is Overflow.DROP_OLDEST:
                    victim = self._oldest(item)
        if first:
            fields = {"event": "mailbox_full", "mailbox": self.name, "messages": self.capacity, "policy": self.overflow}
            _log.warning("mailbox %s is full (%d messages): %s", self.name, self.capacity, self.overflow, extra=fields)
        if self.closed:
            _refuse(victim, False, pykka.ActorDeadError(f"{self.name} is stopped"))
            return False
        full = MailboxFull(f"mailbox {self.name} is full ({self.capacity} messages)")
        if not _refuse(victim, False, full) and self.overflow is Overflow.REFUSE:
            raise full
        return victim is not item

    def _oldest(self, item: Any) -> Any:
        """Takes out the oldest message to make room for ``item``; ``item`` itself where that cannot be."""
        try:
            oldest = self.items.popleft()
        except IndexError:  # the consumer, on another thread, was faster
            return None
        if not _is_halt(oldest):
            return oldest
        self.items.appendleft(oldest)  # a stop is never dropped, and would keep this actor from `item` anyway
        return item

    def _bury(self) -> int:
        count = 0
        self._armed = False
        while self.items:
            try:
                item = self.items.popleft()
            except IndexError:  # another thread buries too
                break
            count += not _is_halt(item)
            _refuse(item, True, pykka.ActorDeadError(f"{self.name} stopped before handling the message"))
        with self._lock:
            self._dead_letters += count
        return count


def _is_halt(item: Any) -> bool:
    return isinstance(item, Halt) or (isinstance(item, Envelope) and isinstance(item.message, Halt))


def _refuse(item: Any, halted: bool, error: Exception) -> bool:
    """Answers an envelope that will not be handled; False for a bare message. ``halted`` answers a stop."""
    if not isinstance(item, Envelope) or item.reply_to is None:
        return False
    reply: Reply = item.reply_to  # type: ignore[assignment]
    if isinstance(item.message, Halt):
        reply.set(halted)
    else:
        reply.set_exception((type(error), error, None))
    return True


def _nothing() -> None:
    """Wakes nobody."""
