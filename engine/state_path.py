"""Where the engine keeps what outlives it, by default: a SQLite database per purpose and client port."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def state_path(file: str | None, name: str, port: int, environ: Mapping[str, str] = os.environ) -> Path | None:
    """``file``, or the default place of the database ``name`` of an engine on this client port. Creates nothing.

    ``$STATE_DIRECTORY/NAME.db`` under a service manager, else ``heliograph/NAME-PORT.db`` in ``$XDG_STATE_HOME`` or
    ``~/.local/state``. ``None``: the port is picked at each start, so no later engine could find the file again.
    """
    if file is not None:
        return Path(file)
    if directory := environ.get("STATE_DIRECTORY"):  # systemd's; several are joined by colons
        return Path(directory.split(":")[0], f"{name}.db")
    if port == 0:
        return None
    return state_directory(environ) / f"{name}-{port}.db"


def state_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """``heliograph`` in ``$XDG_STATE_HOME`` or ``~/.local/state``: of whoever runs the engine by hand."""
    return Path(environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state", "heliograph")
