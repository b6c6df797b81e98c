"""The files of jobs: whole or not at all, one holder at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.checkpoints import Checkpoints, JobRunning, SavedStage, jobs_directory
from transport.errors import HeliographError

STAGES = {"work": SavedStage(3, 10, 0.3)}


def test_a_next_life_finds_what_the_last_one_kept(tmp_path: Path) -> None:
    first = Checkpoints("a/b", tmp_path / "new")
    assert (first.saved.attempt, first.saved.at) == (1, None)
    first.save(STAGES, {"i": 3}, 12.5)
    first.release()
    second = Checkpoints("a/b", tmp_path / "new")
    saved = second.saved
    assert (saved.run, saved.attempt, saved.at) == (first.saved.run, 2, 12.5)
    assert (saved.stages, saved.data) == (STAGES, {"i": 3})
    second.release(forget=True)
    third = Checkpoints("a/b", tmp_path / "new")
    assert (third.saved.attempt, third.saved.data) == (1, None)
    assert third.saved.run != first.saved.run
    third.release(forget=True)
    third.release(forget=True)  # idempotent
    assert list((tmp_path / "new").iterdir()) == []


def test_a_power_failure_does_not_take_what_a_former_life_has_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    first = Checkpoints("a", tmp_path)
    assert not synced, "nothing to lose yet"
    first.save(STAGES, {"i": 3}, 12.5)
    first.release()
    synced.clear()
    Checkpoints("a", tmp_path).release()
    assert len(synced) == 2, "the file that takes the place of the checkpoint, and its directory"


def test_a_life_that_shall_not_resume_begins_anew(tmp_path: Path) -> None:
    first = Checkpoints("a", tmp_path)
    first.save(STAGES, 1, 1.0)
    first.release()
    second = Checkpoints("a", tmp_path, resume=False)
    assert (second.saved.attempt, second.saved.at) == (1, None)
    second.release()
    third = Checkpoints("a", tmp_path)
    assert third.saved.run == second.saved.run, "the first one's file has gone"
    third.release()


def test_one_holder_at_a_time_by_name(tmp_path: Path) -> None:
    held = Checkpoints("a", tmp_path)
    other = Checkpoints("b", tmp_path)
    with pytest.raises(JobRunning, match=rf"'a' runs already, in process {os.getpid()} .*take another name"):
        Checkpoints("a", tmp_path)
    code = f"from pathlib import Path; from engine.checkpoints import *; Checkpoints('a', Path({str(tmp_path)!r}))"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=30, check=False
    )
    assert "JobRunning" in done.stderr, done.stderr
    assert held.path.exists()
    held.release()
    Checkpoints("a", tmp_path).release()
    other.release()


def test_a_lock_file_that_its_holder_has_removed_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    held = Checkpoints("a", tmp_path)
    take, attempts = fcntl.flock, []

    def flock(fd: int, how: int) -> None:
        if not attempts:
            held.release()  # between the open of who wants it and the lock
        attempts.append(fd)
        take(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    second = Checkpoints("a", tmp_path)
    assert len(attempts) == 2
    with pytest.raises(JobRunning):
        Checkpoints("a", tmp_path)
    second.release()


def test_a_checkpoint_that_cannot_be_written_leaves_the_former(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = Checkpoints("a", tmp_path)
    files.save(STAGES, "first", 1.0)
    sync = os.fsync

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.save(STAGES, "second", 2.0)
    monkeypatch.setattr(os, "fsync", sync)
    assert files.saved.data == "first"
    files.release()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json"]
    again = Checkpoints("a", tmp_path)
    assert again.saved.data == "first"
    again.release()


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('{"run": 1}')
    with pytest.raises(HeliographError, match=r"bad\.json is no checkpoint.*remove it"):
        Checkpoints("bad", tmp_path)
    assert not (tmp_path / "bad.lock").exists()
    (tmp_path / "bytes.json").write_bytes(b'{"run": "\xff"}')
    with pytest.raises(HeliographError, match=r"bytes\.json is no checkpoint"):
        Checkpoints("bytes", tmp_path)
    with pytest.raises(HeliographError, match="1 to 200 bytes"):
        Checkpoints("é" * 40, tmp_path)
    with pytest.raises(HeliographError, match="1 to 200 bytes"):
        Checkpoints("", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(HeliographError, match=r"cannot be kept.*\$HELIOGRAPH_JOBS_DIR"):
        Checkpoints("a", tmp_path / "file")


def test_where_files_are(tmp_path: Path) -> None:
    assert jobs_directory({"HELIOGRAPH_JOBS_DIR": "/j", "STATE_DIRECTORY": "/s"}) == Path("/j")
    assert jobs_directory({"STATE_DIRECTORY": "/s:/t"}) == Path("/s/jobs")
    assert jobs_directory({"XDG_STATE_HOME": "/x"}) == Path("/x/heliograph/jobs")
    for name in ("..", "a/../../b", "~"):
        files = Checkpoints(name, tmp_path / "d")
        assert files.path.resolve().parent == (tmp_path / "d").resolve()
        files.release()
