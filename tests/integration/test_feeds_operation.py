"""What an operator sees of feeds and does about them, also when the process that has them was killed."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from engine.recording import Pace
from engine.replay import ReplayExchange
from tests.integration.harness import ROOT, EngineProcess

Start = Callable[..., EngineProcess]
WaitUntil = Callable[..., None]
FEED = """
[feeds.fx]
url = "ws://127.0.0.1:{port}/ws?token=hush"
subscribe = [{{ method = "SUBSCRIBE", params = ["*"], id = 1 }}]
backoff_initial = 0.01
backoff_max = 0.02
breaker_open = 60.0

[feeds.fx.map]
key = "data.s"
data = {{ bid = "data.b?", price = "data.p?" }}
filter = {{ "data.e" = ["tick", "trade"] }}
"""
HEARTBEATS = {"server__heartbeat_interval": 0.1, "server__heartbeat_timeout": 2.0}
DEADLINE = 10.0
one_process_and_several = pytest.mark.parametrize("workers", [0, 1])


@pytest.fixture
def port() -> int:
    """One where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def feed(engine: EngineProcess) -> dict[str, Any]:
    """The feed as the API shows it, which it always does."""
    status, body = engine.admin("/api/feeds")
    assert status == 200
    assert set(body["feeds"]) == {"fx"}
    found: dict[str, Any] = body["feeds"]["fx"]
    return found


def operate(engine: EngineProcess, action: str) -> dict[str, Any]:
    """The answer to an operation, which must succeed."""
    status, body = engine.admin(f"/api/feeds/fx/{action}", "POST", {})
    assert status == 200, body
    assert body.pop("feed") == "fx"
    assert set(body) == set(feed(engine))
    answer: dict[str, Any] = body
    return answer


def component(engine: EngineProcess) -> tuple[str, str | None]:
    """Status and reason of the feed's part of /health."""
    part = engine.admin("/health")[1]["components"]["feed:fx"]
    return part["status"], part["reason"]


def metrics(engine: EngineProcess) -> dict[tuple[str, str | None], float]:
    """The feed's metrics by name and label beside the feed's."""
    text = engine.admin("/metrics")[1].decode()
    return {
        (sample.name.removeprefix("heliograph_feed_"), next(iter(sample.labels.values()), None)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.pop("feed", None) == "fx"
    }


def open_breaker(engine: EngineProcess, wait_until: WaitUntil) -> dict[str, Any]:
    """The feed once its upstream has refused so often that the breaker is open."""
    wait_until(lambda: feed(engine)["breaker"]["state"] == "open", DEADLINE)
    return feed(engine)


@one_process_and_several
def test_why_a_feed_is_away_and_when_it_is_tried_again(
    engine_process: Start, wait_until: WaitUntil, port: int, workers: int
) -> None:
    engine = engine_process(FEED.format(port=port), workers=workers)
    found = open_breaker(engine, wait_until)
    assert (found["state"], found["kind"]) == ("reconnecting", "refused")
    assert "refused" in found["reason"]
    assert found["address"] == f"ws://127.0.0.1:{port}/ws"
    assert found["attempts"] == found["failures"] == 5
    assert found["breaker"]["opens"] == 1
    assert 0 < found["breaker"]["retry_in"] <= 60
    assert 0 < found["retry_in"] <= 60
    wait_until(lambda: feed(engine)["retry_in"] < found["retry_in"])

    assert component(engine) == ("degraded", found["reason"])
    assert engine.admin("/ready")[0] == 200, "clients are served all the same"
    figures = metrics(engine)
    assert {state for (name, state), value in figures.items() if name == "state" and value} == {"reconnecting"}
    assert {state for (name, state), value in figures.items() if name == "breaker_state" and value} == {"open"}
    assert figures["attempts_total", None] == 5
    assert figures["breaker_opens_total", None] == 1

    command = [sys.executable, "-m", "engine", "stats", "--admin-url", engine.admin_url]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True).stdout
    lines = dict(line.split(" ", 1) for line in shown.splitlines())
    assert lines["feeds.fx.state"] == "reconnecting"
    assert lines["feeds.fx.reason"] == found["reason"]
    assert 0 < float(lines["feeds.fx.retry_in"]) <= found["retry_in"]
    assert "hush" not in shown + str(found)


