"""The tier-pattern example: its users get what they want, by a count of its own."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import tier_patterns  # type: ignore[import-not-found,unused-ignore]

    module: ModuleType = tier_patterns
    return module


def plainly(example: ModuleType, seed: int) -> dict[str, int]:
    """The templates in plain words, over the same alerts; the halt is for everybody."""
    wants: dict[str, Callable[..., bool]] = {
        "alice": lambda a: (
            a.tier in ("intraday", "combo") and a.symbol in ("AAPL", "BRK.B", "TSLA") and a.confidence >= 0.7
        ),
        "bob": lambda a: (a.tier == "daily" and a.confidence >= 0.8) or a.confidence >= 0.97,
        "carol": lambda a: a.confidence >= 0.9 and a.pattern in ("doji", "hammer", "volume_spike"),
    }
    found = list(example.found_patterns(random.Random(seed)))
    return {user: 1 + sum(map(wants[user], found)) for user in wants}


@pytest.mark.parametrize(("seed", "capped"), [(25, True), (7, False)])
def test_everybody_gets_what_the_preferences_say(
    example: ModuleType, seed: int, capped: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asyncio.run(example.main(seed)) == 0
    out = capsys.readouterr().out.splitlines()
    rows = {row[0]: [int(cell) for cell in row[1:]] for row in map(str.split, out[1:4])}
    wanted = plainly(example, seed)
    most = 20 + 1  # the halt is critical
    assert (wanted["bob"] > most) is capped
    assert rows == {
        "alice": [289, wanted["alice"], wanted["alice"], 0],
        "bob": [289, wanted["bob"], min(wanted["bob"], most), max(wanted["bob"] - most, 0)],
        "carol": [289, wanted["carol"], wanted["carol"], 0],
    }
    assert out[4] == "the engine and brute force agree"


def test_it_runs_by_itself() -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "tier_patterns.py")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=EXAMPLES.parent,
    )
    assert done.returncode == 0, done.stderr
    assert "carol" in done.stdout
