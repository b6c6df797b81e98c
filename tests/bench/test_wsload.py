"""The load client in C."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import wsload


def test_without_a_compiler_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(wsload, "BINARY", tmp_path / "wsload")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="apt-get install gcc"):
        wsload.build()
