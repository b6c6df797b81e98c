"""The command ``heliograph``: exit codes, and the way to the command that was asked for.

Exit codes: 0 fine, 1 failed, 2 bad usage or configuration. What a command prints for programs goes to stdout, all else
to stderr.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from transport.codes import ErrorCode
from transport.errors import ConfigError, HeliographError, RequestError

FAILED, BAD_USAGE = 1, 2
_HINTS = {
    ErrorCode.UNAUTHORIZED: "give a valid one with --token ($HELIOGRAPH_TOKEN) or --api-key ($HELIOGRAPH_API_KEY)",
    ErrorCode.RATE_LIMITED: "wait, then try again",
    ErrorCode.UNAVAILABLE: "the outcome is unknown; `heliograph stats` shows how the engine is",
}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line ``arguments``, by default this process's, and exit."""
    sys.exit(execute(sys.argv[1:] if arguments is None else list(arguments)))


def execute(arguments: list[str]) -> int:
    """Run a command line; returns the exit code. Bad usage raises :class:`SystemExit` with 2."""
    try:
        if arguments[:1] == ["run"]:
            # Without typer and rich: the daemon's processes would carry them for as long as they live.
            from engine.cli_run import run

            return run(arguments[1:])
        from engine.cli_commands import app

        app(args=arguments, prog_name="heliograph")
    except ConfigError as error:
        return complain(error, BAD_USAGE)
    except HeliographError as error:
        return complain(error, FAILED)
    return 0


def nobody_reads() -> int:
    """Whoever read our output has enough, as ``head`` does: no failure. Returns the exit code."""
    # Python flushes once more on its way out, and would fail aloud.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def complain(error: HeliographError | str, code: int = FAILED) -> int:
    """Say on stderr what went wrong and what to do; returns ``code``."""
    hint = _HINTS.get(error.code) if isinstance(error, RequestError) else None
    if isinstance(error.__cause__ if isinstance(error, HeliographError) else None, ConnectionRefusedError):
        hint = "is the engine running? start it with `heliograph run`, or say where it is with --url and --admin-url"
    said = "\n".join(map(printable, str(error).splitlines()))  # it may quote a server
    note(said + (f"\n{hint}" if hint else ""))
    return code


def note(text: str) -> None:
    """A line for people, on stderr."""
    sys.stderr.write(f"heliograph: {text}\n")
    sys.stderr.flush()


def printable(text: str) -> str:
    """What others wrote, without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
