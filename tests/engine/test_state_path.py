"""Where databases are by default."""

from __future__ import annotations

from pathlib import Path

from engine.state_path import state_path


def test_a_file_that_is_named_is_taken() -> None:
    assert state_path("m.db", "metrics", 0, {"STATE_DIRECTORY": "/var/lib/heliograph"}) == Path("m.db")


def test_under_a_service_manager_it_is_in_the_first_state_directory() -> None:
    environ = {"STATE_DIRECTORY": "/var/lib/a:/var/lib/b", "XDG_STATE_HOME": "/x"}
    assert state_path(None, "metrics", 0, environ) == Path("/var/lib/a/metrics.db")


def test_by_hand_it_is_named_by_the_port() -> None:
    assert state_path(None, "alerts", 8765, {"XDG_STATE_HOME": "/x"}) == Path("/x/heliograph/alerts-8765.db")
    assert state_path(None, "alerts", 8765, {}) == Path.home() / ".local/state/heliograph/alerts-8765.db"


def test_with_a_picked_port_there_is_none() -> None:
    assert state_path(None, "metrics", 0, {"XDG_STATE_HOME": "/x"}) is None
