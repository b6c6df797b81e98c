"""Each test in a process of its own: a hard limit that was lowered does not rise again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engine.descriptors import HEADROOM, shortage

ROOT = Path(__file__).parents[2]
RAISE = """
import resource, sys
from engine.descriptors import raise_descriptor_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 300))
print(raise_descriptor_limit(), raise_descriptor_limit(), resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    done = subprocess.run([sys.executable, "-c", RAISE], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "300 300 (300, 300)\n"


@pytest.mark.parametrize(("limit", "enough"), [(1_000 + HEADROOM, True), (999 + HEADROOM, False), (sys.maxsize, True)])
def test_clients_need_a_file_each_and_the_process_some_of_its_own(limit: int, enough: bool) -> None:
    assert (shortage(1_000, limit) is None) is enough


def test_what_is_short_is_said_with_what_helps() -> None:
    said = shortage(50_000, 20_000)
    assert said is not None
    for part in (f"enough for {20_000 - HEADROOM} of", "limits.connections = 50000", f"allow {50_000 + HEADROOM} "):
        assert part in said
    assert "enough for 0 of" in (shortage(50_000, 64) or "")
