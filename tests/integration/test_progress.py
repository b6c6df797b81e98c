"""Jobs and those who watch them: a real engine, real sockets, processes that are killed."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine import cli
from engine.client import Client
from engine.progress import Job
from heliograph import Event, progress
from tests.integration.harness import EngineProcess
from tests.integration.progress_job import ITEMS, PER_CHECKPOINT
from tests.reporters import await_end, reporters

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("progress_job.py")
DEADLINE = 30.0  # s
MOST_PER_SECOND = 20
WATCHERS = 50


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineProcess]:
    others = reporters()
    process = EngineProcess()
    yield process
    await_end(others)
    process.stop()
    assert process.destroy() == []


async def watch(url: str, topic: str, ready: asyncio.Event, **options: Any) -> list[Event]:
    """All that comes of a job, until it has ended."""
    seen = []
    async with Client(url) as client, client.subscribe(topic, **options) as events:
        ready.set()
        async for event in events:
            seen.append(event)
            if event.data["state"] != "running":
                return seen
    raise AssertionError("the subscription has ended")


async def watched(url: str, topic: str, watchers: int, **options: Any) -> list[asyncio.Task[list[Event]]]:
    readies = [asyncio.Event() for _ in range(watchers)]
    tasks = [asyncio.create_task(watch(url, topic, ready, **options)) for ready in readies]
    async with asyncio.timeout(DEADLINE):
        for ready in readies:
            await ready.wait()
    return tasks


def test_a_thousand_steps_reach_fifty_watchers_without_a_flood(engine: EngineProcess, tmp_path: Path) -> None:
    async def scenario() -> None:
        def work() -> None:
            with progress.job("thousand", stages={"load": 1, "work": 9}, directory=tmp_path, url=engine.url) as job:
                for _ in job.track(range(1_000), "load"):
                    pass  # at full speed
                for _ in job.track(range(1_000), "work"):
                    time.sleep(0.001)
            assert job.told.result(DEADLINE)

        options = [{}, {"conflate": True}, {"max_rate": 5}, {"snapshot": True, "max_rate": 2}, {"window": 0.1}]
        tasks = [
            task
            for option in options
            for task in await watched(engine.url, "progress.thousand", WATCHERS // len(options), **option)
        ]
        began = time.monotonic()
        async with asyncio.timeout(DEADLINE):
            await asyncio.to_thread(work)
            seconds = time.monotonic() - began
            seen = await asyncio.gather(*tasks)
        assert len(seen) == WATCHERS
        for events in seen:
            parts = [event.data["progress"] for event in events]
            assert parts == sorted(parts), "no step back"
            assert (parts[-1], events[-1].data["state"], events[-1].data["eta"]) == (1.0, "done", 0)
            assert len(events) <= MOST_PER_SECOND * max(1.0, seconds)
        stages = seen[0][-1].data["stages"]
        assert [(stage["done"], stage["progress"]) for stage in stages] == [(1_000, 1), (1_000, 1)]

    asyncio.run(scenario())


def test_a_job_that_is_killed_goes_on_from_its_checkpoint(engine: EngineProcess, tmp_path: Path) -> None:
    async def scenario() -> None:
        command = [sys.executable, str(PROGRAM), "killed", str(tmp_path), engine.url]
        environ = os.environ | {"PYTHONPATH": str(ROOT)}
        [watching] = await watched(engine.url, "progress.killed", 1)
        halfway = asyncio.Event()

        async def wait_for_half() -> None:
            async with Client(engine.url) as client, client.subscribe("progress.killed", snapshot=True) as events:
                async for event in events:
                    if event.data["progress"] >= 0.5 and event.data["checkpoint"] is not None:
                        halfway.set()
                        return

        waiting = asyncio.create_task(wait_for_half())
        first = await asyncio.create_subprocess_exec(*command, env=environ, stdout=subprocess.PIPE)
        async with asyncio.timeout(DEADLINE):
            await halfway.wait()
            await waiting
            first.kill()
            before, _ = await first.communicate()
            second = await asyncio.create_subprocess_exec(*command, env=environ, stdout=subprocess.PIPE)
            after, _ = await second.communicate()
            seen = [event.data for event in await watching]
        assert second.returncode == 0
        done_before = [int(line) for line in before.split()]
        *done_after, last = after.decode().splitlines()
        began_at = int(done_after[0])
        assert began_at % PER_CHECKPOINT == 0
        assert 0 <= done_before[-1] + 1 - began_at <= PER_CHECKPOINT, (
            "at most what came behind the last checkpoint again"
        )
        assert [*map(int, done_after)] == [*range(began_at, ITEMS)]
        assert last == f"sum {sum(range(ITEMS))}", "each item counted once"
        lives = [[data for data in seen if data["attempt"] == attempt] for attempt in (1, 2)]
        assert [data["attempt"] for data in seen] == [1] * len(lives[0]) + [2] * len(lives[1])
        assert len({data["run"] for data in seen}) == 1
        for life in lives:
            parts = [data["progress"] for data in life]
            assert parts == sorted(parts)
        resumed = lives[1][0]["resumed"]
        assert resumed == int(10_000 * (0.1 + 0.9 * began_at / ITEMS)) / 10_000
        assert all(data["progress"] >= resumed for data in lives[1])
        assert lives[0][0]["resumed"] is None
        assert list(tmp_path.iterdir()) == [], "it is done"

    asyncio.run(scenario())


def test_a_job_is_stopped_from_afar(engine: EngineProcess, tmp_path: Path) -> None:
    async def scenario() -> None:
        def work() -> None:
            with progress.job("endless", directory=tmp_path, url=engine.url) as job:
                while True:
                    time.sleep(0.002)
                    job.check()

        [watching] = await watched(engine.url, "progress.endless", 1)
        running = asyncio.create_task(asyncio.to_thread(work))
        async with asyncio.timeout(DEADLINE), Client(engine.url) as client:
            async with client.subscribe("progress.endless", snapshot=True) as events:
                await anext(events)
            answer = await client.call("progress.endless", "cancel", {"reason": "wrong parameters"})
            assert answer == {"cancelled": True, "state": "running"}
            with pytest.raises(progress.Cancelled, match="wrong parameters"):
                await running
            last = (await watching)[-1].data
        assert (last["state"], last["error"]) == ("cancelled", "wrong parameters")

    asyncio.run(scenario())


def _child(name: str, directory: str, url: str) -> None:
    with progress.job(name, total=10, directory=directory, url=url) as job:
        for _ in range(10):
            job.step()
    os._exit(0 if job.told.result(DEADLINE) else 1)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_of_a_process_with_a_job_have_their_own(engine: EngineProcess, tmp_path: Path, method: str) -> None:
    with progress.job(f"parent-{method}", total=2, directory=tmp_path, url=engine.url) as job:
        job.step()
        child = multiprocessing.get_context(method).Process(
            target=_child, args=(f"child-{method}", str(tmp_path), engine.url)
        )
        child.start()
        child.join(DEADLINE)
        assert child.exitcode == 0
        job.step()
    assert job.told.result(DEADLINE)
    with Client.sync(engine.url) as client:
        found = client.snapshot([f"progress.parent-{method}", f"progress.child-{method}"])
    assert [(event.data["state"], event.data["progress"]) for event in found] == [("done", 1.0)] * 2


@pytest.fixture
def shown(engine: EngineProcess, tmp_path: Path) -> Iterator[Job]:
    """A job at 25 % that runs until somebody stops it."""
    entered: list[Job] = []

    def work() -> None:
        with (
            contextlib.suppress(progress.Cancelled),
            progress.job("shown", total=100, directory=tmp_path, url=engine.url) as job,
        ):
            entered.append(job)
            job.step(25)
            while True:
                time.sleep(0.002)
                job.check()

    thread = threading.Thread(target=work)
    thread.start()
    with Client.sync(engine.url) as client, client.subscribe("progress.shown", snapshot=True) as events:
        while (data := events.get(DEADLINE).data)["progress"] < 0.25 or data["state"] != "running":
            pass
    yield entered[0]
    entered[0].cancel()
    thread.join(DEADLINE)


def test_the_command_tells_of_jobs_and_stops_one(
    engine: EngineProcess, shown: Job, capfd: pytest.CaptureFixture[str]
) -> None:
    def heliograph(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["--url", engine.url, *arguments])
        return (ended.value.code, *capfd.readouterr())  # type: ignore[return-value]

    code, out, _ = heliograph("jobs")
    assert code == 0
    [row] = [line.split() for line in out.splitlines() if line.startswith("shown ")]
    assert row[1:5] == ["running", "25.0%", "work", "25/100"]
    code, out, _ = heliograph("jobs", "--json")
    events = {line["key"]: line["data"] for line in map(msgspec.json.decode, out.splitlines())}
    assert (code, events["shown"]["state"]) == (0, "running")
    assert heliograph("jobs", "--cancel", "shown", "--reason", "enough") == (
        0,
        "",
        "heliograph: job 'shown' was asked to stop\n",
    )
    assert shown.told.result(DEADLINE)
    assert (shown.report().state, shown.report().error) == ("cancelled", "enough")
    code, _, err = heliograph("jobs", "--cancel", "shown")
    assert (code, "job 'shown' does not run" in err) == (1, True)


def test_the_command_draws_bars_on_a_terminal(engine: EngineProcess, shown: Job) -> None:
    ours, terminal = pty.openpty()
    command = [sys.executable, "-m", "engine", "jobs", "--url", engine.url]
    environ = os.environ | {"TERM": "xterm", "COLUMNS": "150"}
    with subprocess.Popen(command, cwd=ROOT, env=environ, stdin=terminal, stdout=terminal, stderr=terminal) as process:
        os.close(terminal)
        try:
            screen, until = b"", time.monotonic() + DEADLINE
            while not (b"shown" in screen and b"25.0%" in screen and b"25/100" in screen):
                assert select.select([ours], [], [], until - time.monotonic())[0], screen
                screen += os.read(ours, 65_536)
            process.send_signal(signal.SIGINT)
            while select.select([ours], [], [], DEADLINE)[0]:
                try:
                    if not os.read(ours, 65_536):
                        break
                except OSError:  # nobody has the other end any more
                    break
            assert process.wait(DEADLINE) == 0
        finally:
            process.kill()
            os.close(ours)
