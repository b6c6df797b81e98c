"""The JavaScript client, ``/heliograph.js``: a page has the one that fits the engine from the engine itself."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Final

from transport.static_file import StaticFile

CLIENT_PATH: Final = "/heliograph.js"


@cache
def javascript_client() -> StaticFile:
    """The module, read once per process."""
    return StaticFile.of(files("engine").joinpath("static", "heliograph.js").read_bytes(), "text/javascript")
