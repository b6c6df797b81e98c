"""The wheel in an empty environment: it installs, runs, is typed, and brings all that it needs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import textwrap
import urllib.request
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("heliograph", "engine", "actors", "transport")
INSTALL_TIMEOUT, START_TIMEOUT, TIMEOUT = 240, 30, 30  # s
pytestmark = pytest.mark.timeout(2 * INSTALL_TIMEOUT)

USER_PROGRAM = """
import asyncio
from decimal import Decimal

import heliograph
from heliograph import Client, Engine, Event, Position, RequestError, Stage, topic


class Spread(Stage):
    def on_events(self, batch: list[Event]) -> list[Event]:
        return [event.replace(data={"spread": Decimal(1)}) for event in batch]


async def main() -> None:
    async with Engine(workers=0, port=0, admin_port=0) as engine, Client(engine.url) as client:
        async with client.subscribe("price.*", snapshot=True) as prices:
            place: Position | None = await client.publish(topic("price", "EUR/USD"), {"bid": 1})
            event: Event = await anext(prices)
            print(event.topic, event.offset, place is not None and place.offset, heliograph.__version__)
        try:
            await client.publish("a..b", 1)
        except RequestError as error:
            print(error.code, error.field)


asyncio.run(main())
"""


class Installed(NamedTuple):
    """An environment that has nothing but the wheel and what it asks for; ``home`` is its directory."""

    home: Path
    wheel: Path
    sdist: Path

    @property
    def python(self) -> Path:
        return self.home / "bin/python"

    @property
    def command(self) -> Path:
        return self.home / "bin/heliograph"


def environment(**more: str) -> dict[str, str]:
    """That of this process, without its Python's paths."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | more


def run(
    *command: str | Path, cwd: Path, timeout: float = TIMEOUT, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*map(str, command)], cwd=cwd, env=environment(**variables), capture_output=True, text=True, timeout=timeout
    )


def done(*command: str | Path, cwd: Path, timeout: float = TIMEOUT, **variables: str) -> str:
    """What a command that must succeed writes."""
    result = run(*command, cwd=cwd, timeout=timeout, **variables)
    assert result.returncode == 0, f"{command}: {result.stdout}\n{result.stderr}"
    return result.stdout


