from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actors.deadlines import Deadlines

entries = st.integers(0, 5)
steps = st.lists(
    st.tuples(st.just("set"), entries, st.floats(0, 50))
    | st.tuples(st.just("forget"), entries, st.just(0.0))
    | st.tuples(st.just("due"), st.just(0), st.floats(0, 60)),
    max_size=40,
)


@given(steps)
def test_each_is_due_once_at_the_second_after_its_last_deadline(steps: list[tuple[str, int, float]]) -> None:
    deadlines: Deadlines[int] = Deadlines()
    expected: dict[int, float] = {}
    for do, entry, at in steps:
        if do == "set":
            deadlines.set(entry, at)
            expected[entry] = at
        elif do == "forget":
            deadlines.forget(entry)
            expected.pop(entry, None)
        else:
            due = deadlines.due(at)
            assert len(due) == len(set(due))
            assert all(expected[e] <= at for e in due)
            assert all(expected[e] > at - 1 for e in expected if e not in due)
            for e in due:
                del expected[e]
    assert len(deadlines) == len(expected)


def test_moving_to_and_fro_leaves_nothing_behind() -> None:
    deadlines: Deadlines[str] = Deadlines()
    for n in range(1_000):
        deadlines.set("a", n % 2 + 10)
    assert len(deadlines._order) == len(deadlines._buckets) == 2
    assert deadlines.due(11) == ["a"]
    assert deadlines.due(1e9) == []
    assert not deadlines._order and not deadlines._buckets
