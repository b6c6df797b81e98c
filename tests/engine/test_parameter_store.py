"""The database of parameters."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import msgspec
import pytest

from actors.parameter_book import Change, Refusal
from engine import parameter_store
from engine.parameter_store import ParameterStore
from transport.errors import HeliographError, RequestError


def change(version: int, **values: object) -> Change:
    return Change(version=version, values=values, changed=sorted(values), by="anna", at=float(version), reason="so")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "parameters.db"


def test_what_was_kept_is_there_again(file: Path) -> None:
    store = ParameterStore(file)
    for version in (1, 2, 3):
        store.append("a", change(version, x=version))
    store.append("b", change(1, y=1))
    name = store.name
    store.close()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = ParameterStore(file)
    assert again.name == name
    assert again.latest("a") == change(3, x=3)
    assert again.versions("a", 1, 10) == [change(2, x=2), change(3, x=3)]
    assert again.versions("a", 0, 2) == [change(2, x=2), change(3, x=3)]
    assert again.latest("c") is None
    again.close()


def test_a_version_is_there_once(file: Path) -> None:
    store = ParameterStore(file)
    store.append("a", change(1))
    with pytest.raises(RequestError, match="cannot be written"):
        store.append("a", change(1, other=1))
    assert store.latest("a") == change(1)
    store.close()


def test_refusals_are_in_the_trail_and_no_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parameter_store, "REFUSED_KEPT", 2)
    store, why = ParameterStore(None), Refusal("bad_request", "at most 1", "values.x")
    store.append("a", change(1, x=0))
    for n in range(4):
        store.refuse("a", change(2, x=n), why)
    store.refuse("b", change(1, x="x" * parameter_store.REFUSED_BYTES), why)
    assert store.latest("a") == change(1, x=0)
    assert store.versions("a", 0, 10) == [change(1, x=0)]
    found = store.page("a", 10, None).changes
    assert [c.values for c in found] == [{"x": 3}, {"x": 2}, {"x": 0}]
    assert [c.refused for c in found] == [why, why, None]
    assert (store.refused("a"), store.refused("b"), store.refused("c")) == (4, 1, 0)
    assert [c.values for c in store.page("b", 10, None).changes] == [None]
    store.close()


def test_the_oldest_versions_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parameter_store, "VERSIONS_KEPT", 3)
    store = ParameterStore(None)
    for version in range(1, 6):
        store.append("a", change(version))
    assert [c.version for c in store.versions("a", 0, 10)] == [3, 4, 5]
    store.close()


def test_pages_hold_so_much_and_join(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parameter_store, "PAGE_BYTES", 3 * len(msgspec.msgpack.encode(change(1, x=1))))
    store, seen, before = ParameterStore(None), [], None
    for version in range(1, 12):
        store.append("a", change(version, x=1))
    while True:
        page = store.page("a", 5, before)
        assert 1 <= len(page.changes) <= 3
        seen += [c.version for c in page.changes]
        if (before := page.before) is None:
            break
    assert seen == list(range(11, 0, -1))
    store.close()


def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE t (x)")
    db.close()
    with pytest.raises(HeliographError, match="something else"):
        ParameterStore(other)
    text = tmp_path / "text.db"
    text.write_text("no database " * 100)
    with pytest.raises(HeliographError, match="cannot be used"):
        ParameterStore(text)
    with pytest.raises(HeliographError, match="cannot be opened"):
        ParameterStore(text / "below.db")
    newer = tmp_path / "newer.db"
    ParameterStore(newer).close()
    with sqlite3.connect(newer) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(HeliographError, match="another version"):
        ParameterStore(newer)
