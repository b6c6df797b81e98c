"""What alerts remember."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from actors.alert_rule import Acknowledgement, Alarm, Phase
from actors.alert_store import AlertStore, Waiting
from transport.errors import HeliographError

FIRING = Alarm("cpu", None, Phase.FIRING, 1.0, 2.0, 93.5, Acknowledgement("ann", 3.0, "mine"), "load", "e", 7)


@pytest.mark.parametrize("on_disk", [True, False])
def test_what_is_kept_is_there_for_the_next_life(tmp_path: Path, on_disk: bool) -> None:
    path = tmp_path / "state" / "alerts.db"
    store = AlertStore(path if on_disk else None)
    store.open()
    assert store.load() == ([], [], None)
    other = Alarm("any", "a.b")
    waiting = store.keep([FIRING, other], [], [("", b"1"), ("ops", b"2")], "log:5")
    assert waiting == [Waiting(1, "", b"1"), Waiting(2, "ops", b"2")]
    store.done([1])
    store.keep([], [("any", "a.b"), ("cpu", "none such")], [], None)
    store.close()
    store = AlertStore(path) if on_disk else store
    store.open()
    assert store.load() == ([FIRING], [Waiting(2, "ops", b"2")], "log:5")
    assert [one.number for one in store.keep([], [], [("", b"3")], "log:6")] == [3], "numbers only rise"
    assert not on_disk or path.stat().st_mode & 0o777 == 0o600
    store.close()


def test_what_cannot_be_kept_as_a_whole_is_not_kept(tmp_path: Path) -> None:
    store = AlertStore(tmp_path / "alerts.db")
    store.open()
    with pytest.raises(sqlite3.Error):
        store.keep([FIRING], [], [("", None)], "log:5")  # type: ignore[list-item]
    assert store.load() == ([], [], None)
    store.close()
    with pytest.raises(HeliographError, match="closed"):
        store.load()


def test_a_file_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "alerts.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE other (x)")
    before = path.read_bytes()
    with pytest.raises(HeliographError, match="something else: move it away"):
        AlertStore(path).open()
    assert path.read_bytes() == before
    path.write_bytes(b"no database" * 1_000)
    with pytest.raises(HeliographError, match="move it away"):
        AlertStore(path).open()
