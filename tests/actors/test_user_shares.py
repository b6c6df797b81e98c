from collections import deque
from collections.abc import Hashable, Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from actors.user_shares import Told, UserShares
from transport.messages import Seated, Share
from transport.sliding_window import UserRates

LIMIT, WINDOW = 10, 4.0


def told(messages: Told) -> list[tuple[Hashable, str, int]]:
    return [(peer, share.user, share.events) for peer, share in messages]


def acknowledge(shares: UserShares, messages: Iterable[tuple[Hashable, Share]], now: float) -> Told:
    answers: Told = []
    for peer, share in messages:
        answers += shares.taken(peer, share.user, share.version, now)
    return answers


def test_the_first_worker_gets_all_and_gives_up_half_a_window_before_the_second_has_it() -> None:
    shares = UserShares(LIMIT, WINDOW)
    first = shares.seated("w0", Seated(["alice"], []), 0.0)
    assert told(first) == [("w0", "alice", 10)]
    assert acknowledge(shares, first, 1.0) == []
    second = shares.seated("w1", Seated(["alice"], []), 2.0)
    assert told(second) == [("w0", "alice", 5), ("w1", "alice", 0)]
    assert acknowledge(shares, second, 3.0) == []
    assert shares.due == 3.0 + WINDOW
    assert shares.tick(6.9) == []
    assert told(shares.tick(7.0)) == [("w1", "alice", 5)]
    assert shares.due is None


def test_until_it_is_acknowledged_the_old_share_counts() -> None:
    shares = UserShares(LIMIT, WINDOW)
    shares.seated("w0", Seated(["alice"], []), 0.0)
    shares.seated("w1", Seated(["alice"], []), 1.0)
    assert shares.tick(100.0) == []


def test_a_share_is_given_back_to_a_worker_that_has_not_given_it_up_yet() -> None:
    shares = UserShares(LIMIT, WINDOW)
    acknowledge(shares, shares.seated("w0", Seated(["alice"], []), 0.0), 0.0)
    assert told(shares.seated("w0", Seated([], ["alice"]), 1.0)) == [("w0", "alice", 0)]
    assert told(shares.seated("w0", Seated(["alice"], []), 1.0)) == [("w0", "alice", 10)]


def test_a_dead_worker_s_share_is_free_after_a_window() -> None:
    shares = UserShares(LIMIT, WINDOW)
    acknowledge(shares, shares.seated("w0", Seated(["alice"], []), 0.0), 0.0)
    assert shares.gone("w0", 5.0) == []
    assert told(shares.seated("w1", Seated(["alice"], []), 6.0)) == [("w1", "alice", 0)]
    assert told(shares.tick(5.0 + WINDOW)) == [("w1", "alice", 10)]


def test_what_does_not_divide_goes_to_the_first_workers() -> None:
    shares = UserShares(2, WINDOW)
    messages = shares.seated("w0", Seated(["alice"], []), 0.0)
    messages += shares.seated("w1", Seated(["alice"], []), 0.0)
    messages += shares.seated("w2", Seated(["alice"], []), 0.0)
    acknowledge(shares, messages, 0.0)
    assert told(shares.tick(WINDOW)) == [("w1", "alice", 1)]


def test_users_do_not_share() -> None:
    shares = UserShares(LIMIT, WINDOW)
    messages = shares.seated("w0", Seated(["alice", "bob"], []), 0.0)
    assert told(messages) == [("w0", "alice", 10), ("w0", "bob", 10)]


def test_a_worker_that_had_another_hub_makes_everybody_wait_for_a_window() -> None:
    shares = UserShares(LIMIT, WINDOW)
    assert told(shares.seated("w0", Seated(["alice"], [], again=True), 1.0)) == [("w0", "alice", 0)]
    assert told(shares.seated("w1", Seated(["bob"], []), 2.0)) == [("w1", "bob", 0)]
    assert shares.tick(WINDOW + 0.9) == []
    assert told(shares.tick(WINDOW + 1.0)) == [("w0", "alice", 10), ("w1", "bob", 10)]


def test_nothing_is_left_a_window_after_all_have_gone() -> None:
    shares = UserShares(LIMIT, WINDOW)
    acknowledge(shares, shares.seated("w0", Seated(["alice", "bob"], []), 0.0), 0.0)
    acknowledge(shares, shares.seated("w0", Seated([], ["alice", "bob"]), 1.0), 2.0)
    assert len(shares) == 2
    assert shares.tick(2.0 + WINDOW) == []
    assert len(shares) == 0 and shares.due is None and not shares._of


