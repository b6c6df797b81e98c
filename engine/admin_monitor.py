"""What the admin API asks the monitor's services, see :mod:`engine.monitor`."""

from __future__ import annotations

from typing import Any, Protocol

from starlette.requests import Request

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


async def listed(backend: Backend, service: str, nothing: dict[str, Any]) -> Any:
    """The service's list; where the table is not configured, ``nothing``."""
    try:
        return await backend.ask_monitor(service, "list", {})
    except RequestError as error:
        if error.code is not ErrorCode.NOT_FOUND:
            raise
        return nothing


def operator(request: Request) -> str:
    """Who asks, for what is kept of it: by the name of the key, where there are keys."""
    key = request.scope.get("heliograph.key")
    return "admin" if key is None else f"admin:{key}"
