"""A job as its program sees it; there is no engine at all here."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import itertools
import os
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import numpy
import pytest

from engine import job_reporter, progress
from engine.job import END_TIMEOUT_S, MAX_TEXT
from engine.progress import Cancelled, Job, JobRunning, JobState
from tests.reporters import await_end, reporters
from transport.errors import HeliographError, RequestError

DEADLINE = 20.0  # s


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(job_reporter, "LINGER_S", 0.0)
    monkeypatch.setattr(job_reporter, "IDLE_S", 0.01)
    others = reporters()
    with socket.socket() as taken:  # bound, not listening: refused at once
        taken.bind(("127.0.0.1", 0))
        yield f"ws://127.0.0.1:{taken.getsockname()[1]}/ws"
        await_end(others)


@pytest.fixture
def make(tmp_path: Path, nowhere: str) -> Callable[..., Job]:
    return lambda name="j", **options: progress.job(name, directory=tmp_path, url=nowhere, **options)


def test_a_job_with_stages_to_its_end(make: Callable[..., Job], tmp_path: Path) -> None:
    with make(stages={"load": 1, "work": 3}) as job:
        assert (job.attempt, job.resumed, job.topic, job.progress) == (1, None, "progress.j", 0)
        with job.stage("load", total=4) as load:
            load.step()
            job.step(2)
            assert (load.done, load.total, job.progress) == (3, 4, 3 / 16)
            load.total = 6
            assert job.progress == 3 / 16, "never falls"
        assert job.progress == 1 / 4
        assert list(job.track("abcd", stage="work")) == [*"abcd"]
        job.message = "x" * 1_000
        report = job.report()
        assert (report.state, report.progress, report.stage, report.eta) == (JobState.RUNNING, 1.0, None, 0)
        assert len(report.message or "") == MAX_TEXT
    report = job.report()
    assert (report.state, report.error, [stage.progress for stage in report.stages]) == (JobState.DONE, None, [1, 1])
    assert (report.stages[1].done, report.stages[1].total) == (4, 4)
    assert report.elapsed == job.report().elapsed, "it stands still"
    assert list(tmp_path.iterdir()) == []


def test_a_job_without_stages_counts_at_once(make: Callable[..., Job]) -> None:
    with make(total=10) as job:
        job.step(3)
        assert job.progress == 0.3
        job.at(2)
        assert job.progress == 0.3
        job.at(9)
        assert (job.progress, job.report().stage) == (0.9, "work")
    with make() as job:
        assert sum(job.track(range(4), total=8)) == 6
        assert job.progress == 1.0, "the stage is complete, however long it was to be"


class Slow(float):
    """A number in whose addition another thread may come in between."""

    def __radd__(self, other: float) -> float:
        time.sleep(0)
        return other + float(self)


def test_numbers_of_any_library_count(make: Callable[..., Job]) -> None:
    with make(total=Fraction(20)) as job:
        for number in (numpy.int64(2), numpy.float32(1.5), Decimal("0.5"), Fraction(1, 2), True):
            job.step(number)
        (stage,) = job.report().stages
        assert (stage.done, stage.total, stage.progress) == (5.5, 20, 0.275)
        job.at(numpy.int64(10))
        assert msgspec.json.decode(msgspec.json.encode(job.report()))["progress"] == 0.5


def test_a_signal_handler_may_use_the_job_that_it_interrupts(make: Callable[..., Job]) -> None:
    def interrupted() -> None:
        with job._lock:  # amid a step; the handler runs on the same thread
            job.message = "stopping"
            job.step(0)
            job.cancel("SIGTERM")

    with make() as job:
        thread = threading.Thread(target=interrupted, daemon=True)
        thread.start()
        thread.join(DEADLINE)
        assert job.cancelled


def test_steps_of_many_threads_all_count(make: Callable[..., Job]) -> None:
    with make(total=800) as job:

        def work() -> None:
            for _ in range(200):
                job.step(Slow(1))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert job.report().stages[0].done == 800


class Wordless(Exception):
    """Cannot say what is wrong."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "state", "text"),
    [
        (ValueError("bad bar"), JobState.FAILED, "ValueError: bad bar"),
        (KeyError(), JobState.FAILED, "KeyError"),
        (KeyboardInterrupt(), JobState.CANCELLED, "KeyboardInterrupt"),
        (SystemExit(3), JobState.CANCELLED, "SystemExit: 3"),
        (asyncio.CancelledError(), JobState.CANCELLED, "CancelledError"),
        (Cancelled("budget spent"), JobState.CANCELLED, "budget spent"),
        (ExceptionGroup("of a TaskGroup", [Cancelled("budget spent")]), JobState.CANCELLED, "budget spent"),
        (ExceptionGroup("two", [Cancelled(), KeyError()]), JobState.FAILED, "ExceptionGroup: two (2 sub-exceptions)"),
        (ValueError("no file \udcff.csv"), JobState.FAILED, r"ValueError: no file \udcff.csv"),
        (Wordless(), JobState.FAILED, "Wordless"),
    ],
)
def test_how_a_job_ends(make: Callable[..., Job], error: BaseException, state: JobState, text: str) -> None:
    with pytest.raises(type(error)), make(total=2) as job:
        job.step()
        raise error
    report = job.report()
    assert (report.state, report.error, report.progress, report.eta) == (state, text, 0.5, None)
    with make() as again:
        assert (again.attempt, again.run) == (2, job.run), "what did not end as done may go on"


