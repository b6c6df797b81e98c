"""Node with the JavaScript client in it, one for all tests of a process."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.javascript import NODE_MODULES, SCRIPTS, Node

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "clients/js/heliograph.js"
INTERNALS = "Positions, holds, matches"


def absent(component: str) -> NoReturn:
    """As the fixture ``missing``, for fixtures of a session."""
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"{component} is missing, and CI must have it")
    pytest.skip(f"{component} is missing")


class JavaScript:
    """Evaluates, without a loop of the test's own. Names that the module exports are global, and its pure parts."""

    def __init__(self, directory: Path) -> None:
        command = shutil.which("node") or absent("node")
        if not (NODE_MODULES / "ws").is_dir():
            absent("what `make node` installs into .venv/node")
        module = directory / "client.mjs"
        module.write_text(f"{CLIENT.read_text(encoding='utf-8')}\nexport {{ {INTERNALS} }};\n", encoding="utf-8")
        self._runner = asyncio.Runner()
        self._node = Node(command)
        self._runner.run(self._node.__aenter__())
        self(f"load({str(module)!r}).then(module => void Object.assign(globalThis, module))")
        self((SCRIPTS / "fake_socket.js").read_text(encoding="utf-8") + "\nundefined")

    def __call__(self, script: str) -> Any:
        """The value of an expression, of a promise what it resolves to."""
        return self._runner.run(self._node.evaluate(script))

    def run(self, body: str) -> Any:
        """What the body of an async function returns."""
        return self(f"(async () => {{ {body} }})()")

    def close(self) -> None:
        """End it."""
        try:
            self._runner.run(self._node.__aexit__(None, None, None))
        finally:
            self._runner.close()


@pytest.fixture(scope="session")
def js(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JavaScript]:
    javascript = JavaScript(tmp_path_factory.mktemp("js"))
    yield javascript
    javascript.close()
