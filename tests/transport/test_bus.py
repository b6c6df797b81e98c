"""Server and clients on real sockets, in one process and in several, with kill -9 and SIGSTOP."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import uvloop
import zmq

from transport import bus, codec
from transport.bus import Header, Kind
from transport.bus_client import BusClient, State
from transport.bus_server import BusServer, Peer
from transport.curve import ClientKeys, KeyPair, ServerKeys
from transport.errors import ConnectionLost, HeliographError
from transport.messages import Hello, Tell

ROOT = Path(__file__).resolve().parents[2]
SERVER, CLIENT = KeyPair.generate(), KeyPair.generate()
SERVER_KEYS, CLIENT_KEYS = ServerKeys(SERVER, [CLIENT.public]), ClientKeys(CLIENT, SERVER.public)


class Hub:
    """A server's owner that remembers what it was told."""

    def __init__(self, context: zmq.Context[Any], endpoint: str, **options: Any) -> None:
        self.log: list[tuple[Any, ...]] = []
        self.got: list[Any] = []
        keys = SERVER_KEYS if endpoint.startswith("tcp") else None
        self.bus = BusServer(context, endpoint, self, **{"name": "hub", "keys": keys} | options)
        self.bus.start()

    def on_peer(self, peer: Peer) -> None:
        self.log.append(("peer", peer.name))

    def on_batch(self, peer: Peer, items: list[Any]) -> None:
        self.got += [item.body for item in items]

    def on_window(self, peer: Peer, is_open: bool) -> None:
        self.log.append(("window", is_open))

    def on_gone(self, peer: Peer, reason: str) -> None:
        self.log.append(("gone", peer.name, reason))


class Worker:
    """A client's owner that remembers what it was told."""

    def __init__(self, context: zmq.Context[Any], endpoint: str, **options: Any) -> None:
        self.log: list[tuple[Any, ...]] = []
        self.got: list[Any] = []
        keys = CLIENT_KEYS if endpoint.startswith("tcp") else None
        self.bus = BusClient(context, endpoint, self, **{"name": "worker", "auto_ack": True, "keys": keys} | options)
        self.bus.start()

    def on_server(self, incarnation: str) -> None:
        self.log.append(("server", incarnation))

    def on_batch(self, items: list[Any]) -> None:
        self.got += [item.body for item in items]

    def on_window(self, is_open: bool) -> None:
        self.log.append(("window", is_open))

    def on_lost(self, reason: str) -> None:
        self.log.append(("lost", reason))


def note(body: Any) -> bytes:
    return codec.pack(Tell("test", "note", body))


NOTICED = 4.0
"""s; far below the heartbeats' timeouts of these tests, far above what a busy machine needs: seen by the connection."""


