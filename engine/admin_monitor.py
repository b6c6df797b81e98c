"""What the admin API asks the monitor's services, see :mod:`engine.monitor`."""

from __future__ import annotations

from typing import Any, Protocol

from transport.codes import ErrorCode
from transport.errors import RequestError


class Backend(Protocol):
    """What these parts of the API speak for."""

    async def ask_monitor(self, service: str, method: str, params: dict[str, Any], /) -> Any:
        """What the service of that table answers, as plain values.

        Raises:
            RequestError: why it refused; ``not_found``: it is not configured; ``unavailable``: it is away, or went
                meanwhile and the outcome is unknown.
        """


def no_service(name: str) -> RequestError:
    """The table is not configured."""
    return RequestError(ErrorCode.NOT_FOUND, f"no {name} are configured")
