"""How a user's rate is divided among the workers that hold its sessions. Pure; the clock is passed in.

Each worker counts the events of its own share exactly (:class:`transport.sliding_window.UserRates`). Two windows are as
good as one only if no allowance is ever counted twice, so what one worker gives up is nobody's until it cannot have
delivered with it for a whole window:

    told less ──► acknowledged (:class:`transport.messages.ShareTaken`) ──► one window ──► told to others

For each user, at any time: what workers may be using + what was given up less than a window ago <= the limit.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Hashable

from transport.messages import Seated, Share

Told = list[tuple[Hashable, Share]]
"""What to send to which worker."""


class _Seat:
    """A worker's part in a user."""

    __slots__ = ("in_force", "on_their_way", "told", "wanted")

    def __init__(self) -> None:
        self.wanted = True  # the worker has sessions of the user
        self.in_force = 0  # acknowledged
        self.on_their_way: deque[tuple[int, int]] = deque()  # (version, events) told and not acknowledged
        self.told: int | None = None  # the last of them

    @property
    def used(self) -> int:
        """The most that the worker may be using."""
        return max(self.in_force, *(events for _, events in self.on_their_way), 0)


class _User:
    __slots__ = ("freed", "seats")

    def __init__(self) -> None:
        self.seats: dict[Hashable, _Seat] = {}  # in the order of coming
        self.freed: deque[tuple[float, int]] = deque()  # (when it may be used again, events)


class UserShares:
    """The shares of all users.

    A user's workers get equal shares, the first ones what does not divide; with more workers than events a share may
    be 0. Every method returns what is to be told, in order; each :class:`Share` is to be acknowledged, also by a worker
    that has no session of the user any more. A user is forgotten a window after its last session has gone.

    Cost: O(workers of the user) per user that is named.

    Args:
        limit: events of a user in any interval of ``window`` seconds.
    """

    def __init__(self, limit: int, window: float) -> None:
        self._limit, self._window = limit, window
        self._users: dict[str, _User] = {}
        self._of: dict[Hashable, set[str]] = {}
        self._due: list[tuple[float, str]] = []  # when which user can be given more; a heap
        self._closed_until = float("-inf")
        self._version = 0

    def __len__(self) -> int:
        """Users with sessions, or with sessions less than a window ago."""
        return len(self._users)

    @property
    def due(self) -> float | None:
        """When :meth:`tick` has something to do."""
        return self._due[0][0] if self._due else None

    def seated(self, peer: Hashable, seated: Seated, now: float) -> Told:
        """A worker has sessions of users, or none any more.

        Is it said ``again``, there was a hub before us, or a link, by which shares were given that we know nothing of:
        nobody gets anything new for a window. That no worker died less than a window before the hub is assumed.
        """
        told: Told = []
        if seated.again:
            self._closed_until = now + self._window
        for user in seated.went:
            seat = self._users[user].seats.get(peer) if user in self._users else None
            if seat is not None:
                seat.wanted = False
                self._balance(user, now, told)
        for user in seated.came:
            seat = self._users.setdefault(user, _User()).seats.setdefault(peer, _Seat())
            seat.wanted = True
            self._of.setdefault(peer, set()).add(user)
            self._balance(user, now, told)
        return told

    def taken(self, peer: Hashable, user: str, version: int, now: float) -> Told:
        """A worker has put share ``version`` in force."""
        told: Told = []
        seat = self._users[user].seats.get(peer) if user in self._users else None
        if seat is not None:
            used = seat.used
            while seat.on_their_way and seat.on_their_way[0][0] <= version:
                seat.in_force = seat.on_their_way.popleft()[1]
            self._free(user, used - seat.used, now)
            self._balance(user, now, told)
        return told

    def gone(self, peer: Hashable, now: float) -> Told:
        """A worker is dead, or has no link: it delivers nothing from now on."""
        told: Told = []
        for user in sorted(self._of.pop(peer, ())):
            seat = self._users[user].seats.pop(peer)
            self._free(user, seat.used, now)
            self._balance(user, now, told)
        return told

    def tick(self, now: float) -> Told:
        """Give to others what was given up a window ago."""
        told: Told = []
        users: dict[str, None] = {}
        while self._due and self._due[0][0] <= now:
            users[heapq.heappop(self._due)[1]] = None
        for user in users:
            if user in self._users:
                self._balance(user, now, told)
        return told

    def _free(self, user: str, events: int, now: float) -> None:
        if events > 0:
            at = now + self._window
            self._users[user].freed.append((at, events))
            heapq.heappush(self._due, (at, user))

    def _balance(self, name: str, now: float, told: Told) -> None:
        """Tell every worker of a user what it shall have, as far as it is there."""
        user = self._users[name]
        while user.freed and user.freed[0][0] <= now:
            user.freed.popleft()
        wanted = [seat for seat in user.seats.values() if seat.wanted]
        share, over = divmod(self._limit, len(wanted)) if wanted else (0, 0)
        targets = {seat: share + (n < over) for n, seat in enumerate(wanted)}
        room = self._room(name, user, now)
        for peer, seat in user.seats.items():
            target = targets.get(seat, 0)
            # Up to what it may be using anyway costs nothing.
            events = min(target, seat.used + room)
            room -= max(0, events - seat.used)
            if events != seat.told:
                self._version += 1
                seat.told = events
                seat.on_their_way.append((self._version, events))
                told.append((peer, Share(name, events, self._version)))
        self._forget(name, user)

    def _room(self, name: str, user: _User, now: float) -> int:
        """What nobody uses, nor has used within a window."""
        if now < self._closed_until:
            heapq.heappush(self._due, (self._closed_until, name))
            return 0
        return self._limit - sum(seat.used for seat in user.seats.values()) - sum(events for _, events in user.freed)

    def _forget(self, name: str, user: _User) -> None:
        for peer in [peer for peer, seat in user.seats.items() if not seat.wanted and not seat.on_their_way]:
            if user.seats[peer].in_force == 0:
                del user.seats[peer]
                users = self._of[peer]
                users.discard(name)
                if not users:
                    del self._of[peer]
        if not user.seats and not user.freed:
            del self._users[name]
