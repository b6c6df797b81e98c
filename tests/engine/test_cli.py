"""The command line: what it prints where, and with which exit code."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import msgspec
import pytest

from engine import cli
from engine.cli import execute
from tests.engine.fake_engine import FakeEngine, fake_engine_in_thread
from tests.engine.test_feed_figures import snapshot

Server = tuple[FakeEngine, asyncio.AbstractEventLoop]


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def heliograph(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run the command in this process; ``stdin`` is bytes."""

    def run(*arguments: str, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(stdin), isatty=lambda: False))
        try:
            code = execute(list(arguments))
        except SystemExit as ended:
            assert isinstance(ended.code, int)
            code = ended.code
        sys.stdout.flush()
        out, err = capfd.readouterr()
        return Result(code, out, err)

    return run


@pytest.fixture
def server() -> Iterator[Server]:
    with fake_engine_in_thread() as running:
        yield running


# Common -------------------------------------------------------------------------------------------------------------


def test_version_and_help(heliograph: Callable[..., Result]) -> None:
    assert heliograph("--version") == Result(0, "heliograph 0.1.0\n", "")
    for command in (
        "run",
        "subscribe",
        "publish",
        "history",
        "call",
        "explain",
        "stats",
        "config",
        "check-config",
        "replay",
        "reload",
        "feed",
        "loadtest",
    ):
        assert command in heliograph("--help").out
        shown = heliograph(command, "--help")
        assert shown.code == 0
        assert "heliograph" in shown.out


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["subscribe"],
        ["subscribe", "a b"],
        ["subscribe", "a", "--where", "{"],
        ["subscribe", "a", "--count", "0"],
        ["subscribe", "a", "--where", '{"x":{"over":1}}'],
        ["subscribe", "a", "--where", "null"],
        ["subscribe", "a", "--max-rate", "0"],
        ["subscribe", "a", "--ack"],
        ["explain", "a.*", "1"],
        ["explain", "a", "{"],
        ["explain", "a"],
        ["explain", "a", "1", "--limit", "0"],
        ["publish", "a.*", "1"],
        ["publish", "a"],
        ["publish", "a", "NaN"],
        ["publish", "a", "1", "--priority", "urgent"],
        ["history", "a.*"],
        ["history", "a", "--limit", "0"],
        ["history", "a", "--limit", "1001"],
        ["history", "a", "--since", "7"],
        ["history", "a", "--since", "e:x"],
        ["history", "a", "--since", "e:-1"],
        ["run", "--nonsense"],
        ["run", "--port", "many"],
        ["stats", "--admin-url", "nowhere"],
        ["replay", "--speed", "fast"],
    ],
)
def test_bad_usage_is_two_and_says_so(heliograph: Callable[..., Result], arguments: Sequence[str]) -> None:
    result = heliograph(*arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err


def test_nobody_there_says_what_to_do(heliograph: Callable[..., Result]) -> None:
    for arguments in (
        ["--url", "ws://127.0.0.1:1/ws", "subscribe", "a"],
        ["publish", "a", "1", "--url", "ws://127.0.0.1:1/ws"],
        ["history", "a", "--url", "ws://127.0.0.1:1/ws"],
        ["stats", "--admin-url", "http://127.0.0.1:1"],
    ):
        result = heliograph(*arguments)
        assert (result.code, result.out) == (1, "")
        assert "connection refused" in result.err
        assert "heliograph run" in result.err


# Client -------------------------------------------------------------------------------------------------------------


def test_subscribe_writes_events_as_published(heliograph: Callable[..., Result], server: Server) -> None:
    engine, loop = server
    asyncio.run_coroutine_threadsafe(engine.publish("price.EUR", '{"bid": 1.1200}', key="EUR"), loop).result(5)
    asyncio.run_coroutine_threadsafe(engine.publish("price.USD", "[1e2]", priority="low"), loop).result(5)
    result = heliograph("subscribe", "price.*", "--snapshot", "--count", "2", "--url", engine.url)
    assert result.code == 0
    first, second = result.out.splitlines()
    assert first == (
        '{"topic":"price.EUR","type":"message","offset":1,"epoch":"e1","ts":1.5,"key":"EUR","data":{"bid": 1.1200}}'
    )
    assert json.loads(second)["priority"] == "low"
    assert "connected" in result.err


def test_subscribe_sends_its_options_and_tells_a_refusal(heliograph: Callable[..., Result], server: Server) -> None:
    server[0].refusals["subscribe"] = {"code": "unsupported", "message": "`where` is not supported", "field": "where"}
    result = heliograph("subscribe", "a", "--where", '{"x":[1]}', "--url", server[0].url)
    assert (result.code, result.out) == (1, "")
    assert "`where` is not supported" in result.err
    assert server[0].requests[0]["where"] == {"x": [1]}


def test_history_is_written_as_subscribe_writes_it(heliograph: Callable[..., Result], server: Server) -> None:
    engine, loop = server
    engine.log = []
    for data in ("1", "2", "3"):
        asyncio.run_coroutine_threadsafe(engine.publish("a", data), loop).result(5)
    result = heliograph("history", "a", "--limit", "2", "--url", engine.url)
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[0] == '{"topic":"a","type":"message","offset":2,"epoch":"e1","ts":1.5,"data":2}'
    assert [line["offset"] for line in result.lines] == [2, 3]
    engine.gap = {"gap": {"topic": "a", "epoch": "e1", "from": 1, "to": 1, "reason": "history_expired"}}
    result = heliograph("history", "a", "--since", "e1:0", "--url", engine.url)
    assert engine.requests[-1]["since"] == {"epoch": "e1", "offset": 0}
    assert result.code == 0 and "history_expired" in result.err and result.lines
    engine.refusals["history"] = {"code": "forbidden", "message": "not yours", "field": "topic"}
    result = heliograph("history", "a", "--url", engine.url)
    assert (result.code, result.out) == (1, "")
    assert "not yours" in result.err


def test_a_bad_filter_is_told_where_it_is_wrong(heliograph: Callable[..., Result]) -> None:
    result = heliograph("subscribe", "a", "--where", '{"tier":{"over":1}}')
    assert "--where" in result.err
    assert "where.tier.over: no such operator" in " ".join(result.err.split())


def test_subscribe_sends_how_events_are_to_come(heliograph: Callable[..., Result], server: Server) -> None:
    engine, loop = server
    asyncio.run_coroutine_threadsafe(engine.publish("a", "1"), loop).result(5)
    result = heliograph(
        *("subscribe", "a", "--conflate", "--max-rate", "2.5", "--snapshot", "--count", "1", "--url", engine.url)
    )
    assert (result.code, len(result.lines)) == (0, 1)
    assert (engine.requests[0]["conflate"], engine.requests[0]["max_rate"]) == (True, 2.5)


def test_a_member_of_a_group_acknowledges_what_it_prints(heliograph: Callable[..., Result], server: Server) -> None:
    engine, loop = server
    asyncio.run_coroutine_threadsafe(engine.publish("jobs", "1"), loop).result(5)
    command = ("subscribe", "jobs", "--group", "g", "--snapshot", "--count", "1", "--url", engine.url)
    assert heliograph(*command).code == 0
    assert not [request for request in engine.requests if request["op"] == "ack"]
    assert heliograph(*command, "--ack").lines[0]["offset"] == 1
    ack = next(request for request in engine.requests if request["op"] == "ack")
    assert (ack["topic"], ack["epoch"], ack["offset"]) == ("jobs", "e1", 1)
    assert engine.requests[0]["group"] == "g"


def test_url_and_token_from_the_environment(
    heliograph: Callable[..., Result], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server[0].tokens = {"secret", "other"}
    monkeypatch.setenv("HELIOGRAPH_URL", server[0].url)
    assert heliograph("publish", "a", "1").code == 1
    monkeypatch.setenv("HELIOGRAPH_TOKEN", "secret")
    assert heliograph("publish", "a", "1").code == 0
    assert heliograph("publish", "a", "1", "--token", "other").code == 0
    refused = heliograph("publish", "a", "1", "--token", "wrong")
    assert refused.code == 1
    assert "--token" in refused.err
    assert "wrong" not in refused.err
    assert [headers.get("Authorization") for headers in server[0].headers] == [
        None,
        "Bearer secret",
        "Bearer other",
        "Bearer wrong",
    ]


def test_publish_one(heliograph: Callable[..., Result], server: Server) -> None:
    engine, _ = server
    options = ["--type", "t", "--key", "k", "--priority", "high", "--url", engine.url]
    assert heliograph("publish", "a", "1.50", *options) == Result(0, '{"epoch":"e1","offset":1}\n', "")
    assert {name: engine.requests[0][name] for name in ("topic", "type", "key", "priority")} == {
        "topic": "a",
        "type": "t",
        "key": "k",
        "priority": "high",
    }
    assert '"data": 1.50}' in engine.last["a"]


def test_call_prints_the_result(heliograph: Callable[..., Result], server: Server) -> None:
    engine, _ = server
    engine.result = {"cancelled": True}
    done = heliograph("call", "job.a", "cancel", '{"why": 1.50}', "--url", engine.url)
    assert done == Result(0, '{"cancelled":true}\n', "")
    assert heliograph("call", "job.a", "cancel", "--url", engine.url).code == 0
    said = [{name: request.get(name) for name in ("op", "topic", "method", "params")} for request in engine.requests]
    assert said == [
        {"op": "call", "topic": "job.a", "method": "cancel", "params": {"why": 1.5}},
        {"op": "call", "topic": "job.a", "method": "cancel", "params": None},
    ]
    engine.refusals["call"] = {"code": "not_found", "message": "nobody answers calls on job.a", "field": "topic"}
    refused = heliograph("call", "job.a", "cancel", "--url", engine.url)
    assert (refused.code, refused.out) == (1, "")
    assert "nobody answers calls on job.a" in refused.err
    for wrong in (("job.*", "cancel"), ("job.a", "cancel", "{")):
        assert heliograph("call", *wrong, "--url", engine.url).code == 2


def test_publish_lines_of_data(heliograph: Callable[..., Result], server: Server) -> None:
    lines = b'{"n": 1}\n\nnonsense\n' + b"".join(b"%d\n" % i for i in range(1_200))
    result = heliograph("publish", "a", "-", "--type", "t", "--url", server[0].url, stdin=lines)
    assert (result.code, result.out) == (1, "")
    assert "line 3: " in result.err
    assert "1,201 published, 1 failed" in result.err
    sent = [request["data"] for request in server[0].requests]
    assert sent == [{"n": 1}, *range(1_200)]


def test_what_subscribe_writes_publish_reads(heliograph: Callable[..., Result], server: Server) -> None:
    engine, loop = server
    asyncio.run_coroutine_threadsafe(engine.publish("a", "1.10", key="k", type="t"), loop).result(5)
    line = heliograph("subscribe", "a", "--snapshot", "--count", "1", "--url", engine.url).out
    assert heliograph("publish", "-", "--url", engine.url, stdin=line.encode()).code == 0
    published = json.loads(engine.last["a"])
    assert (published["offset"], published["key"], published["type"]) == (2, "k", "t")
    assert '"data": 1.10}' in engine.last["a"]


def test_refused_lines_are_told_and_the_rest_goes_on(heliograph: Callable[..., Result], server: Server) -> None:
    server[0].refusals["publish"] = {"code": "forbidden", "message": "not yours"}
    result = heliograph("publish", "a", "-", "--url", server[0].url, stdin=b"1\n2\n")
    assert result.code == 1
    assert "line 1: forbidden: not yours" in result.err
    assert "line 2: forbidden: not yours" in result.err
    assert "0 published, 2 failed" in result.err


def test_a_reader_that_has_enough_and_ctrl_c_are_no_failures(server: Server, wait_until: Callable[..., None]) -> None:
    engine, loop = server

    def publish() -> None:
        asyncio.run_coroutine_threadsafe(engine.publish("a", '"' + "x" * 10_000 + '"'), loop).result(5)

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "engine", "subscribe", "a", "--url", engine.url]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        wait_until(lambda: ["a"] in engine.sessions.values(), 20)
        return process

    with start() as process:
        assert process.stdout is not None
        publish()
        assert json.loads(process.stdout.readline())["offset"] == 1
        process.stdout.close()
        while process.poll() is None:
            publish()
        assert process.stderr is not None
        assert process.stderr.read().count(b"\n") == 1  # that it was connected
        assert process.returncode == 0
    wait_until(lambda: ["a"] not in engine.sessions.values())  # else the next one seems to be there before it is
    with start() as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


# Admin --------------------------------------------------------------------------------------------------------------


class Admin:
    """An admin API that answers what it is told to."""

    def __init__(self) -> None:
        self.status, self.answer = 200, b"{}"
        self.requests: list[tuple[str, str, str | None, str | None]] = []
        self.bodies: list[bytes] = []
        admin = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                admin.bodies.append(self.rfile.read(length))
                kind, key = self.headers.get("Content-Type"), self.headers.get("Authorization")
                admin.requests.append((self.command, self.path, kind, key))
                self.send_response(admin.status)
                self.send_header("Content-Length", str(len(admin.answer)))
                self.end_headers()
                self.wfile.write(admin.answer)

            do_POST = do_GET  # noqa: N815  (http.server finds it by this name)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def admin() -> Iterator[Admin]:
    running = Admin()
    thread = threading.Thread(target=running.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.server.shutdown()
    thread.join()
    running.server.server_close()


STATS = b'{"connections":3,"delivery_seconds":{"p50":0.00125,"p99":null},"deliveries":1000}'


def test_stats_as_lines_and_as_json(heliograph: Callable[..., Result], admin: Admin) -> None:
    admin.answer = STATS
    shown = heliograph("stats", "--admin-url", admin.url, "--api-key", "k")
    assert shown.out == "connections 3\ndelivery_seconds.p50 0.00125\ndelivery_seconds.p99 –\ndeliveries 1000\n"
    assert heliograph("--admin-url", admin.url, "stats", "--json").out == STATS.decode() + "\n"
    assert admin.requests == [("GET", "/stats", None, "Bearer k"), ("GET", "/stats", None, None)]


def explained(*rows: tuple[bool | None, str | None], **fields: Any) -> bytes:
    sessions = [
        {"session": f"s{n}", "user": None, "pattern": "a.*", "receives": yes, "because": why, "delivery": {"window": 1}}
        for n, (yes, why) in enumerate(rows)
    ]
    found = {"topic": "a.b", "strategy": "load_balanced", "patterns": ["a.*"], "groups": [], "matched": len(rows)}
    return msgspec.json.encode({**found, "receivers": 1, "sessions": sessions, "truncated": False, **fields})


def test_explain_as_lines_with_a_summary_beside(heliograph: Callable[..., Result], admin: Admin) -> None:
    admin.answer = explained((True, None), (False, "c is 0.5"), groups=["g"])
    shown = heliograph("explain", "a.b", '{"c": 0.50}', "--type", "t", "--key", "k", "--admin-url", admin.url)
    assert [(row["session"], row["receives"], row["because"]) for row in shown.lines] == [
        ("s0", True, None),
        ("s1", False, "c is 0.5"),
    ]
    said = "1 of 2 subscribed to a.b would receive it, and one member of group g (load_balanced; a.*)"
    assert (shown.code, shown.err) == (0, f"heliograph: {said}\n")
    body = b'{"topic":"a.b","data":{"c": 0.50},"type":"t","limit":100,"key":"k"}'
    assert (admin.requests, admin.bodies) == ([("POST", "/api/explain", "application/json", None)], [body])
    admin.answer = explained((True, None), matched=7, truncated=True)
    assert heliograph("explain", "a.b", "1", "--admin-url", admin.url).err.endswith("(load_balanced; a.*); 1 shown\n")
    admin.answer = explained()
    assert heliograph("explain", "a.b", "1", "--admin-url", admin.url) == Result(
        0, "", "heliograph: nobody has subscribed to a.b\n"
    )


def test_explain_as_a_table(heliograph: Callable[..., Result], admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    admin.answer = explained((True, None), (False, "x is \x1b[2J"), (None, "one member of group 'g' gets it"))
    lines = heliograph("explain", "a.b", "1", "--session", "s", "--admin-url", admin.url).out.splitlines()
    assert "receives" in lines[0]
    assert [line.split("│")[3].strip() for line in lines[2:]] == ["yes", "no", "maybe"]
    assert "x is \\x1b[2J" in lines[3]
    assert lines[2].split("│")[5].strip() == "window 1"
    assert b'"session":"s"' in admin.bodies[0]


def test_explain_of_an_unknown_session_fails(heliograph: Callable[..., Result], admin: Admin) -> None:
    admin.answer = b'{"error":{"code":"not_found","message":"there is no session","field":"session"}}'
    admin.status = 404
    result = heliograph("explain", "a", "1", "--session", "s", "--admin-url", admin.url)
    assert (result.code, result.out) == (1, "")
    assert "there is no session" in result.err


def stats_of(**feeds: Any) -> bytes:
    return msgspec.json.encode({"connections": 3, "feeds": feeds})


def test_stats_as_lines_say_why_a_feed_is_away_and_when_it_is_tried_again(
    heliograph: Callable[..., Result], admin: Admin
) -> None:
    fx = snapshot(
        state="reconnecting", reason="refused: \x1b[2Jno\nfeeds.fx.state connected", retry_in=9.5, since=1_700_000_000.0
    )
    admin.answer = stats_of(fx=fx)
    lines = heliograph("stats", "--admin-url", admin.url).out.splitlines()
    assert "feeds.fx.state reconnecting" in lines
    assert r"feeds.fx.reason refused: \x1b[2Jno\nfeeds.fx.state connected" in lines
    assert "feeds.fx.retry_in 9.5" in lines
    assert "feeds.fx.breaker.state open" in lines
    assert "feeds.fx.since 1700000000" in lines
    assert "feeds.fx.kind –" in lines
    as_json = heliograph("stats", "--json", "--admin-url", admin.url).out
    assert msgspec.json.decode(as_json)["feeds"]["fx"] == fx


def test_stats_of_feeds_are_a_table_of_their_own_on_a_terminal(
    heliograph: Callable[..., Result], admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin.answer = stats_of(
        fx=snapshot(rate=1234.5, lag=0.0421, reconnects=17),
        eq=snapshot(state="failed", reason="[bold]HTTP 401[/]\x1b[2J", lag=None, rate=0.0),
        cd=snapshot(state="reconnecting", reason="dns", retry_in=12.34, lag=5400.0),
        old=snapshot(lag=4.38e8),
    )
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "160")
    out = heliograph("stats", "--admin-url", admin.url).out
    figures, _, feeds = out.partition("next try")
    assert "connections" in figures and "feeds." not in out
    rows = {line.split()[0]: [cell.strip() for cell in line.split("│")] for line in feeds.splitlines() if "│" in line}
    assert rows["fx"] == ["fx", "connected", "open", "5 of 100 messages bad", "–", "1,234/s", "42 ms"]
    assert rows["eq"] == ["eq", "failed", "open", r"[bold]HTTP 401[/]\x1b[2J", "–", "0/s", "–"]
    assert rows["cd"][3:5] == ["dns", "in 12.3 s"]
    assert (rows["cd"][6], rows["old"][6]) == ("90.0 min", "5,069 d")
    assert "\x1b[2J" not in out


def test_a_narrow_terminal_cuts_neither_a_feeds_name_nor_why_it_is_away(
    heliograph: Callable[..., Result], admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "exchange-with-a-name-1"
    reason = "tls: certificate is not for exchange-with-a-very-long-host-name.example"
    admin.answer = stats_of(**{name: snapshot(state="failed", reason=reason)})
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    out = heliograph("stats", "--admin-url", admin.url).out
    cells = [line.split("│") for line in out.partition("next try")[2].splitlines() if "│" in line]
    assert "".join(row[0].strip() for row in cells) == name
    assert "".join(row[3].strip().replace(" ", "") for row in cells) == reason.replace(" ", "")


def test_stats_as_a_table_on_a_terminal(
    heliograph: Callable[..., Result], admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin.answer = STATS
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    out = heliograph("stats", "--admin-url", admin.url).out
    assert "delivery_seconds.p50" in out
    assert "│" in out


def test_stats_show_the_layers_of_an_events_way(
    heliograph: Callable[..., Result], admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = {
        "router": {"p50": 0.0000424, "p99": 0.00123456, "hit_rate": 0.98765},
        "broadcaster": {"p50": None, "p99": 2.5, "hit_rate": None},
    }
    admin.answer = msgspec.json.encode({"connections": 3, "layers": layers})
    assert heliograph("stats", "--admin-url", admin.url).out.splitlines() == [
        "connections 3",
        "layers.router.p50 4.24e-05",
        "layers.router.p99 0.00123456",
        "layers.router.hit_rate 0.98765",
        "layers.broadcaster.p50 –",
        "layers.broadcaster.p99 2.5",
        "layers.broadcaster.hit_rate –",
    ]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    out = heliograph("stats", "--admin-url", admin.url).out
    rows = [[cell.strip() for cell in line.replace("┃", "│").split("│")] for line in out.splitlines()]
    assert "cache hits" in out
    assert ["router", "42 µs", "1.23 ms", "98.8%"] in rows
    assert ["broadcaster", "–", "2.5 s", "–"] in rows
    assert not any(row[0].startswith("layers.") for row in rows)


def test_watching_outlives_a_restart_and_shows_rates(
    heliograph: Callable[..., Result], admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    naps = 0

    def nap(seconds: float) -> None:
        nonlocal naps
        naps += 1
        assert seconds == 7
        admin.answer = [b"not JSON", STATS.replace(b"1000", b"9000"), b""][naps - 1]
        if naps == 3:
            raise KeyboardInterrupt

    admin.answer = STATS
    monkeypatch.setattr("time.sleep", nap)
    result = heliograph("stats", "--watch", "--interval", "7", "--admin-url", admin.url)
    assert result.code == 0
    assert "without JSON" in result.err
    last = result.out.splitlines()[-1].split()
    assert last[:2] == ["deliveries", "9000"]
    assert last[2].endswith("/s")


@pytest.mark.parametrize(
    ("status", "answer", "said"),
    [
        (401, b'{"error":{"code":"unauthorized","message":"send the API key","field":null}}', "--api-key"),
        (500, b'{"detail":"?"}', "HTTP 500"),
        (404, b"<html>", "is it the admin API?"),
    ],
)
def test_an_admin_refusal_says_what_to_do(
    heliograph: Callable[..., Result], admin: Admin, status: int, answer: bytes, said: str
) -> None:
    admin.status, admin.answer = status, answer
    result = heliograph("stats", "--admin-url", admin.url)
    assert (result.code, result.out) == (1, "")
    assert said in result.err


def test_reload_and_restart(heliograph: Callable[..., Result], admin: Admin) -> None:
    told = '"status":"reloaded","needs_restart":[],"workers":2'
    admin.answer = b'{%b,"state":"done","gone":2,"reason":null}' % told.encode()
    result = heliograph("reload", "--restart", "--admin-url", admin.url)
    assert result.code == 0
    assert "restarted" in result.err
    assert [request[:2] for request in admin.requests] == [("POST", "/api/reload"), ("POST", "/api/restart")]
    admin.answer = b'{%b,"state":"failed","gone":0,"reason":"worker-2: exited with code 1"}' % told.encode()
    result = heliograph("reload", "--restart", "--admin-url", admin.url)
    assert result.code == 1
    assert "worker-2: exited with code 1" in result.err


def test_reload(heliograph: Callable[..., Result], admin: Admin) -> None:
    admin.answer = b'{"status":"reloaded","needs_restart":["server.port"]}'
    result = heliograph("reload", "--admin-url", admin.url)
    assert result.code == 0
    assert "only a restart takes server.port" in result.err
    assert admin.requests == [("POST", "/api/reload", "application/json", None)]


def test_a_feed_is_operated_by_name(heliograph: Callable[..., Result], admin: Admin) -> None:
    admin.answer = b'{"feed":"a/b","state":"disconnected","reason":"disconnected by an operator"}'
    result = heliograph("feed", "a/b", "disconnect", "--admin-url", admin.url)
    assert (result.code, result.out) == (0, "")
    assert result.err.endswith("a/b is disconnected: disconnected by an operator\n")
    assert admin.requests == [("POST", "/api/feeds/a%2Fb/disconnect", "application/json", None)]
    assert heliograph("feed", "fx", "kick").code == 2


# Configuration and daemon -------------------------------------------------------------------------------------------


def test_the_default_configuration_is_a_configuration(heliograph: Callable[..., Result], tmp_path: Path) -> None:
    file = tmp_path / "heliograph.toml"
    file.write_text(heliograph("config", "--defaults").out)
    assert heliograph("check-config", str(file)).code == 0
    file.write_text('[server]\nport = 1234\n[admin]\napi_key = "hush"\n')
    shown = heliograph("config", "--config", str(file))
    assert shown.code == 0
    assert "port = 1234" in shown.out
    assert "hush" not in shown.out


def test_a_wrong_configuration_is_two_and_names_field_and_line(
    heliograph: Callable[..., Result], tmp_path: Path
) -> None:
    file = tmp_path / "heliograph.toml"
    file.write_text("[server]\n\nprot = 1\n")
    for arguments in (["check-config", str(file)], ["config", "--config", str(file)], ["run", "--config", str(file)]):
        result = heliograph(*arguments)
        assert result.code == 2
        assert "server.prot (line 3)" in result.err


@pytest.mark.parametrize(
    ("feed", "said"),
    [
        ('protocol = "heliograph"', "feeds.up.options (line 1): missing 1 required positional argument: 'topics'"),
        ('protocol = "nowhere:Nothing"', "feeds.up.protocol (line 3): cannot import 'nowhere:Nothing'"),
        ('protocol = "heliogarph"', "which must be mapped, heliograph or package.module:Class"),
        ('protocol = "json:JSONDecoder"', "feeds.up.protocol (line 3): 'json:JSONDecoder' is not a subclass"),
        ('token_function = "json:nothing"', "feeds.up.token_function (line 3): cannot import 'json:nothing'"),
        ('token_function = "json:__name__"', "feeds.up.token_function (line 3): 'json:__name__' cannot be called"),
    ],
)
def test_what_only_an_import_can_tell_is_checked_too(
    heliograph: Callable[..., Result], tmp_path: Path, feed: str, said: str
) -> None:
    file = tmp_path / "heliograph.toml"
    file.write_text(f'[feeds.up]\nurl = "ws://127.0.0.1:1/"\n{feed}\n')
    result = heliograph("check-config", str(file))
    assert result.code == 2
    assert said in result.err


SAMPLED = """
[feeds.fx]
url = "ws://x"
[feeds.fx.map]
key = "s"
data = { bid = "b", ask = "q.a?" }
filter = { e = "tick" }
[feeds.own]
url = "ws://x"
protocol = "heliograph"
options = { topics = ["price.>"] }
"""


def sampled(heliograph: Callable[..., Result], directory: Path, sample: str, feed: str = "fx") -> Result:
    file, messages = directory / "heliograph.toml", directory / "sample.json"
    file.write_text(SAMPLED)
    messages.write_text(sample)
    return heliograph("check-config", str(file), "--sample", feed, str(messages))


def test_a_sample_is_explained_line_by_line(heliograph: Callable[..., Result], tmp_path: Path) -> None:
    sample = '{"e":"tick","s":"EUR","b":"1.10"}\n\n{"e":"hello"}\n{"e":"tick","s":"EUR"}\nnope\n'
    result = sampled(heliograph, tmp_path, sample)
    assert result.code == 1
    *shown, last = result.out.splitlines()
    assert shown == [
        "line 1: 1 event",
        "  message by map",
        '    topic     s    "EUR"    → price.EUR',
        "    type                    → message",
        '    key       s    "EUR"    → EUR',
        '    data.bid  b    "1.10"   → 1.10',
        "    data.ask  q.a  nothing  → nothing",
        "line 3: not for this feed",
        '  message: map wants e = "tick", found "hello"',
        "line 4: 1 bad",
        "  message by map",
        '    topic     s    "EUR"    → price.EUR',
        "    type                    → message",
        '    key       s    "EUR"    → EUR',
        "    data.bid  b    nothing  ! missing (there are: e, s)",
        "    data.ask  q.a  nothing  → nothing",
    ]
    assert last.startswith("line 5: not_json: JSON is malformed")
    assert "1 mapped, 1 not for this feed, 2 failed" in result.err


@pytest.mark.parametrize(
    ("sample", "starts", "code"),
    [
        ('{\n  "e": "tick",\n  "s": "EUR",\n  "b": [\n    "x"\n  ]\n}\n', ["message: 1 event"], 0),
        ('{"e":"tick","s":"EUR","b":1}', ["message: 1 event"], 0),
        ('{\n  "e": "tick",\n  "s"\n}', ["message: not_json"], 1),
        ('{"e":1}\n{"e":2}', ["line 1: not for this feed", "line 2: not for this feed"], 0),
        ('nope\n{"e":2}', ["line 1: not_json", "line 2: not for this feed"], 1),
        ("\n", [], 0),
    ],
)
def test_a_sample_is_one_document_or_one_a_line(
    heliograph: Callable[..., Result], tmp_path: Path, sample: str, starts: list[str], code: int
) -> None:
    result = sampled(heliograph, tmp_path, sample)
    heads = [line for line in result.out.splitlines() if not line.startswith(" ")]
    assert [head[: len(start)] for head, start in zip(heads, starts, strict=True)] == starts
    assert result.code == code


def test_a_sample_needs_a_mapped_feed_and_a_file(heliograph: Callable[..., Result], tmp_path: Path) -> None:
    missing = sampled(heliograph, tmp_path, "{}", "eq")
    assert missing.code == 2
    assert "there are: fx, own" in missing.err
    other = sampled(heliograph, tmp_path, "{}", "own")
    assert other.code == 2
    assert "feeds.own.protocol: 'heliograph' reads messages in its own way" in other.err
    unread = heliograph("check-config", str(tmp_path / "heliograph.toml"), "--sample", "fx", str(tmp_path / "none"))
    assert unread.code == 2
    assert "cannot read" in unread.err


def test_a_sample_on_a_terminal_has_colours(
    heliograph: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine import cli_config

    monkeypatch.setattr(cli_config, "unstyled", cli_config._coloured)
    result = sampled(heliograph, tmp_path, '{"e":"tick","s":"EUR"}')
    assert "\x1b[31m    data.bid  b    nothing  ! missing" in result.out


def test_run_hands_its_options_to_the_daemon(
    heliograph: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran: list[Any] = []

    def run(config: Any, demo: bool, load: Callable[[], Any]) -> int:
        ran.extend((config, demo))
        assert load() == config
        return 1

    monkeypatch.setattr("engine.daemon.run", run)
    monkeypatch.setenv("HELIOGRAPH_SERVER__PORT", "1")
    monkeypatch.setenv("HELIOGRAPH_SERVER__HOST", "::1")
    options = ["--port", "0", "--admin-host", "127.0.0.2", "--admin-port", "7", "--workers", "0", "--demo"]
    assert heliograph("run", *options).code == 1
    assert heliograph("--url", "ws://x", "run", "--help").out.startswith("usage: heliograph run")
    config, demo = ran
    assert (config.server.host, config.server.port, config.server.workers, demo) == ("::1", 0, 0, True)
    assert (config.admin.host, config.admin.port) == ("127.0.0.2", 7)


def test_run_leaves_the_command_lines_libraries_out_of_memory() -> None:
    program = (
        "import sys, engine.daemon\n"
        "engine.daemon.run = lambda *_: 0\n"
        "from engine.cli import execute\n"
        "assert execute(['run']) == 0\n"
        "print([name for name in ('typer', 'rich', 'prometheus_client', 'engine.client') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_replay_serves_until_it_is_told_to_stop(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "engine", "replay", "--port", "0", "--loop", "--speed", "demo"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ}) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"ready ws://127.0.0.1:")
        process.send_signal(number)
        assert process.wait(10) == 0


def test_main_exits_with_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "execute", lambda arguments: len(arguments))
    with pytest.raises(SystemExit) as ended:
        cli.main(["a", "b"])
    assert ended.value.code == 2
