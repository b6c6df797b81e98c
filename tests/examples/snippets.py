"""What pages show: their blocks of code, run once, and their command lines, read as the command would."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any

import typer.main

from engine import cli_run
from engine.cli_commands import app

ROOT = Path(__file__).parents[2]
PAGES = (
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
    *sorted((ROOT / "clients").rglob("*.md")),
    ROOT / "engine/recorded/README.md",
)
"""All Markdown of the project."""
SHELL = ("console", "sh")

_FENCE = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```$", re.M | re.S)


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of each fenced block."""
    return _FENCE.findall(page.read_text(encoding="utf-8"))


def prose(page: Path) -> str:
    """The page without its blocks and its code in lines."""
    return re.sub(r"(`+)(?!`).*?\1", "``", _FENCE.sub("", page.read_text(encoding="utf-8")))


class _Once(ast.NodeTransformer):
    """Loops over events, which have no end, run once."""

    def visit_AsyncFor(self, node: ast.AsyncFor) -> ast.AST:
        return self._ended(node)

    def visit_For(self, node: ast.For) -> ast.AST:
        return self._ended(node)

    def _ended(self, node: Any) -> ast.AST:
        self.generic_visit(node)
        node.body.append(ast.Break())
        return ast.fix_missing_locations(node)


def once(text: str, name: str) -> CodeType:
    """A Python block that may ``await``, each of whose loops ends after its first turn."""
    tree = _Once().visit(ast.parse(text))
    return compile(tree, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def command_lines(text: str, *, console: bool) -> Iterator[str]:
    """The lines that somebody types, each whole; in a ``console`` block those behind a ``$``."""
    for line in text.replace("\\\n", " ").splitlines():
        if console and not line.startswith("$ "):
            continue
        yield line.removeprefix("$ ").strip()


def calls_of(line: str, program: str = "heliograph") -> Iterator[list[str]]:
    """The arguments of each call of ``program`` in a line of shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;><")
    lexer.whitespace_split = True
    words, begins = list(lexer), True
    for n, word in enumerate(words):
        if set(word) <= set("|&;"):
            begins = True
            continue
        if begins and re.fullmatch(r"\w+=.*", word):  # a variable for the command
            continue
        if begins and word.rpartition("/")[2] == program:
            rest = words[n + 1 :]
            ends = (i for i, other in enumerate(rest) if set(other) <= set("|&;><"))
            yield rest[: next(ends, len(rest))]
        begins = False


def understand(arguments: list[str]) -> None:
    """Read a command line of ``heliograph`` without carrying it out; raises where the command would refuse it."""
    if arguments[:1] == ["run"]:
        cli_run.parser().parse_args(arguments[1:])
        return
    _commands().main(args=list(arguments), prog_name="heliograph", standalone_mode=False)


@cache
def _commands() -> Any:
    group: Any = typer.main.get_command(app)
    for command in group.commands.values():
        command.callback = _nothing
    return group


def _nothing(**_: Any) -> None:
    """In place of what a command does."""


def links(page: Path) -> list[str]:
    """Where a page's links lead: as they are written."""
    return re.findall(r"\]\(\s*([^)\s]+)[^)]*\)", prose(page))


def anchors(page: Path) -> set[str]:
    """The names of its headings, as GitHub makes them."""
    found: set[str] = set()
    counts: dict[str, int] = {}
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for heading in re.findall(r"^#{1,6} +(.*?) *$", text, re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        n = counts[slug] = counts.get(slug, -1) + 1
        found.add(slug if n == 0 else f"{slug}-{n}")
    return found
