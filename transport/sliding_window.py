"""Rates counted exactly: at most so many different events in any interval of so many seconds. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable


class SlidingWindow:
    """A log of which events were admitted when.

    Cost: O(1) amortised per event. Memory: about 0.2 KiB per event in the log, which has at most as many as the
    highest limit of the last ``seconds``.

    Attributes:
        limit: different events in any half-open interval ``[t, t + seconds)``. It may be set at any time: a smaller one
            holds at once, what was admitted stays in the log.
    """

    __slots__ = ("_keys", "_log", "_seconds", "limit")

    def __init__(self, limit: int, seconds: float) -> None:
        self.limit, self._seconds = limit, seconds
        self._log: deque[tuple[float, Hashable]] = deque()
        self._keys: set[Hashable] = set()

    def __len__(self) -> int:
        """Events in the log, as of the last :meth:`admit` or :meth:`expire`."""
        return len(self._log)

    def admit(self, key: Hashable, now: float) -> bool:
        """Whether event ``key`` is within the limit at ``now``, which never falls from call to call.

        An event of the log is, again and without counting: it is the same one on its way to another session.
        """
        self.expire(now)
        if key in self._keys:
            return True
        if len(self._log) >= self.limit:
            return False
        self._log.append((now, key))
        self._keys.add(key)
        return True

    def expire(self, now: float) -> None:
        """Forget what no interval that has ``now`` in it can hold."""
        log, seconds = self._log, self._seconds
        while log and now - log[0][0] >= seconds:
            self._keys.discard(log.popleft()[1])


class UserRates:
    """The windows of the users of one worker.

    A user's limit is 0 until it is set. The window outlives the user's last session here until its log has expired: to
    reconnect brings no new allowance. So there is a window for each user that :meth:`set_limit` was called for and not
    :meth:`gone`, and for each that has gone within the last ``seconds`` or since the last :meth:`sweep`.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._windows: dict[str, SlidingWindow] = {}
        self._gone: set[str] = set()

    def __len__(self) -> int:
        return len(self._windows)

    def set_limit(self, user: str, events: int) -> None:
        """Let a user who has sessions here (the caller's to know) have so many events per window, from now on."""
        self._gone.discard(user)
        window = self._windows.get(user)
        if window is None:
            self._windows[user] = SlidingWindow(events, self._seconds)
        else:
            window.limit = events

    def admit(self, user: str, key: Hashable, now: float) -> bool:
        """Whether a user may get event ``key``; see :meth:`SlidingWindow.admit`."""
        window = self._windows.get(user)
        return window is not None and window.admit(key, now)

    def gone(self, user: str) -> None:
        """The user's last session here has closed: the limit is 0 until it is set again."""
        window = self._windows.get(user)
        if window is None:
            return
        window.limit = 0
        if len(window):
            self._gone.add(user)
        else:
            self._gone.discard(user)
            del self._windows[user]

    def sweep(self, now: float) -> None:
        """Forget the users who have gone and whose logs have expired. O(users gone); to be called now and then."""
        for user in list(self._gone):
            window = self._windows[user]
            window.expire(now)
            if not len(window):
                self._gone.discard(user)
                del self._windows[user]
