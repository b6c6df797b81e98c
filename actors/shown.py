"""Values of a user's code as text for people, whatever their ``__repr__`` does."""

from __future__ import annotations

from typing import Final

CHARS: Final = 200


def shown(value: object) -> str:
    """Its ``repr``, cut to ``CHARS``; of what has none, the name of its type."""
    try:
        return f"{value!r:.{CHARS}}"
    except Exception:
        return f"<{type(value).__qualname__} without a repr>"
