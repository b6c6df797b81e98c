"""Opens WebSockets to others, for whoever has a key to show there."""

from __future__ import annotations

import logging
from typing import Final

from websockets.asyncio.client import connect

QUIET: Final = logging.getLogger(__name__)
"""The library's logger for such connections: what it says when debugging has headers, and so keys."""
QUIET.setLevel(logging.WARNING)


class Connect(connect):
    """The library's, but it follows no redirect: headers with keys would go to whom the other side names."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        """None is one."""
        return exc
