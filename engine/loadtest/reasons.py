"""Texts and how often each was said."""

from __future__ import annotations

from collections import Counter
from typing import Final

DIFFERENT: Final = 50
"""Texts that are counted; all others are "others"."""
CHARS: Final = 300
"""Of a text; a server may say more."""


class Reasons(Counter[str]):
    """Bounded, whatever a server says."""

    def say(self, text: str, times: int = 1) -> None:
        """Once more, or ``times``."""
        text = text if len(text) <= CHARS else text[:CHARS] + "…"
        self[text if text in self or len(self) < DIFFERENT else "others"] += times
