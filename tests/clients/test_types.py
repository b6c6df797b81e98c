"""``clients/js/heliograph.d.ts`` says what the module is."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

from engine.version import VERSION
from tests.clients.conftest import ROOT, JavaScript, absent
from tests.javascript import NODE_MODULES

PACKAGE = ROOT / "clients/js"
TYPES = (PACKAGE / "heliograph.d.ts").read_text(encoding="utf-8")


def test_the_compiler_takes_right_uses_and_refuses_wrong_ones(tmp_path: Path) -> None:
    compiler = NODE_MODULES / "typescript/bin/tsc"
    if not compiler.exists():
        absent("what `make node` installs into .venv/node")
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules/heliograph-client").symlink_to(PACKAGE)  # as installed: by its package.json
    shutil.copy(ROOT / "tests/node/types.ts", tmp_path / "types.mts")
    options = ["--noEmit", "--strict", "--target", "es2022", "--module", "nodenext", "--lib", "es2022,dom"]
    command = [shutil.which("node") or absent("node"), str(compiler), *options, "types.mts"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_every_export_and_method_has_its_type(js: JavaScript) -> None:
    exported = js(f"load({str(PACKAGE / 'heliograph.js')!r}).then(Object.keys)")
    assert set(re.findall(r"^export (?:class|function) (\w+)", TYPES, re.M)) == set(exported)
    methods = js("Object.getOwnPropertyNames(Heliograph.prototype)")
    body = TYPES[TYPES.index("export class Heliograph {") :]
    assert set(re.findall(r"^  (?:readonly )?(\w+)[<(:]", body, re.M)) == set(methods)


def test_the_package_is_the_engines_version_and_has_all_its_files() -> None:
    package = json.loads((PACKAGE / "package.json").read_text(encoding="utf-8"))
    assert package["version"] == VERSION
    assert all((PACKAGE / name).is_file() and not (PACKAGE / name).is_symlink() for name in package["files"])
