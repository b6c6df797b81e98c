"""``docs/progress.md`` says what is so: its snippets run, its numbers are those of the code; its example runs."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine import job, job_progress, job_reporter, progress
from engine.config import Config
from engine.embedded import Engine
from tests.reporters import await_end, reporters

LINGER_S = job_reporter.LINGER_S
ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/progress.md").read_text(encoding="utf-8")


def snippets(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.S)


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("HELIOGRAPH_JOBS_DIR", str(tmp_path))
    monkeypatch.setattr(job_reporter, "LINGER_S", 0.0)
    monkeypatch.setattr(job_reporter, "IDLE_S", 0.01)
    others = reporters()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HELIOGRAPH_URL", f"ws://127.0.0.1:{taken.getsockname()[1]}/ws")
        yield
        await_end(others)


def test_its_jobs_run_and_go_on() -> None:
    def run(code: str, **names: Any) -> dict[str, Any]:
        found = {"progress": progress, **names}
        exec(compile(code, "docs/progress.md", "exec"), found)
        return found

    wrapped, stopping, resuming, _ = snippets("python")
    loaded: list[int] = []
    found = run(
        wrapped, rows=range(3), bars=range(5), load=loaded.append, trade=loaded.append, analyse=lambda: loaded.append(9)
    )
    assert loaded == [0, 1, 2, 0, 1, 2, 3, 4, 9]
    assert found["job"].report().state == "done"

    with pytest.raises(progress.Cancelled), progress.job("j", stages={"backtest": 1}) as asked:
        asked.cancel()
        run(stopping, job=asked, bars=[1], orders=lambda bar: [1])

    done: list[int] = []

    def trade(bar: int) -> float:
        done.append(bar)
        if bar == 1_200 and done.count(bar) == 1:
            raise ValueError("it dies here")
        return 1.0

    with contextlib.suppress(ValueError):
        run(resuming, source=range(2_000), load=lambda row: row, trade=trade)
    found = run(resuming, source=range(2_000), load=lambda row: row, trade=trade)
    assert done == [*range(1_201), *range(1_000, 2_000)]
    assert found["state"] == {"cash": 12_000.0}
    assert (found["job"].attempt, found["job"].report().resumed) == (2, 0.55)


def test_the_example_is_watched_and_stopped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import backtest_job  # type: ignore[import-not-found]

    whole = backtest_job.main(None, bars=3_000, pause=0)
    lines: list[str] = []
    *_, watching = snippets("python")

    async def scenario() -> float:
        async with Engine(workers=0, port=0, admin_port=0) as engine, engine.client() as client:
            body = "".join(f"    {line}\n" for line in watching.splitlines())
            found: dict[str, Any] = {"client": client, "print": lambda *what: lines.append(" ".join(map(str, what)))}
            exec(compile(f"async def watch():\n{body}", "docs/progress.md", "exec"), found)
            watcher = asyncio.create_task(found["watch"]())
            running = asyncio.create_task(asyncio.to_thread(backtest_job.main, engine.url, 3_000, 0.001))
            async with client.subscribe("progress.backtest-17", snapshot=True) as events:
                while (await anext(events)).data["checkpoint"] is None:
                    pass
            await client.call("progress.backtest-17", "cancel", {"reason": "enough"})
            with pytest.raises(progress.Cancelled, match="enough"):
                await running
            again: float = await asyncio.to_thread(backtest_job.main, engine.url, 3_000, 0.0)
            while not any(line.startswith("backtest-17 done 100.0%") for line in lines):
                await asyncio.sleep(0.01)
            watcher.cancel()
            return again

    assert asyncio.run(asyncio.wait_for(scenario(), 30)) == whole, "as if nobody had stopped it"
    assert "attempt 2 goes on at" in capsys.readouterr().out
    assert any(line.startswith("backtest-17 running") for line in lines)


def test_the_event_it_shows_is_one() -> None:
    [shown] = snippets("json")
    report = msgspec.json.decode(shown, type=job_progress.Report)
    assert list(msgspec.json.decode(shown)) == [field.name for field in msgspec.structs.fields(job_progress.Report)]
    core = job_progress.JobProgress({stage.name: stage.weight for stage in report.stages})
    for stage in report.stages:
        core.restore(stage.name, stage.done, stage.total, stage.progress)
    assert report.progress == pytest.approx(core.told, abs=1e-4)


def test_its_numbers_are_those_of_the_code() -> None:
    assert (job_reporter.UPDATE_INTERVAL_S, job_progress.BEAT_S, job_progress.SILENT_BEATS) == (0.1, 5.0, 3)
    assert "at most ten times a second, at least every 5 s" in GUIDE
    assert "three `beat`s (15 s)" in GUIDE
    assert (job.END_TIMEOUT_S, LINGER_S) == (1.0, 30.0)
    assert "at most 1 s" in GUIDE
    assert "within 30 s" in GUIDE
    assert f"at most {job.MAX_TEXT} characters" in GUIDE
    assert (job_progress.SPEED_MEMORY, job_progress.SPEED_MEMORY_LEAST_S, job_progress.ETA_LEAST_S) == (0.25, 5.0, 1.0)
    assert job_progress.DIGITS == 10_000
    assert Config().history.topic_idle == 3_600
    for state in job_progress.JobState:
        assert f"`{state}`" in GUIDE
    for name in ("resume", "directory", "url", "token", "total", "stages"):
        assert name in inspect.signature(progress.job).parameters
        assert name in GUIDE
