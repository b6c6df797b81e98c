from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from actors.attendance import ENTRIES, Attendance
from transport.messages import Present


class Session(NamedTuple):
    number: int
    user: str | None


def _attendance() -> Attendance:
    return Attendance(lambda topic: not topic.startswith("quiet"))


ALICE, AGAIN, BOB, NOBODY = Session(1, "alice"), Session(2, "alice"), Session(3, "bob"), Session(4, None)


def test_the_first_session_joins_and_the_last_one_leaves() -> None:
    here = _attendance()
    here.enter(ALICE, "room")
    here.enter(AGAIN, "room")
    here.enter(BOB, "room")
    assert here.changes() == Present([("room", "alice"), ("room", "bob")], [])
    assert here.changes() is None
    here.leave(ALICE, "room")
    assert here.changes() is None
    here.leave(AGAIN, "room")
    assert here.changes() == Present([], [("room", "alice")])


def test_who_is_not_listed() -> None:
    here = _attendance()
    here.enter(NOBODY, "room")
    here.enter(ALICE, "room.*")
    here.enter(ALICE, ">")
    here.enter(ALICE, "quiet.room")
    here.leave(NOBODY, "room")
    here.leave(ALICE, "room.*")
    assert here.changes() is None
    assert not here


def test_who_comes_and_goes_between_two_looks_is_not_told() -> None:
    here = _attendance()
    here.enter(ALICE, "room")
    here.leave(ALICE, "room")
    assert here.changes() is None
    here.enter(ALICE, "room")
    here.changes()
    here.leave(ALICE, "room")
    here.enter(AGAIN, "room")
    assert here.changes() is None


def test_a_new_hub_is_told_who_has_been_there_and_a_returning_one_who_joins() -> None:
    here = _attendance()
    here.enter(ALICE, "room")
    assert list(here.again("h1")) == [Present([("room", "alice")], [], again=True)]
    assert here.changes() is None
    assert list(here.again("h2")) == [Present([("room", "alice")], [], again=True)]
    assert list(here.again("h2")) == [Present([("room", "alice")], [], again=False)]


def test_a_hub_is_told_in_parts() -> None:
    here = _attendance()
    for n in range(ENTRIES + 1):
        here.enter(ALICE, f"room.{n}")
    assert [len(part.joined) for part in here.again("h")] == [ENTRIES, 1]


SESSIONS = st.sampled_from([ALICE, AGAIN, BOB, NOBODY])
PATTERNS = st.sampled_from(["room", "hall", "room.*", "quiet"])


@given(st.lists(st.tuples(st.sampled_from(["enter", "leave", "look", "again"]), SESSIONS, PATTERNS), max_size=60))
def test_the_hub_knows_what_is(steps: list[tuple[str, Session, str]]) -> None:
    here, held, known = _attendance(), set[tuple[Session, str]](), set[tuple[str, str]]()

    def hear(told: Present) -> None:
        assert not known & set(told.joined)
        assert known >= set(told.left)
        known.difference_update(told.left)
        known.update(told.joined)

    for step, session, pattern in [*steps, ("look", NOBODY, "room")]:
        if step == "enter":
            here.enter(session, pattern)
            held.add((session, pattern))
        elif step == "leave":
            here.leave(session, pattern)
            held.discard((session, pattern))
        elif step == "look":
            if (told := here.changes()) is not None:
                hear(told)
        else:
            known.clear()
            for told in here.again("h"):
                hear(told)
    assert known == {
        (pattern, session.user) for session, pattern in held if session.user and pattern in ("room", "hall")
    }
    for session, pattern in held:
        here.leave(session, pattern)
    assert not here
