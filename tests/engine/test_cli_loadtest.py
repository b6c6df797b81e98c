"""``heliograph loadtest``: its options, what it prints where, and its exit codes. The tester is a fake here; the real
one has tests of its own in ``tests/integration``.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine import cli_loadtest
from engine.cli import execute
from engine.loadtest.judging import judged
from engine.loadtest.progress import Progress
from engine.loadtest.report import Report, read
from engine.loadtest.scenario import MEDIUM, Scenario
from tests.engine.loadtest.sample_report import good
from transport.errors import ConfigError

NOW = Progress("broadcast", 14.0, 60.0, 100, 100, 50.0, 5_000.0, 1.234, 8.1, 0)


class FakeTester:
    """Tells its progress once, and reports what it was made with."""

    made: list[FakeTester] = []
    report = judged(good())
    waits = False

    def __init__(self, scenario: Scenario, *, time_scale: float, start_workers: int | None) -> None:
        self.scenario, self.time_scale, self.start_workers = scenario, time_scale, start_workers
        self._interrupted = asyncio.Event()
        FakeTester.made.append(self)

    async def run(self, on_progress: Callable[[Progress], None] | None = None) -> Report:
        if on_progress is not None:
            on_progress(NOW)
        if FakeTester.waits:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.wait_for(self._interrupted.wait(), 20)
        return FakeTester.report

    def interrupt(self) -> None:
        FakeTester.report = judged(good(invalid=["interrupted"]))
        self._interrupted.set()


@pytest.fixture
def tester(monkeypatch: pytest.MonkeyPatch) -> type[FakeTester]:
    monkeypatch.setattr(FakeTester, "made", [])
    monkeypatch.setattr(FakeTester, "report", judged(good()))
    monkeypatch.setattr(FakeTester, "waits", False)
    monkeypatch.setitem(sys.modules, "engine.loadtest.tester", SimpleNamespace(WebSocketLoadTester=FakeTester))  # type: ignore[arg-type]
    for name in ("HELIOGRAPH_URL", "HELIOGRAPH_ADMIN_URL", "HELIOGRAPH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return FakeTester


@pytest.fixture
def loadtest(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            code = execute(["loadtest", *arguments])
        except SystemExit as ended:
            assert isinstance(ended.code, int)
            code = ended.code
        return code, *capfd.readouterr()

    return run


Command = Callable[..., tuple[int, str, str]]


def test_a_server_that_passes_is_zero(loadtest: Command, tester: type[FakeTester]) -> None:
    code, out, err = loadtest("medium")
    assert (code, out.splitlines()[-1]) == (0, "PASSED: all 12 criteria that could be measured")
    assert "\x1b" not in out
    assert err == (
        "heliograph: broadcast 0:14/1:00: 100/100 open, 50/s published, 5,000/s delivered, p50 1.23 ms, p99 8.1 ms, "
        "0 errors\n"
    )
    [made] = tester.made
    assert (made.scenario, made.time_scale, made.start_workers) == (MEDIUM, 1.0, None)


def test_a_server_that_fails_is_one(loadtest: Command, tester: type[FakeTester]) -> None:
    tester.report = judged(good(uptime=0.5))
    code, out, err = loadtest("light", "--quiet")
    assert (code, err) == (1, "")
    assert out.splitlines() == [
        "open for at least 99 % of the time: the connections were open 50 % of the time",
        "FAILED: 1 of 12 criteria",
    ]


def test_options_are_the_scenario_s(
    loadtest: Command, tester: type[FakeTester], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('connections = 7\n[target]\nurl = "ws://file/"\nkind = "socketio"')
    loadtest(str(file))
    options = ["--connections", "9", "--rate", "3", "--seconds", "5", "--time-scale", "0.5", "--token", "t"]
    plain = ["--kind", "plain", "--subscribe", "S {topic}", "--publish", "P {data}", "--url", "ws://option/"]
    loadtest(str(file), *options, *plain, "--admin-url", "http://a")
    loadtest("light", "--start")
    loadtest("light", "--start", "--workers", "0")
    monkeypatch.setenv("HELIOGRAPH_URL", "ws://environment/")
    loadtest(str(file))
    first, second, third, fourth, fifth = tester.made
    assert (first.scenario.name, first.scenario.connections, first.scenario.target.url) == ("mine", 7, "ws://file/")
    assert (second.scenario.connections, second.scenario.rate, second.scenario.seconds) == (9, 3, 5)
    target: Any = second.scenario.target
    assert (target.url, target.kind, target.subscribe, target.publish, target.token, target.admin_url) == (
        *("ws://option/", "plain", "S {topic}", "P {data}", "t", "http://a"),
    )
    assert second.time_scale == 0.5
    assert (third.start_workers, fourth.start_workers) == (1, 0)
    assert fifth.scenario.target.url == "ws://environment/"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["light", "other"], "go with compare only"),
        (["compare", "a.json"], "needs two reports"),
        (["light", "--workers", "2"], "goes with --start"),
        (["light", "--start", "--url", "ws://x/"], "an engine of its own"),
        (["light", "--rate", "0"], "rate: Expected float > 0"),
        (["light", "--url", "http://x/"], "must be ws://"),
        (["hard"], "there is no scenario 'hard'"),
        (["light", "--json", "/nowhere/x.json"], "--json: cannot write /nowhere/x.json"),
        (["light", "--html", "/"], "--html: cannot write /"),
        (["compare", "nowhere.json", "b.json"], "cannot read nowhere.json"),
    ],
)
def test_bad_usage_is_two_and_starts_nothing(
    loadtest: Command, tester: type[FakeTester], arguments: list[str], error: str
) -> None:
    code, out, err = loadtest(*arguments)
    assert (code, out) == (2, "")
    assert error in err
    assert tester.made == []


def test_without_the_package_it_says_what_to_install(
    loadtest: Command, tester: type[FakeTester], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "hdrh", None)
    code, _, err = loadtest("light")
    assert (code, tester.made) == (2, [])
    assert "pip install 'heliograph[loadtest]'" in err


def test_what_a_server_says_does_nothing_to_the_terminal(
    loadtest: Command, tester: type[FakeTester], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(*_: object) -> Report:
        raise ConfigError("the publisher gets no connection: HTTP 200 \x1b]0;owned\x07", "target.url")

    monkeypatch.setattr(FakeTester, "run", refused)
    code, out, err = loadtest("light")
    assert (code, out) == (2, "")
    assert err == "heliograph: target.url: the publisher gets no connection: HTTP 200 \ufffd]0;owned\ufffd\n"


def test_ctrl_c_ends_it_with_what_was_measured(loadtest: Command, tester: type[FakeTester], tmp_path: Path) -> None:
    tester.waits = True
    file = tmp_path / "report.json"
    code, out, err = loadtest("light", "--json", str(file))
    assert code == 1
    assert out.splitlines()[-2:] == ["invalid: interrupted", "INVALID: this run says nothing about the server"]
    assert "interrupted; ending with what was measured" in err
    assert read(file).verdict == "invalid"


def test_files_are_compared(loadtest: Command, tester: type[FakeTester], tmp_path: Path) -> None:
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    assert loadtest("light", "--json", str(before), "--quiet")[0] == 0
    after.write_bytes(judged(good(uptime=0.99)).to_json())
    code, out, _ = loadtest("compare", str(before), str(after))
    assert code == 0
    assert "worse in 1;" in out
    after.write_bytes(judged(good(scenario=MEDIUM)).to_json())
    code, out, err = loadtest("compare", str(before), str(after))
    assert (code, out) == (1, "")
    assert "cannot be compared: connections differs (100 and 500)" in err


def test_progress_is_a_line_where_a_phase_begins_and_every_five_seconds(capfd: pytest.CaptureFixture[str]) -> None:
    with cli_loadtest.lines() as show:
        for phase, elapsed in (("ramp-up", 0.0), ("ramp-up", 0.0), ("broadcast", 0.0), ("broadcast", 4.9)):
            show(NOW._replace(phase=phase, elapsed=elapsed))
        show(NOW._replace(elapsed=5.0, p50=None))
    told = capfd.readouterr().err.splitlines()
    assert [line.split(":")[1] + line.split(":")[2] for line in told] == [
        " ramp-up 000/1",
        " broadcast 000/1",
        " broadcast 005/1",
    ]
    assert "nothing came" in told[-1]


def test_progress_on_a_terminal_is_a_bar() -> None:
    from rich.console import Console

    console = Console(width=120)
    with console.capture() as captured:
        console.print(cli_loadtest.bar(NOW))
    first, second = captured.get().splitlines()
    assert first.startswith("broadcast ━") and first.rstrip().endswith("0:14/1:00")
    assert second.startswith("100/100 open, 50/s published")
