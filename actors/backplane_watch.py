"""Whether the Redis that several engines share can be had: what its tailer reports, told to operators once per change.
Pure."""

from __future__ import annotations

import logging

from actors.messages import TailState

_log = logging.getLogger(__name__)


class BackplaneWatch:
    """Of one hub, on its loop; outlives the router.

    Attributes:
        reason: why it cannot be had, for people; ``None``: it can.
        retry_in: seconds between this attempt and the next.
        waiting, waiting_bytes: events that the keeper has and has not answered.
        silent: why it does not take events, though it may be there.
        spooled: events that wait on disk.
        met: whether the hub has begun where Redis is.
        lost: how often the node could not go on where it was.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self.retry_in: float | None = None
        self.silent: str | None = None
        self.waiting = self.waiting_bytes = self.spooled = 0
        self.met = False
        self.lost = 0
        self._refused = 0

    def heard(self, state: TailState) -> bool:
        """What the tailer says; whether it is back."""
        back = self.reason is not None and state.reason is None
        if state.reason is None:
            if back:
                fields = {"event": "backplane_back", "refused": self._refused}
                _log.warning("the backplane is back; %d events were refused", self._refused, extra=fields)
                self._refused = 0
        elif self.reason is None:
            _log.error(
                "the backplane is away: %s", state.reason, extra={"event": "backplane_away", "reason": state.reason}
            )
        self.reason, self.retry_in = state.reason, None if state.reason is None else state.retry_in
        return back

    @property
    def trouble(self) -> str | None:
        """The reason for operators."""
        reason = self.reason or self.silent
        if self.spooled:
            return f"{reason or 'it is given what it has missed'}; {self.spooled} events wait on disk"
        return reason

    def refused(self, events: int) -> None:
        """So many could not be taken."""
        self._refused += events

    def resumed(self, epoch: str, mark: int) -> bool:
        """The node goes on there, and not where it was; whether it has been somewhere in this life."""
        again, self.met = self.met, True
        if again:
            self.lost += 1
            text = "the backplane's log does not lead on from here: it goes on behind %d of log %s"
            _log.error(text, mark, epoch, extra={"event": "backplane_log_lost", "mark": mark, "epoch": epoch})
        return again
