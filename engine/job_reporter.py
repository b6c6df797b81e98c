"""Tells the engine how far the jobs of this process are: one thread, one loop, one client for all of them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import threading
import time
from collections import deque
from typing import Any, Final, Protocol

from actors.backoff import Backoff, BackoffPolicy
from engine.client import Client
from engine.client_link import State
from engine.client_token import Token
from engine.job_progress import BEAT_S, EVENT_TYPE, Report
from transport.codes import ErrorCode
from transport.errors import ConnectionLost, HeliographError, RequestError

UPDATE_INTERVAL_S: Final = 0.1
"""At most one update per job and interval, and the last one."""
LINGER_S: Final = 30.0
"""For so long after its end a job's last state waits for an engine that is away."""
MAX_LINGERING: Final = 100  # of those; beyond, the oldest is given up
IDLE_S: Final = 1.0  # without a job until the client is closed and the thread ends
OPEN_TIMEOUT_S: Final = 5.0
RECONNECT: Final = BackoffPolicy(first_s=0.5, cap_s=10.0)
_LATER: Final = (ErrorCode.UNAVAILABLE, ErrorCode.RATE_LIMITED)
_log = logging.getLogger("heliograph.progress")


class ReportedJob(Protocol):
    """What the reporter needs of a job; called on the reporter's thread."""

    @property
    def name(self) -> str:
        """The key of its events."""

    @property
    def topic(self) -> str:
        """Where its progress is told."""

    @property
    def changes(self) -> int:
        """Rises with whatever is to be told."""

    @property
    def over(self) -> bool:
        """Whether it has ended: its report is the last one."""

    @property
    def told(self) -> concurrent.futures.Future[bool]:
        """To be set when it is over: whether its end was told."""

    def report(self) -> Report:
        """How far it is now."""

    def on_cancel(self, params: Any, caller: str | None) -> dict[str, Any]:
        """Somebody asks it to stop; the answer."""


_reporters: dict[tuple[str, Token | None], Reporter] = {}
_guard = threading.Lock()


def report(job: ReportedJob, url: str, token: Token | None) -> Reporter:
    """Have a job told to the engine at ``url`` from now on; from any thread, and never waits for the engine."""
    with _guard:
        reporter = _reporters.get((url, token))
        if reporter is None:
            reporter = _reporters[url, token] = Reporter(url, token)
        reporter.add(job)
    return reporter


def forget() -> None:
    """In a forked child, which has no thread of its parent."""
    global _guard
    _guard = threading.Lock()
    _reporters.clear()


