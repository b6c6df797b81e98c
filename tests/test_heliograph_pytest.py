from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

# Loaded here for good: pytester takes away what a run within this process imports, and C extensions cannot come twice.
import engine.mock_exchange  # noqa: F401
from engine import engine_thread
from engine.engine_thread import EngineThread
from heliograph import Client, Fault, MockExchange
from transport.errors import ConfigError, HeliographError

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[1]
OWN_THREADS = ("heliograph-engine", "heliograph-mock-exchange", "heliograph-client")


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name in OWN_THREADS]


@pytest.fixture
def users(pytester: pytest.Pytester) -> pytest.Pytester:
    """A user's project, in which pytest finds the plugin as it finds it for them."""
    pytester.makeini(
        "[pytest]\naddopts = --strict-markers -p no:randomly -p no:benchmark -p no:cacheprovider\n"
        "filterwarnings = error\ntimeout = 30\n"
    )
    return pytester


def passes(users: pytest.Pytester, code: str, count: int) -> None:
    users.makepyfile(textwrap.dedent(code))
    result = users.runpytest_inprocess("-q")
    result.assert_outcomes(passed=count)
    assert threads() == []


def test_the_example(users: pytest.Pytester) -> None:
    passes(users, (ROOT / "examples/test_my_feed.py").read_text(encoding="utf-8"), 6)


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/testing.md").read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.parametrize("block", [block for block in blocks() if "def test_" in block])
def test_the_tests_of_the_documentation(users: pytest.Pytester, block: str) -> None:
    passes(users, block, 1)


