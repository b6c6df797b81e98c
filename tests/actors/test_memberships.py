"""Consumer groups from a session to the hub and back: whoever is told that it is a member gets events."""

from typing import Any
from unittest.mock import patch

from actors.messages import SubscribeFor, Sweep
from engine.config import loads
from tests.actors import test_fanout
from tests.actors.test_fanout import FakeSocket, Spine, run, until
from transport.requests import Subscribe

CONFIG = loads('[topics."jobs.>"]\nstrategy = "load_balanced"')


class Scene(Spine):
    """A spine whose topics ``jobs.>`` have consumer groups."""

    def __init__(self) -> None:
        with patch.object(test_fanout, "CONFIG", CONFIG):
            super().__init__()

    async def enlist(self, socket: FakeSocket, group: str, *topics: str) -> dict[str, Any]:
        return await self.answer(socket, self.request(socket, op="subscribe", topics=list(topics), group=group))

    async def gets(self, socket: FakeSocket, count: int) -> None:
        """So many events come, of so many that are published behind what the index has told the hub."""
        publisher = self.connect()
        await self.answer(publisher, self.request(publisher, op="snapshot", topics=["jobs.a"]))
        for n in range(count):
            self.request(publisher, op="publish", topic="jobs.a", data=n)
        got = await until(lambda: _got(socket) if len(_got(socket)) >= count else None)
        assert got == list(range(count))


def _got(socket: FakeSocket) -> list[Any]:
    return [message["data"] for message in socket.messages if message["op"] == "event"]


def test_a_member_that_goes_to_another_group_is_in_it() -> None:
    async def scenario(spine: Spine) -> None:
        assert isinstance(spine, Scene)
        socket = spine.connect()
        await spine.enlist(socket, "g", "jobs.a")
        await spine.enlist(socket, "h", "jobs.a")
        await spine.gets(socket, 3)
        assert spine.worker.meter.subscriptions == 1

    run(scenario, Scene)


def test_a_request_that_is_refused_costs_no_membership() -> None:
    async def scenario(spine: Spine) -> None:
        assert isinstance(spine, Scene)
        socket = spine.connect()
        await spine.enlist(socket, "g", "jobs.a")
        refused = await spine.enlist(socket, "g", "jobs.a", "other")
        assert (refused["code"], refused["field"]) == ("conflict", "group")
        await spine.gets(socket, 3)

    run(scenario, Scene)


def test_a_request_that_was_given_up_leaves_the_member_where_it_was() -> None:
    async def scenario(spine: Spine) -> None:
        assert isinstance(spine, Scene)
        socket, other = spine.connect(), spine.connect()
        await spine.enlist(socket, "g", "jobs.a")
        await spine.enlist(other, "h", "jobs.a")
        spine.index._request_timeout = -1
        assert socket.session is not None
        late = Subscribe(id="late", topics=["jobs.a", "jobs.b"], group="h")
        spine.index.on_subscribe_for(SubscribeFor(socket.session, late))
        spine.index.on_sweep(Sweep())
        assert socket.messages[-1]["code"] == "unavailable"
        spine.index._request_timeout = 10
        await spine.gets(socket, 3)
        assert await until(lambda: _got(other) == [0, 1, 2] or None), "nobody else is in the other group"

    run(scenario, Scene)
