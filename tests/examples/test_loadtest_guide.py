"""What ``docs/loadtest.md`` shows is run here, and its numbers are those of the code."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from engine import config
from engine.loadtest import compare, judging, latency, resources, scenario
from engine.loadtest.criteria import Criteria
from heliograph import Scenario, load_scenario

GUIDE = (Path(__file__).parents[2] / "docs/loadtest.md").read_text(encoding="utf-8")


def block(language: str, number: int = 1) -> str:
    return GUIDE.split(f"```{language}\n")[number].split("```")[0]


def test_the_scenario_file_shows_every_field_with_its_default() -> None:
    shown = scenario.loads(block("toml"))
    assert shown == Scenario(name="mine")
    names = set(re.findall(r"^\[?(\w+)", block("toml"), re.M))
    tables = (Scenario, scenario.Phases, scenario.Faults, scenario.TargetConfig, scenario.PublishConfig, Criteria)
    assert names == {name for table in tables for name in table.__struct_fields__}
    with pytest.raises(Exception, match=re.escape("rate (line 3): Expected float > 0.0")):
        scenario.loads("\n\nrate = -1.0")


def test_the_tables_say_what_the_code_does() -> None:
    for name, connections, rate, deliveries, seconds in re.findall(
        r"^\| `(\w+)` \| (.+) \| (.+) \| (.+) \| (.+) \|$", GUIDE, re.M
    ):
        found = load_scenario(name)
        assert (found.connections, found.rate, found.seconds) == tuple(
            float(cell.replace(",", "")) for cell in (connections, rate, seconds)
        )
        assert found.connections * found.rate == float(deliveries.replace(",", ""))
    criteria = GUIDE.split("## Criteria")[1].split("## ")[0]
    named = [name for cell in re.findall(r"^\| (`.*?) \|", criteria, re.M) for name in re.findall(r"`(\w+)`", cell)]
    assert named == list(Criteria.__struct_fields__)
    assert len(named) == 12 and "twelve criteria" in GUIDE


def test_the_configuration_of_the_durable_engine_is_one() -> None:
    found = config.loads(block("toml", 2))
    assert found.topics[Scenario().topic].durable
    assert found.history.durable_file == "/tmp/loadtest.db"  # it is needed where the port is picked


def test_its_numbers_are_those_of_the_code() -> None:
    scaled = load_scenario("light").scaled(0.1)
    assert f"{scaled.seconds:g} s, against" in block("text")
    assert scenario.LEAST_PHASE_S == 2.0 and "two seconds each at least" in GUIDE
    assert judging.LATE_MOST_MS == 50.0 and "more than 50 ms behind its schedule" in GUIDE
    assert judging.BUSY_MOST == 0.1 and "more than a tenth of the seconds" in GUIDE
    assert latency.LONGEST_US == 600_000_000 and latency.DIGITS == 3
    assert resources.HISTORY == 1_000
    [p99] = [figure for figure in compare._FIGURES if figure.name == "delivery p99"]
    assert f"({p99.noise:.0%} for a p99)".replace("%", " %") in GUIDE


def test_what_it_shows_for_tests_works(heliograph_engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "LATE_MOST_MS", math.inf)  # that the machine is busy with other tests is not its fault
    monkeypatch.setattr(judging, "BUSY_MOST", 1.0)
    shown = block("python").replace('"connections": 50, "seconds": 10.0', '"connections": 5, "seconds": 2.0')
    assert shown != block("python")
    names: dict[str, Any] = {}
    exec(shown, names)
    names["load_scenario"] = lenient
    names["test_fifty_clients_get_everything"](heliograph_engine.url)


def lenient(name: str, overrides: dict[str, Any]) -> Scenario:
    """Without what a busy machine may fail."""
    kept = ("connections", "delivered", "in_order", "recovered")
    others = {f"criteria.{name}": "none" for name in Criteria.__struct_fields__ if name not in kept}
    return load_scenario(name, overrides | others)
