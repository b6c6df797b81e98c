"""Real processes and real sockets: the engine is started as its users start it."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.feeds.redis_server import redis_server as redis_server
from tests.integration.harness import EngineProcess


@pytest.fixture
def engine_process() -> Iterator[Callable[..., EngineProcess]]:
    """``engine_process(config_toml="", workers=1, port=0, table__field=value, …)`` starts an engine.

    At the end it is stopped (unless the test has done that), which must go well and leave no process.
    """
    engines: list[EngineProcess] = []

    def start(config: str = "", workers: int = 1, port: int = 0, **fields: object) -> EngineProcess:
        engine = EngineProcess(config, workers, port, **fields)
        engines.append(engine)
        return engine

    yield start
    complaints = []
    for engine in reversed(engines):
        try:
            code = engine.stop()
        except subprocess.TimeoutExpired:
            code = None
        left = engine.destroy()
        print(engine.tail)  # shown where a test fails
        if left or code not in (0, -signal.SIGKILL):
            complaints.append(f"engine {engine.pid}, exit code {code}, left {left}")
    assert not complaints, complaints