async def until(condition: Callable[[], Any], timeout: float = 8.0) -> float:
    """Wait for the condition; returns the seconds it took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < timeout, "the condition did not come true in time"
        await asyncio.sleep(0.001)
    return time.monotonic() - start


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    context: zmq.Context[Any] = zmq.Context()
    yield context
    ended = threading.Thread(target=context.term, daemon=True)
    ended.start()
    ended.join(5)
    # Not context.destroy(): a second term() beside the one that waits never returns, and with it the whole run.
    assert not ended.is_alive(), "a socket was left open"


@pytest.fixture(params=["ipc", "inproc", "tcp"])
def endpoint(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return {"ipc": f"ipc://{tmp_path}/bus", "inproc": "inproc://bus", "tcp": "tcp://127.0.0.1:*"}[request.param]


@pytest.fixture
def ipc(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/bus"


def run(main: Awaitable[None]) -> None:
    uvloop.run(main)  # type: ignore[arg-type]


@pytest.mark.parametrize("runner", [asyncio.run, uvloop.run])
def test_batches_go_both_ways_in_order(context, endpoint, runner):
    async def main() -> None:
        hub = Hub(context, endpoint)
        worker = Worker(context, hub.bus.endpoint)
        await until(lambda: hub.bus.peers and worker.bus.connected)
        peer = hub.bus.peers["worker"]
        assert (peer.name, peer.pid, peer.identity) == ("worker", os.getpid(), f"worker.{peer.incarnation}".encode())
        for i in range(3000):
            peer.send(note(i))
            worker.bus.send(note(-i))
            if i % 100 == 0:
                await asyncio.sleep(0)
        await until(lambda: len(worker.got) == len(hub.got) == 3000)
        assert worker.got == list(range(3000))
        assert hub.got == [-i for i in range(3000)]
        worker.bus.stop()
        await until(lambda: not hub.bus.peers)
        hub.bus.stop()
        assert hub.log == [("peer", "worker"), ("gone", "worker", "it said bye")]
        assert worker.log == [("server", hub.bus.incarnation), ("lost", "stopped")]

    runner(main())


def test_the_clients_of_a_hub_get_each_their_own(context, ipc):
    async def main() -> None:
        hub = Hub(context, ipc)
        workers = [Worker(context, ipc, name=f"worker-{i}") for i in range(4)]
        await until(lambda: len(hub.bus.peers) == 4)
        shared = note("all")
        for i in range(4):
            hub.bus.peers[f"worker-{i}"].out.extend([shared, note(i), shared])
        hub.bus.wake()
        await until(lambda: all(len(worker.got) == 3 for worker in workers))
        assert [worker.got for worker in workers] == [["all", i, "all"] for i in range(4)]
        for end in (*workers, hub):
            end.bus.stop()

    run(main())


def test_what_is_in_a_hurry_goes_at_once_and_the_rest_of_its_turn_together(context, ipc):
    async def main() -> None:
        hub, worker = Hub(context, ipc), Worker(context, ipc)
        await until(lambda: hub.bus.peers)
        out = hub.bus.peers["worker"].out
        left = []
        with mock.patch.object(hub.bus, "_loop", wraps=hub.bus._loop) as loop:
            loop.time.return_value = hub.bus._loop.time() + 1.0  # it stands still
            for i in range(3):
                out.append(note(i))
                hub.bus.hurry()
                left.append(len(out))
        assert left == [0, 1, 2]
        await until(lambda: len(worker.got) == 3)
        assert worker.got == [0, 1, 2]
        out.append(note(3))
        hub.bus.wake()
        hub.bus.hurry()
        assert out, "it was to wait for the end of the turn"
        await until(lambda: len(worker.got) == 4)
        worker.bus.stop()
        hub.bus.stop()

    run(main())


def test_a_look_at_the_connection_swallows_no_message(context, endpoint):
    async def main() -> None:
        quiet = {"heartbeat_interval": 20.0, "heartbeat_timeout": 60.0}
        hub = Hub(context, endpoint, **quiet)
        worker = Worker(context, hub.bus.endpoint, **quiet)
        await until(lambda: worker.bus.connected and hub.bus.peers)
        for i in range(20):
            hub.bus.peers["worker"].out.append(note(i))
            hub.bus.flush()
            time.sleep(0.02)  # it arrives while nobody reads
            worker.bus._tick()
            await until(lambda i=i: len(worker.got) > i, NOTICED)
        worker.bus.stop()
        hub.bus.stop()

    run(main())


def test_a_client_may_come_first_and_meets_each_incarnation(context, endpoint):
    async def main() -> None:
        nonlocal endpoint
        if endpoint.startswith("tcp"):
            probe = Hub(context, endpoint)
            endpoint = probe.bus.endpoint
            probe.bus.stop()
        worker = Worker(context, endpoint)
        incarnations = []
        for _ in range(3):
            with pytest.raises(ConnectionLost):
                worker.bus.send(note(1))
            hub = Hub(context, endpoint)
            incarnations.append(hub.bus.incarnation)
            await until(lambda: worker.bus.connected)
            worker.bus.send(note("hello"))
            await until(lambda hub=hub: hub.got == ["hello"])
            hub.bus.stop()
            assert hub.log[-1] == ("gone", "worker", "the bus stopped")
            assert await until(lambda: not worker.bus.connected) < NOTICED
        worker.bus.stop()
        assert [entry[1] for entry in worker.log if entry[0] == "server"] == incarnations
        assert [entry[0] for entry in worker.log] == ["server", "lost"] * 3

    run(main())


def test_the_window_closes_at_its_bytes_and_opens_when_they_are_processed(context, endpoint):
    window = 256 << 10

    async def main() -> None:
        hub = Hub(context, endpoint, window=window)
        worker = Worker(
            context, hub.bus.endpoint, window=window, auto_ack=False, heartbeat_interval=60, heartbeat_timeout=99
        )
        await until(lambda: hub.bus.peers and worker.bus.connected)
        peer, sent = hub.bus.peers["worker"], 0
        while peer.window_open:
            peer.send(note([sent, bytes(1000)]))
            hub.bus.flush()
            sent += 1
        assert window <= peer.unacknowledged_bytes < window + 2000
        await until(lambda: len(worker.got) == sent)
        control = note("control")
        peer.send(control)
        hub.bus.flush()
        assert peer.queued_bytes == len(control)
        worker.bus.processed(sent // 4)
        await asyncio.sleep(0.05)
        assert not peer.window_open
        worker.bus.processed()
        await until(lambda: peer.window_open)
        await until(lambda: worker.got[-1] == "control")
        assert peer.queued_bytes == 0
        assert hub.log == [("peer", "worker"), ("window", False), ("window", True)]
        worker.bus.stop()
        hub.bus.stop()

    run(main())


def test_a_publisher_waits_for_a_hub_that_is_behind(context, ipc):
    async def main() -> None:
        hub = Hub(context, ipc, window=64 << 10, auto_ack=False)
        worker = Worker(context, ipc, window=64 << 10)
        total = 0

        async def publish() -> None:
            nonlocal total
            while True:
                await worker.bus.writable()
                worker.bus.send(note(bytes(1000)))
                worker.bus.flush()
                total += 1

        publisher = asyncio.ensure_future(publish())
        await until(lambda: ("window", False) in worker.log)
        await until(lambda: len(hub.got) == total)
        assert 64 <= total < 70
        hub.bus.peers["worker"].processed()
        await until(lambda: total > 100)
        assert ("window", True) in worker.log
        worker.bus.stop()
        with pytest.raises(ConnectionLost):
            await asyncio.wait_for(publisher, 5)
        hub.bus.stop()

    run(main())


@pytest.mark.parametrize("endpoint", ["ipc"], indirect=True)
def test_much_data_is_bounded_and_whole(context, endpoint):
    async def main() -> None:
        hub = Hub(context, endpoint, window=1 << 20)
        worker = Worker(context, endpoint, window=1 << 20)
        await until(lambda: hub.bus.peers)
        peer, most = hub.bus.peers["worker"], 0
        item = note(bytes(2000))
        for _ in range(10_000):
            while not peer.window_open:
                await asyncio.sleep(0)
            peer.out.append(item)
            if len(peer.out) == 50:
                hub.bus.flush()
                most = max(most, peer.unacknowledged_bytes)
        hub.bus.flush()
        await until(lambda: len(worker.got) == 10_000)
        assert most <= (1 << 20) + bus.BATCH_BYTES
        worker.bus.stop()
        hub.bus.stop()

    run(main())


def test_one_large_message_and_many_small_ones_keep_the_loop_alive(context, ipc):
    async def main() -> None:
        hub = Hub(context, ipc)
        worker = Worker(context, ipc)
        await until(lambda: hub.bus.peers)
        large = bytes(4 << 20)
        hub.bus.peers["worker"].send(note(large))
        for i in range(20_000):
            hub.bus.peers["worker"].out.append(note(i))
        turns = 0
        hub.bus.wake()
        while len(worker.got) < 20_001:
            await asyncio.sleep(0)
            turns += 1
        assert worker.got == [large, *range(20_000)]
        assert turns > 2
        worker.bus.stop()
        hub.bus.stop()

    run(main())


def test_a_peer_that_comes_again_replaces_its_former_self(context, ipc):
    async def main() -> None:
        hub = Hub(context, ipc)
        first = Worker(context, ipc)
        await until(lambda: first.bus.connected)
        former = hub.bus.peers["worker"]
        second = Worker(context, ipc)
        await until(lambda: second.bus.connected)
        first.bus.stop()
        assert hub.log[:3] == [
            ("peer", "worker"),
            ("gone", "worker", "replaced by a new incarnation"),
            ("peer", "worker"),
        ]
        with pytest.raises(ConnectionLost):
            former.send(note(1))
        second.bus.stop()
        hub.bus.stop()

    run(main())


def test_a_client_that_the_server_forgot_begins_anew(context, endpoint):
    async def main() -> None:
        hub = Hub(context, endpoint)
        worker = Worker(context, hub.bus.endpoint, heartbeat_interval=0.05, heartbeat_timeout=10)
        await until(lambda: worker.bus.connected)
        forgotten = hub.bus.peers["worker"]
        del hub.bus._by_identity[forgotten.identity], hub.bus._peers["worker"]  # as a new server on the same socket
        await until(lambda: len(worker.log) == 3)
        assert [entry[0] for entry in worker.log] == ["server", "lost", "server"]
        assert worker.log[1][1] == "the server does not know this client any more"
        assert hub.bus.stale >= 1
        worker.bus.send(note("again"))
        await until(lambda: hub.got == ["again"])
        worker.bus.stop()
        hub.bus.stop()

    run(main())


@pytest.mark.parametrize(
    ("frames", "malformed", "stale"),
    [
        ([b"garbage"], 1, 0),
        ([b""], 1, 0),
        ([b"a", b"b", b"c"], 1, 0),
        ([Header(Kind.HELLO, "x", "", 0, 0).packed()], 1, 0),
        ([Header(Kind.HELLO, "x", "", 0, 0).packed() + codec.join([codec.pack(Tell("a", "b", 1))])], 1, 0),
        ([Header(Kind.HELLO, "x", "", 0, 0).packed() + codec.join([codec.pack(Hello("other", "x", 1))])], 1, 0),
        ([Header(Kind.BATCH, "x", "y", 1, 0).packed() + codec.join([note(1)])], 0, 1),
        ([Header(Kind.HEARTBEAT, "x", "y", 1, 0).packed()], 0, 1),
    ],
)
def test_what_is_wrong_is_dropped_and_counted(context, ipc, frames, malformed, stale):
    async def main() -> None:
        hub = Hub(context, ipc)
        worker = Worker(context, ipc)
        await until(lambda: worker.bus.connected)
        with context.socket(zmq.DEALER) as stranger:
            stranger.identity = b"stranger.x"
            stranger.connect(ipc)
            stranger.send_multipart(frames)
            await until(lambda: (hub.bus.malformed, hub.bus.stale) == (malformed, stale))
            if stale:
                await until(lambda: stranger.poll(0))
                answer = bus.unpack_header(stranger.recv())
                assert answer == Header(Kind.HELLO, hub.bus.incarnation, "", 0, 0)
        worker.bus.send(note("unharmed"))
        await until(lambda: hub.got == ["unharmed"])
        worker.bus.stop()
        hub.bus.stop()

    run(main())


@pytest.mark.parametrize("damage", ["sequence", "ack", "body"])
def test_a_broken_link_is_begun_anew_by_both(context, ipc, damage):
    async def main() -> None:
        hub = Hub(context, ipc)
        worker = Worker(context, ipc)
        await until(lambda: worker.bus.connected)
        link = worker.bus._link
        header = Header(
            Kind.BATCH, link.mine, link.theirs, 7 if damage == "sequence" else 1, 9 if damage == "ack" else 0
        )
        worker.bus._send(header.packed() + (b"\xc1" if damage == "body" else codec.join([note(1)])))
        await until(lambda: len(worker.log) == 3)
        assert worker.log[1] in [("lost", "the server said bye"), ("lost", "disconnected")]
        assert hub.log[1][2].startswith("protocol error: ")
        assert hub.bus.malformed == 1
        peer = hub.bus.peers["worker"]
        bad = Header(Kind.BATCH, peer.link.mine, peer.link.theirs, 3, 0).packed()
        hub.bus._send(peer, bad + codec.join([note(1)]))
        await until(lambda: len(worker.log) == 5)
        assert worker.log[3] == ("lost", "protocol error: batch 3 arrived where 1 was due")
        await until(lambda: len(hub.log) == 5)
        worker.bus.send(note("anew"))
        await until(lambda: hub.got == ["anew"])
        worker.bus.stop()
        hub.bus.stop()

    run(main())


def test_a_handler_that_raises_stalls_nothing(context, ipc):
    async def main() -> None:
        hub = Hub(context, ipc)
        worker = Worker(context, ipc)
        await until(lambda: worker.bus.connected)
        caught: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, info: caught.append(info["exception"]))

        def fail(peer: Peer, items: list[Any]) -> None:
            hub.got.append(None)
            raise ZeroDivisionError

        hub.on_batch = fail  # type: ignore[method-assign]
        for _ in range(20):
            worker.bus.send(note(1))
            worker.bus.flush()
        await until(lambda: len(hub.got) == 20)
        assert [type(error) for error in caught] == [ZeroDivisionError] * 20
        assert hub.bus.peers["worker"].link.intake.processed == 20
        worker.bus.stop()
        hub.bus.stop()

    run(main())


def test_an_endpoint_that_is_taken_is_an_error_that_names_it(context):
    async def main() -> None:
        hub = Hub(context, "tcp://127.0.0.1:*")
        taken = f"cannot listen on {hub.bus.endpoint}: Address already in use"
        with zmq.Context() as other, pytest.raises(HeliographError, match=taken):
            Hub(other, hub.bus.endpoint)
        hub.bus.stop()

    run(main())


def test_a_successor_can_have_the_endpoint_at_once(context, endpoint):
    async def main() -> None:
        hub = Hub(context, endpoint)
        worker = Worker(context, hub.bus.endpoint)
        for _ in range(20):
            hub.bus.stop()
            hub = Hub(context, hub.bus.endpoint)
        await until(lambda: hub.bus.peers and worker.bus.connected)
        worker.bus.stop()
        hub.bus.stop()

    run(main())


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize("endpoint", ["ipc", "inproc"], indirect=True)
def test_stopping_leaves_nothing_behind(context, endpoint):
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    async def main() -> None:
        async def cycle() -> None:
            hub = Hub(context, endpoint)
            worker = Worker(context, endpoint)
            await until(lambda: worker.bus.connected)
            worker.bus.stop()
            hub.bus.stop()
            worker.bus.stop()
            hub.bus.stop()
            assert worker.bus.state is State.STOPPED

        await cycle()
        await asyncio.sleep(0.05)
        files, threads, tasks = open_files(), threading.active_count(), len(asyncio.all_tasks())
        for _ in range(30):
            await cycle()
        await until(lambda: open_files() <= files)
        assert (threading.active_count(), len(asyncio.all_tasks())) == (threads, tasks)

    run(main())


def test_looking_for_an_absent_server_leaves_nothing_behind(context, ipc):
    async def main() -> None:
        worker = Worker(context, ipc, heartbeat_interval=0.02, heartbeat_timeout=0.05)
        socket = worker.bus._sock
        await asyncio.sleep(0.3)
        assert worker.bus._sock is socket  # it waits for the server, not for an answer to a hello it could not send
        worker.bus.stop()
        assert worker.log == []

    run(main())


# separate processes ---------------------------------------------------------------------------------------------------


def spawn(cls: str, endpoint: str) -> subprocess.Popen[bytes]:
    """A process that runs a Hub or a Worker; a Hub answers what it gets, a Worker streams numbers."""
    code = f"""
