"""A client's attempts, one at a time: what an earlier one still tells changes nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from engine.loadtest import crowd
from engine.loadtest.client_socket import State
from engine.loadtest.crowd import Crowd
from engine.loadtest.member import CUT, Member
from engine.loadtest.target import Target
from transport.errors import ConfigError


class FakeSocket:
    def __init__(self) -> None:
        self.state = State.CONNECTING
        self.aborted: list[str] = []

    def abort(self, reason: str) -> None:
        self.aborted.append(reason)


class FakeCompany:
    """``dialed`` is done to each socket as it is dialed."""

    connect_timeout = 0.01
    recovers = answers = nothing_yet = True

    def __init__(self, *dialed: Any) -> None:
        self._dialed = list(dialed)
        self.sockets: list[Any] = []
        self.told: list[Any] = []
        self.member = Member(self, 0)  # type: ignore[arg-type]

    def socket(self, member: Member) -> Any:
        self.sockets.append(FakeSocket())
        return self.sockets[-1]

    async def dial(self, socket: Any, number: int) -> None:
        self._dialed.pop(0)(self, socket)

    def came(self, member: Member, away: float | None) -> None:
        self.told.append("again" if away is not None else "came")

    def went(self, member: Member, reason: str) -> None:
        self.told.append(reason)

    def recovered(self, away: float) -> None:
        self.told.append("recovered")

    def failed(self, reason: str) -> None:
        self.told.append(f"failed: {reason}")


def joins(company: FakeCompany, socket: Any) -> None:
    socket.state = State.JOINED
    company.member.on_joined(socket)


def says_nothing(company: FakeCompany, socket: Any) -> None:
    socket.state = State.OPEN


def is_refused(company: FakeCompany, socket: Any) -> None:
    raise ConnectionRefusedError(111, "whatever the loop says")


def goes(company: FakeCompany, socket: Any, reason: str) -> None:
    socket.state = State.GONE
    company.member.on_gone(socket, reason)


def test_it_comes_and_is_cut_and_comes_back() -> None:
    async def scenario() -> None:
        company = FakeCompany(joins, is_refused, joins)
        assert await company.member.connect() is None
        assert company.member.sequences.next == 0  # nothing was published, so all must come
        company.member.cut()
        assert company.sockets[0].aborted == [CUT]
        goes(company, company.sockets[0], CUT)
        assert company.member.socket is None
        await company.member.come_back()
        assert company.member.socket is company.sockets[2]
        assert company.told == ["came", CUT, "failed: Connection refused", "again"]

    asyncio.run(scenario())


def test_who_came_back_and_gets_nothing_is_not_there() -> None:
    """Where subscriptions are not answered, a server may take whom it never serves."""

    async def scenario() -> None:
        company = FakeCompany(joins, joins, joins)
        company.answers = company.recovers = False
        member = company.member
        assert await member.connect() is None
        assert member.there
        goes(company, company.sockets[0], "moving")
        assert not member.there
        assert await member.connect() is None
        assert member.socket is not None
        assert not member.there
        member.on_first(company.sockets[1])
        assert member.there
        assert company.told == ["came", "moving", "came", "recovered"]

    asyncio.run(scenario())


def test_an_attempt_that_was_given_up_has_no_say_in_the_next() -> None:
    def first_one_goes(company: FakeCompany, socket: Any) -> None:
        goes(company, company.sockets[0], "given up")
        joins(company, socket)

    async def scenario() -> None:
        company = FakeCompany(says_nothing, first_one_goes)
        assert await company.member.connect() == "no answer to the subscription within 0.01 s"
        assert company.sockets[0].aborted == ["given up"]
        assert await company.member.connect() is None
        assert company.told == ["came"]

    asyncio.run(scenario())


def test_who_is_lost_at_once_was_not_there() -> None:
    def at_once(company: FakeCompany, socket: Any) -> None:
        joins(company, socket)
        goes(company, socket, "bye")

    async def scenario() -> None:
        company = FakeCompany(at_once)
        assert await company.member.connect() == "lost as soon as it was open"
        assert company.member.socket is None
        assert not company.told

    asyncio.run(scenario())


def test_too_few_files_are_said_before_anything_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowd, "raise_descriptor_limit", lambda: 1_000)

    async def scenario() -> None:
        with pytest.raises(ConfigError, match=r"connections: 900 .* need 1028 open files, and 1000 .*ulimit -n"):
            await Crowd(Target(url="ws://h"), 1.0).ramp_up(0, 900, 10)

    asyncio.run(scenario())