def test_unknown_workers_and_users_change_nothing() -> None:
    shares = UserShares(LIMIT, WINDOW)
    assert shares.seated("w0", Seated([], ["alice"]), 0.0) == []
    assert shares.taken("w0", "alice", 1, 0.0) == []
    assert shares.gone("w0", 0.0) == []
    assert len(shares) == 0


class World:
    """Workers with real windows, a hub, and pipes in which messages wait for as long as a test likes.

    ``delivered`` are the times of all events that the user got.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.now = limit, 0.0
        self.shares = UserShares(limit, WINDOW)
        self.rates = {name: UserRates(WINDOW) for name in ("w0", "w1", "w2")}
        self.here = dict.fromkeys(self.rates, False)
        self.up: dict[str, deque[tuple[str, int]]] = {name: deque() for name in self.rates}
        self.down: dict[str, deque[Share]] = {name: deque() for name in self.rates}
        self.delivered: list[float] = []
        self.events = 0
        self.died = -WINDOW

    def tell(self, messages: Told) -> None:
        for peer, share in messages:
            self.down[str(peer)].append(share)

    def step(self, what: str, name: str) -> None:
        rates = self.rates[name]
        if what == "come" and not self.here[name]:
            self.here[name] = True
            self.up[name].append(("came", 0))
        elif what == "go" and self.here[name]:
            self.here[name] = False
            rates.gone("alice")
            self.up[name].append(("went", 0))
        elif what == "up" and self.up[name]:
            kind, version = self.up[name].popleft()
            if kind == "took":
                self.tell(self.shares.taken(name, "alice", version, self.now))
            else:
                seated = Seated(["alice"] * (kind == "came"), ["alice"] * (kind == "went"))
                self.tell(self.shares.seated(name, seated, self.now))
        elif what == "down" and self.down[name]:
            share = self.down[name].popleft()
            if self.here[name]:
                rates.set_limit("alice", share.events)
            self.up[name].append(("took", share.version))
        elif what == "pump":
            for other in self.rates:
                while self.up[other] or self.down[other]:
                    self.step("up", other)
                    self.step("down", other)
        elif what == "die":
            self.rates[name], self.here[name] = UserRates(WINDOW), False
            self.up[name].clear()
            self.down[name].clear()
            self.tell(self.shares.gone(name, self.now))
            self.died = self.now
        elif what == "hub dies" and self.now >= self.died + WINDOW:
            self.shares = UserShares(self.limit, WINDOW)
            for other, here in self.here.items():
                self.up[other].clear()
                self.down[other].clear()
                if here:
                    self.rates[other].set_limit("alice", 0)
                self.tell(self.shares.seated(other, Seated(["alice"] * here, [], again=True), self.now))
        elif what == "event":
            for _ in range(self.limit + 1):
                self.events += 1
                if rates.admit("alice", self.events, self.now):
                    self.delivered.append(self.now)
        elif what == "time":
            self.now += 1.0
            self.tell(self.shares.tick(self.now))
        self.check()

    def check(self) -> None:
        user = self.shares._users.get("alice")
        if user is not None:
            used = sum(seat.used for seat in user.seats.values())
            freed = sum(events for _, events in user.freed)
            assert used + freed <= self.limit
        recent = [at for at in self.delivered if at > self.now - WINDOW]
        assert len(recent) <= self.limit

    def settle(self) -> None:
        """Everything arrives, and a window passes."""
        for _ in range(4):
            self.step("pump", "w0")
            for _ in range(int(WINDOW)):
                self.step("time", "w0")


WORKERS = ("w0", "w1", "w2")
OFTEN = [(what, name) for what in ("come", "go", "up", "down", "event", "event") for name in WORKERS]
SOMETIMES = [("die", "w0"), ("die", "w1"), ("hub dies", "w0")]
STEPS = st.sampled_from([*OFTEN, *[("pump", "w0"), ("time", "w0")] * 6, *SOMETIMES])


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 5), st.lists(STEPS, min_size=60, max_size=120))
def test_no_window_has_more_than_the_limit_and_in_the_end_all_of_it_is_used(
    limit: int, steps: list[tuple[str, str]]
) -> None:
    world = World(limit)
    for step in steps:
        world.step(*step)
    world.settle()
    here = [name for name, is_here in world.here.items() if is_here]
    limits = [world.rates[name]._windows["alice"].limit for name in here]
    assert sum(limits) == (limit if here else 0)
    assert not here or max(limits) - min(limits) <= 1
    world.delivered.clear()
    for name in here:
        world.step("event", name)
    assert len(world.delivered) == (limit if here else 0)
    for name in here:
        world.step("go", name)
    world.settle()
    assert len(world.shares) == 0 and world.shares.due is None
