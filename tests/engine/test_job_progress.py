"""How far a job is, as pure data."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.job_progress import BEAT_S, Eta, JobProgress, JobState, Report, topic_of
from transport.errors import HeliographError, RequestError

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("enter"), st.sampled_from("abc"), st.sampled_from([None, 0, 1, 7, 100]), st.integers(0, 9)),
        st.tuples(st.just("done"), st.integers(0, 120)),
        st.tuples(st.just("total"), st.sampled_from([None, 1, 50, 1_000])),
        st.tuples(st.just("leave"), st.booleans()),
    ),
    max_size=40,
)


@given(STEPS)
def test_progress_never_falls_and_is_a_part_of_one(steps: list[tuple[object, ...]]) -> None:
    job = JobProgress({"a": 1, "b": 2.5, "c": 0.1})
    before, stages_before = 0.0, [0.0] * 3
    for step in steps:
        current = job.current
        if step[0] == "enter":
            if job.stages[step[1]] is not current and job.stages[step[1]] not in job._running:
                job.enter(step[1], step[2], step[3])
        elif current is not None:
            if step[0] == "done":
                current.done = step[1]
            elif step[0] == "total":
                current.total = step[1]
            else:
                job.leave(current, step[1])
        stages = [stage.progress for stage in job.stages.values()]
        assert before <= job.progress <= 1
        assert all(was <= now for was, now in zip(stages_before, stages, strict=True))
        assert -1e-12 < job.progress - job.told < 0.0001 + 1e-12
        assert (job.told == 1) == all(stage == 1 for stage in stages)
        before, stages_before = job.progress, stages
    job.finish()
    assert job.progress == job.told == 1


def test_stages_count_by_their_weights() -> None:
    job = JobProgress({"load": 1, "backtest": 8, "analysis": 1})
    job.leave(job.enter("load", None, 0), complete=True)
    assert job.told == 0.1
    backtest = job.enter("backtest", 200, 50)
    assert (job.told, job.current) == (0.3, backtest)
    backtest.done = 500  # more than there was to be
    assert job.told == 0.9
    job.leave(backtest, complete=False)
    assert job.current is None
    report = job.stages["backtest"].report()
    assert (report.name, report.weight, report.progress, report.done, report.total) == ("backtest", 8, 1.0, 500, 200)


def test_one_is_told_only_of_what_is_complete() -> None:
    job = JobProgress({"work": 1})
    job.enter("work", 1_000_000, 0).done = 999_999
    assert job.told == 0.9999


def test_a_stage_done_again_stands_where_it_was_until_it_is_beyond() -> None:
    job = JobProgress({"work": 1})
    job.restore("work", 60, 100, 0.6)
    job.restore("gone", 1, 1, 1.0)  # no longer declared
    stage = job.enter("work", 100, 0)
    assert (job.told, stage.done) == (0.6, 0)
    stage.done = 61
    assert job.told == 0.61


@pytest.mark.parametrize(
    ("stages", "why"),
    [
        ({}, "1 to 100 stages"),
        ({f"s{i}": 1 for i in range(101)}, "1 to 100 stages"),
        ({"": 1}, "1 to 64 characters"),
        ({"x" * 65: 1}, "1 to 64 characters"),
        ({"\udcff": 1}, "1 to 64 characters"),
        ({"a": 0}, "weight of stage 'a'"),
        ({"a": math.inf}, "weight of stage 'a'"),
        ({"a": True}, "weight of stage 'a'"),
        ({"a": "1"}, "weight of stage 'a'"),
    ],
)
def test_bad_stages_are_named(stages: dict[str, float], why: str) -> None:
    with pytest.raises(HeliographError, match=why):
        JobProgress(stages)


def test_a_stage_that_cannot_begin_changes_nothing() -> None:
    job = JobProgress({"a": 1, "b": 1})
    job.enter("a", 10, 0)
    for name, total, start, why in [
        ("c", None, 0, "not declared; there are: a, b"),
        ("a", None, 0, "runs already"),
        ("b", -1, 0, "total"),
        ("b", math.nan, 0, "total"),
        ("b", 1, -1, "start"),
    ]:
        with pytest.raises(HeliographError, match=why):
            job.enter(name, total, start)
    assert [stage.name for stage in job._running] == ["a"]
    assert job.changes == 1


@given(
    speed=st.floats(1e-6, 0.5),
    looks=st.lists(st.floats(0.01, 100), min_size=1, max_size=30),
    start=st.floats(0, 0.9),
)
def test_the_time_left_is_exact_for_a_constant_speed(speed: float, looks: list[float], start: float) -> None:
    eta, now = Eta(start, 50.0), 50.0
    for passed in looks:
        now += passed
        progress = min(1.0, start + speed * (now - 50.0))
        left = eta.look(progress, now)
        if progress >= 1:
            assert left == 0
            return
        if now - 50.0 < 1:
            assert left is None
        else:
            assert left == pytest.approx((1 - progress) / speed, rel=1e-3)


def test_the_time_left_follows_a_job_that_gets_slower_and_one_that_stands() -> None:
    eta = Eta(0.0, 0.0)
    assert eta.look(0.0, 10.0) is None  # nothing has moved
    for second in range(1, 41):
        left = eta.look(second / 100, 10.0 + second)
    assert left is not None
    assert 50 < left < 90  # 60 at the present speed; what went before is being forgotten
    slower = eta.look(0.4, 60.0)
    much_slower = eta.look(0.4, 2_000.0)
    assert slower is not None
    assert much_slower is None or much_slower > slower > left
    assert Eta(0.0, 0.0).look(1e-12, 10.0) is None  # thousands of years
    assert Eta(0.0, 0.0).look(1.0, 0.0) == 0.0


def test_who_says_nothing_for_three_beats_is_silent() -> None:
    running = Report(
        job="j", run="r", attempt=1, state=JobState.RUNNING, progress=0.5, stage=None, stages=(), beat=BEAT_S
    )
    assert not running.silent(3 * BEAT_S)
    assert running.silent(3 * BEAT_S + 0.1)
    done = Report(job="j", run="r", attempt=1, state=JobState.DONE, progress=1.0, stage=None)
    assert not done.silent(1e9)


def test_a_job_has_a_topic_of_its_own() -> None:
    assert topic_of("backtest-17") == "progress.backtest-17"
    assert topic_of("a.b *") == "progress.a%2Eb%20%2A"
    with pytest.raises(RequestError, match="invalid_topic"):
        topic_of("x" * 255)
