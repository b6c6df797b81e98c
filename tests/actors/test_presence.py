from hypothesis import given
from hypothesis import strategies as st

from actors.presence import Entry, Presence
from transport.messages import Present


def test_a_user_joins_once_and_leaves_with_the_last_worker() -> None:
    presence = Presence()
    entry = ("room", "alice")
    assert presence.report("w0", Present([entry], [])) == ([entry], [])
    assert presence.report("w1", Present([entry], [])) == ([], [])
    assert presence.users("room") == ["alice"]
    assert presence.report("w0", Present([], [entry])) == ([], [])
    assert presence.gone("w1") == [entry]
    assert presence.users("room") == []
    assert not presence


def test_users_are_sorted() -> None:
    presence = Presence()
    presence.report("w0", Present([("room", "bob"), ("room", "alice"), ("hall", "carol")], []))
    assert presence.users("room") == ["alice", "bob"]


def test_nobody_joins_a_new_hub() -> None:
    presence = Presence()
    assert presence.report("w0", Present([("room", "alice")], [], again=True)) == ([], [])
    assert presence.users("room") == ["alice"]
    assert presence.report("w0", Present([], [("room", "alice")])) == ([], [("room", "alice")])


def test_what_was_never_reported_does_not_leave() -> None:
    presence = Presence()
    presence.report("w0", Present([("room", "alice")], []))
    assert presence.report("w1", Present([], [("room", "alice"), ("hall", "bob")])) == ([], [])
    assert presence.gone("w2") == []
    assert presence.users("room") == ["alice"]


ENTRIES = st.lists(st.tuples(st.sampled_from(["room", "hall"]), st.sampled_from(["alice", "bob"])), max_size=3)
STEPS = st.tuples(st.sampled_from(["w0", "w1", "w2"]), st.booleans(), ENTRIES, ENTRIES)


@given(st.lists(STEPS, max_size=40))
def test_presence_is_the_union_over_workers(steps: list[tuple[str, bool, list[Entry], list[Entry]]]) -> None:
    """And joins and leaves alternate, so that who adds them up knows the same."""
    presence, workers, told = Presence(), dict[str, set[Entry]](), set[Entry]()
    for peer, dies, joined, left in steps:
        if dies:
            workers.pop(peer, None)
            went = presence.gone(peer)
        else:
            mine = workers.setdefault(peer, set())
            mine.update(joined)
            came, went = presence.report(peer, Present(joined, []))
            assert not went and not told & set(came) and len(set(came)) == len(came)
            told |= set(came)
            mine.difference_update(left)
            came, went = presence.report(peer, Present([], left))
            assert not came
        assert told >= set(went) and len(set(went)) == len(went)
        told -= set(went)
        there = set[Entry]().union(*workers.values())
        assert told == there
        for topic in ("room", "hall"):
            assert presence.users(topic) == sorted(user for name, user in there if name == topic)
        assert len(presence) == len(there)
    for peer in list(workers):
        presence.gone(peer)
    assert not presence._users and not presence._of
