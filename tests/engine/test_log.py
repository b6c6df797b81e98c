from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from engine import log


class Written:
    """What went to stderr so far."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys, self._text = capsys, ""

    def getvalue(self) -> str:
        self._text += self._capsys.readouterr().err
        return self._text


@pytest.fixture(autouse=True)
def stderr(capsys: pytest.CaptureFixture[str]) -> Iterator[Written]:
    """What was written; the logging of the test run itself comes back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()  # basicConfig(force=True) would close pytest's own
    yield Written(capsys)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(stderr: Written) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stderr.getvalue().splitlines()]


def test_a_line_has_the_keys_of_the_contract_first(stderr: Written) -> None:
    log.configure("hub", "node-1")
    log.get_logger(feed="fx").warning("feed_lost", error="refused", obj=object)
    (line,) = lines(stderr)
    assert list(line) == ["ts", "level", "event", "process", "pid", "node", "feed", "error", "obj"]
    assert line["ts"].endswith("Z")
    assert (line["level"], line["event"], line["process"]) == ("warning", "feed_lost", "hub")
    assert (line["pid"], line["node"], line["feed"], line["obj"]) == (os.getpid(), "node-1", "fx", "<class 'object'>")


def test_below_the_level_nothing_is_written_and_a_kept_logger_follows_a_reload(stderr: Written) -> None:
    log.configure("hub", "n", level="warning")
    kept = log.get_logger()
    kept.info("quiet")
    log.configure("hub", "n", level="debug")
    kept.debug("loud")
    assert [line["event"] for line in lines(stderr)] == ["loud"]


def test_the_speaker_keeps_its_own_keys(stderr: Written) -> None:
    log.configure("daemon", "n")
    log.get_logger().info("process_exited", pid=1, process="worker-0")
    (line,) = lines(stderr)
    assert (line["pid"], line["process"], line["pid_"], line["process_"]) == (os.getpid(), "daemon", 1, "worker-0")


def test_secrets_are_masked(stderr: Written) -> None:
    log.configure("hub", "n")
    log.get_logger().info("x", token="s3cret", api_key="s3cret", payload=b"s3cret")
    assert "s3cret" not in stderr.getvalue()


def test_text_is_for_people_and_cannot_be_forged(stderr: Written) -> None:
    log.configure("hub", "n", format="text")
    log.get_logger().info("joined", user="a\nb\x1b[2J", note="two words", none="")
    (line,) = stderr.getvalue().splitlines()
    assert line.split(" ", 1)[1] == r"info     hub      joined user=a\nb\x1b[2J note='two words' none=''"


@pytest.mark.parametrize(("terminal", "is_text"), [(True, True), (False, False)])
def test_auto_is_text_on_a_terminal_only(
    stderr: Written, monkeypatch: pytest.MonkeyPatch, terminal: bool, is_text: bool
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    log.configure("hub", "n")
    log.get_logger().info("hello")
    assert stderr.getvalue().startswith("{") != is_text


@pytest.mark.parametrize("form", ["json", "text"])
def test_an_exception_comes_with_its_traceback(stderr: Written, form: str) -> None:
    log.configure("hub", "n", format=form)
    try:
        raise ValueError("why")
    except ValueError:
        log.get_logger().exception("failed")
    assert "Traceback" in stderr.getvalue()
    assert "ValueError: why" in stderr.getvalue()


def test_the_standard_library_comes_the_same_way_from_warning_up(stderr: Written) -> None:
    log.configure("worker-0", "n", level="debug")
    other = logging.getLogger("websockets.server")
    other.info("connection open")
    other.warning("odd %s", "thing")
    other.log(35, "between the levels 100%")
    assert [(line["level"], line["event"], line["logger"]) for line in lines(stderr)] == [
        ("warning", "odd thing", "websockets.server"),
        ("warning", "between the levels 100%", "websockets.server"),
    ]


def test_repeats_are_limited_and_counted(stderr: Written) -> None:
    log.configure("hub", "n")
    for i in range(log.REPEATS + 5):
        log.get_logger().warning("feed_lost", i=i)
        logging.getLogger("x").error("bad frame %d", i)
    seen = [line["event"] for line in lines(stderr)]
    assert seen.count("feed_lost") == log.REPEATS
    assert len(seen) == 2 * log.REPEATS  # the library's lines count by what they are, not by what varies in them


def test_the_count_is_written_when_the_period_is_over() -> None:
    now = 0.0
    renderer = log.Renderer(log.as_json, log.RepeatLimiter(limit=2, period=10), clock=lambda: now)

    def say(event: str) -> list[Any]:
        fields = {"ts": "t", "level": "info", "event": event, "process": "p", "pid": 1, "node": "n", "x": 1}
        try:
            return [json.loads(line) for line in renderer(None, "info", fields).split("\n")]
        except structlog.DropEvent:
            return []

    assert [len(say("a")) for _ in range(5)] == [1, 1, 0, 0, 0]
    now = 10.0
    told, line = say("b")
    assert (told["event"], told["suppressed"], told["level"], told["pid"]) == ("a", 3, "info", 1)
    assert "x" not in told
    assert line["event"] == "b"
    assert len(say("a")) == 1


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.floats(0, 6)), max_size=80), st.integers(1, 4))
def test_no_line_is_lost_uncounted(steps: list[tuple[str, float]], capacity: int) -> None:
    limiter, now, written, told = log.RepeatLimiter(limit=2, period=10, capacity=capacity), 0.0, 0, 0
    for event, pause in steps:
        now += pause
        told += sum(ended.lines for ended in limiter.ended(now))
        written += limiter.admit("info", event, now)
        assert len(limiter) <= capacity
    told += sum(ended.lines for ended in limiter.ended(now + 10))
    assert written + told == len(steps)


