"""``GET /heliograph.js`` on the admin port, for the dashboard. Nothing in it is secret: no key is asked for."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from engine.static_files import CLIENT_PATH, javascript_client
from transport.static_file import CACHING


def routes() -> list[Route]:
    """The endpoint."""

    async def client(request: Request) -> Response:
        file = javascript_client()
        headers = {**dict(file.headers), "Cache-Control": CACHING}
        if file.is_known(request.headers):
            return Response(None, 304, headers)
        return Response(file.body, 200, headers, file.media_type)

    return [Route(CLIENT_PATH, client, methods=["GET"])]
