"""The example is an application like any other: of heliograph it knows what `import heliograph` gives."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import fx

SOURCES = sorted(Path(fx.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_it_imports_nothing_of_the_engines_inside(source: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(source.read_bytes())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    assert not imported & {"engine", "actors", "transport"}