def test_the_program_of_the_documentation(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = [block for block in blocks() if "asyncio.run" in block]
    exec(block, {})
    assert capsys.readouterr().out.count("price_update") == 2


def test_the_documentation_names_every_fault_and_option() -> None:
    page = (ROOT / "docs/testing.md").read_text(encoding="utf-8")
    from engine.mock_faults import FaultOptions

    for name in [fault.name for fault in Fault if fault is not Fault.NONE] + list(FaultOptions.__dataclass_fields__):
        assert f"`{name}`" in page, name


def test_the_engine_of_a_test_that_fails_is_stopped_too(users: pytest.Pytester) -> None:
    users.makepyfile(
        """
        def test_it(heliograph_client, mock_exchange):
            heliograph_client.publish("a", 1)
            raise ValueError("meant")
        """
    )
    result = users.runpytest_inprocess("-q")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*ValueError: meant*"])
    assert threads() == []


def test_the_marker_configures_engine_and_exchange_the_nearest_one_first(users: pytest.Pytester) -> None:
    passes(
        users,
        """
        import pytest

        pytestmark = pytest.mark.heliograph(config={"limits": {"connections": 7}}, exchange={"symbols": ["X"]})


        @pytest.fixture
        def heliograph_config():
            return {"limits": {"connections": 3, "subscriptions": 5}}


        def config(engine):
            return engine._running().config


        def test_of_the_module(heliograph_engine, mock_exchange):
            limits = config(heliograph_engine).limits
            assert (limits.connections, limits.subscriptions) == (7, 5)
            assert mock_exchange.symbols == ("X",)
            assert config(heliograph_engine).feeds == {}


        @pytest.mark.heliograph(exchange={"symbols": ["Y"]}, mock_feed={"backoff_max": 9})
        def test_of_its_own(heliograph_engine, mock_exchange):
            assert config(heliograph_engine).limits.connections == 7
            assert mock_exchange.symbols == ("Y",)
            assert config(heliograph_engine).feeds["mock"].backoff_max == 9
            mock_exchange.wait_request("SUBSCRIBE")
        """,
        2,
    )


def test_a_test_with_a_loop_may_use_the_engine(users: pytest.Pytester) -> None:
    passes(
        users,
        """
        import asyncio
        from heliograph import Client

        def test_it(heliograph_engine):
            async def main():
                async with Client(heliograph_engine.url) as client, client.subscribe("a") as events:
                    await asyncio.to_thread(heliograph_engine.publish, "a", 1, type="t")
                    assert (await anext(events)).type == "t"
            asyncio.run(main())
        """,
        1,
    )


@pytest.mark.parametrize(
    ("marker", "why"),
    [
        ("feed=1", "takes config, exchange, mock_feed by name, not 'feed'"),
        ("1", "takes config, exchange, mock_feed by name, not 1"),
        ("config={'limits': {'connections': 0}}", "limits.connections"),
        ("exchange={'rate': -1}, mock_feed=True", "rate"),
    ],
)
def test_a_wrong_marker_is_an_error_that_names_it(users: pytest.Pytester, marker: str, why: str) -> None:
    users.makepyfile(f"import pytest\n@pytest.mark.heliograph({marker})\ndef test_it(heliograph_engine): pass")
    result = users.runpytest_inprocess("-q")
    result.assert_outcomes(errors=1)
    assert why in result.stdout.str()
    assert threads() == []


def test_it_works_by_name_where_plugins_are_not_loaded_by_themselves_and_costs_nothing_unused(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import sys\n"
        "def test_unused():\n"
        "    assert not {'zmq', 'pykka', 'websockets', 'msgspec', 'engine.embedded'} & sys.modules.keys()\n"
        "def test_used(heliograph_client):\n"
        "    assert heliograph_client.publish('a', 1).offset == 1\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "-p", "heliograph_pytest"],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr


# the engine in a thread ----------------------------------------------------------------------------------------------


def test_an_engine_in_a_thread_serves_and_stops() -> None:
    with EngineThread() as engine:
        with engine.client() as client, client.subscribe("a") as events:
            assert engine.publish("a", {"x": 1}, type="t", key="k").offset == 1
            event = events.get(timeout=5)
            assert (event.type, event.key, event.data) == ("t", "k", {"x": 1})
            assert engine.stats()["connections"] == 1
        assert engine.admin_url.startswith("http://127.0.0.1:")

        async def other() -> None:
            async with Client(engine.url) as client:
                await client.ping()

        asyncio.run(other())
        with pytest.raises(HeliographError, match="already"):
            engine.__enter__()
    assert threads() == []
    for use in (lambda: engine.url, lambda: engine.publish("a", 1), engine.stats):
        with pytest.raises(HeliographError, match="does not run"):
            use()


def test_an_engine_that_cannot_start_says_so_and_leaves_no_thread() -> None:
    with pytest.raises(ConfigError) as caught, EngineThread(limits={"connections": 0}):
        pass
    assert caught.value.field == "limits.connections"
    with EngineThread() as engine, pytest.raises(HeliographError, match="taken"):
        port = int(engine.admin_url.rpartition(":")[2])
        with EngineThread(admin_port=port):
            pass
    assert threads() == []


def test_feeds_are_looked_at_and_operated_through_the_admin_api(monkeypatch: pytest.MonkeyPatch) -> None:
    states = iter(["connecting", "connecting", "connected", "failed"])
    asked = []

    def ask(method: str, url: str, path: str, key: str | None) -> Any:
        asked.append((method, url, path, key))
        feed = {"state": next(states) if path == "/api/feeds" else "disconnected", "reason": "refused"}
        return {"feeds": {"fx": feed}} if path == "/api/feeds" else feed

    with EngineThread(api_key="secret") as engine:
        monkeypatch.setattr(engine_thread, "ask", ask)
        assert engine.wait_feed("fx") == {"state": "connected", "reason": "refused"}
        with pytest.raises(LookupError, match=r"no feed 'gx'; there are \['fx'\]"):
            engine.feed("gx")
        states = iter(["failed"] * 2)
        assert engine.feed("fx")["state"] == "failed"
        with pytest.raises(TimeoutError, match="feed 'fx' is failed after 0 s, not connected: refused"):
            engine.wait_feed("fx", timeout=0)
        assert engine.operate_feed("fx", "disconnect")["state"] == "disconnected"
        assert asked[-1] == ("POST", engine.admin_url, "/api/feeds/fx/disconnect", "secret")


def test_a_feed_is_seen_and_operated_for_real() -> None:
    with MockExchange.threaded() as exchange, EngineThread(feeds=exchange.feed_config("fx")) as engine:
        assert engine.wait_feed("fx")["attempts"] == 1
        engine.operate_feed("fx", "disconnect")
        exchange.wait_disconnected()
        assert engine.wait_feed("fx", "disconnected")["held"] is True
        engine.operate_feed("fx", "connect")
        exchange.wait_connected()
        assert engine.wait_feed("fx")["attempts"] == 2


def test_what_the_upstream_skips_is_told_on_the_feeds_topic() -> None:
    with (
        MockExchange.threaded(rate=0, symbols=["A"]) as exchange,
        EngineThread(feeds=exchange.feed_config("fx")) as engine,
        engine.client() as client,
        client.subscribe("price.A", "system.feeds.fx") as events,
    ):
        exchange.wait_request("SUBSCRIBE")
        exchange.inject(Fault.GAPS, share=0.5)
        exchange.tick(3)
        prices, gaps = [], []
        while len(prices) < 2 or not gaps:  # in order per topic, not over topics
            event = events.get(timeout=5)
            if event.topic == "price.A":
                prices.append(event)
            elif event.type == "feed_gap":
                gaps.append(event.data)
        assert gaps == [{"reason": "sequence", "counter": "A", "first": 2, "last": 2}]
