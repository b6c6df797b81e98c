"""A service of the engine's own, which the admin API asks, see :mod:`engine.monitor`."""

from __future__ import annotations

from typing import Any

from actors.service import Service


class MonitorService(Service):
    """What a :class:`~actors.service.Service` is; it is made by the engine, not named by a configuration."""

    async def answer(self, method: str, params: dict[str, Any]) -> Any:
        """What the admin API is told, as plain values. Called also while a hook is under way.

        Raises:
            RequestError: what the asker is told.
        """
        raise NotImplementedError
