from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from transport import refusals as module
from transport.refusals import LINGER, Refusals

ANSWER = b"HTTP/1.1 429 Too Many Requests\r\n\r\n"
DEADLINE = 5.0


class Loop:
    """A clock, and one timer."""

    def __init__(self) -> None:
        self.now = 100.0
        self.due: Callable[[], None] | None = None
        self.at = 0.0

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None]) -> Loop:
        assert self.due is None, "one timer is enough"
        self.due, self.at = callback, self.now + delay
        return self

    def cancel(self) -> None:
        self.due = None

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        if self.due is not None and self.at <= self.now:
            callback, self.due = self.due, None
            callback()


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def knock(server: socket.socket) -> tuple[socket.socket, socket.socket]:
    """A client, and our side of it."""
    client = socket.create_connection(server.getsockname(), DEADLINE)
    ours = server.accept()[0]
    ours.setblocking(False)
    return client, ours


def test_the_answer_is_whole_and_the_socket_stays_for_what_is_still_on_its_way(server: socket.socket) -> None:
    loop = Loop()
    refusals = Refusals(loop)  # type: ignore[arg-type]
    client, ours = knock(server)
    refusals.refuse(ours, ANSWER)
    client.sendall(b"GET /ws HTTP/1.1\r\n")  # sent when it was refused already
    loop.pass_time(LINGER / 2)
    client.sendall(b"Host: here\r\n\r\n")  # a closed socket would have reset the connection
    assert (client.recv(1000), client.recv(1000)) == (ANSWER, b"")
    assert ours.fileno() >= 0
    loop.pass_time(LINGER / 2)
    assert ours.fileno() == -1
    assert loop.due is None
    client.close()


def test_each_lingers_for_its_own_time(server: socket.socket) -> None:
    loop = Loop()
    refusals = Refusals(loop)  # type: ignore[arg-type]
    (a, first), (b, second) = knock(server), knock(server)
    refusals.refuse(first, ANSWER)
    loop.pass_time(LINGER / 2)
    refusals.refuse(second, ANSWER)
    loop.pass_time(LINGER / 2)
    assert (first.fileno(), second.fileno() >= 0) == (-1, True)
    loop.pass_time(LINGER)
    assert second.fileno() == -1
    for client in (a, b):
        client.close()


def test_of_too_many_the_oldest_is_closed_at_once_and_at_the_end_all(
    server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LINGERING", 2)
    loop = Loop()
    refusals = Refusals(loop)  # type: ignore[arg-type]
    pairs = [knock(server) for _ in range(3)]
    for client, ours in pairs:
        client.sendall(b"GET /ws HTTP/1.1\r\n\r\n")
        refusals.refuse(ours, ANSWER)
    assert [ours.fileno() >= 0 for _, ours in pairs] == [False, True, True]
    refusals.stop()
    refusals.stop()
    assert [ours.fileno() >= 0 for _, ours in pairs] == [False] * 3
    assert loop.due is None
    for client, _ in pairs:  # what was read of it before keeps the end from being a reset
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        assert (client.recv(1000), client.recv(1000)) == (ANSWER, b"")
        client.close()


def test_who_has_gone_already_costs_nothing(server: socket.socket) -> None:
    loop = Loop()
    refusals = Refusals(loop)  # type: ignore[arg-type]
    client, ours = knock(server)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()  # with a reset
    refusals.refuse(ours, ANSWER)
    assert ours.fileno() == -1
    assert loop.due is None
