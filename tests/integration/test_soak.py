"""Clients that come, vanish and return leave nothing behind: ``python -m bench.soak``, shorter; and what it sees."""

from __future__ import annotations

import asyncio
import sys

import pytest

from bench.soak import DESCRIPTORS, MEMORY_MB, TASKS, THREADS, WARM, Sample, grown, soak, soaked

ROUNDS = WARM + 2


@pytest.mark.skipif(sys.platform != "linux", reason="the bench's server is pinned to a core")
@pytest.mark.timeout(120)
def test_nothing_grows_and_nothing_is_left() -> None:
    with soaked(2, seconds=2.0) as server:
        assert asyncio.run(soak(server, ROUNDS, seconds=2.0, users=20, rate=100, workers=2)) == []


STEADY = Sample("hub", 20.0, 30, 3, 5)


@pytest.mark.parametrize(
    ("last", "name"),
    [
        (STEADY, None),
        (STEADY._replace(memory_mb=STEADY.memory_mb + MEMORY_MB, threads=3 + THREADS), None),
        (STEADY._replace(memory_mb=STEADY.memory_mb + MEMORY_MB + 1), "memory_mb"),
        (STEADY._replace(descriptors=STEADY.descriptors + DESCRIPTORS + 1), "descriptors"),
        (STEADY._replace(threads=STEADY.threads + THREADS + 1), "threads"),
        (STEADY._replace(tasks=STEADY.tasks + TASKS + 1), "tasks"),
    ],
)
def test_growth_beyond_its_bound_is_named(last: Sample, name: str | None) -> None:
    first = STEADY._replace(memory_mb=1.0, descriptors=1)  # not warm yet
    found = grown([first, *[STEADY] * (WARM - 1), STEADY, last])
    assert [text.split()[1] for text in found] == ([] if name is None else [name])


def test_a_process_that_is_new_is_not_held_against_itself() -> None:
    assert grown([STEADY, STEADY._replace(memory_mb=500.0)]) == []
