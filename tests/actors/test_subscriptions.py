from hypothesis import given
from hypothesis import strategies as st

from actors.subscriptions import PatternIndex
from transport.topics import matches

TOKEN = st.sampled_from(["a", "b", "c", "system", "user"])
TOPIC = st.lists(TOKEN, min_size=1, max_size=4).map(".".join)


@st.composite
def _pattern(draw: st.DrawFn) -> str:
    tokens = draw(st.lists(st.one_of(TOKEN, st.just("*")), max_size=3))
    if draw(st.booleans()) or not tokens:
        tokens.append(">")
    return ".".join(tokens)


PATTERN = st.one_of(TOPIC, _pattern())


@given(st.lists(st.tuples(st.booleans(), PATTERN), max_size=40), st.lists(TOPIC, max_size=10))
def test_the_index_equals_brute_force_under_churn(churn: list[tuple[bool, str]], topics: list[str]) -> None:
    index, held = PatternIndex(), set[str]()
    for add, pattern in churn:
        if add:
            assert index.add(pattern) is (pattern not in held)
            held.add(pattern)
        else:
            assert index.remove(pattern) is (pattern in held)
            held.discard(pattern)
        assert len(index) == len(held)
    for name in topics:
        assert index.match(name) == tuple(sorted(pattern for pattern in held if matches(pattern, name)))


@given(st.lists(PATTERN, max_size=30))
def test_nothing_is_left_when_all_have_gone(patterns: list[str]) -> None:
    index = PatternIndex()
    for pattern in patterns:
        index.add(pattern)
    for pattern in set(patterns):
        index.remove(pattern)
    assert not index._root.children and index._root.rest is None
