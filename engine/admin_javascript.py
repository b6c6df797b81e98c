"""``GET /heliograph.js`` on the admin port, for the dashboard. Nothing in it is secret: no key is asked for."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from engine.static_files import CLIENT_PATH, javascript_client


def routes() -> list[Route]:
    """The endpoint."""

    async def client(request: Request) -> Response:
        file = javascript_client()
        status, body, headers = file.answer(request.headers)
        return Response(body or None, status, dict(headers), file.media_type if body else None)

    return [Route(CLIENT_PATH, client, methods=["GET"])]
