"""What the engine is told of jobs, and that they do not mind its absence."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.backoff import BackoffPolicy
from engine import client, job_reporter, progress
from engine.progress import Job
from tests.engine.fake_engine import FakeEngine, fake_engine_in_thread
from tests.reporters import await_end, reporters

DEADLINE = 20.0  # s
Server = tuple[FakeEngine, asyncio.AbstractEventLoop]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    quick = BackoffPolicy(first_s=0.01, cap_s=0.05)
    monkeypatch.setattr(
        client.Client.__init__, "__kwdefaults__", client.Client.__init__.__kwdefaults__ | {"reconnect": quick}
    )
    monkeypatch.setattr(job_reporter, "RECONNECT", quick)
    monkeypatch.setattr(job_reporter, "IDLE_S", 0.02)
    others = reporters()
    with fake_engine_in_thread() as running:
        yield running
        await_end(others)


@pytest.fixture
def make(server: Server, tmp_path: Path) -> Callable[..., Job]:
    return lambda name="j", **options: progress.job(name, directory=tmp_path, url=server[0].url, **options)


def told(engine: FakeEngine, job: str = "j") -> list[dict[str, Any]]:
    """The data of all that was published of a job."""
    return [r["data"] for r in list(engine.requests) if r["op"] == "publish" and r["topic"] == f"progress.{job}"]


def in_loop(server: Server, work: Any) -> None:
    asyncio.run_coroutine_threadsafe(work, server[1]).result(DEADLINE)


def test_a_short_job_is_told_to_its_end(server: Server, make: Callable[..., Job]) -> None:
    with make(stages={"a": 1, "b": 1}) as job:
        list(job.track(range(1_000), "a"))
        list(job.track(range(1_000), "b"))
    assert job.told.result(DEADLINE)
    events = told(server[0])
    assert 1 <= len(events) <= 3
    assert events[-1] == {
        "job": "j",
        "run": job.run,
        "attempt": 1,
        "state": "done",
        "progress": 1.0,
        "stage": None,
        "stages": [{"name": name, "weight": 1, "progress": 1.0, "done": 1_000, "total": 1_000} for name in ("a", "b")],
        "eta": 0.0,
        "elapsed": events[-1]["elapsed"],
        "started": events[-1]["started"],
        "beat": 5.0,
        "message": None,
        "error": None,
        "resumed": None,
        "checkpoint": None,
    }
    published = next(request for request in server[0].requests if request["op"] == "publish")
    assert (published["type"], published["key"]) == ("progress", "j")


def test_a_job_that_stands_still_is_told_once_a_beat(
    server: Server, make: Callable[..., Job], wait_until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with make(total=2) as job:
        job.step()
        wait_until(lambda: told(server[0]) and told(server[0])[-1]["progress"] == 0.5, DEADLINE)
        before = len(told(server[0]))
        assert before <= 2
        monkeypatch.setattr(job_reporter, "BEAT_S", 0.0)
        job.message = "another"  # from here on the beat is as short as the interval
        wait_until(lambda: len(told(server[0])) >= before + 3, DEADLINE)


def test_jobs_of_one_process_share_a_connection(server: Server, make: Callable[..., Job]) -> None:
    threads = []
    all_here = threading.Barrier(8)
    for number in range(8):

        def live(name: str = f"job-{number}") -> None:
            with make(name, total=3) as job:
                all_here.wait(DEADLINE)
                for _ in range(3):
                    job.step()
            assert job.told.result(DEADLINE)

        threads.append(threading.Thread(target=live))
        threads[-1].start()
    for thread in threads:
        thread.join(DEADLINE)
    assert [told(server[0], f"job-{number}")[-1]["state"] for number in range(8)] == ["done"] * 8
    assert len(server[0].headers) == 1


def test_an_engine_that_goes_and_comes_back_is_told_the_newest(
    server: Server, make: Callable[..., Job], wait_until: Callable[..., None]
) -> None:
    engine = server[0]
    with make(total=100) as job:
        job.step(10)
        wait_until(lambda: told(engine) and told(engine)[-1]["progress"] == 0.1, DEADLINE)
        in_loop(server, engine.stop())
        before = len(told(engine))
        for _ in range(50):
            job.step()
        in_loop(server, engine.start())
        wait_until(lambda: len(told(engine)) > before, DEADLINE)
        assert told(engine)[before]["progress"] == 0.6
    assert job.told.result(DEADLINE)
    assert told(engine)[-1]["state"] == "done"


def test_the_end_is_told_when_the_engine_comes_later(
    server: Server, make: Callable[..., Job], wait_until: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    engine = server[0]
    in_loop(server, engine.stop())
    with pytest.raises(ValueError), make(total=4) as job:
        job.step()
        wait_until(lambda: "nobody is told how far jobs are" in caplog.text, DEADLINE)
        raise ValueError("no data")
    assert job.told.result(DEADLINE) is False, "known to be away: leaving did not wait"
    in_loop(server, engine.start())
    wait_until(lambda: told(engine), DEADLINE)
    assert (told(engine)[0]["state"], told(engine)[0]["error"]) == ("failed", "ValueError: no data")


def test_an_end_that_waits_is_given_up(
    server: Server, make: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_reporter, "LINGER_S", 0.05)
    in_loop(server, server[0].stop())
    others = reporters()
    with make():
        pass
    await_end(others)
    in_loop(server, server[0].start())
    assert told(server[0]) == []


def test_ends_that_wait_are_bounded(
    server: Server, make: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None]
) -> None:
    monkeypatch.setattr(job_reporter, "MAX_LINGERING", 2)
    in_loop(server, server[0].stop())
    for number in range(5):
        with make(f"job-{number}") as job:
            pass
        job.told.result(DEADLINE)
    in_loop(server, server[0].start())
    wait_until(lambda: told(server[0], "job-3") and told(server[0], "job-4"), DEADLINE)
    assert [told(server[0], f"job-{number}") for number in range(3)] == [[], [], []]


def test_a_refusal_is_said_once_and_does_not_matter(
    server: Server, make: Callable[..., Job], caplog: pytest.LogCaptureFixture
) -> None:
    server[0].refusals["publish"] = {"code": "forbidden", "message": "not yours"}
    with make("one") as job:
        list(job.track(range(10)))
    assert job.told.result(DEADLINE) is False
    assert caplog.text.count("forbidden: not yours") == 1


@pytest.mark.parametrize("code", ["unavailable", "rate_limited"])
def test_an_end_waits_for_an_engine_that_cannot_take_it_now(
    server: Server, make: Callable[..., Job], wait_until: Callable[..., None], code: str
) -> None:
    engine = server[0]
    with make(total=2) as job:
        wait_until(lambda: told(engine), DEADLINE)
        engine.refusals["publish"] = {"code": code, "message": "the hub went away"}
    before = len(told(engine))
    wait_until(lambda: len(told(engine)) > before, DEADLINE)
    del engine.refusals["publish"]
    wait_until(lambda: job.told.done() and told(engine)[-1]["state"] == "done", DEADLINE)


def test_a_job_that_cannot_be_told_is_no_harm_to_others(
    server: Server, make: Callable[..., Job], wait_until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with make("one") as one, make("two", total=2) as two:
        wait_until(lambda: told(server[0], "one") and told(server[0], "two"), DEADLINE)
        monkeypatch.setattr(one, "report", lambda: 1 // 0)
        one.message = "to be told"
        two.step()
        wait_until(lambda: told(server[0], "two")[-1]["progress"] == 0.5, DEADLINE)
    assert (one.told.result(DEADLINE), two.told.result(DEADLINE)) == (False, True)


def test_another_token_is_tried_after_a_refusal(
    server: Server, make: Callable[..., Job], wait_until: Callable[..., None]
) -> None:
    server[0].tokens = {"second"}
    tokens = iter(["first", "first too"])
    with make(token=lambda: next(tokens, "second")) as job:
        wait_until(lambda: told(server[0]), DEADLINE)
    assert job.told.result(DEADLINE)
    assert json.dumps(told(server[0])).count("first") == 0


def test_who_is_sent_away_comes_back_as_another_client(
    server: Server, make: Callable[..., Job], wait_until: Callable[..., None]
) -> None:
    engine = server[0]
    with make(total=2) as job:
        wait_until(lambda: told(engine), DEADLINE)
        in_loop(server, engine.bye(4003, "kicked"))
        job.step()
        wait_until(lambda: told(engine)[-1]["progress"] == 0.5, DEADLINE)
    assert job.told.result(DEADLINE)
    assert len(engine.headers) == 2
    assert [r["methods"] for r in engine.requests if r["op"] == "serve"] == [["cancel"], ["cancel"], []]


def test_where_the_engine_is_comes_from_the_environment(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server[0].tokens = {"secret"}
    monkeypatch.setenv("HELIOGRAPH_URL", server[0].url)
    monkeypatch.setenv("HELIOGRAPH_TOKEN", "secret")
    monkeypatch.setenv("HELIOGRAPH_JOBS_DIR", str(tmp_path / "jobs"))
    with progress.job("j") as job:
        assert (tmp_path / "jobs" / "j.json").exists()
    assert job.told.result(DEADLINE)
    assert server[0].headers[0]["Authorization"] == "Bearer secret"
    assert "secret" not in repr(vars(job)["_files"].saved)
