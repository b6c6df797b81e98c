"""The users of one worker, where users have a rate: what the hub is told of them, and what they may get."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from transport.messages import Publication, Seated, Share, ShareTaken
from transport.sliding_window import UserRates


class RatedUsers:
    """``delivery.user_rate``: the hub gives this worker a share of each user's limit; until then it is 0.

    Args:
        seconds: the window.
        send: tells the hub, if it is there.
    """

    def __init__(
        self, seconds: float, send: Callable[[Seated | ShareTaken], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rates, self._send, self._clock = UserRates(seconds), send, clock
        self._had_hub = False

    def came(self, user: str) -> None:
        """The user's first session here has opened."""
        self._send(Seated([user], []))

    def went(self, user: str) -> None:
        """The user's last session here has gone."""
        self._rates.gone(user)
        self._send(Seated([], [user]))

    def again(self, users: Iterable[str]) -> None:
        """A hub has appeared that knows nobody: what another one gave is void, or two of them would give too much."""
        here = list(users)
        for user in here:
            self._rates.set_limit(user, 0)
        self._send(Seated(here, [], self._had_hub))
        self._had_hub = True

    def take(self, share: Share, present: bool) -> None:
        """The hub has decided; a share of a user who has gone meanwhile is of no use."""
        if present:
            self._rates.set_limit(share.user, share.events)
        self._send(ShareTaken(share.user, share.version))

    def admit(self, user: str, publication: Publication) -> bool:
        """Whether the user may get this event, which counts once for all of the user's sessions."""
        topic, epoch, offset, *_ = publication
        return self._rates.admit(user, (topic, epoch, offset), self._clock())

    def sweep(self) -> None:
        """Forget who has gone long enough ago."""
        self._rates.sweep(self._clock())
