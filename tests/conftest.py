"""What all tests share: waiting for a condition with a deadline, and components that may be missing."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, settings

DEADLINE = 5.0
STEP = 0.002

# The machine decides how long an example takes, not the code; in CI the examples are the same each time.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("default"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")

Condition = Callable[[], object]


@pytest.fixture(scope="session", autouse=True)
def _own_state_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Engines leave nothing in the home of who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / "state"))
        yield


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test does not depend on how the machine that runs it is configured."""
    for name in list(os.environ):
        if name.startswith("HELIOGRAPH_") or name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _own_log_levels() -> Iterator[None]:
    """A test that sets up a daemon's logs changes nothing for those after it."""
    loggers = [logging.getLogger(name) for name in (None, "actors", "engine", "transport")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture
def eventually() -> Callable[..., Awaitable[None]]:
    """``await eventually(condition, deadline=5.0)``: until the condition holds; fails naming it after the deadline."""

    async def wait(condition: Condition, deadline: float = DEADLINE) -> None:
        until = time.monotonic() + deadline
        while not condition():
            if time.monotonic() > until:
                _too_late(condition, deadline)
            await asyncio.sleep(STEP)

    return wait


@pytest.fixture
def wait_until() -> Callable[..., None]:
    """As ``eventually``, for a test without a loop."""

    def wait(condition: Condition, deadline: float = DEADLINE) -> None:
        until = time.monotonic() + deadline
        while not condition():
            if time.monotonic() > until:
                _too_late(condition, deadline)
            time.sleep(STEP)

    return wait


def _too_late(condition: Condition, deadline: float) -> NoReturn:
    code = condition.__code__ if hasattr(condition, "__code__") else None
    where = f"{code.co_filename}:{code.co_firstlineno}" if code else repr(condition)
    pytest.fail(f"not so within {deadline:g} s: the condition at {where}", pytrace=True)


@pytest.fixture
def missing() -> Callable[[str], NoReturn]:
    """``missing("redis-server")``: skip by that name, or fail where everything has to be there (``CI=true``)."""

    def say(component: str) -> NoReturn:
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(f"{component} is missing, and CI must have it")
        pytest.skip(f"{component} is missing")

    return say