@one_process_and_several
def test_disconnect_connect_and_reset(engine_process: Start, wait_until: WaitUntil, port: int, workers: int) -> None:
    engine = engine_process(FEED.format(port=port), workers=workers, **HEARTBEATS)
    before = open_breaker(engine, wait_until)

    held = operate(engine, "disconnect")
    assert (held["state"], held["held"], held["retry_in"]) == ("disconnected", True, None)
    assert feed(engine)["held"], "seen at once"
    assert component(engine) == ("degraded", "disconnected by an operator")
    assert operate(engine, "disconnect")["held"], "again changes nothing"
    assert feed(engine)["breaker"]["opens"] == before["breaker"]["opens"]

    reset = operate(engine, "reset")
    assert (reset["breaker"]["state"], reset["failures"]) == ("closed", 0)
    assert reset["held"], "it stays disconnected until told"

    async def exchange() -> None:
        async with ReplayExchange(port=port, pace=Pace(speed=10_000.0, longest_gap_s=0.01)):
            assert await asyncio.to_thread(operate, engine, "connect")
            await asyncio.to_thread(wait_until, lambda: feed(engine)["published"] > 10, DEADLINE)
            connected = await asyncio.to_thread(feed, engine)
            assert (connected["state"], connected["held"], connected["reason"]) == ("connected", False, None)
            status, body = await asyncio.to_thread(engine.admin, "/api/feeds/fx/connect", "POST", {})
            assert (status, body["error"]["code"]) == (409, "conflict")
            assert await asyncio.to_thread(component, engine) == ("ok", None)
            assert (await asyncio.to_thread(operate, engine, "disconnect"))["state"] in (
                "disconnected",
                "disconnecting",
            )
            await asyncio.to_thread(wait_until, lambda: feed(engine)["state"] == "disconnected")

    asyncio.run(exchange())
    status, body = engine.admin("/api/feeds/nobody/reset", "POST", {})
    assert (status, body["error"]["code"]) == (404, "not_found")
    audited = [(line["feed"], line["action"]) for line in engine.log() if line["event"] == "feed_operated"]
    assert audited == [("fx", action) for action in ("disconnect", "disconnect", "reset", "connect", "disconnect")]


def test_what_is_known_of_feeds_outlives_their_process(engine_process: Start, wait_until: WaitUntil, port: int) -> None:
    engine = engine_process(FEED.format(port=port), **HEARTBEATS)
    before, figures = open_breaker(engine, wait_until), metrics(engine)

    killed = engine.kill("feeds")
    states = {}
    until = time.monotonic() + DEADLINE
    while engine.children().get("feeds", killed) == killed or feed(engine)["state"] == "disconnected":
        states[feed(engine)["state"]] = feed(engine)["reason"]  # it answers all the while
        assert feed(engine)["breaker"]["state"] == "open"
        assert time.monotonic() < until
    after = feed(engine)
    assert after["breaker"]["opens"] == 1, "it does not begin anew"
    assert after["attempts"] == before["attempts"], "nor does it try before its time"
    assert after["failures"] == before["failures"]
    assert 0 < after["retry_in"] < before["retry_in"]
    assert {name: value for name, value in metrics(engine).items() if value < figures[name]}.keys() <= {
        ("state", str(after["state"]))
    }

    operate(engine, "disconnect")
    killed = engine.kill("feeds")  # at once
    wait_until(lambda: engine.children().get("feeds", killed) != killed, DEADLINE)
    wait_until(lambda: component(engine) == ("degraded", "disconnected by an operator"), DEADLINE)
    assert feed(engine)["held"]
    assert operate(engine, "connect")["held"] is False


def test_operation_while_the_feeds_process_is_away_is_refused(
    engine_process: Start, wait_until: WaitUntil, port: int
) -> None:
    engine = engine_process(FEED.format(port=port), **HEARTBEATS)
    door = Path(engine.runtime_dir, "control.sock")
    hidden = door.rename(door.with_suffix(".hidden"))  # the next life does not find the daemon
    engine.kill("feeds")
    wait_until(lambda: feed(engine)["state"] == "disconnected")
    status, body = engine.admin("/api/feeds/fx/reset", "POST", {})
    assert (status, body["error"]["code"]) == (503, "unavailable")
    assert engine.admin("/api/feeds/nobody/reset", "POST", {})[0] == 404, "which is no matter of time"
    assert "the feeds process is" in str(feed(engine)["reason"])
    assert component(engine)[0] == "degraded"
    assert metrics(engine)["state", "disconnected"] == 1
    hidden.rename(door)
    wait_until(lambda: engine.admin("/api/feeds/fx/reset", "POST", {})[0] == 200, DEADLINE)
