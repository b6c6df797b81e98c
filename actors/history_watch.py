"""Whether events can be kept: what the histories report, and operators are told, once per change. Pure."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

RECENT: Final = "recent events"
DURABLE: Final = "durable topics"
TRIMMING: Final = "letting go of old events"
STALLED_AFTER_S: Final = 5.0
"""A history that has not answered for so long is in trouble, though it has not failed."""

_log = logging.getLogger(__name__)


class HistoryWatch:
    """Of one hub, on its loop; outlives the router.

    Args:
        clock: seconds, never falling.

    Attributes:
        troubled: whether anything has failed since it last worked. To be looked at where :meth:`works` would be called
            for each event.
        waiting, waiting_bytes: events that a keeper has and has not answered.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._troubles: dict[str, str] = {}
        self._refused: dict[str, int] = {}  # since it fails
        self._heard = 0.0  # when the keeper last answered, or got something after it had nothing
        self.waiting = self.waiting_bytes = 0

    @property
    def troubled(self) -> bool:
        return bool(self._troubles)

    @property
    def reason(self) -> str | None:
        """What is wrong, for people; ``None``: nothing."""
        if self._troubles:
            return "; ".join(f"{what}: {why}" for what, why in self._troubles.items())
        silent = self._clock() - self._heard
        if self.waiting and silent >= STALLED_AFTER_S:
            return f"{DURABLE}: the disk has not answered for {silent:.0f} s, {self.waiting} events wait"
        return None

    def failed(self, what: str, why: str, events: int = 0) -> None:
        """So many events could not be kept."""
        self._refused[what] = self._refused.get(what, 0) + events
        if what not in self._troubles:
            _log.error(
                "history fails, %s: %s", what, why, extra={"event": "history_fails", "what": what, "reason": why}
            )
        self._troubles[what] = why

    def works(self, what: str) -> None:
        """Something was kept."""
        if self._troubles.pop(what, None) is not None:
            refused = self._refused.pop(what)
            fields = {"event": "history_works", "what": what, "refused": refused}
            _log.warning("history works again, %s; %d events were refused", what, refused, extra=fields)

    def handed_over(self, events: int, nbytes: int) -> None:
        """The keeper has got so many."""
        if not self.waiting:
            self._heard = self._clock()
        self.waiting += events
        self.waiting_bytes += nbytes

    def answered(self, events: int, nbytes: int) -> None:
        """The keeper has said what became of so many."""
        self._heard = self._clock()
        self.waiting -= events
        self.waiting_bytes -= nbytes
