"""When a server that says nothing is ready."""

from __future__ import annotations

import socket
from threading import Thread

import pytest

from bench.peers import launch


def test_who_only_listens_is_not_ready_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "ANSWER_TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert not launch.answers(server.getsockname()[1])
    assert not launch.answers(1)


def test_who_answers_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            client, _ = server.accept()
            with client:
                client.recv(1_000)
                client.sendall(b"HTTP/1.1 404 Not Found\r\n\r\n")

        thread = Thread(target=serve, daemon=True)
        thread.start()
        assert launch.answers(server.getsockname()[1])
        thread.join()
