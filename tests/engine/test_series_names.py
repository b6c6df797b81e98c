"""The names of series, against what says them: the samplers and their guide."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from engine.engine_series import EngineSeries
from engine.machine import Machine
from engine.series_names import ENGINE, MACHINE, PROCESS, check_series
from transport.errors import ConfigError

GUIDE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_names_are_those_of_the_guide() -> None:
    told = set(re.findall(r"`((?:machine|engine|process\.NAME)\.\w+)`", GUIDE.read_text()))
    of = {"machine": MACHINE, "engine": ENGINE, "process.NAME": PROCESS}
    assert told == {f"{whose}.{name}" for whose, names in of.items() for name in names}


def test_all_that_is_sampled_is_known(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.sample(1.0, {"hub": os.getpid()})
    for name in {**machine.sample(2.0, {"hub": os.getpid()}), **EngineSeries().take({})}:
        check_series(name)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("machine.cpuu", "of machine there are cpu, steal"),
        ("engine.p99", "latency_p99"),
        ("process.hub.pid", "of process.hub there are cpu"),
        ("process.cpu", "process.NAME"),
        ("cpu", "docs/metrics.md"),
    ],
)
def test_what_is_never_sampled_is_named(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)) as refused:
        check_series(name)
    assert refused.value.field == "series"
