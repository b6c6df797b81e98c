"""``docs/errors.md`` has a row for everything that can be said to a client, with causes and a remedy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from engine.admin import STATUS
from transport import errors
from transport.codes import ByeReason, CloseCode, ErrorCode, GapReason
from transport.errors import HeliographError

GUIDE = (Path(__file__).parents[2] / "docs/errors.md").read_text(encoding="utf-8")
ABNORMAL = 1006  # nobody sends it


def rows(section: str) -> dict[str, list[str]]:
    """The table of a section: the other cells by what is named in the first."""
    text = GUIDE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| ") and cells[0] not in ("code", "reason", "status", "exception"):
            for name in re.findall(r"\w+", cells[0]):
                assert name not in found, f"{name} is there twice"
                found[name] = cells[1:]
    return found


@pytest.mark.parametrize(
    ("section", "names"),
    [
        ("Error codes", {code.value for code in ErrorCode}),
        ("Close codes", {str(code.value) for code in CloseCode} | {str(ABNORMAL)}),
        ("Gaps", {reason.value for reason in GapReason}),
    ],
)
def test_each_has_a_cause_and_a_remedy(section: str, names: set[str]) -> None:
    found = rows(section)
    assert set(found) == names
    assert all(all(cells) for cells in found.values())


def test_the_statuses_are_those_of_the_admin_api() -> None:
    assert {code: int(cells[0]) for code, cells in rows("Error codes").items()} == STATUS


def test_each_reason_of_a_bye_is_named() -> None:
    (sentence,) = re.findall(r"^The `reason` of `bye`.*$", GUIDE, re.M)
    assert set(re.findall(r"`(\w+)`", sentence)) - {"reason", "bye"} == set(ByeReason)


def test_each_exception_is_named() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, HeliographError)]
    there = {kind.__name__ for kind in kinds}
    assert set(rows("In Python")) == there - {"HeliographError"}
    assert "`HeliographError`" in GUIDE
