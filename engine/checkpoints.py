"""What a job needs to go on after its death: a file per job name, which one process at a time holds."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec

from engine.state_path import state_directory
from transport.errors import HeliographError

DIRECTORY: Final = "HELIOGRAPH_JOBS_DIR"
MAX_NAME: Final = 200  # bytes of a job's name as a file's; file systems allow 255
RUN_BYTES: Final = 8
LOCK_ATTEMPTS: Final = 100  # a lock file that its holder has just removed is made anew


class SavedStage(msgspec.Struct, frozen=True):
    """Where a stage stood."""

    done: float
    total: float | None
    progress: float


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """The file of a job.

    Attributes:
        attempt: the lives of this run so far.
        at: Unix time of the last checkpoint; ``None`` before the first.
        data: the job's own, of the last checkpoint.
    """

    run: str
    attempt: int
    at: float | None = None
    stages: dict[str, SavedStage] = {}
    data: Any = None


class JobRunning(HeliographError):
    """A job of this name runs already, here or in another process on this machine."""


def jobs_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """``$HELIOGRAPH_JOBS_DIR``, else ``jobs`` in ``$STATE_DIRECTORY`` or :func:`state_directory`. Creates nothing."""
    if directory := environ.get(DIRECTORY):
        return Path(directory)
    if directory := environ.get("STATE_DIRECTORY"):  # systemd's; several are joined by colons
        return Path(directory.split(":")[0], "jobs")
    return state_directory(environ) / "jobs"


class Checkpoints:
    """The file of one job while this process runs it.

    A checkpoint is there as a whole or not at all, whatever dies meanwhile: it is written beside the old one, synced,
    and takes its place by a rename that is synced, too. One costs two ``fsync``, some milliseconds on a disk.

    Args:
        resume: go on with what a former life has left; else it is dropped.

    Raises:
        JobRunning: another one holds it.
        HeliographError: the name is too long for a file, the file is none of ours, or the directory cannot be used.
    """

    def __init__(self, job: str, directory: Path, resume: bool = True) -> None:
        file = quote(job, safe="")  # no slash; and with its suffix it is neither "." nor ".."
        if not 0 < len(file) <= MAX_NAME:
            raise HeliographError(f"the name of a job has 1 to {MAX_NAME} bytes, escaped; {job!r} has {len(file)}")
        self.path = directory / f"{file}.json"
        self._lock_path = directory / f"{file}.lock"
        self._lock: int | None = None
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _hold(self._lock_path, job)
            left = self._load() if resume else None
            if left is None:
                self.saved = Saved(run=secrets.token_hex(RUN_BYTES), attempt=1)
            else:
                self.saved = msgspec.structs.replace(left, attempt=left.attempt + 1)
            # So that a next life knows of this one. A power failure may take that, but not a former life's checkpoint.
            self._write(sync=left is not None)
        except OSError as error:
            self.release()
            raise HeliographError(f"checkpoints cannot be kept: {error}; name a directory in ${DIRECTORY}") from error
        except BaseException:
            self.release()
            raise

    def save(self, stages: dict[str, SavedStage], data: Any, at: float) -> None:
        """Replace the checkpoint; ``data`` has a JSON form.

        Raises:
            OSError: it could not be written; the former one is still there.
        """
        before = self.saved
        self.saved = Saved(run=before.run, attempt=before.attempt, at=at, stages=stages, data=data)
        try:
            self._write(sync=True)
        except BaseException:
            self.saved = before
            raise

    def release(self, forget: bool = False) -> None:
        """Let go of the job, and with ``forget`` of its checkpoint. Idempotent."""
        if self._lock is None:
            return
        if forget:
            self.path.unlink(missing_ok=True)
        # While it is held: who waits for this file sees that its name has gone. Another's file is not removed.
        self._lock_path.unlink(missing_ok=True)
        os.close(self._lock)
        self._lock = None

    def disown(self) -> None:
        """In a forked child: it is the parent's still, and must be free when the parent dies. Idempotent."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _load(self) -> Saved | None:
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=Saved)
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise HeliographError(f"{self.path} is no checkpoint: {error}; remove it to begin anew") from None

    def _write(self, sync: bool) -> None:
        beside = self.path.with_suffix(".tmp")
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "wb") as file:
                file.write(msgspec.json.encode(self.saved))
                file.flush()
                if sync:
                    os.fsync(fd)
            beside.replace(self.path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        if sync:
            _sync_directory(self.path.parent)


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _hold(path: Path, job: str) -> int:
    """Lock the file of that name until the descriptor that is returned is closed, or the process has gone."""
    for _ in range(LOCK_ATTEMPTS):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is(path, fd):
                os.ftruncate(fd, 0)
                os.write(fd, str(os.getpid()).encode())
                return fd
        except BlockingIOError:
            holder = os.read(fd, 20).decode(errors="replace") or "another one"
            os.close(fd)
            raise JobRunning(f"job {job!r} runs already, in process {holder} ({path}); take another name") from None
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
    raise JobRunning(f"job {job!r}: {path} is taken and let go of all the time")


def _is(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False