def test_a_job_sees_that_it_shall_stop(make: Callable[..., Job]) -> None:
    seen = []
    with pytest.raises(Cancelled, match="enough"), make() as job:
        job.check()
        for item in job.track(range(10)):
            seen.append(item)
            if item == 3:
                assert job.on_cancel({"reason": "enough"}, "alice") == {"cancelled": True, "state": "running"}
                assert job.on_cancel({"reason": "too late"}, None) == {"cancelled": True, "state": "running"}
                assert job.cancelled
    assert seen == [0, 1, 2, 3]
    assert (job.report().state, job.report().error) == (JobState.CANCELLED, "enough")
    with pytest.raises(RequestError, match=r"params\.reason"):
        job.on_cancel({"reason": 7}, None)


def test_a_next_life_goes_on_where_the_last_checkpoint_was(make: Callable[..., Job]) -> None:
    state = {"sum": 0}
    with pytest.raises(ZeroDivisionError), make(stages={"load": 1, "work": 9}) as job:
        assert list(job.track("ab", stage="load", every=1)) == ["a", "b"]
        for item in job.track(range(100), stage="work", every=10, state=state):
            state["sum"] += item
            if item == 57:
                raise ZeroDivisionError
    with make(stages={"load": 1, "work": 9}) as again:
        assert again.resumed == {"sum": sum(range(50))}
        assert (again.progress, again.attempt, again.report().resumed) == (0.55, 2, 0.55)
        assert again.report().checkpoint is not None
        assert list(again.track("ab", stage="load", every=1)) == [], "all was done"
        assert next(rest := again.track(range(100), stage="work", every=10)) == 50
        assert len(list(rest)) == 49
    with make(stages={"load": 1, "work": 9}) as anew:
        assert (anew.resumed, anew.attempt, anew.progress) == (None, 1, 0)


def test_a_job_may_be_begun_anew(make: Callable[..., Job]) -> None:
    with pytest.raises(ValueError), make() as job:
        job.checkpoint({"i": 1})
        raise ValueError
    with make(resume=False) as again:
        assert (again.resumed, again.attempt) == (None, 1)


def test_checkpoints_of_its_own_in_a_plain_loop(make: Callable[..., Job]) -> None:
    for life, expected in enumerate([range(6), range(4, 8), range(8, 10)]):
        done = []
        with contextlib.suppress(ValueError), make(total=10) as job:
            begin = job.resumed["next"] if job.resumed else 0
            with job.stage("work", total=10, start=begin):
                for i in range(begin, 10):
                    done.append(i)
                    job.step()
                    if i % 4 == 3:
                        job.checkpoint({"next": i + 1})
                    if (life, i) in ((0, 5), (1, 7)):
                        raise ValueError
        assert done == [*expected]
    assert job.report().state == JobState.DONE


