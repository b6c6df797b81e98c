"""Each figure of the README names a command, and the command is one: its module is there and takes these options."""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest

from tests.examples.snippets import ROOT, understand

README = (ROOT / "README.md").read_text(encoding="utf-8")
FIGURES = README.partition("\n## Figures\n")[2].partition("\n## ")[0]
_COMMAND = re.compile(r"`((?:python|pytest|heliograph|make) [^`]+)`")
_TABLE = re.compile(r"^\|[^\n]*\n\|[- |]+\n((?:\|[^\n]*\n)+)", re.M)


class Understood(Exception):
    """A module has read its options: no more is wanted of it."""


def tables() -> Iterator[tuple[str, list[str], list[str]]]:
    """What is said before each table of figures, its headings and its rows."""
    ended = 0
    for table in _TABLE.finditer(FIGURES):
        lines = table[0].strip().splitlines()
        yield FIGURES[ended : table.start()], [cell.strip() for cell in lines[0].strip("|").split("|")], lines[2:]
        ended = table.end()


def commands() -> list[str]:
    return list(dict.fromkeys(_COMMAND.findall(FIGURES)))


def test_each_figure_names_its_command() -> None:
    found = list(tables())
    assert len(found) >= 5, "or this test does not see them"
    for before, headings, rows in found:
        if "command" in headings:
            for row in rows:
                assert _COMMAND.search(row.strip("|").split(" | ")[headings.index("command")]), row
        else:
            assert _COMMAND.search(before), f"no command before the table {headings}"


@pytest.mark.parametrize("line", commands())
def test_the_command_is_one(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(line)
    monkeypatch.chdir(ROOT)
    match words:
        case ["python", "-m", module, *options]:
            _check_module(module, options, monkeypatch)
        case ["python", file, *_]:
            assert (ROOT / file).is_file()
        case ["pytest", file, *options]:
            _check_tests((ROOT / file).read_text(encoding="utf-8"), options)
        case ["heliograph", *arguments]:
            understand(arguments)
        case ["make", target]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
        case _:
            pytest.fail("this test does not know such a command")


def _check_module(module: str, options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the module until it has read its options."""
    original = argparse.ArgumentParser.parse_args

    def parse(parser: argparse.ArgumentParser, *arguments: Any) -> NoReturn:
        original(parser, *arguments)
        raise Understood

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("it begins before it has read its options")

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    monkeypatch.setattr(sys, "argv", [module, *options])
    for imported in (module, f"{module}.__main__"):
        monkeypatch.delitem(sys.modules, imported, raising=False)
    with pytest.raises(Understood):
        runpy.run_module(module, run_name="__main__")


def _check_tests(text: str, options: list[str]) -> None:
    match options:
        case []:
            assert "def test_" in text
        case ["-k", name]:
            assert re.search(rf"def test_\w*{re.escape(name)}", text), f"no test has {name!r} in its name"
        case _:
            pytest.fail("this test does not know such options")