class Reporter:
    """Lives from its first job until :data:`IDLE_S` after its last one. Its thread does not keep the process alive."""

    def __init__(self, url: str, token: Token | None) -> None:
        self._url, self._token = url, token
        self._new: deque[ReportedJob] = deque()
        self._jobs: list[_Told] = []
        self._client: Client | None = None
        self._tried = False  # to connect; before that nobody knows whether the engine is away
        self._lost = asyncio.Event()
        self._changed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        thread = threading.Thread(target=lambda: asyncio.run(self._live()), name="heliograph-progress", daemon=True)
        thread.start()

    def add(self, job: ReportedJob) -> None:
        """Under the guard, so that it does not end meanwhile."""
        self._new.append(job)
        self.look()

    def look(self) -> None:
        """There is something to tell at once: a job has begun or ended; from any thread."""
        loop = self._loop  # none yet: it looks by itself when it begins
        if loop is not None:
            try:
                loop.call_soon_threadsafe(self._changed.set)
            except RuntimeError:
                pass  # its loop has ended with the interpreter

    # On the thread

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        keeper = asyncio.create_task(self._stay_connected(), name="progress-client")
        try:
            while True:
                await self._tell()
                try:
                    async with asyncio.timeout(UPDATE_INTERVAL_S if self._jobs else IDLE_S):
                        await self._changed.wait()
                except TimeoutError:
                    if not self._jobs and self._retire():
                        break
                self._changed.clear()
        finally:
            keeper.cancel()
            await asyncio.wait({keeper})

    def _retire(self) -> bool:
        """Whether the end has come, after which no job is added."""
        with _guard:
            if self._new:
                return False
            if _reporters.get((self._url, self._token)) is self:
                del _reporters[self._url, self._token]
            return True

    async def _tell(self) -> None:
        while self._new:
            self._jobs.append(_Told(self._new.popleft()))
        now = time.monotonic()
        client = self._client
        if client is not None and _stands(client, State.OPEN):
            await asyncio.gather(*(told.update(client) for told in self._jobs if told.due(now)))
        if client is not None and _stands(client, State.CLOSED):
            self._lost.set()  # refused for good; perhaps another client is let in, later
        self._part(away=self._tried and (client is None or not _stands(client, State.OPEN)))

    def _part(self, away: bool) -> None:
        """Let go of jobs whose end has been told, or cannot be."""
        now = time.monotonic()
        left, lingering = [], 0
        for told in reversed(self._jobs):
            if told.job.over:
                lingering += 1
                if told.finished or lingering > MAX_LINGERING or told.lingered(now):
                    _answer(told.job, told.succeeded)
                    continue
                if away:
                    _answer(told.job, False)  # whoever waits for it need not; it may be told yet
            left.append(told)
        self._jobs = left[::-1]

    async def _stay_connected(self) -> None:
        backoff = Backoff(RECONNECT)
        level = logging.WARNING
        while True:
            self._lost.clear()
            try:
                async with Client(self._url, token=self._token, open_timeout=OPEN_TIMEOUT_S) as client:
                    self._client, self._tried, level = client, True, logging.WARNING
                    backoff.reset()
                    self._changed.set()
                    await self._lost.wait()
            except (ConnectionLost, RequestError) as error:
                # Once: most likely nobody wants to watch. What becomes of a connection later, the client says.
                _log.log(level, "nobody is told how far jobs are: %s", error)
                level = logging.DEBUG
            finally:
                self._client, self._tried = None, True
                self._changed.set()
            await asyncio.sleep(backoff.failed())


class _Told:
    """What has been told of one job."""

    def __init__(self, job: ReportedJob) -> None:
        self.job = job
        self.finished = self.succeeded = False
        self._changes = -1
        self._next = self._beat = 0.0  # times: not before, and at the latest
        self._ended: float | None = None
        self._served_by: Client | None = None
        self._serving = contextlib.AsyncExitStack()
        self._refused = False

    def due(self, now: float) -> bool:
        """Whether there is something to tell."""
        if self.job.over:
            return not self.finished
        return now >= self._next and (self.job.changes != self._changes or now >= self._beat)

    def lingered(self, now: float) -> bool:
        """Whether its end has waited for too long."""
        self._ended = self._ended or now
        return now - self._ended >= LINGER_S

    async def update(self, client: Client) -> None:
        """Tell how far it is now. Never raises: the job has nothing to do with it."""
        over, changes = self.job.over, self.job.changes
        try:
            if not over and self._served_by is not client:
                await self._serve(client)
            await client.publish(self.job.topic, self.job.report(), EVENT_TYPE, self.job.name)
        except Exception as error:
            if isinstance(error, ConnectionLost) or (isinstance(error, RequestError) and error.code in _LATER):
                _log.debug("job %r: %s", self.job.name, error)
                return  # again after an interval, with a connection
            if not self._refused:
                _log.warning("nobody is told how far job %r is: %s", self.job.name, error)
            self._refused, self.finished = True, over
            self._next = time.monotonic() + BEAT_S
            return
        self._refused, self._changes = False, changes
        now = time.monotonic()
        self._next, self._beat = now + UPDATE_INTERVAL_S, now + BEAT_S
        if over:
            self.finished = self.succeeded = True
            with contextlib.suppress(HeliographError):
                await self._serving.aclose()

    async def _serve(self, client: Client) -> None:
        """Have calls for the job come here."""
        self._served_by, self._serving = client, contextlib.AsyncExitStack()  # a former client's went with it
        try:
            await self._serving.enter_async_context(client.serve(self.job.topic, cancel=self.job.on_cancel))
        except RequestError as error:
            _log.warning("job %r cannot be cancelled from afar: %s", self.job.name, error)


def _stands(client: Client, state: State) -> bool:
    return client.state is state


def _answer(job: ReportedJob, told: bool) -> None:
    if not job.told.done():
        job.told.set_result(told)
