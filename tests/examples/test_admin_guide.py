"""``docs/security.md`` on the admin port and the bus is so; the tests that pages name are there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from engine import config
from engine.admin_gate import needed
from transport.curve import ClientKeys, ServerKeys

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/security.md").read_text(encoding="utf-8").partition("\n## The admin port\n")[2]


def snippet(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```", GUIDE, re.M | re.S)
    assert found is not None
    return found[1]


def test_the_keys_can_be_configured(tmp_path: Path) -> None:
    text = snippet("toml")
    for name in re.findall(r'"/run/secrets/(\w+)"', text):
        (tmp_path / name).write_text(f"a key for {name}")
    admin = config.loads(text.replace("/run/secrets", str(tmp_path))).admin
    scopes = {name: sorted(scopes) for name, (_, scopes) in admin.all_keys().items()}
    assert scopes == {
        "api_key": ["operate", "publish", "read"],
        "prometheus": ["read"],
        "backoffice": ["publish", "read"],
    }
    assert admin.scheme == "https"


def test_the_table_of_scopes_is_the_gates() -> None:
    assert needed("GET", "/health") is needed("GET", "/ready") is None
    assert "`POST /api/publish`" in GUIDE.partition("| `publish` |")[2].partition("\n")[0]
    assert "`POST /api/explain`" in GUIDE.partition("| `read` |")[2].partition("\n")[0]
    assert [needed(*request) for request in (("POST", "/api/publish"), ("POST", "/api/explain"))] == ["publish", "read"]
    assert [needed("GET", "/any"), needed("POST", "/any")] == ["read", "operate"]


def test_the_keys_of_a_bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made: dict[str, Any] = {}
    exec(compile(snippet("python"), "docs/security.md", "exec"), made)
    assert made["of_the_hub"] == ServerKeys(made["hub"], [made["worker"].public])
    assert made["of_the_worker"] == ClientKeys(made["worker"], made["hub"].public)


@pytest.mark.parametrize(("page", "least"), [("SECURITY.md", 25), ("docs/failures.md", 50)])
def test_the_tests_that_a_page_names_are_there(page: str, least: int) -> None:
    text, file, named = (ROOT / page).read_text(encoding="utf-8"), "", 0
    for path, test in re.findall(r"`(tests/[\w/]+\.py|…)(?:::(\w+))?`", text):
        file = file if path == "…" else path
        assert not test or re.search(rf"^(async )?def {test}\(", (ROOT / file).read_text(encoding="utf-8"), re.M), (
            f"{file}::{test}"
        )
        named += 1
    assert named > least
    assert named == text.count("`tests/") + text.count("`…::"), "some are spelt otherwise"
