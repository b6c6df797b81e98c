"""The jobs that somebody watches, and how a terminal shows them."""

from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console

from engine.cli_jobs import bars, clock, table
from engine.job_board import MAX_JOBS, JobBoard
from engine.job_progress import JobState, Report, StageReport
from transport.event import Event


def report(job: str, state: JobState = JobState.RUNNING, progress: float = 0.5, **fields: object) -> Report:
    return Report(job=job, run="r", attempt=1, state=state, progress=progress, stage=None, **fields)  # type: ignore[arg-type]


def event(told: Report | bytes, type: str = "progress", topic: str | None = None) -> Event:
    payload = told if isinstance(told, bytes) else msgspec.json.encode(told)
    name = topic or f"progress.{told.job if isinstance(told, Report) else 'x'}"
    return Event(topic=name, offset=1, epoch="e", ts=1.0, payload=payload, type=type)


def test_the_newest_report_of_each_job_running_ones_first() -> None:
    board = JobBoard()
    for at, told in enumerate(
        [
            report("late", started=20.0),
            report("over", JobState.DONE, 1.0),
            report("early", progress=0.1, started=10.0),
            report("failed", JobState.FAILED),
            report("early", progress=0.2, started=10.0),
        ]
    ):
        assert board.take(event(told), float(at)) == told
    assert [(watched.report.job, watched.at) for watched in board.jobs()] == [
        ("early", 4.0),
        ("late", 0.0),
        ("failed", 3.0),
        ("over", 1.0),
    ]
    assert [watched.state(15.5) for watched in board.jobs()] == ["running", "silent", "failed", "done"]


@pytest.mark.parametrize("payload", [b"7", b"{}", b'{"job":"x","state":"odd"}'])
def test_what_is_no_report_is_left_out(payload: bytes) -> None:
    board = JobBoard()
    assert board.take(event(payload), 0.0) is None
    assert board.take(event(report("j"), type="message"), 0.0) is None
    assert board.jobs() == []
    assert table(board.jobs(), 0.0) == []


def test_the_number_of_jobs_is_bounded() -> None:
    board = JobBoard()
    for number in range(MAX_JOBS + 5):
        board.take(event(report(f"j{number}")), float(number))
    assert len(board.jobs()) == MAX_JOBS
    assert min(watched.at for watched in board.jobs()) == 5.0


def test_a_terminal_obeys_nothing_that_others_wrote() -> None:
    board = JobBoard()
    evil = "\x1b]0;owned\x07[red]\x9b2J\r\n"
    stage = StageReport("work\x1b[2J", 1.0, 0.5, 5e6, 1e7)
    told = report("j" + evil, message=evil, error=evil, stages=(stage,), eta=65.0, elapsed=7_265.0)
    board.take(event(msgspec.structs.replace(told, stage=stage.name, attempt=3), topic="progress.j"), 0.0)
    out = io.StringIO()
    Console(file=out, width=300, color_system=None).print(bars(board.jobs(), 0.0))
    for text in (out.getvalue(), "\n".join(table(board.jobs(), 0.0))):
        assert not {"\x1b", "\x07", "\x9b", "\r"} & set(text)
        assert "[red]" in text, "no markup either"
        for part in ("50.0%", "5,000,000/10,000,000", "2:01:05", "1:05", "attempt 3", "running"):
            assert part in text


def test_no_jobs_are_said_to_be_none() -> None:
    out = io.StringIO()
    Console(file=out, width=100).print(bars([], 0.0))
    assert "no job has told" in out.getvalue()


def test_times_read_as_on_a_clock() -> None:
    assert [clock(s) for s in (0, 9.9, 65, 7_265)] == ["0:00", "0:09", "1:05", "2:01:05"]


def test_a_terminal_shows_as_many_as_it_has_lines() -> None:
    board = JobBoard()
    for number in range(50):
        board.take(event(report(f"job-{number}")), 0.0)
    out = io.StringIO()
    Console(file=out, width=100, color_system=None).print(bars(board.jobs(), 0.0, most=10))
    lines = out.getvalue().splitlines()
    assert len(lines) == 10
    assert [line.split()[0] for line in lines[:2]] == ["job-49", "job-48"]
    assert "41 more: heliograph jobs --once" in lines[-1]
