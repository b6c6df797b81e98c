"""Where a feed's bearer token comes from: a text, a file, or a function that can make a new one."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias, TypeVar

from actors.failure import FailureKind, UpstreamRefused

TOKEN_TIMEOUT_S = 10.0
"""For a file to be read or a function to answer."""
TOKEN_CHARS = 16_384
"""Of a file; a longer one holds no token."""

_T = TypeVar("_T")

TokenFunction: TypeAlias = Callable[[], str | Awaitable[str]]
"""Plain ones run in a thread of their own, one call at a time."""


@dataclass(frozen=True, slots=True)
class TokenSource:
    """At most one of them is given. File and function are asked before each connect, so that a token can be renewed."""

    text: str | None = field(default=None, repr=False)
    file: str | None = None
    function: TokenFunction | None = None
    _asked: list[Future[Any]] = field(default_factory=list, init=False, repr=False, compare=False)

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
        except UpstreamRefused:
            raise
        except (Exception, SystemExit) as error:  # a user's function may raise what it likes
            raise _missing(f"no token: {type(error).__name__}") from error
        if not token or not token.isascii() or not token.isprintable():
            raise _missing("the token is empty or not printable ASCII")
        return token

    async def _ask(self) -> str:
        if self.file is not None:
            return await self._in_thread(partial(_read, self.file))
        assert self.function is not None
        plain = not inspect.iscoroutinefunction(self.function)
        answer: str | Awaitable[str] = await self._in_thread(self.function) if plain else self.function()
        return answer if isinstance(answer, str) else await answer

    async def _in_thread(self, ask: Callable[[], _T]) -> _T:
        """In a thread of its own, one call at a time: what hangs holds up no other feed and no exit, nor piles up."""
        if self._asked and not self._asked[0].done():
            raise _missing("the last request for a token has not come back yet")
        answer: Future[_T] = Future()
        self._asked[:] = [answer]
        answer.set_running_or_notify_cancel()  # from here on nobody cancels it, so that the thread may set it

        def work() -> None:
            try:
                answer.set_result(ask())
            except BaseException as error:
                answer.set_exception(error)

        threading.Thread(target=work, name="token", daemon=True).start()
        return await asyncio.wrap_future(answer)


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        text = file.read(TOKEN_CHARS + 1)
    if len(text) > TOKEN_CHARS:
        raise ValueError(f"more than {TOKEN_CHARS} characters")
    return text


def _missing(detail: str) -> UpstreamRefused:
    return UpstreamRefused(FailureKind.UNAUTHORIZED, detail)
