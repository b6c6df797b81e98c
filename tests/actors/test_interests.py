"""Who wants what: against sets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actors.interests import Interests
from transport.topics import matches


class FakePeer:
    window_open = True

    def __init__(self) -> None:
        self.out: list[bytes] = []


PATTERNS = ["a", "a.b", "a.*", "a.>", "*", ">"]
some = st.lists(st.sampled_from(PATTERNS), max_size=3)
STEPS = st.tuples(st.integers(0, 2), some, some, st.integers(0, 9).map(lambda n: n == 0))


@given(st.lists(STEPS, max_size=30))
def test_a_peer_gets_a_topic_while_one_of_its_patterns_matches(
    steps: list[tuple[int, list[str], list[str], bool]],
) -> None:
    interests, peers = Interests(), [FakePeer() for _ in range(3)]
    held: list[set[str]] = [set() for _ in peers]
    for n, add, remove, gone in steps:
        if gone:
            assert interests.gone(peers[n]) == held[n]
            held[n] = set()
        else:
            before = set(held[n])
            changed = interests.change(peers[n], add, remove)
            held[n] = (held[n] | set(add)) - set(remove)
            assert before ^ held[n] <= set(changed) <= set(add) | set(remove)
        for topic in ("a", "a.b", "a.b.c", "b", "system"):
            wanted = [
                peer for peer, patterns in zip(peers, held, strict=True) if any(matches(p, topic) for p in patterns)
            ]
            found = interests.of(topic)
            assert len(found) == len(wanted) and set(found) == set(wanted)
