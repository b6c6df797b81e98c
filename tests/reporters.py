"""The threads that tell an engine of jobs: a test leaves none behind."""

from __future__ import annotations

import threading

DEADLINE = 20.0  # s


def reporters() -> set[threading.Thread]:
    """Those that live."""
    return {thread for thread in threading.enumerate() if thread.name == "heliograph-progress"}


def await_end(others: set[threading.Thread]) -> None:
    """Until all but ``others`` have ended by themselves, as their last job has."""
    for thread in reporters() - others:
        thread.join(DEADLINE)
        assert not thread.is_alive()