def test_a_reader_that_is_gone_fails_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    log.configure("hub", "n")
    for broken in (None, open(os.devnull)):  # noqa: SIM115
        monkeypatch.setattr(sys, "stderr", broken)
        log.get_logger().info("nobody hears it")
        if broken:
            broken.close()
            log.get_logger().info("closed")


def test_unconfigured_it_goes_to_stderr_and_an_application_keeps_its_own(stderr: Written) -> None:
    structlog.reset_defaults()
    log.get_logger().info("embedded")
    assert lines(stderr)[0]["process"] == "embedded"
    with structlog.testing.capture_logs() as captured:
        log.get_logger().info("theirs", a=1)
    assert captured == [{"event": "theirs", "a": 1, "log_level": "info"}]


def test_it_brings_nothing_heavy_into_the_children() -> None:
    code = "import sys, engine.log, engine.config, engine.notify; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"rich", "typer", "starlette", "uvicorn", "importlib.metadata"}.intersection(done.stdout.split())


def test_lines_of_our_packages_are_written_from_the_level_on_those_of_others_from_warning(stderr: Written) -> None:
    log.configure("feeds", "node-1", "info", "json")
    logging.getLogger("actors.feed").info("feed %s: up", "fx", extra={"feed": "fx", "other": 1})
    logging.getLogger("actors.feed").debug("not this")
    logging.getLogger("elsewhere").info("nor this")
    (line,) = lines(stderr)
    assert (line["event"], line["feed"], line["other"], line["level"]) == ("feed fx: up", "fx", 1, "info")


def test_a_record_of_our_packages_is_an_event_with_fields_and_anothers_has_only_those_that_are_known(
    stderr: Written,
) -> None:
    log.configure("feeds", "node-1", "info", "json")
    fields = {"event": "feed_state", "feed": "fx", "from": "connected", "reason": None, "token": "t0k3n", "n": 1}
    logging.getLogger("actors.feed").info("feed %s: up", "fx", extra=fields)
    logging.getLogger("elsewhere").error("oh", extra={"n": 1, "address": "::1", "event": "mine"})
    ours, other = lines(stderr)
    assert ours.items() >= {"event": "feed_state", "feed": "fx", "from": "connected", "token": "***", "n": 1}.items()
    assert "reason" not in ours
    assert (other["event"], other["address"]) == ("oh", "::1")
    assert "n" not in other


def test_repeats_about_one_thing_are_those_whatever_else_varies(stderr: Written) -> None:
    log.configure("feeds", "node-1", "info", "json")
    for n in range(log.REPEATS + 5):
        logging.getLogger("actors.webhook").warning("webhook_failed", extra={"webhook": "ops", "number": n})
    logging.getLogger("actors.webhook").warning("webhook_failed", extra={"webhook": "dev", "number": 0})
    assert [line["webhook"] for line in lines(stderr)] == ["ops"] * log.REPEATS + ["dev"]


def test_one_feed_that_flaps_does_not_hide_anothers_lines(stderr: Written) -> None:
    log.configure("feeds", "node-1", "info", "json")
    logger = logging.getLogger("actors.feed")
    for _ in range(log.REPEATS + 5):
        logger.info("feed %s: up", "a", extra={"feed": "a"})
    logger.info("feed %s: up", "b", extra={"feed": "b"})
    assert [line["feed"] for line in lines(stderr)] == ["a"] * log.REPEATS + ["b"]
