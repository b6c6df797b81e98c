"""How far a job is, for everybody who watches: ``from heliograph import progress``.

    with progress.job("backtest-17", stages={"load": 1, "backtest": 8, "analysis": 1}) as job:
        for row in job.track(rows, stage="load"):
            …
        for bar in job.track(bars, stage="backtest"):
            …

``docs/progress.md`` is the guide.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from engine.checkpoints import JobRunning
from engine.client_token import Token
from engine.job import Cancelled, Job, Stage
from engine.job_progress import JobState, Report, StageReport

__all__ = ["Cancelled", "Job", "JobRunning", "JobState", "Report", "Stage", "StageReport", "job"]


def job(
    name: str,
    *,
    stages: Mapping[str, float] | None = None,
    total: float | None = None,
    resume: bool = True,
    directory: str | os.PathLike[str] | None = None,
    url: str | None = None,
    token: Token | None = None,
) -> Job:
    """A job, to be entered with ``with`` or ``async with``: that is when it begins.

    Told on topic ``progress.NAME`` at most ten times a second and at least every five. It ends as ``done`` where the
    block ends, as ``failed`` with an exception, as ``cancelled`` with :class:`Cancelled` or what is no ``Exception``
    (Ctrl-C, ``sys.exit``). An engine that is away neither stops nor slows it; leaving waits at most a second.

    Args:
        name: also of its topic and its files; one job of a name at a time.
        stages: what the job consists of, in order, with weights: about how long each takes. ``None``: one stage.
        total: of the only stage, where the job counts with :meth:`Job.step`.
        resume: go on from the last checkpoint of a life that did not end as ``done``; else begin anew.
        directory: of checkpoints; ``$HELIOGRAPH_JOBS_DIR``, else ``jobs`` in the state directory.
        url: the engine's; ``$HELIOGRAPH_URL``, else ``ws://127.0.0.1:8765/ws``.
        token: for it; ``$HELIOGRAPH_TOKEN``. It has to allow publishing to the topic.

    Raises:
        HeliographError: a name or number is wrong; on entering: the directory cannot be used.
        JobRunning: on entering: a job of that name runs.
    """
    return Job(name, stages, total, resume, directory, url, token)
