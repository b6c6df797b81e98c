from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.loadtest.scenario import BUILT_IN, LEAST_PHASE_S, PHASES, Scenario, load, loads
from engine.loadtest.scenario import Phases as Shares
from transport.errors import ConfigError


def test_the_built_in_scenarios_are_the_promised_ones() -> None:
    found = {name: (load(name).connections, load(name).rate, load(name).seconds) for name in BUILT_IN}
    assert found == {"light": (100, 50, 60), "medium": (500, 250, 120), "heavy": (1_000, 500, 300)}
    assert all(load(name) == scenario for name, scenario in BUILT_IN.items())
    assert {load(name).faults.kill_workers for name in BUILT_IN} == {1}
    assert load("light", {"faults.kill_workers": 0}).faults.kill_workers == 0


def test_a_file_says_what_differs_and_gives_its_name(tmp_path: Path) -> None:
    file = tmp_path / "black-friday.toml"
    (tmp_path / "key").write_text("s3cret\n")
    file.write_text(
        f'connections = 7\n[target]\nurl = "ws://h/x"\ntoken_file = "{tmp_path / "key"}"\n[criteria]\ncpu = "none"'
    )
    found = load(str(file), {"connections": 8, "target.kind": "plain", "rate": None})
    assert (found.name, found.connections, found.rate) == ("black-friday", 8, 50)
    assert (found.target.url, found.target.kind, found.target.token) == ("ws://h/x", "plain", "s3cret")
    assert found.criteria.cpu is None
    assert "s3cret" not in repr(found)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("\nconnections = 0", "connections (line 2): Expected int >= 1"),
        ("rate = 'x'", "rate (line 1): Expected float, got text"),
        ("rate = nan", "rate (line 1): Expected float > 0"),
        ("rate = inf", "rate (line 1): Expected float <= 1000000"),
        ("payload_bytes = 10", "payload_bytes (line 1): Expected int >= 48"),
        ("[target]\n\nurl = 'http://x'", "target.url (line 3): 'http://x' must be ws://HOST:PORT/PATH or wss://…"),
        ("[target]\nkind = 'plain'\npublish = 'x'", "target.publish (line 3): must have {data}"),
        ("[phases]\nbroadcast = 0.9", "phases (line 1): the shares of broadcast, stability, recovery, sustained must"),
        ("[phases]\nbroadcast = nan", "phases.broadcast (line 2): Expected float >= 0"),
        ("[criteria]\nmemory = 101", "criteria.memory (line 2): Expected float <= 100"),
        ("[targit]", "targit (line 1): unknown; did you mean target?"),
        ("x = ?\n", "(line 1): not TOML: Invalid value"),
    ],
)
def test_a_wrong_file_names_field_and_line(text: str, error: str) -> None:
    with pytest.raises(ConfigError) as refused:
        loads(text)
    assert str(refused.value).startswith(error)


def test_a_wrong_option_names_no_line() -> None:
    with pytest.raises(ConfigError, match=r"^rate: Expected float > 0"):
        loads("rate = 50.0", {"rate": -1.0})


def test_what_is_no_scenario_says_which_there_are() -> None:
    with pytest.raises(ConfigError, match="'hard': it is light, medium, heavy, or the path of a TOML file"):
        load("hard")
    with pytest.raises(ConfigError, match=r"cannot read nowhere\.toml"):
        load("nowhere.toml")


def test_a_report_s_scenario_holds_no_secret() -> None:
    given = Scenario(name="x")
    found = loads(
        "[target]\nurl = 'wss://me:pw@h/ws?key=k1'\ntoken = 't1'\nadmin_url = 'http://u:p2@h'\n"
        "[publish]\nredis_url = 'redis://:r3@h:1/0'"
    ).without_secrets()
    assert found.target.url == "wss://h/ws"
    assert (found.target.token, found.target.admin_url, found.publish.redis_url) == (None, "http://h", "redis://h:1/0")
    assert given.without_secrets() == given


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    weights = draw(st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(any))
    shares = {name: weight / sum(weights) for name, weight in zip(PHASES, weights, strict=True)}
    return Scenario(seconds=draw(st.floats(0.1, 10_000)), phases=Shares(**shares))


@given(scenarios(), st.floats(0.001, 1_000))
def test_a_scaled_scenario_keeps_its_load_and_its_phases(scenario: Scenario, scale: float) -> None:
    scaled = scenario.scaled(scale)
    before, after = scenario.lengths(), scaled.lengths()
    assert list(after) == list(before)
    assert sum(after.values()) == pytest.approx(scaled.seconds)
    for name, seconds in before.items():
        assert after[name] == pytest.approx(max(seconds * scale, min(seconds, LEAST_PHASE_S)))
    assert (scaled.rate, scaled.connections, scaled.criteria) == (50, 100, scenario.criteria)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_none_is_refused(scale: float) -> None:
    with pytest.raises(ConfigError, match="time_scale"):
        Scenario().scaled(scale)
