from hypothesis import given
from hypothesis import strategies as st

from transport.sliding_window import SlidingWindow, UserRates

WINDOW = 8.0
STEPS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 6)), max_size=120)  # eighths of a window to wait, event


def _brute_force(admitted: list[tuple[float, int]], now: float) -> set[int]:
    """The different events of the interval that ends at ``now``."""
    return {key for at, key in admitted if now - at < WINDOW}


@given(STEPS, st.integers(0, 4))
def test_an_event_is_refused_exactly_if_it_would_be_one_too_many_in_some_interval(
    steps: list[tuple[int, int]], limit: int
) -> None:
    window = SlidingWindow(limit, WINDOW)
    admitted: list[tuple[float, int]] = []
    now = 0.0
    for wait, key in steps:
        now += wait
        inside = _brute_force(admitted, now)
        assert window.admit(key, now) is (key in inside or len(inside) < limit)
        if key not in inside and len(inside) < limit:
            admitted.append((now, key))
        assert len(window) == len(_brute_force(admitted, now)) <= limit
    for start in range(int(now) + 1):
        assert len([at for at, _ in admitted if start <= at < start + WINDOW]) <= limit


@given(st.integers(1, 20), st.integers(1, 5))
def test_whoever_always_wants_more_gets_exactly_the_limit_in_each_window(limit: int, windows: int) -> None:
    window = SlidingWindow(limit, WINDOW)
    step = 1 / 8  # 64 different events in each window
    got = [now for n in range(int(windows * WINDOW / step)) if window.admit(n, now := n * step)]
    for n in range(windows):
        assert sum(n * WINDOW <= at < (n + 1) * WINDOW for at in got) == limit


@given(st.lists(st.tuples(st.integers(0, 10), st.integers(0, 4)), max_size=80))
def test_a_new_limit_holds_at_once(steps: list[tuple[int, int]]) -> None:
    window = SlidingWindow(0, WINDOW)
    admitted: list[tuple[float, int]] = []
    now = 0.0
    for number, (wait, limit) in enumerate(steps):
        now += wait
        window.limit = limit
        inside = _brute_force(admitted, now)
        assert window.admit(number, now) is (len(inside) < limit)
        if len(inside) < limit:
            admitted.append((now, number))


def test_the_same_event_for_another_session_does_not_count() -> None:
    window = SlidingWindow(2, 1.0)
    assert [window.admit(key, 0.0) for key in "aababc"] == [True, True, True, True, True, False]
    window.limit = 1
    assert window.admit("a", 0.5)  # it is on its way already
    assert not window.admit("c", 0.5)
    assert window.admit("c", 1.0)
    assert not window.admit("a", 1.0)


def test_a_user_gets_nothing_before_a_limit_is_told() -> None:
    rates = UserRates(1.0)
    assert not rates.admit("ann", 1, 0.0)
    assert len(rates) == 0
    rates.set_limit("ann", 1)
    assert rates.admit("ann", 1, 0.0)
    assert not rates.admit("ann", 2, 0.0)
    assert not rates.admit("bob", 1, 0.0)


def test_to_reconnect_brings_no_new_allowance() -> None:
    rates = UserRates(1.0)
    rates.set_limit("ann", 1)
    assert rates.admit("ann", 1, 0.0)
    rates.gone("ann")
    assert not rates.admit("ann", 2, 0.5)
    rates.sweep(0.9)
    rates.set_limit("ann", 1)
    assert not rates.admit("ann", 3, 0.9)
    assert rates.admit("ann", 4, 1.0)


def test_users_who_have_gone_are_forgotten_when_their_log_has_expired() -> None:
    rates = UserRates(1.0)
    for user in ("ann", "bob", "cid"):
        rates.set_limit(user, 5)
    assert rates.admit("ann", 1, 0.0)
    assert rates.admit("cid", 1, 0.0)
    rates.gone("ann")
    rates.gone("bob")  # had nothing
    rates.gone("nobody")
    assert len(rates) == 2
    rates.sweep(0.9)
    assert len(rates) == 2
    rates.sweep(1.0)
    assert len(rates) == 1
    rates.sweep(5.0)
    assert rates.admit("cid", 2, 5.0)  # still here, so not forgotten


def test_a_user_who_goes_twice_is_forgotten_once() -> None:
    rates = UserRates(1.0)
    rates.set_limit("ann", 5)
    rates.admit("ann", 1, 0.0)
    rates.gone("ann")
    rates.admit("ann", 2, 2.0)  # its log has expired
    rates.gone("ann")
    rates.sweep(3.0)
    assert len(rates) == 0


@given(
    st.lists(st.tuples(st.sampled_from(["set", "gone", "admit", "sweep"]), st.sampled_from("ab"), st.integers(0, 5)))
)
def test_users_do_not_touch_each_other(steps: list[tuple[str, str, int]]) -> None:
    rates = UserRates(WINDOW)
    limits = {"a": 0, "b": 0}
    admitted: dict[str, list[tuple[float, int]]] = {"a": [], "b": []}
    now = 0.0
    for number, (step, user, n) in enumerate(steps):
        if step == "set":
            rates.set_limit(user, n)
            limits[user] = n
        elif step == "gone":
            rates.gone(user)
            limits[user] = 0
        elif step == "sweep":
            rates.sweep(now)
        else:
            now += n
            room = len(_brute_force(admitted[user], now)) < limits[user]
            assert rates.admit(user, number, now) is room
            if room:
                admitted[user].append((now, number))
    for user in "ab":
        rates.gone(user)
    rates.sweep(now + WINDOW)
    assert len(rates) == 0