def tracked(*paths: str) -> list[str]:
    """Files of the repository, those that are to be added too."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *paths]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True)
    return [name for name in names.stdout.split("\0") if name and (ROOT / name).is_file()]


def build(directory: Path) -> tuple[Path, Path]:
    """Source distribution, and the wheel that is built of it."""
    source, tools, dist = directory / "source", directory / "tools", directory / "dist"
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    pip(directory, "install", "--target", str(tools), "--no-compile", "setuptools>=70")
    backend = "import sys; from setuptools import build_meta; print(build_meta.build_{}(sys.argv[1]))"
    out = done(sys.executable, "-c", backend.format("sdist"), dist, cwd=source, timeout=120, PYTHONPATH=str(tools))
    sdist = dist / out.splitlines()[-1]
    with tarfile.open(sdist) as archive:
        archive.extractall(directory / "unpacked", filter="data")
    (unpacked,) = (directory / "unpacked").iterdir()
    out = done(sys.executable, "-c", backend.format("wheel"), dist, cwd=unpacked, timeout=120, PYTHONPATH=str(tools))
    return dist / out.splitlines()[-1], sdist


def pip(cwd: Path, *arguments: str) -> None:
    quiet = ("--quiet", "--disable-pip-version-check", "--no-warn-script-location")
    done(sys.executable, "-m", "pip", *arguments, *quiet, cwd=cwd, timeout=INSTALL_TIMEOUT)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    directory = tmp_path_factory.mktemp("wheel")
    home = directory / "venv"
    wheel, sdist = build(directory)
    venv.create(home)
    pip(directory, "--python", str(home / "bin/python"), "install", "--only-binary=:all:", "--no-compile", str(wheel))
    return Installed(home, wheel, sdist)


def test_it_holds_the_packages_and_nothing_else(installed: Installed) -> None:
    with zipfile.ZipFile(installed.wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        text = archive.read(metadata).decode()
    ours = {name for name in names if ".dist-info/" not in name}
    wanted = {name for name in tracked(*PACKAGES) if not name.endswith(".md")}
    assert wanted <= ours, "packages and package_data in setup.cfg do not name all"
    assert {name.partition("/")[0] for name in ours} == {*PACKAGES, "heliograph_pytest.py"}
    assert {f"{package}/py.typed" for package in PACKAGES} <= ours
    assert "Classifier: Typing :: Typed" in text
    with tarfile.open(installed.sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert {"setup.cfg", "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", *wanted} <= packed


def test_every_public_name_is_there_and_no_extra_is_needed(installed: Installed, tmp_path: Path) -> None:
    code = """
        import heliograph
        for name in heliograph.__all__:
            getattr(heliograph, name)
        print(heliograph.__file__)
    """
    out = done(installed.python, "-c", textwrap.dedent(code), cwd=tmp_path)
    assert Path(out.strip()).is_relative_to(installed.home)


def test_a_users_program_is_typed_and_runs(installed: Installed, tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text(USER_PROGRAM)
    (tmp_path / "bad.py").write_text(USER_PROGRAM.replace("event.offset", "event.nonsense"))
    options = ("--strict", "--python-executable", installed.python, "--cache-dir", tmp_path / "cache")
    told = run(sys.executable, "-m", "mypy", *options, "good.py", "bad.py", cwd=tmp_path, timeout=120).stdout
    errors = [line for line in told.splitlines() if " error: " in line]
    assert len(errors) == 1 and errors[0].startswith("bad.py:"), told
    assert '"Event" has no attribute "nonsense"' in errors[0]
    version = done(installed.command, "--version", cwd=tmp_path).split()[-1]
    assert done(installed.python, "good.py", cwd=tmp_path).splitlines() == [
        f"price.EUR/USD 1 1 {version}",
        "invalid_topic topic",
    ]


@pytest.fixture(scope="module")
def daemon(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """``heliograph run`` of the wheel: its URL and its admin URL."""
    directory = tmp_path_factory.mktemp("run")
    command = [str(installed.command), "run", "--port", "0", "--admin-port", "0", "--workers", "1"]
    variables = {"HELIOGRAPH_SERVER__RUNTIME_DIR": str(directory / "run"), "XDG_STATE_HOME": str(directory / "state")}
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=directory, env=environment(**variables), stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("ready "), (directory / "log").read_text()
        _, url, _, admin_url = line.split()
        yield url, admin_url
    finally:
        process.terminate()
        code = process.wait(START_TIMEOUT)
        process.stdout.close() if process.stdout else None
    assert code == 0, (directory / "log").read_text()


def test_the_daemon_serves_clients_and_pages(installed: Installed, daemon: tuple[str, str], tmp_path: Path) -> None:
    url, admin_url = daemon
    place = json.loads(done(installed.command, "--url", url, "publish", "a.b", '{"n": 1.50}', cwd=tmp_path))
    out = done(installed.command, "--url", url, "subscribe", "a.*", "--snapshot", "--count", "1", cwd=tmp_path)
    event = json.loads(out)
    assert '"data":{"n": 1.50}' in out or '"data":{"n":1.50}' in out
    assert {name: event[name] for name in place} == place
    assert json.loads(done(installed.command, "--admin-url", admin_url, "stats", "--json", cwd=tmp_path))

    def get(address: str) -> str:
        with urllib.request.urlopen(address, timeout=TIMEOUT) as answer:
            body: bytes = answer.read()
        return body.decode()

    assert "export class Heliograph" in get(url.replace("ws://", "http://").removesuffix("ws") + "heliograph.js")
    page = get(admin_url + "/")
    assert "<title>" in page
    assets = re.findall(r'(?:src|href)="([^":]+\.(?:js|css))"', page)
    assert assets
    for asset in assets:
        assert get(f"{admin_url}/{asset.removeprefix('/')}")


def test_its_commands_answer(installed: Installed, tmp_path: Path) -> None:
    (tmp_path / "heliograph.toml").write_text(done(installed.command, "config", "--defaults", cwd=tmp_path))
    assert "is fine" in (checked := run(installed.command, "check-config", "heliograph.toml", cwd=tmp_path)).stderr, (
        checked
    )
    for command in ("loadtest", "run"):
        assert done(installed.command, command, "--help", cwd=tmp_path).lower().startswith("usage")
    assert done(installed.python, "-m", "heliograph", "--version", cwd=tmp_path).startswith("heliograph ")


@pytest.mark.parametrize("name", ["engine", "actors", "transport"])
def test_a_foreign_package_is_named_with_ours(installed: Installed, tmp_path: Path, name: str) -> None:
    foreign = tmp_path / name / "__init__.py"
    foreign.parent.mkdir()
    foreign.write_text("")
    result = run(installed.python, "-c", "import heliograph", cwd=tmp_path)
    (ours,) = installed.home.glob(f"lib/*/site-packages/{name}/__init__.py")
    assert result.returncode != 0
    assert "ImportError" in result.stderr and str(foreign) in result.stderr and str(ours) in result.stderr
