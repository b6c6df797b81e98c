"""The forkserver: real processes, forked, reported and buried."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from engine.forkserver import EXIT_CONFIG, EXIT_UNSEEN, ForkServer
from transport.errors import HeliographError

ROLE = "tests.engine.roles"


@asynccontextmanager
async def serving() -> AsyncIterator[ForkServer]:
    server = ForkServer(preload=[ROLE])
    await server.start()
    try:
        yield server
    finally:
        await server.close()


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):  # gone before the open, or between it and the read
        return True


async def until_gone(pid: int, timeout: float) -> None:
    async with asyncio.timeout(timeout):
        while not gone(pid):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("argument", "code"),
    [
        ({"do": "exit", "code": 0}, 0),
        ({"do": "exit", "code": 7}, 7),
        ({"do": "exit", "code": None}, 0),
        ({"do": "exit", "code": "a message"}, 1),
        ({"do": "raise"}, 1),
        ({"do": "refuse"}, EXIT_CONFIG),
        ({"do": "die"}, -signal.SIGKILL),
    ],
)
def test_reports_how_a_child_ended(argument: dict[str, object], code: int) -> None:
    async def scenario() -> None:
        async with serving() as server:
            child = await server.spawn(ROLE, "child", argument)
            assert await asyncio.wait_for(child.exit, 5) == code

    asyncio.run(scenario())


def test_many_children_at_once_are_told_apart() -> None:
    async def scenario() -> None:
        async with serving() as server:
            children = await asyncio.gather(
                *(server.spawn(ROLE, f"c{code}", {"do": "exit", "code": code}) for code in range(30))
            )
            assert await asyncio.gather(*(child.exit for child in children)) == list(range(30))
            assert len({child.pid for child in children}) == 30

    asyncio.run(scenario())


def test_a_child_is_a_fork_of_the_preloaded_image_with_a_name() -> None:
    async def scenario() -> None:
        async with serving() as server:
            child = await server.spawn(ROLE, "worker-12", {"do": "wait"})
            status = Path(f"/proc/{child.pid}/status").read_text()
            assert f"PPid:\t{server.pid}" in status
            async with asyncio.timeout(5):
                while Path(f"/proc/{child.pid}/comm").read_text() != "helio-worker-12\n":
                    await asyncio.sleep(0.01)
            os.kill(child.pid, signal.SIGINT)  # a terminal's Ctrl-C is the daemon's business
            os.kill(child.pid, signal.SIGTERM)
            assert await asyncio.wait_for(child.exit, 5) == -signal.SIGTERM

    asyncio.run(scenario())


def test_children_do_not_inherit_the_keys_of_the_admin_api(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HELIOGRAPH_ADMIN__API_KEY", "heliograph_admin__keys__a__key", "HELIOGRAPH_API_KEY"):
        monkeypatch.setenv(name, "s3cret")
    monkeypatch.setenv("HELIOGRAPH_LOG__LEVEL", "debug")

    async def test() -> bytes:
        async with serving() as server:
            return Path(f"/proc/{server.pid}/environ").read_bytes()

    environ = asyncio.run(test())
    assert b"HELIOGRAPH_LOG__LEVEL=debug" in environ
    assert b"s3cret" not in environ


def test_close_ends_everything() -> None:
    async def scenario() -> None:
        async with serving() as server:
            child = await server.spawn(ROLE, "child", {"do": "hang"})
            pid = server.pid
        assert await asyncio.wait_for(child.exit, 1) == -signal.SIGKILL
        await until_gone(child.pid, 2)
        assert pid is not None
        assert gone(pid)
        assert server.pid is None

    asyncio.run(scenario())


def test_a_dead_forkserver_is_replaced_and_its_children_live_on() -> None:
    async def scenario() -> None:
        async with serving() as server:
            child, other = [await server.spawn(ROLE, "child", {"do": "wait"}) for _ in range(2)]
            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)
            async with asyncio.timeout(5):
                while server.pid is not None:  # until it has been noticed
                    await asyncio.sleep(0)
            again = await server.spawn(ROLE, "child", {"do": "exit", "code": 5})
            assert await asyncio.wait_for(again.exit, 5) == 5
            assert not child.exit.done()
            assert not gone(child.pid)
            os.kill(child.pid, signal.SIGKILL)
            assert await asyncio.wait_for(child.exit, 5) == EXIT_UNSEEN
        await until_gone(other.pid, 5)

    asyncio.run(scenario())


def test_a_forkserver_that_hangs_is_killed_and_replaced() -> None:
    async def scenario() -> None:
        server = ForkServer(preload=[ROLE], heartbeat_interval=0.05, heartbeat_timeout=0.3)
        try:
            child = await server.spawn(ROLE, "child", {"do": "wait"})
            assert server.pid is not None
            hung = server.pid
            os.kill(hung, signal.SIGSTOP)
            with pytest.raises(HeliographError, match="the forkserver died"):
                await asyncio.wait_for(server.spawn(ROLE, "child", {"do": "wait"}), 5)
            assert gone(hung)
            again = await server.spawn(ROLE, "child", {"do": "exit", "code": 5})
            assert await asyncio.wait_for(again.exit, 5) == 5
            assert not gone(child.pid)
        finally:
            await server.close()

    asyncio.run(scenario())


def test_a_spawn_while_the_forkserver_dies_fails_with_an_error() -> None:
    async def scenario() -> None:
        async with serving() as server:
            assert server.pid is not None
            os.kill(server.pid, signal.SIGSTOP)
            spawning = asyncio.create_task(server.spawn(ROLE, "child", {"do": "wait"}))
            await asyncio.sleep(0)
            os.kill(server.pid, signal.SIGKILL)
            with pytest.raises(HeliographError, match="the forkserver died"):
                await asyncio.wait_for(spawning, 5)

    asyncio.run(scenario())


DAEMON = f"""
import asyncio
from engine.forkserver import ForkServer

async def main():
    server = ForkServer(preload=["{ROLE}"])
    await server.start()
    polite = await server.spawn("{ROLE}", "polite", {{"do": "wait"}})
    deaf = await server.spawn("{ROLE}", "deaf", {{"do": "hang"}})
    print(server.pid, polite.pid, deaf.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_kill_9_of_the_daemon_leaves_no_orphan() -> None:
    async def scenario() -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with subprocess.Popen([sys.executable, "-c", DAEMON], stdout=subprocess.PIPE, env=environment) as daemon:
            assert daemon.stdout is not None
            server, polite, deaf = map(int, daemon.stdout.readline().split())
            daemon.kill()
        await until_gone(polite, 1)
        assert not gone(deaf)
        await until_gone(deaf, 5)
        await until_gone(server, 1)

    asyncio.run(scenario())
