"""The runtime directory: who may have it, and when."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine import runtime_dir
from engine.runtime_dir import PATH_BYTES, RuntimeDir, RuntimeDirTaken
from transport.errors import ConfigError


def test_is_private_and_goes_when_released(tmp_path: Path) -> None:
    directory = RuntimeDir(tmp_path / "run")
    asyncio.run(directory.acquire())
    assert directory.path.stat().st_mode & 0o777 == 0o700
    assert directory.endpoint("hub") == f"ipc://{tmp_path}/run/hub.sock"
    directory.release()
    directory.release()
    assert not directory.path.exists()


def test_makes_an_open_directory_private(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    directory = RuntimeDir(tmp_path)
    asyncio.run(directory.acquire())
    assert tmp_path.stat().st_mode & 0o777 == 0o700
    directory.release()


def test_removes_stale_sockets_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "hub.sock").touch()
    (tmp_path / "log.txt").touch()
    directory = RuntimeDir(tmp_path)
    asyncio.run(directory.acquire())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", "log.txt"]
    directory.release()
    assert [path.name for path in tmp_path.iterdir()] == ["log.txt"]


def test_second_daemon_is_refused_by_name_at_once(tmp_path: Path) -> None:
    first, second = RuntimeDir(tmp_path), RuntimeDir(tmp_path)
    asyncio.run(first.acquire())
    with pytest.raises(RuntimeDirTaken, match=f"process {os.getpid()}") as caught:
        asyncio.run(asyncio.wait_for(second.acquire(), 1))
    assert caught.value.pid == os.getpid()
    first.release()
    asyncio.run(second.acquire())
    second.release()


def test_waits_for_a_daemon_that_is_stopping(tmp_path: Path) -> None:
    async def scenario() -> None:
        first, second = RuntimeDir(tmp_path / "run"), RuntimeDir(tmp_path / "run")
        await first.acquire()
        first.going()
        waiting = asyncio.create_task(second.acquire())
        done, _ = await asyncio.wait([waiting], timeout=0.2)
        assert not done
        first.release()  # removes the file that the second has looked at
        await asyncio.wait_for(waiting, 2)
        with pytest.raises(RuntimeDirTaken):
            await RuntimeDir(tmp_path / "run").acquire()
        second.release()

    asyncio.run(scenario())


def test_does_not_take_a_lock_that_its_holder_has_just_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, locks = fcntl.flock, []

    def flock(fd: int, operation: int) -> None:
        locks.append(fd)
        if len(locks) == 1:
            (tmp_path / "lock").unlink()  # the predecessor, between our open and our flock
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    directory = RuntimeDir(tmp_path)
    asyncio.run(directory.acquire())
    with pytest.raises(RuntimeDirTaken):
        asyncio.run(RuntimeDir(tmp_path).acquire())
    directory.release()


def test_gives_up_on_a_daemon_that_does_not_get_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_dir, "GOING_TIMEOUT", 0.1)
    first = RuntimeDir(tmp_path)
    asyncio.run(first.acquire())
    first.going()
    with pytest.raises(RuntimeDirTaken):
        asyncio.run(RuntimeDir(tmp_path).acquire())
    first.release()


def test_children_hold_the_lock_of_a_dead_daemon(tmp_path: Path) -> None:
    program = (
        "import asyncio, os, sys\n"
        "from engine.runtime_dir import RuntimeDir\n"
        "directory = RuntimeDir(sys.argv[1])\n"
        "asyncio.run(directory.acquire())\n"
        "read, write = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    os.close(write); os.read(0, 1); os._exit(0)\n"
        "os.close(read); os.write(1, b'x'); os._exit(9)\n"
    )

    async def scenario() -> None:
        with subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as dead:
            assert dead.wait(10) == 9
            directory = RuntimeDir(tmp_path)
            waiting = asyncio.create_task(directory.acquire())
            done, _ = await asyncio.wait([waiting], timeout=0.2)
            assert not done, "the child still uses it"
            assert dead.stdin is not None
            dead.stdin.close()
            await asyncio.wait_for(waiting, 3)
            directory.release()

    asyncio.run(scenario())


def test_says_what_to_do_about_a_long_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"server.runtime_dir: .* the kernel takes 107") as caught:
        RuntimeDir("/" + "x" * PATH_BYTES)
    assert caught.value.field == "server.runtime_dir"


def test_refuses_what_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    for path in (tmp_path / "link", tmp_path / "file"):
        if path.name == "file":
            path.touch()
        with pytest.raises(ConfigError, match=r"server\.runtime_dir"):
            asyncio.run(RuntimeDir(path).acquire())


def test_refuses_what_somebody_else_has_put_under_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = tmp_path / f"heliograph-{os.getuid()}-8765"
    taken.mkdir(0o777)
    with monkeypatch.context() as other:
        other.setattr(os, "getuid", lambda: taken.stat().st_uid + 1)
        with pytest.raises(ConfigError, match="is not a directory of this user"):
            asyncio.run(RuntimeDir(taken).acquire())
    assert list(taken.iterdir()) == []


@pytest.mark.parametrize("kind", ["link", "dangling", "directory", "fifo", "foreign"])
def test_does_not_write_through_a_lock_that_was_planted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    precious, path = tmp_path / "precious", tmp_path / "run"
    precious.write_text("mine")
    path.mkdir(0o777)
    lock = path / "lock"
    match kind:
        case "link":
            lock.symlink_to(precious)
        case "dangling":
            lock.symlink_to(tmp_path / "made")
        case "directory":
            lock.mkdir()
        case "fifo":
            os.mkfifo(lock)
        case "foreign":
            lock.touch()
            inode, stat = lock.stat().st_ino, os.fstat

            def fstat(fd: int) -> os.stat_result:
                found = stat(fd)
                return os.stat_result((*found[:4], found.st_uid + (found.st_ino == inode), *found[5:]))

            monkeypatch.setattr(os, "fstat", fstat)
    with pytest.raises(ConfigError, match=r"server\.runtime_dir: .*lock") as caught:
        asyncio.run(RuntimeDir(path).acquire())
    assert "remove it" in caught.value.message
    assert precious.read_text() == "mine"
    assert not (tmp_path / "made").exists()
    assert path.stat().st_mode & 0o777 == 0o700
