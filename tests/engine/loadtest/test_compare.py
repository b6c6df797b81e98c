from __future__ import annotations

from typing import Any

import msgspec
import pytest

from engine.loadtest.compare import Change, NotComparable, circumstances, compare
from engine.loadtest.judging import judged
from engine.loadtest.report import Publishing, Report, TargetFacts, Throughput
from engine.loadtest.scenario import MEDIUM, Faults, PublishConfig, Scenario
from tests.engine.loadtest.sample_report import LATENCY, good

replace = msgspec.structs.replace


def run(**changes: Any) -> Report:
    return judged(good(**changes))


def changed(a: Report, b: Report) -> dict[str, Change | None]:
    return {found.name: found.change for found in compare(a, b) if found.change != "same"}


def test_a_report_is_the_same_as_itself() -> None:
    assert changed(run(), run()) == {}
    assert all(found.ratio == 1.0 for found in compare(run(), run()) if found.a)


@pytest.mark.parametrize(
    ("changes", "figure", "ratio"),
    [
        ({"latency": replace(LATENCY, p99=16.0)}, "delivery p99", 2.0),
        ({"throughput": Throughput(peak=5_100.0, sustained=4_000.0)}, "sustained", 0.8),
        ({"publishing": Publishing(published=1, rate=45.0)}, "published", 0.9),
        ({"uptime": 0.998}, "uptime", 0.998),
    ],
)
def test_what_is_worse_one_way_is_better_the_other(changes: dict[str, Any], figure: str, ratio: float) -> None:
    good_one, bad_one = run(), run(**changes)
    assert changed(good_one, bad_one) == {figure: "worse"}
    assert changed(bad_one, good_one) == {figure: "better"}
    assert {found.name: found.ratio for found in compare(good_one, bad_one)}[figure] == pytest.approx(ratio)


@pytest.mark.parametrize("latency", [replace(LATENCY, p99=9.0), replace(LATENCY, p50=1.29)])
def test_noise_is_no_difference(latency: Any) -> None:
    assert changed(run(), run(latency=latency)) == {}


def test_what_was_not_measured_is_neither_better_nor_worse() -> None:
    found = {found.name: (found.ratio, found.change) for found in compare(run(), run(uptime=None, faults=[]))}
    assert found["uptime"] == found["recovery"] == (None, None)


@pytest.mark.parametrize(
    ("scenario", "why"),
    [
        (MEDIUM, "connections differs (100 and 500); rate differs (50 and 250); seconds differs (60 and 120)"),
        (Scenario(payload_bytes=1_000), "payload_bytes differs (123 and 1,000)"),
        (Scenario(faults=Faults(cut=0.5)), "faults differs"),
        (Scenario(publish=PublishConfig(via="redis")), "publish.via differs (websocket and redis)"),
    ],
)
def test_other_loads_are_not_compared(scenario: Scenario, why: str) -> None:
    with pytest.raises(NotComparable) as refused:
        compare(run(), run(scenario=scenario))
    assert why in str(refused.value)


def test_a_run_that_says_nothing_is_not_compared() -> None:
    with pytest.raises(NotComparable, match=r"the second is invalid \(interrupted\)"):
        compare(run(), run(invalid=["interrupted"]))


def test_other_servers_are_compared_and_named() -> None:
    other = run(target=TargetFacts(url="ws://x", kind="plain"))
    assert changed(run(), other) == {}
    assert circumstances(run(), other) == ["different servers: heliograph 0.1.0 and plain"]
