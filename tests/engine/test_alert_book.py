from __future__ import annotations

import asyncio
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from engine import alert_book
from engine.alert_book import AlertBook
from engine.market_alerts import MarketAlert, PatternAlert
from engine.preferences import PreferenceRule, Preferences
from transport.codes import ErrorCode, Priority
from transport.errors import ConfigError, ConnectionLost, RequestError, Unsupported

ALICE = Preferences(tiers=("daily",), min_confidence=0.8)
BOB = Preferences(symbols=("SPY",), or_else=(PreferenceRule(min_priority=Priority.CRITICAL),), per_hour=3)


def test_a_book_holds_what_it_was_given() -> None:
    book = AlertBook({"bob": BOB})
    book.set("alice", ALICE)
    assert (list(book), len(book), book.get("alice"), book.get("eve")) == (["alice", "bob"], 2, ALICE, None)
    book.set("alice", BOB)
    assert book.get("alice") == BOB
    assert [book.remove("alice"), book.remove("alice")] == [True, False]
    assert list(book) == ["bob"]


@pytest.mark.parametrize("user", ["", "a.b", "*", "a b"])
def test_a_name_that_no_user_can_have_is_refused(user: str) -> None:
    with pytest.raises(RequestError) as error:
        AlertBook({user: ALICE})
    assert error.value.field == "user"


def test_who_wants_an_alert() -> None:
    book = AlertBook({"alice": ALICE, "bob": BOB, "carol": Preferences()})
    alert = PatternAlert(pattern="doji", symbol="SPY", tier="combo", confidence=0.9, priority=Priority.HIGH)
    assert book.wanting(alert) == ["bob", "carol"]


def test_a_book_survives_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "book.json"
    AlertBook({"bob": Preferences(), "eve": BOB}).save(path)
    AlertBook({"bob": BOB, "alice": ALICE}).save(path)
    again = AlertBook.load(path)
    assert {user: again.get(user) for user in again} == {"alice": ALICE, "bob": BOB}
    assert json.loads(path.read_text())["alice"] == {"tiers": ["daily"], "min_confidence": 0.8}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["book.json"]


def test_a_failure_to_save_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "book.json"
    AlertBook({"alice": ALICE}).save(path)

    def fail(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        AlertBook({"bob": BOB}).save(path)
    assert list(AlertBook.load(path)) == ["alice"]
    assert os.listdir(tmp_path) == ["book.json"]


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"bob": {}, "alice": {"min_confidence": 2}}', "alice.min_confidence"),
        ('{"alice": {"or_else": [{"tier": ["daily"]}]}}', "alice.or_else[0].tier"),
        ('{"alice": 7}', "alice"),
        ('{"*": {}}', "*.user"),
        ("[]", None),
        ("{", None),
    ],
)
def test_a_file_that_holds_something_else_is_a_wrong_configuration(
    tmp_path: Path, text: str, field: str | None
) -> None:
    path = tmp_path / "book.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=str(path)) as error:
        AlertBook.load(path)
    assert error.value.field == field


def test_no_file_is_a_wrong_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        AlertBook.load(tmp_path / "none.json")


def test_preferences_are_applied_by_the_admin_api(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def ask(method: str, admin_url: str, path: str, api_key: str | None, body: bytes) -> Any:
        asked.append((method, admin_url, path, api_key, json.loads(body)))
        return {"sessions": 2}

    monkeypatch.setattr(alert_book, "ask", ask)
    book = AlertBook({"al/ice": ALICE})
    apply = {"admin_url": "http://h:1", "api_key": "k"}
    assert asyncio.run(book.apply("al/ice", PatternAlert, MarketAlert, **apply)) == 2
    topics = ["alert.pattern.*", "alert.market.*"]
    where = ALICE.where(PatternAlert, MarketAlert)
    path = "/api/users/al%2Fice/"
    assert asked == [("POST", "http://h:1", path + "subscribe", "k", {"topics": topics, "where": where})]
    book.remove("al/ice")
    asyncio.run(book.apply("al/ice", PatternAlert, MarketAlert, **apply))
    assert asked[1:] == [("POST", "http://h:1", path + "unsubscribe", "k", {"topics": topics})]


def test_a_cap_that_sessions_elsewhere_would_not_keep_is_refused() -> None:
    with pytest.raises(Unsupported) as error:
        asyncio.run(AlertBook({"bob": BOB}).apply("bob", PatternAlert, admin_url="http://127.0.0.1:9"))
    assert (error.value.code, error.value.field) == (ErrorCode.UNSUPPORTED, "per_hour")


def test_an_engine_that_is_not_there_is_told() -> None:
    with pytest.raises(ConnectionLost):
        asyncio.run(AlertBook().apply("bob", PatternAlert, admin_url="http://127.0.0.1:9"))
