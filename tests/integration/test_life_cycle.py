"""The command's life: how it starts, what it takes while it runs, how it ends, and what it says meanwhile."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.integration.harness import COMMAND, ROOT, EngineProcess, RawClient

Start = Callable[..., EngineProcess]
Eventually = Callable[..., Awaitable[None]]
TIMEOUT = 10.0
one_process_and_several = pytest.mark.parametrize("workers", [0, 2])


def run(*options: str, config: str | None = None, **fields: object) -> subprocess.CompletedProcess[str]:
    """A start that is expected to fail: exit code, stdout and stderr of the command."""
    with tempfile.TemporaryDirectory(prefix="helio-") as directory:
        environ = {"HELIOGRAPH_SERVER__RUNTIME_DIR": f"{directory}/run", "HELIOGRAPH_LOG__FORMAT": "json"}
        environ |= {f"HELIOGRAPH_{name.upper()}": str(value) for name, value in fields.items()}
        if config is not None:
            file = Path(directory, "heliograph.toml")
            file.write_text(config)
            options = ("--config", str(file), *options)
        return subprocess.run(
            [*COMMAND, "--port", "0", "--admin-port", "0", *options],
            cwd=ROOT,
            env=os.environ | environ,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )


# the start ------------------------------------------------------------------------------------------------------------


@one_process_and_several
def test_the_ready_line_is_the_only_one_and_says_where(engine_process: Start, workers: int) -> None:
    engine = engine_process(workers=workers)
    assert engine.admin("/ready")[0] == 200
    line = engine._out.read_text()
    assert re.fullmatch(r"ready ws://127\.0\.0\.1:(\d+)/ws admin http://127\.0\.0\.1:(\d+)\n", line)
    assert engine.stop() == 0
    assert engine._out.read_text() == line


@one_process_and_several
def test_a_protocol_that_cannot_be_imported_is_a_wrong_configuration(workers: int) -> None:
    config = '[feeds.up]\nurl = "ws://127.0.0.1:1/"\nprotocol = "nowhere:Nothing"\n'
    done = run("--workers", str(workers), config=config)
    assert (done.returncode, done.stdout) == (2, "")
    assert "feeds.up.protocol: cannot import 'nowhere:Nothing'" in done.stderr


@one_process_and_several
@pytest.mark.parametrize("option", ["--port", "--admin-port"])
def test_a_taken_port_is_an_error_that_names_it(option: str, workers: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("--workers", str(workers), option, str(port))
    assert (done.returncode, done.stdout) == (1, "")
    assert f"127.0.0.1:{port}" in done.stderr and "taken" in done.stderr


@pytest.mark.parametrize(
    ("config", "options", "field"),
    [
        ("[server]\nprot = 1", [], "server.prot"),
        ("[delivery]\nwrite_buffer = 1", [], "delivery.write_buffer"),
        ("[limits]\ntopics = 'many'", [], "limits.topics"),
        ("[server]\nheartbeat_interval = 3.0\nheartbeat_timeout = 5.0", [], "server.heartbeat_timeout"),
        ("[feeds.fx]\nurl = 'http://example.com'", [], "feeds.fx.url"),
        ("[stages.mine]\nactor = 'nothing'", [], "stages.mine.actor"),
        ("[stages.mine]\nactor = 'nowhere.at_all:Class'", ["--workers", "0"], "stages.mine.actor"),
        ("[admin]\nhost = '0.0.0.0'", [], "admin.api_key"),
        ("[auth]\nsecret = 'short'", [], "auth.secret"),
        ("[server]\nhost = '0.0.0.0'", [], "server.host"),
        ("[server", [], "not TOML"),
        ("", ["--workers", "-1"], "server.workers"),
        ("", ["--config", "/nowhere.toml"], "/nowhere.toml"),
        ("", ["--workers", "many"], "--workers"),
        ("", ["--demon"], "--demon"),
    ],
)
def test_a_bad_configuration_is_exit_code_2_and_names_the_field(config: str, options: list[str], field: str) -> None:
    done = run(*options, config=config)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert field in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bad_variable_of_the_environment_is_named() -> None:
    done = run(delivery__pacing="fast")
    assert done.returncode == 2
    assert "delivery.pacing" in done.stderr and "HELIOGRAPH_DELIVERY__PACING" in done.stderr


@pytest.mark.parametrize("port", ["same", "other"])
def test_a_second_daemon_in_the_same_directory_is_refused(engine_process: Start, port: str) -> None:
    first = engine_process()
    number = first.port if port == "same" else 0
    done = run("--port", str(number), server__runtime_dir=first.runtime_dir)
    assert (done.returncode, done.stdout) == (1, "")
    assert first.runtime_dir in done.stderr and f"process {first.pid}" in done.stderr

    async def scenario() -> None:
        async with RawClient(first.url) as client:  # the first one has noticed nothing
            assert (await client.request("publish", topic="t", data=1))["offset"] == 1

    asyncio.run(scenario())
    assert first.admin("/health")[1]["status"] == "ok"


def test_a_successor_waits_for_one_that_is_stopping(engine_process: Start) -> None:
    first = engine_process()
    port = first.port
    os.kill(first.pid, signal.SIGTERM)
    second = engine_process(port=port, server__runtime_dir=first.runtime_dir)
    assert second.port == port
    assert first.wait() == 0


# the end --------------------------------------------------------------------------------------------------------------


@one_process_and_several
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(engine_process: Start, eventually: Eventually, workers: int, number: signal.Signals) -> None:
    engine = engine_process(workers=workers, server__drain_timeout=1.0)

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(RawClient(engine.url)) for _ in range(20)]
            for client in clients[1:]:
                await client.subscribe("t.*", snapshot=True)
            # It never answers the close frame, so the drain lasts until its deadline.
            deaf = await stack.enter_async_context(RawClient(engine.url))
            deaf._connection.transport.pause_reading()
            os.kill(engine.pid, number)
            await eventually(lambda: all(client.closed is not None for client in clients))
            for client in clients:
                assert client.closed == 1012
                bye = client.messages[-1]
                assert {name: bye[name] for name in ("op", "code", "reason", "reconnect")} == {
                    "op": "bye",
                    "code": 1012,
                    "reason": "drain",
                    "reconnect": True,
                }
                assert 0 <= bye["reconnect_in"] <= 10
            assert len({client.messages[-1]["reconnect_in"] for client in clients}) > 10, "spread, not all at once"
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", engine.port)).close()
            status, why = engine.admin("/ready")
            assert (status, "draining" in str(why)) == (503, True)
            assert await asyncio.to_thread(engine.wait) == 0

    asyncio.run(scenario())


@one_process_and_several
def test_half_a_handshake_does_not_hold_up_the_end(engine_process: Start, workers: int) -> None:
    engine = engine_process(workers=workers, server__drain_timeout=60)
    with socket.create_connection(("127.0.0.1", engine.port)) as stranger:
        stranger.sendall(b"GET /ws HTTP/1.1\r\n")
        assert engine.stop() == 0


@one_process_and_several
def test_what_was_acknowledged_before_the_signal_is_delivered_before_bye(engine_process: Start, workers: int) -> None:
    engine = engine_process(workers=workers)

    async def scenario() -> None:
        async with RawClient(engine.url) as client, RawClient(engine.url) as publisher:
            await client.subscribe("t")
            answers = [publisher.send("publish", topic="t", data=n) for n in range(500)]
            await asyncio.gather(*answers)
            # The answer to this one comes through the same pipe behind all events.
            await client.request("snapshot", topics=["t"])
            os.kill(engine.pid, signal.SIGTERM)
            assert await asyncio.to_thread(engine.wait) == 0
            async with asyncio.timeout(TIMEOUT):
                while client.closed is None:
                    await asyncio.sleep(0.002)
            assert client.offsets("t") == list(range(1, 501))
            assert client.messages[-1]["op"] == "bye"

    asyncio.run(scenario())


# a reload -------------------------------------------------------------------------------------------------------------


def _reloads(engine: EngineProcess) -> list[dict[str, object]]:
    return [line for line in engine.log() if line["event"] == "engine_reloaded"]


@one_process_and_several
def test_a_reload_takes_what_it_can_says_what_it_cannot_and_drops_nobody(
    engine_process: Start, eventually: Eventually, workers: int
) -> None:
    engine = engine_process(
        '[limits]\ntopics_per_request = 2\nconnections = 100\n[log]\nlevel = "warning"', workers=workers
    )
    file = Path(engine.runtime_dir).parent / "heliograph.toml"

    async def scenario() -> None:
        assert engine.log() == []
        async with RawClient(engine.url) as old, RawClient(engine.url) as publisher:
            assert (await old.request("subscribe", topics=["a", "b", "c"]))["code"] == "limit_exceeded"
            await old.subscribe("t")
            await publisher.request("publish", topic="t", data=1)
            file.write_text(
                "[limits]\ntopics_per_request = 3\n"
                '[delivery]\npacing = 0.0\nslow_policy = "disconnect"\n'
                '[log]\nlevel = "info"\n'
                "[history]\ntopic_idle = 60.0\n"
                "[server]\nheartbeat_timeout = 7.0\n"
            )
            os.kill(engine.pid, signal.SIGHUP)
            await eventually(lambda: _reloads(engine))
            assert _reloads(engine)[0]["needs_restart"] == ["server.heartbeat_timeout", "history.topic_idle"]
            async with RawClient(engine.url) as new:
                await new.subscribe("a", "b", "c")
            await publisher.request("publish", topic="t", data=2)
            await eventually(lambda: old.offsets("t") == [1, 2])
            assert old.closed is None and publisher.closed is None and not old.of("gap")

            # Lines that only the new level lets through, of each process.
            await eventually(lambda: {"daemon", *engine.children()} <= {line["process"] for line in engine.log()})

    asyncio.run(scenario())
    assert engine.stop() == 0


@one_process_and_several
def test_a_reload_that_is_wrong_changes_nothing_and_says_why(
    engine_process: Start, eventually: Eventually, workers: int
) -> None:
    engine = engine_process("[limits]\ntopics_per_request = 2\n", workers=workers)
    file = Path(engine.runtime_dir).parent / "heliograph.toml"

    def failures() -> list[str]:
        return [str(line["error"]) for line in engine.log() if line["event"] == "reload_failed"]

    async def scenario() -> None:
        async with RawClient(engine.url) as client:
            file.write_text("[limits]\ntopics_per_request = 3\nfoo = 1\n")
            os.kill(engine.pid, signal.SIGHUP)
            await eventually(failures)
            assert "limits.foo" in failures()[0] and "line 3" in failures()[0]
            assert (await client.request("subscribe", topics=["a", "b", "c"]))["code"] == "limit_exceeded"
            file.unlink()
            os.kill(engine.pid, signal.SIGHUP)
            await eventually(lambda: len(failures()) == 2)
            assert str(file) in failures()[1]
            assert client.closed is None

    asyncio.run(scenario())
    assert engine.admin("/health")[1]["status"] == "ok"


# the service manager --------------------------------------------------------------------------------------------------


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with (
        tempfile.TemporaryDirectory(prefix="helio-") as directory,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
    ):
        sock.bind(f"{directory}/notify")
        sock.settimeout(TIMEOUT)
        monkeypatch.setenv("NOTIFY_SOCKET", f"{directory}/notify")
        yield sock


def _said(manager: socket.socket, state: str) -> list[str]:
    """Everything up to the datagram with ``state``, which is its last."""
    said: list[str] = []
    while state not in said:
        said += manager.recv(4096).decode().split("\n")
    return said


@one_process_and_several
def test_the_service_manager_is_told(engine_process: Start, manager: socket.socket, workers: int) -> None:
    engine = engine_process(workers=workers)
    assert "READY=1" in _said(manager, "READY=1")
    os.kill(engine.pid, signal.SIGHUP)
    assert any(state.startswith("MONOTONIC_USEC=") for state in _said(manager, "RELOADING=1"))
    _said(manager, "READY=1")
    os.kill(engine.pid, signal.SIGTERM)
    _said(manager, "STOPPING=1")
    assert engine.wait() == 0
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(4096)


@one_process_and_several
def test_the_watchdog_is_fed(
    engine_process: Start, manager: socket.socket, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    engine_process(workers=workers)
    for _ in range(12):  # the kernel keeps ten for who does not read yet, and drops what comes then
        _said(manager, "WATCHDOG=1")
