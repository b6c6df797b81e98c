"""A job that says how far it is: the object that users hold. Its engine may be away, its process may die."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import itertools
import logging
import os
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sized
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NoReturn, Self, TypeVar

import msgspec

from engine import job_reporter
from engine.checkpoints import Checkpoints, SavedStage, jobs_directory
from engine.client import DEFAULT_URL
from engine.client_token import Token
from engine.job_progress import (
    MAX_COUNT,
    ONLY_STAGE,
    Eta,
    JobProgress,
    JobState,
    Report,
    StageProgress,
    number,
    topic_of,
    total_of,
)
from transport.codes import ErrorCode
from transport.errors import HeliographError, RequestError
from transport.event import to_json

END_TIMEOUT_S: Final = 1.0
"""So long leaving a job waits at most until its end has been told; not at all where the engine is known to be away."""
MAX_TEXT: Final = 500  # characters of a message, a reason, an error
T = TypeVar("T")
_log = logging.getLogger("heliograph.progress")
_jobs: weakref.WeakSet[Job] = weakref.WeakSet()


class Cancelled(Exception):
    """Somebody has asked the job to stop; raised by :meth:`Job.check`."""


class Stage:
    """``with job.stage("load", total=500) as stage``: complete when it is left without an exception."""

    def __init__(self, job: Job, name: str, total: float | None, start: float) -> None:
        self.name = name
        self._job, self._total, self._start = job, total, start
        self._stage: StageProgress | None = None

    def __enter__(self) -> Self:
        self._stage = self._job._enter(self.name, self._total, self._start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._job._leave(self._entered, complete=kind is None)

    def step(self, n: float = 1) -> None:
        """``n`` more are done; from any thread."""
        self._job._add(self._entered, n)

    def at(self, done: float) -> None:
        """So many are done now."""
        self._job._at(self._entered, done)

    @property
    def total(self) -> float | None:
        """What there is to do; may be set when it is known, and again when it turns out different."""
        return self._entered.total

    @total.setter
    def total(self, total: float | None) -> None:
        self._job._set_total(self._entered, total)

    @property
    def done(self) -> float:
        """What of it is done."""
        return self._entered.done

    @property
    def _entered(self) -> StageProgress:
        if self._stage is None:
            raise HeliographError(f"stage {self.name!r} has not begun: use `with job.stage({self.name!r})`")
        return self._stage


class Job:
    """See :func:`engine.progress.job`. Entered once, with ``with`` or ``async with``.

    A thread of its own tells the engine; the methods here only count, whatever the engine does. All may be called from
    any thread of the process. A forked child's copy counts for itself and tells nobody.

    Attributes:
        name: of the job.
        topic: where its progress is told.
    """

    def __init__(
        self,
        name: str,
        stages: Mapping[str, float] | None,
        total: float | None,
        resume: bool,
        directory: str | os.PathLike[str] | None,
        url: str | None,
        token: Token | None,
    ) -> None:
        if stages is not None and total is not None:
            raise HeliographError("a job with stages gives each its own total: job.stage(name, total=…)")
        self.name, self.topic = name, topic_of(name)
        self._progress = JobProgress({ONLY_STAGE: 1.0} if stages is None else dict(stages))
        self._total, self._resume = total_of(total), resume
        self._directory = jobs_directory() if directory is None else Path(directory)
        self._url = url or os.environ.get("HELIOGRAPH_URL") or DEFAULT_URL
        self._token = token if token is not None else os.environ.get("HELIOGRAPH_TOKEN")
        self._lock = threading.RLock()  # a signal handler may stop the job on the thread that is amid a step
        self._state: JobState | None = None  # not entered
        self._saving = threading.Lock()
        self._data: Any = None  # of the last checkpoint of a former life
        self._kept: Any = None  # of the last checkpoint
        self._left: dict[str, SavedStage] = {}  # of a former life, until that stage is entered
        self._resumed_at: float | None = None
        self._message: str | None = None
        self._error: str | None = None
        self._cancelled = False
        self._reason: str | None = None
        self.told: concurrent.futures.Future[bool] = concurrent.futures.Future()
        self.told.set_running_or_notify_cancel()  # who waits for it and gives up does not cancel it

    # Its life

    def __enter__(self) -> Self:
        if self._state is not None:
            raise HeliographError(f"job {self.name!r} was entered already; make another one")
        self._files = Checkpoints(self.name, self._directory, self._resume)
        saved = self._files.saved
        if saved.at is not None:
            self._left, self._data = dict(saved.stages), saved.data
            self._kept = self._data
            for stage_name, stage in saved.stages.items():
                self._progress.restore(stage_name, stage.done, stage.total, stage.progress)
            self._resumed_at = self._progress.told
        self._started, self._began = time.time(), time.monotonic()
        self._elapsed: float | None = None
        self._eta = Eta(self._progress.progress, self._began)
        self._become(JobState.RUNNING)
        _jobs.add(self)
        try:
            self._reporter = job_reporter.report(self, self._url, self._token)
        except BaseException:
            _jobs.discard(self)
            self._files.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._end(error):
            with contextlib.suppress(TimeoutError):
                self.told.result(END_TIMEOUT_S)

    async def __aenter__(self) -> Self:
        return self.__enter__()  # some file operations, no waiting

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._end(error):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_TIMEOUT_S):
                    await asyncio.wrap_future(self.told)

    def _end(self, error: BaseException | None) -> bool:
        """What the end of the block means; whether it is to be told."""
        if self not in _jobs:  # a forked child's copy
            return False
        _jobs.discard(self)
        state, text = JobState.DONE, None
        if error is not None:
            state, text = _end_of(error)
        with self._lock:
            self._elapsed = time.monotonic() - self._began
            if state is JobState.DONE:
                self._progress.finish()
            self._error = self._reason if self._cancelled and state is JobState.CANCELLED else text
        self._become(state)
        self._files.release(forget=state is JobState.DONE)
        self._reporter.look()
        return True

    def _become(self, state: JobState) -> None:
        self._state = state
        self._progress.changes += 1  # behind the state: who sees it sees that, too
        _log.debug("job %r, attempt %d: %s", self.name, self._files.saved.attempt, state)

    # How far it is

    def stage(self, name: str, total: float | None = None, *, start: float = 0) -> Stage:
        """A stage, to be entered with ``with``.

        Args:
            total: what there is to do; without it the stage is at 0 % until it is left.
            start: what of it is done already.

        Raises:
            HeliographError: on entering: it is not declared, or runs already.
        """
        return Stage(self, name, total, start)

    def step(self, n: float = 1) -> None:
        """``n`` more of the present stage are done."""
        self._add(None, n)

    def at(self, done: float) -> None:
        """So many of the present stage are done now. With a total of 1 this is the part that is done."""
        self._at(None, done)

    def track(
        self,
        items: Iterable[T],
        stage: str | None = None,
        *,
        total: float | None = None,
        every: int | None = None,
        state: Any = None,
    ) -> Iterator[T]:
        """Iterate ``items`` as a stage, a step each; before each item :meth:`check` is called.

        Args:
            stage: its name; may be left out where the job has one only.
            total: where ``items`` have no length.
            every: a checkpoint after so many items each, and at the end. A next life of the job skips the items that
                the last checkpoint has counted: give the same ``items`` again.
            state: what a next life shall find as :attr:`resumed`: an object that the loop changes, with a JSON form. It
                is looked at between items.
        """
        if every is not None and every < 1:
            raise HeliographError(f"every is a number of items, 1 or more, not {every!r}")
        if state is not None and every is None:
            raise HeliographError("state is for the checkpoints of every=N")
        name = self._only() if stage is None else stage
        if total is None and isinstance(items, Sized):
            total = len(items)
        return self._track(items, name, total if total is not None else self._total, every, state)

    def _track(self, items: Iterable[T], name: str, total: float | None, every: int | None, state: Any) -> Iterator[T]:
        left = self._left.get(name) if every is not None else None
        start = int(left.done) if left is not None else 0
        with self.stage(name, total, start=start) as stage:
            for count, item in enumerate(itertools.islice(items, start, None), start + 1):
                self.check()
                yield item
                stage.step()
                if every is not None and count % every == 0:
                    self._checkpoint_between(state)
        if every is not None:
            self._checkpoint_between(state)

    def _checkpoint_between(self, state: Any) -> None:
        try:
            self.checkpoint(self._kept if state is None else state)
        except OSError as error:
            _log.warning("job %r goes on without a new checkpoint: %s", self.name, error)

    @property
    def progress(self) -> float:
        """0 to 1; never falls."""
        with self._lock:
            return self._progress.progress

    @property
    def message(self) -> str | None:
        """A line for who watches; of its first 500 characters."""
        return self._message

    @message.setter
    def message(self, text: str | None) -> None:
        with self._lock:
            self._message = None if text is None else _text(text)
            self._progress.changes += 1

    # Stopping

    @property
    def cancelled(self) -> bool:
        """Whether somebody has asked it to stop."""
        return self._cancelled

    def cancel(self, reason: str | None = None) -> None:
        """Ask it to stop; from any thread, and what ``heliograph jobs --cancel`` does from afar."""
        with self._lock:
            if not self._cancelled:
                self._reason = None if reason is None else _text(reason)
                self._cancelled = True

    def check(self) -> None:
        """Raise :class:`Cancelled` if somebody has asked it to stop; costs next to nothing otherwise."""
        if self._cancelled:
            raise Cancelled(self._reason or f"job {self.name!r} was cancelled")

    # Its lives

    @property
    def run(self) -> str:
        """Names this run through all its lives."""
        return self._files.saved.run

    @property
    def attempt(self) -> int:
        """Which life of the run this is, from 1."""
        return self._files.saved.attempt

    @property
    def resumed(self) -> Any:
        """What the last checkpoint of a former life has, as JSON gives it back; ``None`` in a run that begins."""
        return self._data

    def checkpoint(self, data: Any = None) -> None:
        """Keep ``data`` and where the stages are, for a next life; on disk when it returns, some milliseconds.

        Raises:
            RequestError: ``data`` has no JSON form.
            OSError: it could not be written; the former checkpoint is still there.
        """
        kept = msgspec.Raw(to_json(data))  # as it is now, whatever becomes of it
        self._check_own()
        with self._saving:
            with self._lock:
                stages = {
                    stage.name: SavedStage(stage.done, stage.total, stage.progress)
                    for stage in self._progress.stages.values()
                }
            self._files.save(stages, kept, time.time())
        self._kept = kept
        with self._lock:
            self._progress.changes += 1

    # What the stages call

    def _enter(self, name: str, total: float | None, start: float) -> StageProgress:
        self._check_own()
        with self._lock:
            self._left.pop(name, None)
            return self._progress.enter(name, total, start)

    def _leave(self, stage: StageProgress, complete: bool) -> None:
        with self._lock:
            self._progress.leave(stage, complete)

    def _add(self, stage: StageProgress | None, n: float) -> None:
        if type(n) is not int or not 0 <= n <= MAX_COUNT:
            n = number("a step", n)
        with self._lock:
            (stage or self._progress.current or self._begin()).done += n
            self._progress.changes += 1

    def _at(self, stage: StageProgress | None, done: float) -> None:
        done = number("done", done)
        with self._lock:
            (stage or self._progress.current or self._begin()).done = done
            self._progress.changes += 1

    def _set_total(self, stage: StageProgress, total: float | None) -> None:
        total = total_of(total)
        with self._lock:
            stage.total = total
            self._progress.changes += 1

    def _begin(self) -> StageProgress:
        """The only stage, of a job that counts without having entered it."""
        name = self._only()
        if self._state is None:
            raise HeliographError(f"job {self.name!r} has not begun: use `with progress.job({self.name!r}) as job`")
        return self._progress.enter(name, self._total, 0)

    def _only(self) -> str:
        names = list(self._progress.stages)
        if len(names) > 1:
            raise HeliographError(f"say which stage: {', '.join(names)}")
        return names[0]

    def _check_own(self) -> None:
        if self not in _jobs:
            why = "has not begun" if self._state is None else "has ended" if self.over else "belongs to another process"
            raise HeliographError(f"job {self.name!r} {why}")

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"job {self.name!r} stays in its process: count there what other processes have done")

    # For the reporter

    @property
    def changes(self) -> int:
        """See :class:`engine.job_reporter.ReportedJob`."""
        return self._progress.changes

    @property
    def over(self) -> bool:
        """See :class:`engine.job_reporter.ReportedJob`."""
        return self._state not in (None, JobState.RUNNING)

    def report(self) -> Report:
        """See :class:`engine.job_reporter.ReportedJob`."""
        now = time.monotonic()
        saved = self._files.saved
        with self._lock:
            state, current = self._state, self._progress.current
            assert state is not None, "a job is told once it has begun"
            eta = self._eta.look(self._progress.progress, now)
            elapsed = self._elapsed if self._elapsed is not None else now - self._began
            return Report(
                job=self.name,
                run=saved.run,
                attempt=saved.attempt,
                state=state,
                progress=self._progress.told,
                stage=None if current is None else current.name,
                stages=tuple(stage.report() for stage in self._progress.stages.values()),
                eta=None if eta is None or state in (JobState.FAILED, JobState.CANCELLED) else round(eta, 3),
                elapsed=round(elapsed, 3),
                started=self._started,
                message=self._message,
                error=self._error,
                resumed=self._resumed_at,
                checkpoint=saved.at,
            )

    def on_cancel(self, params: Any, caller: str | None) -> dict[str, Any]:
        """See :class:`engine.job_reporter.ReportedJob`."""
        reason = params.get("reason") if isinstance(params, dict) else None
        if reason is not None and not isinstance(reason, str):
            raise RequestError(ErrorCode.BAD_REQUEST, "a reason is a text", "params.reason")
        self.cancel(reason)
        _log.info("job %r: %s asks it to stop", self.name, caller or "somebody")
        return {"cancelled": True, "state": str(self._state)}

    def _disown(self) -> None:
        self._lock, self._saving = threading.RLock(), threading.Lock()  # perhaps held by a thread that is not here
        self._files.disown()


def _end_of(error: BaseException) -> tuple[JobState, str | None]:
    """The state of a job that ended so, and why."""
    if isinstance(error, BaseExceptionGroup):  # of a TaskGroup
        asked, rest = error.split(Cancelled)
        if asked is not None and rest is None:
            return _end_of(asked.exceptions[0])
    text = _text(error)
    if isinstance(error, Cancelled):
        return JobState.CANCELLED, text or None
    text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    # Ctrl-C, sys.exit and a task's cancellation are no failure of the job.
    return JobState.FAILED if isinstance(error, Exception) else JobState.CANCELLED, text[:MAX_TEXT]


def _text(text: object) -> str:
    """What JSON can say of it: not half a surrogate pair, as in names of files that are no UTF-8."""
    try:
        return str(text)[:MAX_TEXT].encode(errors="backslashreplace").decode()[:MAX_TEXT]
    except Exception:  # an exception of the job's that has no text
        return ""


def _after_fork() -> None:
    job_reporter.forget()
    for job in list(_jobs):
        job._disown()
    _jobs.clear()


os.register_at_fork(after_in_child=_after_fork)
