"""The table of ``python -m bench.peers``: complete, right, and honest about what failed or is missing."""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from bench import peers, report, wsload
from bench.peers import PEERS, PLAIN, Peer
from bench.server import Server
from bench.turns import Subject, in_turns
from bench.wsload import Load

command = importlib.import_module("bench.peers.__main__")

TINY = ("--rates", "20", "--clients", "2", "--connections", "20", "--seconds", "0.3", "--repeat", "1")
QUICK = ("nats", "nchan", "websockets")  # to start; those of Debian only where they are installed

CALM = Load(
    open=2, closed=0, failed=0, connects=1000.0, connect_us=100.0, connection_kib=5.0, published=20.0,
    delivered=40.0, megabytes=0.0048, p50=1.0, p99=2.0, p999=3.0, worst=4.0, server=0.1, client=0.1, us=10.0,
    least=30, most=30, total=30,
)  # fmt: skip


def changed(**figures: Any) -> Load:
    """A calm run but for these."""
    return Load(**{name: getattr(CALM, name) for name in CALM.__struct_fields__} | figures)


def test_one_table_for_all_that_are_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(command, "SETTLE", 0.1)
    monkeypatch.setattr(wsload, "BUSY", 100.0)  # cores: what others do here is not this test's business,
    monkeypatch.setattr(command, "KEPT", 0.0)  # nor how fast it goes then
    there = [peer for peer in PEERS if peer.name in QUICK and not peer.absent()]
    assert "websockets" in {peer.name for peer in there}
    broken = Peer("broken", lambda: Server([sys.executable, "-c", ""]), PLAIN)
    absent = Peer("absent", lambda: pytest.fail("started"), PLAIN, lambda: "a-server (apt-get install a-server)")
    monkeypatch.setattr(command, "PEERS", (*there, broken, absent))

    assert command.main([*TINY, "--json"]) == 0

    told = json.loads(capsys.readouterr().out)
    assert told["missing"] == {"absent": "a-server (apt-get install a-server)"}
    *rows, failed = told["rows"]
    assert [row["who"] for row in rows] == [peer.name for peer in there]
    for row in rows:
        assert row["msg/s"] == 20
        assert row["state"] == "whole", row
        assert row["runs"] == "1/1"
        for figure in ("deliveries/s", "p50 ms", "p99 ms", "connects/s", "KiB each"):
            assert row[figure] > 0, (figure, row)
    assert (failed["who"], failed["state"], failed["us each"], failed["KiB each"]) == ("broken", "failed", None, None)


def test_absent_peers_are_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "PATH", "/nowhere")
    monkeypatch.setattr(peers, "find_spec", lambda _module: None)
    assert command.main(["--only", "nats", "nchan", "picows"]) == 0
    out = capsys.readouterr().out
    assert "nats: missing; install nats-server (apt-get install nats-server)" in out
    assert "nchan: missing; install nginx with Nchan" in out
    assert "picows: missing; install picows (make .venv/.bench)" in out


@pytest.mark.parametrize(
    ("loads", "state"),
    [
        ([CALM, CALM], "whole"),
        ([CALM, changed(server=0.95)], "whole"),
        ([changed(server=0.95)], "saturated"),
        ([changed(client=0.95)], "saturated"),
        ([changed(server=0.99, least=20)], "overloaded"),
        ([changed(closed=1)], "overloaded"),
        ([changed(delivered=37.0)], "overloaded"),
        ([], "failed"),
    ],
)
def test_what_a_figure_is_worth_is_said(loads: list[Load], state: str) -> None:
    assert command._state(report.summary(loads), 40) == state
    assert "–" in report.table([report.summary([])])


class Machine:
    """Servers that are one number each, and runs at them as prepared."""

    port, pids = 1, ()

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *runs: Load | Exception) -> None:
        self.told: list[str] = []
        self._runs = iter(runs)
        monkeypatch.setattr(wsload, "run", self._run)

    def subject(self, name: str) -> Subject:
        @contextmanager
        def start() -> Iterator[Machine]:
            self.told.append(name)
            yield self

        return Subject(name, start, PLAIN)  # type: ignore[arg-type]

    def _run(self, _port: int, _pids: object, *, rate: int = 0, **_: object) -> Load:
        self.told.append(str(rate))
        run = next(self._runs)
        if isinstance(run, Exception):
            raise run
        return run


def test_servers_take_turns_and_the_lowest_rate_is_first(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, *[CALM] * 8)
    subjects = [machine.subject("a"), machine.subject("b")]
    loads = in_turns(subjects, [500, 100], clients=2, seconds=1.0, repeat=2)
    assert machine.told == ["a", "100", "500", "b", "100", "500"] * 2
    assert {key: len(runs) for key, runs in loads.items()} == dict.fromkeys(
        [("a", 100), ("a", 500), ("b", 100), ("b", 500)], 2
    )


def test_runs_that_strangers_spoiled_are_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    spoiled, busy = changed(server=0.5, others=0.5), changed(server=0.95)
    machine = Machine(monkeypatch, CALM, spoiled, CALM, CALM)
    assert in_turns([machine.subject("a")], [100], clients=2, seconds=1.0, repeat=2)["a", 100] == [CALM, spoiled, CALM]
    machine = Machine(monkeypatch, *[spoiled] * 9)
    assert len(in_turns([machine.subject("a")], [100], clients=2, seconds=1.0, repeat=2)["a", 100]) == 4
    machine = Machine(monkeypatch, *[busy] * 9)  # by itself: again would be no better
    assert len(in_turns([machine.subject("a")], [100], clients=2, seconds=1.0, repeat=2)["a", 100]) == 2


def test_cpu_time_is_compared_with_ours_at_the_same_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    connected = changed(connects=500.0, connect_us=70.0, connection_kib=6.5)
    figures = [CALM, changed(us=3.0), changed(us=5.0), changed(us=6.0), connected, changed(open=1)]
    machine = Machine(monkeypatch, *figures)
    both = [Peer(name, machine.subject(name).start, PLAIN) for name in ("heliograph", "other")]
    options = command.Options(rates=[100, 1000], clients=2, connections=2, seconds=1.0, repeat=1)
    rows = command.compare(both, options)
    assert [(row["who"], row["msg/s"], row["us each"], row["x"]) for row in rows] == [
        ("heliograph", 100, 10.0, 1.0),
        ("other", 100, 5.0, 0.5),
        ("heliograph", 1000, 3.0, 1.0),
        ("other", 1000, 6.0, 2.0),
    ]
    assert (rows[0]["KiB each"], rows[0]["connects/s"], rows[0]["connect us"]) == (6.5, 500.0, 70.0)
    assert math.isnan(rows[1]["KiB each"])  # not all got in


def test_a_run_that_fails_costs_only_its_own_figure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine(monkeypatch, ValueError("the load client failed: refused"), CALM)
    loads = in_turns([machine.subject("a"), machine.subject("b")], [100], clients=2, seconds=1.0, repeat=1)
    assert loads == {("a", 100): [], ("b", 100): [CALM]}
    assert "a: the load client failed: refused" in capsys.readouterr().err
    assert math.isnan(report.summary(loads["a", 100])["us each"])
