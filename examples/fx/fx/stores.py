"""Which store an application's options ask for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fx.sqlite_store import SqliteStore
from fx.store import Store

DEFAULT_DSN: Final = f"sqlite:///{Path(__file__).resolve().parents[1] / 'fx.db'}"
"""Beside ``engine.toml``, wherever the engine and the jobs are started."""
VARIABLE: Final = "FX_DSN"
"""Of the environment; for a DSN that is secret."""


def open_store(options: Mapping[str, Any]) -> Store:
    """The store of ``options["dsn"]``, or of the file ``dsn_file``, or of ``$FX_DSN``; not connected yet.

    ``sqlite:///FILE`` (four slashes: absolute) or ``postgresql://user@host:port/database``.

    Raises:
        ValueError: names the option; never repeats a DSN.
    """
    dsn, source = _dsn(options)
    scheme, separator, rest = dsn.partition("://")
    if separator and scheme == "sqlite" and rest.startswith("/") and len(rest) > 1:
        return SqliteStore(Path(rest[1:]))
    if separator and scheme in ("postgresql", "postgres"):
        try:
            from fx.postgres_store import PostgresStore  # asyncpg is needed only here
        except ModuleNotFoundError as error:
            raise ValueError(f"{source}: PostgreSQL needs {error.name}: pip install 'heliograph[fx]'") from None
        return PostgresStore(dsn)
    raise ValueError(f"{source}: sqlite:///FILE or postgresql://user@host:port/database")


def _dsn(options: Mapping[str, Any]) -> tuple[str, str]:
    dsn, file = options.get("dsn"), options.get("dsn_file")
    if dsn is not None and file is not None:
        raise ValueError("dsn_file: give it or dsn, not both")
    if file is not None:
        try:
            return Path(str(file)).read_text().strip(), "dsn_file"
        except (OSError, UnicodeDecodeError):
            raise ValueError(f"dsn_file: {file} cannot be read") from None
    if dsn is None:
        return os.environ.get(VARIABLE) or DEFAULT_DSN, VARIABLE
    if not isinstance(dsn, str):
        raise ValueError("dsn: a text")
    return dsn, "dsn"
