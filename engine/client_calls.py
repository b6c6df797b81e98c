"""A topic whose calls a client answers: what ``client.serve`` gives."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, Self

from actors.called_methods import Handler


class Owner(Protocol):
    """What a served topic needs of its client."""

    async def begin_serving(self, served: ServedTopic) -> None:
        """Serve it; returns when the engine has accepted that."""

    async def end_serving(self, served: ServedTopic) -> None:
        """Serve it no longer."""


class ServedTopic:
    """``async with client.serve("progress.job-17", cancel=cancel): …``; entered once.

    Attributes:
        topic: whose calls come here.
        methods: what can be called, by name.
    """

    def __init__(self, owner: Owner, topic: str, methods: Mapping[str, Handler]) -> None:
        self.topic, self.methods = topic, methods
        self._owner = owner

    async def __aenter__(self) -> Self:
        await self._owner.begin_serving(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._owner.end_serving(self)
