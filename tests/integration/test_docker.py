"""What the image says, held against the sources; its health check runs. Needs no Docker."""

from __future__ import annotations

import configparser
import json
import re
import subprocess
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import urlsplit

from engine import cli_run, config
from tests.integration.harness import EngineProcess

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")
IGNORED = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()


def instructions() -> list[tuple[str, str]]:
    """In order, with continued lines joined."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.M))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def last(word: str) -> str:
    return next(rest for found, rest in reversed(instructions()) if found == word)


def copied() -> list[str]:
    """From the sources, not from another stage."""
    return [
        path for word, rest in instructions() if word == "COPY" and "--from" not in rest for path in rest.split()[:-1]
    ]


def test_what_is_copied_is_there_and_not_ignored() -> None:
    assert IGNORED[1] == "*", "nothing but what is named"
    allowed = [line.removeprefix("!") for line in IGNORED if line.startswith("!")]
    for path in copied():
        assert (ROOT / path).exists(), path
        assert any(fnmatch(path, pattern) for pattern in allowed), path
    assert sorted(allowed) == sorted(copied())


def test_all_of_the_distribution_is_copied() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    metadata, options = setup["metadata"], setup["options"]
    files = [*metadata["long_description"].removeprefix("file:").split(","), metadata["license_files"]]
    modules = [f"{name.strip()}.py" for name in options["py_modules"].split(",")]
    packages = [name.strip().partition(".")[0] for name in options["packages"].split(",")]
    needed = {name.strip() for name in [*files, *modules, *packages]} | {"setup.cfg", "pyproject.toml"}
    assert needed | {"clients/js/heliograph.js"} == set(copied()), "the client is served from a link in engine/static"


def test_the_image_runs_as_nobody_in_particular_and_hears_signals() -> None:
    user, group = map(int, last("USER").split(":"))
    assert min(user, group) >= 1000
    entry, command = json.loads(last("ENTRYPOINT")), json.loads(last("CMD"))
    assert entry == ["heliograph"], "no shell in between"
    assert (command[0], cli_run.parser().parse_args(command[1:]).config) == ("run", None)
    assert instructions()[-1][0] == "CMD"
    run = next(rest for word, rest in instructions() if word == "RUN" and "install -d" in rest)
    assert f"-o {user} -g {group}" in run
    assert [word for word, _ in instructions()].index("USER") > [rest for _, rest in instructions()].index(run)


def test_the_health_check_tells_a_living_engine_from_none(engine_process: Callable[..., EngineProcess]) -> None:
    options, _, command = last("HEALTHCHECK").partition("CMD ")
    python, *arguments = json.loads(command)
    assert (python, "--start-period=" in options) == ("python", True)
    engine = engine_process(workers=1)
    port = urlsplit(engine.admin_url).port
    assert f"127.0.0.1:{config.Config().admin.port}/health" in arguments[1]
    arguments[1] = arguments[1].replace(f":{config.Config().admin.port}/", f":{port}/")

    def check() -> int:
        return subprocess.run([sys.executable, *arguments], stderr=subprocess.DEVNULL, timeout=20).returncode

    assert check() == 0
    engine.stop()
    assert check() == 1
