"""The directory where the processes of one engine meet: its lock and its sockets, open to this user only.

The lock is an flock(2), which belongs to the open file and not to a process: the daemon hands the descriptor to its
children, and so the directory stays locked until the last of them is gone, also after ``kill -9`` of the daemon.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import stat
from pathlib import Path

from transport.errors import ConfigError, HeliographError

FIELD = "server.runtime_dir"
PATH_BYTES = 107  # sun_path, less its terminating zero: unix(7)
LONGEST = "TTTTTTTT.sock"  # a worker's, named by its token: transport.handoff
LOCK = "lock"
HISTORY = "history"
GOING_TIMEOUT = 6.0  # s to wait for a daemon that is on its way out; its children have 5 s
_LOOK_AGAIN = 0.05  # s; nothing but a thread could wait for an flock


class RuntimeDirTaken(HeliographError):
    """Another daemon runs here. ``pid`` is its process id, where it is known."""

    def __init__(self, path: Path, pid: int | None) -> None:
        self.pid = pid
        who = f"process {pid}" if pid else "another process"
        super().__init__(f"{path} is in use by {who}: stop that one, or choose another port or {FIELD}")


def endpoint(path: str | os.PathLike[str], name: str) -> str:
    """The ZeroMQ endpoint of ``name`` (``hub``, ``control``) in the runtime directory ``path``."""
    return f"ipc://{Path(path) / name}.sock"


class RuntimeDir:
    """A runtime directory, unlocked until :meth:`acquire`.

    Args:
        lasting: whether the history in it is for a successor; not where the name is a port that was picked.

    Raises:
        ConfigError: its sockets' names would be longer than the kernel takes.
    """

    def __init__(self, path: str | os.PathLike[str], *, lasting: bool = True) -> None:
        self.path, self._lasting = Path(path).absolute(), lasting
        self._lock: int | None = None
        length = len(os.fsencode(self.path / LONGEST))
        if length > PATH_BYTES:
            raise ConfigError(
                f"{self.path} makes socket names of {length} bytes, the kernel takes {PATH_BYTES}: choose another",
                FIELD,
            )

    def endpoint(self, name: str) -> str:
        """See :func:`endpoint`."""
        return endpoint(self.path, name)

    @property
    def lock_fd(self) -> int:
        """The locked descriptor, for children to inherit; not inheritable by itself."""
        assert self._lock is not None, "the runtime directory is not locked"
        return self._lock

    async def acquire(self) -> None:
        """Create the directory with mode 0700, lock it and remove what an earlier daemon left there.

        Waits up to :data:`GOING_TIMEOUT` for a daemon that is stopping or dead, while its children end.

        Raises:
            RuntimeDirTaken: another daemon runs here, or does not get done.
            ConfigError: the directory cannot be made, or belongs to somebody else.
        """
        self._make()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + GOING_TIMEOUT
        while not self._try_lock():
            pid, going = self._holder()
            if not going or loop.time() >= deadline:
                raise RuntimeDirTaken(self.path, pid)
            await asyncio.sleep(_LOOK_AGAIN)
        self._write("running")
        self._clear()

    def going(self) -> None:
        """Note for a successor that this daemon is stopping: it waits instead of giving up."""
        if self._lock is not None:
            self._write("stopping")

    def release(self) -> None:
        """Remove what is ours and unlock. Call it when the children are gone. Idempotent."""
        if self._lock is None:
            return
        self._clear()
        (self.path / LOCK).unlink(missing_ok=True)
        os.close(self._lock)
        self._lock = None
        try:
            self.path.rmdir()
        except OSError:
            pass  # somebody keeps something else there, or a successor has begun

    def _clear(self) -> None:
        for left in self.path.glob("*.sock"):
            left.unlink(missing_ok=True)
        if not self._lasting:
            shutil.rmtree(self.path / HISTORY, ignore_errors=True)

    def _make(self) -> None:
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _is_ours(self.path.lstat(), stat.S_IFDIR):
                # In a shared TMPDIR anybody can put something under our name.
                raise ConfigError(f"{self.path} is not a directory of this user", FIELD)
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fchmod(fd, 0o700)
            finally:
                os.close(fd)
        except OSError as error:
            raise ConfigError(f"cannot create {self.path}: {error.strerror}", FIELD) from None

    def _try_lock(self) -> bool:
        self._make()  # a predecessor may have removed it meanwhile
        try:
            fd = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise ConfigError(f"cannot use {self.path / LOCK}, remove it: {error.strerror}", FIELD) from None
        if not _is_ours(os.fstat(fd), stat.S_IFREG):
            # From when others could write here. What it says about who runs is theirs, and they could keep it locked.
            os.close(fd)
            raise ConfigError(f"{self.path / LOCK} is not a file of this user, remove it", FIELD)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_ino == os.stat(self.path / LOCK).st_ino:
                self._lock = fd
                return True
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(fd)  # held by another, or a file that its holder has just removed
        return False

    def _write(self, state: str) -> None:
        os.ftruncate(self.lock_fd, 0)
        os.pwrite(self.lock_fd, f"{os.getpid()} {state}\n".encode(), 0)

    def _holder(self) -> tuple[int | None, bool]:
        """Who holds the lock, and whether it is on its way out."""
        try:
            pid_text, state = (self.path / LOCK).read_text().split()
            pid = int(pid_text)
        except (OSError, ValueError):
            return None, True  # just created, or just removed
        return pid, state == "stopping" or not _alive(pid)


def _is_ours(found: os.stat_result, kind: int) -> bool:
    return stat.S_IFMT(found.st_mode) == kind and found.st_uid == os.getuid()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
