"""``docs/durable.md`` says what is so: its snippets run, its numbers are those of the code."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import textwrap
from pathlib import Path
from typing import Any

import pytest

from actors.history import KEY_LIFETIME
from actors.keeper import KEEPER_BYTES, KEEPER_EVENTS
from actors.router import SWEEP_INTERVAL
from actors.sqlite_history import WAL_BYTES, SqliteHistory
from actors.topic_policy import TopicPolicies, TopicPolicy
from engine import config
from engine.client import Client
from engine.embedded import Engine
from engine.history_config import History
from transport.messages import Publish

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/durable.md").read_text(encoding="utf-8")
LOCAL: dict[str, Any] = {"workers": 0, "port": 0, "admin_port": 0}


def block(kind: str) -> str:
    (found,) = re.findall(rf"^```{kind}\n(.*?)^```", GUIDE, re.M | re.S)
    return str(found)


def test_the_configuration_is_one() -> None:
    for text in (block("toml"), block("toml").replace("# history_age", "history_age")):
        topic = config.loads(text).topics["order.>"]
        assert topic.durable and topic.history_size == 100_000
    assert topic.history_age == 7 * 24 * 3600
    named = set(re.findall(r"`(history|limits|server)\.(\w+)`", GUIDE)) - {("history", "db")}
    defaults = config.Config()
    assert named and all(hasattr(getattr(defaults, table), field) for table, field in named)


def test_the_numbers_are_those_of_the_code(tmp_path: Path) -> None:
    history = History()
    assert (history.size, history.age, KEY_LIFETIME) == (10_000, 300, 300)
    assert (KEEPER_EVENTS, KEEPER_BYTES, SWEEP_INTERVAL, WAL_BYTES) == (50_000, 256 * 2**20, 10, 16 * 2**20)
    policies = TopicPolicies({}, TopicPolicy(durable=True))
    for key, least, most in ((None, 150, 250), ("order-%d-filled", 240, 350)):
        file = tmp_path / f"{key is None}.db"
        kept = SqliteHistory(file, policies, 10, lambda: "0a1b2c3d")
        for first in range(0, 10_000, 1_000):
            batch = [
                Publish(0, "order.7", "message", b'"%098d"' % n, idempotency_key=key and key % n)
                for n in range(first, first + 1_000)
            ]
            kept.append(batch, 1e9)
        kept.close()
        assert least < file.stat().st_size / 10_000 < most


def test_the_snippet_runs_and_a_copy_of_a_running_engines_file_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    body = textwrap.indent(block("python"), "    ") + "        await more(engine)\n"
    copy = str(tmp_path / "copy.db")

    async def more(engine: Engine) -> None:
        for n in range(100):
            await engine.publish("order.8", n)
        database = sqlite3.connect("orders.db")
        database.execute(block("sql").replace("/backup/history.db", copy))
        database.close()

    async def main() -> None:
        async with asyncio.timeout(30):
            found: dict[str, Any] = {"more": more}
            exec(compile(f"async def run():\n{body}", "docs/durable.md", "exec"), found)
            await found["run"]()
            tables: dict[str, Any] = {"topics": {"order.>": {"durable": True}}, "history": {"durable_file": copy}}
            async with Engine(**LOCAL, **tables) as engine, Client(engine.url) as client:
                assert [event.data for event in await client.history("order.7")] == [{"state": "filled"}]
                assert [event.data for event in await client.history("order.8")] == list(range(100))
                assert (await engine.publish("order.7", 0, idempotency_key="order-7-filled")).offset == 1

    asyncio.run(main())


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)h][^)]*)\)", GUIDE))))
def test_a_link_leads_somewhere(link: str) -> None:
    path, _, anchor = link.partition("#")
    text = (ROOT / "docs" / path).read_text(encoding="utf-8")
    assert not anchor or f"## {anchor.capitalize()}\n" in text
