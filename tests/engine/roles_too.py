"""Another role, that does the same."""

from tests.engine.roles import main

__all__ = ["main"]
