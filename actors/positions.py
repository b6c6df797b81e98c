"""How far each session has come in the hub's log: who is to be told, and what. Pure; the broadcaster's.

A `position` promises that everything up to it was sent. So it goes behind the events of a flush, and not to sessions of
which something waits in an outbox. Those with held routes are told where all were so long ago that nothing from then
can wait any more, if that is not before their subscription: what they know never falls.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final

from actors.messages import Reached
from actors.route import Route
from actors.session import Session
from transport.wire_forms import WireForm

if TYPE_CHECKING:
    from actors.audience import Selection

ROUNDS: Final = 15
"""Every so many times sessions are told that have got no event meanwhile: else what they have would be too old to
recover from."""
SLACK: Final = 0.5  # s that a held event may be late
REMEMBERED: Final = 1_024  # former positions; who waits for longer is told none


class Positions:
    """Per flush one dict entry per route or selection that got events; per second a look at their members.

    Args:
        sessions: all of the worker.

    Attributes:
        telling: whether there is something to :meth:`tell`.
    """

    def __init__(self, sessions: Callable[[], Iterable[Session]]) -> None:
        self._sessions = sessions
        self._position = ""
        self._sent: dict[Route | Selection | Session, None] = {}
        self._past: deque[tuple[float, str]] = deque(maxlen=REMEMBERED)
        self._round = 0
        self._everybody = False
        self.telling = False

    def arrived(self, op: Reached) -> None:
        """What has come from the hub so far is everything up to this position."""
        self._position = op.position

    def sent_to(self, recipients: Route | Selection | Session) -> None:
        """They, or their members, get events in this flush, or have begun a subscription."""
        self._sent[recipients] = None
        if isinstance(recipients, Session) and self._past and not recipients.linger:
            recipients.position_at = self._past[-1][0]

    def due(self, now: float) -> None:
        """To be called about once a second; ``now``: seconds that never fall."""
        if not self._position:
            return
        self._past.append((now, self._position))
        self._round += 1
        self._everybody = self._everybody or self._round % ROUNDS == 0
        self.telling = bool(self._sent) or self._everybody

    def tell(self) -> Iterator[tuple[bytes, list[Session]]]:
        """Frames, each with those who get it; behind everything that has arrived so far."""
        chosen: dict[tuple[WireForm, str], list[Session]] = {}
        too_early: dict[Route | Selection | Session, None] = {}
        for session in self._sessions() if self._everybody else self._members():
            if session.closed or session.leaving or session.paused or session.outbox or not session.subscriptions:
                continue
            position = self._position
            if session.linger:
                at, position = self._before(self._past[-1][0] - session.linger)
                if at <= session.position_at:
                    too_early[session] = None
                    continue
                session.position_at = at
            if position != session.position:
                session.position = position
                chosen.setdefault((session.form, position), []).append(session)
        self._sent = too_early
        self.telling = self._everybody = False
        for (form, position), sessions in chosen.items():
            yield form.message({"op": "position", "position": position}), sessions

    def _members(self) -> Iterator[Session]:
        for recipients in self._sent:
            if isinstance(recipients, Route):
                yield from recipients.members()
            elif isinstance(recipients, Session):
                yield recipients
            else:
                for _, sessions in recipients.lanes:
                    yield from sessions

    def _before(self, time: float) -> tuple[float, str]:
        """A position as of ``time``, and since when; 0 where none is known any more, or yet."""
        n = bisect_right(self._past, time - SLACK, key=lambda entry: entry[0])
        return self._past[n - 1] if n else (0.0, "")
