"""Who may join a bus over TCP, and what somebody between its ends can see."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvloop
import zmq

from tests.transport.test_bus import CLIENT, CLIENT_KEYS, SERVER, SERVER_KEYS, Hub, Worker, context, note, until
from transport.bus_client import BusClient
from transport.bus_server import BusServer
from transport.curve import ClientKeys, KeyPair, ServerKeys
from transport.errors import ConfigError, HeliographError

__all__ = ["context"]
TCP = "tcp://127.0.0.1:*"


def test_without_keys_only_what_stays_in_the_machine(context: zmq.Context[Any]) -> None:
    async def main() -> None:
        for endpoint in (TCP, "tcp://[::1]:*", "TCP://127.0.0.1:5", "ws://127.0.0.1:*", "udp://127.0.0.1:5"):
            with pytest.raises(ConfigError, match="needs CURVE keys"):
                BusServer(context, endpoint, object(), name="hub")  # type: ignore[arg-type]
            with pytest.raises(ConfigError, match="needs CURVE keys"):
                BusClient(context, endpoint, object(), name="worker")  # type: ignore[arg-type]

    uvloop.run(main())


def test_only_known_keys_join(context: zmq.Context[Any]) -> None:
    stranger = KeyPair.generate()

    async def main() -> None:
        hub = Hub(context, TCP)
        authenticator = hub.bus._authenticator
        assert authenticator is not None
        unknown = Worker(context, hub.bus.endpoint, name="unknown", keys=ClientKeys(stranger, SERVER.public))
        await until(lambda: authenticator.denied)
        misled = Worker(context, hub.bus.endpoint, name="misled", keys=ClientKeys(CLIENT, stranger.public))
        plain = context.socket(zmq.DEALER)  # as BusClient, which would refuse, does it
        plain.linger = 0
        plain.connect(hub.bus.endpoint)
        plain.send_multipart([b"anything"])
        denied = authenticator.denied
        good = Worker(context, hub.bus.endpoint)
        await until(lambda: good.bus.connected)
        await until(lambda: authenticator.denied > denied)  # it tries again, as do the others
        good.bus.send(note(1))
        await until(lambda: hub.got == [1])
        assert [entry for entry in hub.log if entry[0] == "peer"] == [("peer", "worker")]
        assert (hub.bus.malformed, hub.bus.stale) == (0, 0)
        assert not any((unknown.log, misled.log))
        for end in (unknown, misled, good, hub):
            end.bus.stop()
        plain.close()

    uvloop.run(main())


def test_nobody_joins_where_nobody_decides(context: zmq.Context[Any]) -> None:
    async def main() -> None:
        hub = Hub(context, TCP)
        assert hub.bus._authenticator is not None
        hub.bus._authenticator.close()
        hub.bus._authenticator = None
        sock = context.socket(zmq.DEALER)
        sock.linger = 0
        sock.curve_publickey, sock.curve_secretkey, sock.curve_serverkey = *CLIENT, SERVER.public
        monitor = sock.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        sock.connect(hub.bus.endpoint)
        await until(lambda: monitor.poll(0))
        assert int.from_bytes(monitor.recv_multipart()[0][:2], sys.byteorder) == zmq.EVENT_DISCONNECTED
        sock.disable_monitor()
        monitor.close()
        sock.close()
        hub.bus.stop()

    uvloop.run(main())


def test_who_listens_in_sees_nothing_of_what_is_said(context: zmq.Context[Any]) -> None:
    seen = bytearray()

    async def main() -> None:
        hub = Hub(context, TCP)
        port = urlsplit(hub.bus.endpoint).port

        async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(65_536):
                seen.extend(data)
                writer.write(data)
            writer.close()

        async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            onward = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(pump(reader, onward[1]), pump(onward[0], writer))

        async with await asyncio.start_server(between, "127.0.0.1", 0) as proxy:
            worker = Worker(context, f"tcp://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
            await until(lambda: worker.bus.connected)
            worker.bus.send(note("price of silence" * 10))
            hub.bus.peers["worker"].send(note("price of silence" * 20))
            await until(lambda: hub.got and worker.got)
            worker.bus.stop()
            await until(lambda: not hub.bus.peers)
            hub.bus.stop()

    uvloop.run(main())
    assert b"CURVE" in seen  # it did go this way
    assert len(seen) > 16 * 30
    for secret in (b"price of", SERVER.secret, CLIENT.secret):
        assert secret not in seen


def test_one_authenticator_per_context_and_none_is_left(context: zmq.Context[Any]) -> None:
    async def main() -> None:
        hub = Hub(context, TCP)
        with pytest.raises(HeliographError, match="one bus with CURVE keys per ZeroMQ context"):
            Hub(context, TCP)
        hub.bus.stop()
        Hub(context, TCP).bus.stop()

    uvloop.run(main())


def test_keys_in_files(tmp_path: Path) -> None:
    path = tmp_path / "hub.keys"
    pair = KeyPair.generate()
    pair.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert KeyPair.load(path) == pair
    with pytest.raises(FileExistsError):
        pair.save(path)

    (tmp_path / "link").symlink_to(path)
    os.mkfifo(tmp_path / "fifo", 0o600)
    other = KeyPair.generate()
    texts = (b"", b"x", pair.public, pair.public + b"\n" + other.secret, b"\xff" * 40 + b" " + b"\xff" * 40)
    wrong = [tmp_path / "link", tmp_path / "fifo", tmp_path / "nowhere", tmp_path]
    for i, text in enumerate(texts):
        wrong.append(tmp_path / f"text{i}")
        wrong[-1].touch(0o600)
        wrong[-1].write_bytes(text)
    for file in wrong:
        with pytest.raises(ConfigError, match=file.name):
            KeyPair.load(file)
    for mode in (0o640, 0o604, 0o620):
        path.chmod(mode)
        with pytest.raises(ConfigError, match="mode 0600"):
            KeyPair.load(path)


def test_a_secret_is_not_shown() -> None:
    for keys in (SERVER, SERVER_KEYS, CLIENT_KEYS, ServerKeys(SERVER, [CLIENT.public])):
        shown = f"{keys!r} {keys}"
        assert SERVER.secret.decode() not in shown
        assert CLIENT.secret.decode() not in shown
