"""Where a feed's bearer token comes from: a text, a file, or a function that can make a new one."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from actors.failure import FailureKind, UpstreamRefused

TOKEN_TIMEOUT_S = 10.0
"""For a file to be read or a function to answer."""

TokenFunction: TypeAlias = Callable[[], str | Awaitable[str]]
"""Plain ones run in a thread."""


@dataclass(frozen=True, slots=True)
class TokenSource:
    """At most one of them is given. File and function are asked before each connect, so that a token can be renewed."""

    text: str | None = field(default=None, repr=False)
    file: str | None = None
    function: TokenFunction | None = None

    @property
    def fixed(self) -> bool:
        """Whether there will never be another token."""
        return self.file is None and self.function is None

    async def get(self) -> str | None:
        """The token now; ``None``: none is configured.

        Raises:
            UpstreamRefused: ``unauthorized``; it cannot be had. The text does not hold it.
        """
        if self.fixed:
            return self.text
        try:
            async with asyncio.timeout(TOKEN_TIMEOUT_S):
                token = str.strip(await self._ask())  # a TypeError for bytes, which can be stripped too
        except TimeoutError:
            raise _missing(f"no token within {TOKEN_TIMEOUT_S:g} s") from None
        except Exception as error:  # a user's function may raise what it likes
            raise _missing(f"no token: {type(error).__name__}") from error
        if not token or not token.isascii() or not token.isprintable():
            raise _missing("the token is empty or not printable ASCII")
        return token

    async def _ask(self) -> str:
        if self.file is not None:
            return await asyncio.to_thread(Path(self.file).read_text, "utf-8")
        assert self.function is not None
        plain = not inspect.iscoroutinefunction(self.function)
        answer: str | Awaitable[str] = await asyncio.to_thread(self.function) if plain else self.function()
        return answer if isinstance(answer, str) else await answer


def _missing(detail: str) -> UpstreamRefused:
    return UpstreamRefused(FailureKind.UNAUTHORIZED, detail)
