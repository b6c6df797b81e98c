from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import heliograph

ROOT = Path(heliograph.__file__).parents[1]


def python(code: str, *path: Path) -> subprocess.CompletedProcess[str]:
    search = f"import sys; sys.path[:0] = {[*map(str, path), str(ROOT)]!r}\n"
    return subprocess.run(
        [sys.executable, "-c", search + code], capture_output=True, text=True, timeout=30, check=False
    )


@pytest.mark.parametrize("name", sorted(heliograph._HOME))
def test_every_public_name_is_there(name: str) -> None:
    _, _, there = heliograph._HOME[name].partition(":")
    assert getattr(heliograph, name).__name__.rpartition(".")[2] == (there or name)
    assert name in dir(heliograph)


def test_all_is_the_table_of_homes() -> None:
    assert sorted(heliograph.__all__) == sorted([*heliograph._HOME, "__version__"])


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        heliograph.nonsense  # noqa: B018


def test_importing_it_imports_nothing_heavy() -> None:
    done = python("import heliograph; print([m for m in ('asyncio', 'msgspec', 'pykka', 'zmq') if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("name", ["engine", "actors", "transport"])
@pytest.mark.parametrize("file", ["{}.py", "{}/__init__.py"])
def test_a_foreign_package_of_the_same_name_is_named_with_ours(tmp_path: Path, name: str, file: str) -> None:
    foreign = tmp_path / file.format(name)
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_text("print('foreign code runs')")
    done = python("import heliograph", tmp_path)
    assert "ImportError" in done.stderr
    assert str(foreign) in done.stderr
    assert str(ROOT / name / "__init__.py") in done.stderr
    assert done.stdout == ""