def test_a_disk_that_is_full_does_not_stop_a_loop(
    make: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    with make() as job:
        monkeypatch.setattr(os, "fsync", full)
        assert len(list(job.track(range(5), every=2))) == 5
        with pytest.raises(OSError, match="No space"):
            job.checkpoint()
        with pytest.raises(RequestError, match="no JSON form"):
            job.checkpoint(object())
    assert "goes on without a new checkpoint" in caplog.text


def test_misuse_says_what_to_do(make: Callable[..., Job]) -> None:
    with pytest.raises(HeliographError, match="each its own total"):
        make(stages={"a": 1}, total=3)
    with pytest.raises(HeliographError, match="total"):
        make(total=-1)
    job = make(stages={"a": 1, "b": 1})
    with pytest.raises(HeliographError, match="has not begun"):
        job.stage("a").__enter__()
    with pytest.raises(HeliographError, match=r"has not begun: use `with job\.stage"):
        job.stage("a").step()
    with pytest.raises(HeliographError, match="has not begun"):
        make(total=1).step()
    with job:
        for count in (lambda: job.step(), lambda: job.at(1), lambda: job.track([])):
            with pytest.raises(HeliographError, match="say which stage: a, b"):
                count()
        with pytest.raises(HeliographError, match="not declared"), job.stage("c"):
            pass
        with job.stage("a"):
            for bad in (-1, float("nan"), float("inf"), 10**400, "1", None, 1j, [1]):
                with pytest.raises(HeliographError, match="a step"):
                    job.step(bad)
                with pytest.raises(HeliographError, match="done"):
                    job.at(bad)
        with pytest.raises(HeliographError, match="every"):
            job.track([], "b", every=0)
        with pytest.raises(HeliographError, match="state is for"):
            job.track([], "b", state=[])
        with pytest.raises(JobRunning), make(stages={"a": 1}):
            pass
        with pytest.raises(TypeError, match="stays in its process"):
            pickle.dumps(job)
    with pytest.raises(HeliographError, match="entered already"), job:
        pass
    with pytest.raises(HeliographError, match="has ended"):
        job.checkpoint()


async def _async_life(job: Job) -> None:
    async with job:
        for _ in job.track(range(3)):
            await asyncio.sleep(0)


def test_async_with(make: Callable[..., Job]) -> None:
    job = make()
    asyncio.run(_async_life(job))
    assert job.report().state == JobState.DONE


def test_leaving_waits_no_longer_than_it_says(make: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    class Mute:
        def look(self) -> None:
            pass

    waited: list[Any] = []
    monkeypatch.setattr(job_reporter, "report", lambda *_: Mute())
    job = make()
    monkeypatch.setattr(job, "told", type("Never", (), {"result": lambda _, timeout: waited.append(timeout)})())
    with job:
        pass
    assert waited == [END_TIMEOUT_S]


def test_leaving_in_a_loop_needs_no_thread_that_others_use(make: Callable[..., Job]) -> None:
    async def run() -> bool:
        busy, loop = threading.Event(), asyncio.get_running_loop()
        loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(1))
        work = loop.run_in_executor(None, busy.wait, DEADLINE)
        async with make():
            pass
        busy.set()
        return await work

    assert asyncio.run(run()), "leaving has waited for the work"


def test_an_end_may_be_told_to_a_loop_that_has_gone(
    make: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Mute:
        def look(self) -> None:
            pass

    monkeypatch.setattr(job_reporter, "report", lambda *_: Mute())
    monkeypatch.setattr("engine.job.END_TIMEOUT_S", 0.01)
    asyncio.run(_async_life(job := make()))
    assert not job.told.done()
    job.told.set_result(True)
    assert not caplog.records


def test_a_job_that_cannot_begin_holds_nothing(make: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(job_reporter, "report", no_thread)
        with pytest.raises(RuntimeError, match="new thread"), make():
            pass
    with make() as job:
        assert job.attempt == 2


def test_no_engine_is_said_once_and_waited_for_by_nobody(
    make: Callable[..., Job], caplog: pytest.LogCaptureFixture
) -> None:
    with make("first") as first, make("second") as second:
        for job in (first, second):
            list(job.track(range(10)))
        reporters = [thread for thread in threading.enumerate() if thread.name == "heliograph-progress"]
    assert len([thread for thread in reporters if thread.is_alive()]) >= 1
    assert (first.told.result(20), second.told.result(20)) == (False, False)
    assert caplog.text.count("nobody is told how far jobs are") == 1


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_has_a_copy_that_tells_nobody(make: Callable[..., Job], tmp_path: Path) -> None:
    with make(total=10) as job:
        job.step(4)
        read, write = os.pipe()
        if (pid := os.fork()) == 0:
            answer = "the child failed"
            try:
                job.step()
                refused = ""
                try:
                    job.checkpoint()
                except HeliographError as error:
                    refused = str(error)
                with make("other", total=1) as own:  # with a thread of its own
                    own.step()
                job.__exit__(None, None, None)
                answer = f"{job.progress} {refused} {own.report().state} {own.told.result(20)}"
            finally:
                os.write(write, answer.encode())
                os._exit(0)
        os.close(write)
        with open(read) as pipe:
            assert pipe.read() == "0.5 job 'j' belongs to another process done False"
        os.waitpid(pid, 0)
        assert job.progress == 0.4
        job.checkpoint({"i": 4})
        with pytest.raises(JobRunning), make():
            pass
    assert not job.cancelled


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_that_outlives_its_parent_does_not_hold_the_job(make: Callable[..., Job]) -> None:
    with make() as job:
        ours, theirs = socket.socketpair()
        if (pid := os.fork()) == 0:
            ours.close()
            theirs.send(b"here")
            theirs.recv(1)
            os._exit(0)
        theirs.close()
        assert ours.recv(4) == b"here"
        job._files.disown()  # what the kernel does when this process is killed
        with make() as again:
            assert again.attempt == 2
        ours.close()
        os.waitpid(pid, 0)


def test_a_loop_that_is_left_early_is_not_complete(make: Callable[..., Job]) -> None:
    with make(stages={"a": 1, "b": 1}) as job:
        for item in job.track(itertools.count(), stage="a", total=10):
            if item == 4:
                break
        del item
        assert job.progress == 0.2