import asyncio, importlib.util, sys, uvloop, zmq
sys.path.insert(0, {str(ROOT)!r})
spec = importlib.util.spec_from_file_location("bus_helpers", {__file__!r})
helpers = importlib.util.module_from_spec(spec); spec.loader.exec_module(helpers)

async def main():
    context = zmq.Context()
    owner = helpers.{cls}(context, {endpoint!r}, heartbeat_interval=0.05, heartbeat_timeout=0.5)
    number = 0
    while True:
        if {cls!r} == "Worker":
            await owner.bus.writable()
            owner.bus.send(helpers.note(number))
            number += 1
        else:
            for peer in owner.bus.peers.values():
                peer.send(helpers.note(len(owner.got)))
        await asyncio.sleep(0.001)

uvloop.run(main())
"""
    return subprocess.Popen([sys.executable, "-c", code])


def test_a_killed_client_is_noticed_at_once(context, ipc):
    async def main() -> None:
        hub = Hub(context, ipc, heartbeat_interval=30, heartbeat_timeout=60)
        process = spawn("Worker", ipc)
        try:
            await until(lambda: len(hub.got) > 100)
            process.kill()
            took = await until(lambda: not hub.bus.peers)
            assert took < NOTICED
            assert hub.log == [("peer", "worker"), ("gone", "worker", "disconnected")]
            assert hub.got == list(range(len(hub.got)))
        finally:
            process.kill()
            process.wait()
        hub.bus.stop()

    run(main())


def test_a_killed_server_is_noticed_at_once_and_its_successor_found(context, ipc):
    async def main() -> None:
        process = spawn("Hub", ipc)
        worker = Worker(context, ipc, heartbeat_interval=30, heartbeat_timeout=60)
        try:
            await until(lambda: len(worker.got) > 100)
            process.kill()
            took = await until(lambda: not worker.bus.connected)
            assert took < NOTICED
            assert worker.log[1:] == [("lost", "disconnected")]
            process.wait()
            process = spawn("Hub", ipc)
            await until(lambda: worker.bus.connected)
            assert worker.log[2][0] == "server"
            assert worker.log[2] != worker.log[0]
            worker.got.clear()
            await until(lambda: len(worker.got) > 100)
        finally:
            process.kill()
            process.wait()
        worker.bus.stop()

    run(main())


@pytest.mark.parametrize("side", ["Hub", "Worker"])
def test_a_silent_peer_is_dead_after_the_timeout_and_may_come_back(context, ipc, side):
    """SIGSTOP leaves the connection up: only the missing heartbeats tell."""

    async def main() -> None:
        options = {"heartbeat_interval": 0.05, "heartbeat_timeout": 0.5}
        process = spawn(side, ipc)
        owner: Any = (Worker if side == "Hub" else Hub)(context, ipc, **options)
        try:
            await until(lambda: len(owner.got) > 10)
            process.send_signal(signal.SIGSTOP)
            took = await until(lambda: len(owner.log) == 2)
            assert 0.3 < took < 1.5
            assert owner.log[1][-1].endswith("silent for 0.5 s")
            process.send_signal(signal.SIGCONT)
            await until(lambda: len(owner.log) == 3)
            assert owner.log[2][0] in ("server", "peer")
            owner.got.clear()
            await until(lambda: len(owner.got) > 10)
        finally:
            process.kill()
            process.wait()
        owner.bus.stop()

    run(main())
