"""What the suites share: a loop to measure on, publications to measure with, and a figure per item."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop
from pytest_benchmark.fixture import BenchmarkFixture

from bench.wsload import TOPIC
from transport.messages import Publication

DATA = b'{"t":1700000000000000000,"s":1234,"x":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}'


_EACH = pytest.StashKey[dict[str, tuple[float, int]]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of them measure."""
    for item in items:
        if "bench" in item.path.parts:
            item.add_marker(pytest.mark.performance)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What people want to know: not an iteration, but one event, message or flush."""
    if figures := config.stash.get(_EACH, {}):
        terminalreporter.section("median of one item")
        for name, (each, items) in figures.items():
            terminalreporter.line(f"{each:12.3f} us  {name}  ({items:,} per iteration)")


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A uvloop loop of the benchmark's own."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner.get_loop()


@pytest.fixture
def publications() -> Callable[..., list[Publication]]:
    """``publications(100, first=1, topic=…)``: consecutive events of one topic, as the hub sends them."""

    def make(count: int, first: int = 1, topic: str = TOPIC) -> list[Publication]:
        offsets = range(first, first + count)
        return [Publication(topic, "0a1b2c3d", n, 1_700_000_000.123456, "message", DATA) for n in offsets]

    return make


@pytest.fixture
def measure(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> Callable[..., Any]:
    """``measure(iteration, items)`` runs the benchmark; ``us_per_item`` in its extra info is the median of one item.

    An iteration that takes no time for itself may be given fresh arguments by ``setup``, which is not measured.
    """

    def run(iteration: Callable[..., Any], items: int, setup: Callable[[], Any] | None = None) -> Any:
        if setup is None:
            result = benchmark(iteration)
        else:
            pedantic: Any = benchmark.pedantic
            result = pedantic(iteration, setup=setup, rounds=200, warmup_rounds=20)
        if benchmark.stats is not None:  # None with --benchmark-disable
            each = benchmark.extra_info["us_per_item"] = round(benchmark.stats.stats.median / items * 1e6, 4)
            request.config.stash.setdefault(_EACH, {})[request.node.nodeid] = (each, items)
        return result

    return run
