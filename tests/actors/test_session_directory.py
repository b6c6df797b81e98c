"""Users and operators' orders in one worker with its hub, over fake sockets."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.session_directory import SessionDirectory
from tests.actors.test_fanout import FakeSocket, Spine, run, until
from transport.errors import RequestError


class Seat(FakeSocket):
    """The socket of somebody who has a name."""

    def __init__(self, user: str | None) -> None:
        super().__init__()
        self.user = user


def connect(spine: Spine, user: str | None = None) -> Seat:
    socket = Seat(user)
    socket.session = spine.worker._clients.open(socket)  # type: ignore[arg-type]
    return socket


def directory(spine: Spine) -> SessionDirectory:
    return spine.worker._directory


def order(do: str, user: str | None = None, session: str | None = None, **options: Any) -> dict[str, Any]:
    return {"do": do, "user": user, "session": session, "options": options}


def told(socket: FakeSocket, op: str) -> list[dict[str, Any]]:
    return [message for message in socket.messages if message["op"] == op]


def test_a_session_of_a_user_hears_of_the_user_from_the_start() -> None:
    async def scenario(spine: Spine) -> None:
        one, two, nobody = connect(spine, "alice"), connect(spine, "alice"), connect(spine)
        await until(lambda: told(one, "subscribed") and told(two, "subscribed"))
        spine.request(nobody, op="publish", topic="user.alice", data=1)
        await until(lambda: told(one, "event") and told(two, "event"))
        assert told(one, "subscribed")[0]["topics"] == ["user.alice"]
        assert not told(nobody, "subscribed") and not told(nobody, "event")

    run(scenario)


def test_what_the_queue_of_a_slow_session_is_like() -> None:
    async def scenario(spine: Spine) -> None:
        slow, publisher = connect(spine), connect(spine)
        await spine.answer(slow, spine.request(slow, op="subscribe", topics=["t"]))
        [row] = [row for row in directory(spine).page(None, "", 10) if row["subscriptions"]]
        assert (row["lane"], row["queued_bytes"], row["oldest_age"], row["user"]) == ("fast", 0, None, None)
        slow.stall()
        await spine.answer(publisher, spine.request(publisher, op="publish", topic="t", data="x" * 1_000))
        await until(lambda: slow.session is not None and slow.session.outbox)
        [row] = [row for row in directory(spine).page(None, "", 10) if row["subscriptions"]]
        assert row["lane"] == "slow"
        assert [found["id"] for found in directory(spine).page(None, "", 10, "slow")] == [row["id"]]
        assert row["id"] not in [found["id"] for found in directory(spine).page(None, "", 10, "fast")]
        assert row["queued_bytes"] > 1_000
        assert row["oldest_age"] >= 0
        slow.flow()

    run(scenario)


def test_orders_reach_the_sessions_that_are_there() -> None:
    async def scenario(spine: Spine) -> None:
        one, two, bob = connect(spine, "alice"), connect(spine, "alice"), connect(spine, "bob")
        execute = directory(spine).execute
        assert one.session is not None
        assert execute(order("subscribe", user="alice", topics=["news"], where={"v": 1})) == 2
        assert execute(order("subscribe", session=one.session.id, topics=["more"])) == 1
        assert execute(order("subscribe", session="nobody", topics=["more"])) == 0
        assert execute(order("unsubscribe", user="carol", topics="*")) == 0
        await until(lambda: len(told(one, "subscribed")) == 3 and len(told(two, "subscribed")) == 2)
        assert execute(order("unsubscribe", user="alice", topics=["news"])) == 2
        await until(lambda: told(one, "unsubscribed") and told(two, "unsubscribed"))
        assert told(one, "unsubscribed")[0]["topics"] == ["user.alice", "more"]
        with pytest.raises(RequestError):
            execute(order("subscribe", user="alice", topics=["user.bob"]))
        assert execute(order("close", user="alice")) == 2
        assert execute(order("close", user="alice")) == 0  # they are on their way out
        await until(lambda: one.closed and two.closed)
        assert one.closed == (4003, "kicked") and bob.closed is None
        with pytest.raises(ValueError, match="explode"):
            execute(order("explode", user="alice"))

    run(scenario)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["alice", "bob", None]), st.booleans()), max_size=20), st.integers(1, 5))
def test_pages_hold_every_session_once_and_nothing_stays_of_who_has_gone(
    people: list[tuple[str | None, bool]], limit: int
) -> None:
    async def scenario(spine: Spine) -> None:
        sockets = [connect(spine, user) for user, _ in people]
        for socket, (_, leaves) in zip(sockets, people, strict=True):
            if leaves and socket.session is not None:
                socket.session.on_closed(1000, "")
        there = [socket for socket, (_, leaves) in zip(sockets, people, strict=True) if not leaves]
        for user in (None, "alice", "bob"):
            seen: list[str] = []
            while rows := directory(spine).page(user, seen[-1] if seen else "", limit):
                assert len(rows) <= limit
                seen += [row["id"] for row in rows]
            mine = [s.session.id for s in there if s.session is not None and user in (None, s.user)]
            assert seen == sorted(mine)
        users = spine.worker._clients.users
        assert {user: len(sessions) for user, sessions in users.items()} == {
            user: count for user in ("alice", "bob") if (count := sum(s.user == user for s in there))
        }
        for socket in there:
            assert socket.session is not None
            socket.session.on_closed(1000, "")
        assert not users and not spine.worker._clients.sessions

    run(scenario)
