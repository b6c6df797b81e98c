"""``python -m bench.scaling``: cores are dealt out, load clients work together, the climb finds the highest rate."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import scaling
from bench.peers import PEERS
from bench.scaling import Layout, Options, Step, climb, layout
from bench.wsload import CORES, Run
from tests.bench.test_peers import CALM, changed

TINY = ("--clients", "3", "--rate", "20", "--most", "20", "--seconds", "0.5")


def test_one_worker_and_two_load_clients(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    cores = Layout(frozenset(CORES[:1]), [CORES[-1]] * 2, shared=False)
    monkeypatch.setattr(scaling, "layout", lambda _workers: cores)
    assert scaling.main(["--workers", "1", *TINY, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["scaling"]
    assert (row["workers"], row["cores"], row["msg/s"]) == (1, "1 + 2", 20)
    assert row["whole"] and row["limit"] == "--most", row
    assert row["deliveries/s"] > 0 and row["x"] == 1 and row["us each"] > 0
    assert 20 < row["MB"] < 1000


@given(workers=st.integers(1, 64), count=st.integers(1, 64))
def test_nobody_shares_a_core_with_the_engine_unless_it_is_said(workers: int, count: int) -> None:
    cores = layout(workers, range(count))
    assert cores.engine and cores.clients
    assert {*cores.engine, *cores.clients} <= {*range(count)}
    if count > 1:
        assert not cores.engine & {*cores.clients}
    assert cores.shared == (workers >= count)
    assert cores.shared or len(cores.engine) in (workers, workers + 1)


@given(capacity=st.integers(10, 90_000), first=st.integers(1, 50_000))
def test_the_climb_ends_near_the_highest_rate_that_counts(capacity: int, first: int) -> None:
    asked: list[int] = []

    def step(_workers: int, rate: int, _options: Options) -> Step:
        asked.append(rate)
        limit = None if rate <= capacity else "not whole"
        return Step(rate, rate * 2.0, 1.0, 0.5, 100.0, 0.1, 1.0, 2.0, limit)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scaling, "_step", step)
        best, limit = climb(1, Options(most=100_000), first)
    assert best.rate <= capacity < best.rate * scaling.NEAR + 1
    assert limit == "not whole"
    assert len(asked) == len(set(asked)) < 25


def test_where_no_rate_counts_the_lowest_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "_try", lambda _workers, rate, _options: scaling._sum(rate, [changed(closed=1)], 1.0))
    best, limit = climb(1, Options(most=100), 3)
    assert (best.rate, best.limit, limit) == (1, "not whole", "not whole")


def test_what_load_clients_saw_is_added_up() -> None:
    publisher = changed(p50=1.0, p99=9.0)
    other = changed(delivered=120.0, us=0.0, client=0.3, p50=2.0, p99=3.0, total=0, published=0.0)
    step = scaling._sum(20, [publisher, other], 50.0)
    assert (step.delivered, step.us, step.client, step.p50, step.p99) == (160.0, 2.5, 0.3, 2.0, 9.0)
    assert step.limit is None


@pytest.mark.parametrize(
    ("change", "limit"),
    [
        ({"client": 0.9}, "load clients at their limit"),
        ({"least": 29}, "not whole"),
        ({"failed": 1}, "not whole"),
        ({"repeated": 1}, "not whole"),
        ({"p99": 101.0}, "p99 too high"),
    ],
)
def test_one_load_client_in_trouble_is_enough(change: dict[str, float], limit: str) -> None:
    assert scaling._sum(20, [CALM, changed(total=0, **change)], 50.0).limit == limit
    assert scaling._sum(40, [CALM], 50.0).limit == "publisher held up"


def test_a_load_client_that_does_not_publish_awaits_what_comes_late() -> None:
    (server,) = (peer for peer in PEERS if peer.name == "websockets")
    with server.start() as running:
        options = {"dialect": server.dialect, "clients": 1, "warm": 0.0, "settle": 0.0, "held": True}
        publisher = Run(running.port, running.pids, rate=20, seconds=1.0, **options)
        other = Run(running.port, (), seconds=0.1, **options)
        for run in (publisher, other):
            run.opened()
        for run in (other, publisher):
            run.go()
        published, late = publisher.wait(), other.wait()
    assert published.whole and published.total > 10
    assert late.least == late.most == published.total
