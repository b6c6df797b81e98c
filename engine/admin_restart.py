"""``/api/restart`` in the admin API: other workers in the place of those that run, without refusing a client.

``POST`` begins and answers at once, ``GET`` tells how it goes, both with ``{"state", "workers", "gone", "reason"}``:
``starting`` and ``draining``, then ``done``, or ``failed`` with the reason (the old workers go on); ``none`` before the
first one. ``conflict``: one is under way, or the engine is not running.
"""

from __future__ import annotations

from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from engine.admin_http import answer


class Backend(Protocol):
    """What this part of the API speaks for."""

    def restart(self) -> dict[str, Any]:
        """Begin; how it stands then.

        Raises:
            RequestError: ``conflict``; ``unsupported``: there are no worker processes.
        """

    def restart_state(self) -> dict[str, Any]:
        """How the last one stands."""


def routes(backend: Backend) -> list[Route]:
    """The endpoint."""

    async def begin(request: Request) -> Response:
        return answer(backend.restart())

    async def look(request: Request) -> Response:
        return answer(backend.restart_state())

    return [Route("/api/restart", begin, methods=["POST"]), Route("/api/restart", look, methods=["GET"])]
