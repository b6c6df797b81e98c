"""``docs/services.md`` shows the example that ``tests/integration/test_services.py`` runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.inner_client import BATCH, ROOM
from actors.service_runner import ServicePolicy
from engine import config
from engine.user_code import service_specs

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/services.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "examples/services"


def snippet(language: str) -> str:
    return GUIDE.split(f"```{language}\n")[1].split("```")[0]


def test_it_shows_the_example() -> None:
    assert snippet("python") == (EXAMPLE / "price_audit.py").read_text(encoding="utf-8")
    first, table = (EXAMPLE / "audit.toml").read_text(encoding="utf-8").split("\n", 1)
    assert snippet("toml") == table
    assert first.removeprefix("# ") in snippet("python"), "the command to run it"


def test_the_configuration_names_what_lies_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    [spec] = service_specs(config.load(EXAMPLE / "audit.toml", None, {}))
    assert (spec.name, spec.topics) == ("audit", ("price.>",))


def test_its_numbers_are_those_of_the_code() -> None:
    policy = ServicePolicy()
    assert GUIDE.count(f"| {policy.work:g} s |") == 5
    assert GUIDE.count(f"| {policy.stop:g} s |") == 1
    assert (policy.backoff.first_s, policy.backoff.cap_s) == (0.5, 30.0)
    assert "half a second at first and 30 s at most" in GUIDE
    assert f"up to {BATCH:,}" in GUIDE
    assert f"{ROOM >> 20} MiB for it" in GUIDE
