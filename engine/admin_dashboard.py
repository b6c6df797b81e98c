"""The dashboard: a page at the admin port, and what it has to know to begin.

| request | answer |
|---|---|
| ``GET /``, ``GET /static/NAME`` | the page and its files; they hold no data, so that no key is asked for |
| ``GET /api/dashboard`` | ``{"socket", "token", "token_needed", "operate", "version", "node", "started", "now"}`` |

``socket`` is the engine's WebSocket, under the name by which the page has reached the admin port. ``token`` is for it,
where clients need one and the engine can sign it: for an hour, for what the page subscribes to, and to cancel jobs if
the request's key may operate; null where it is not needed, or made by somebody else (``token_needed``): then the page
asks for one. ``operate``: whether the key may. ``started``, ``now``: Unix seconds by this engine's clock.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final, NamedTuple, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from engine.admin_gate import Gate
from engine.admin_http import answer
from engine.auth_config import Auth
from engine.cli_token import mint
from transport.codes import ErrorCode
from transport.errors import RequestError
from transport.static_file import CACHING, StaticFile

INDEX: Final = "index.html"
FILES: Final = (
    "style.css",
    "main.js",
    "admin.js",
    "board.js",
    "charts.js",
    "controls.js",
    "dialogs.js",
    "dom.js",
    "figures.js",
    "format.js",
    "live.js",
    "pager.js",
    "panel_alerts.js",
    "panel_feeds.js",
    "panel_jobs.js",
    "panel_processes.js",
    "panel_sessions.js",
    "panel_topics.js",
    "table.js",
    "vendor/uPlot.iife.min.js",
    "vendor/uPlot.min.css",
)
TYPES: Final = {"html": "text/html", "js": "text/javascript", "css": "text/css"}
USER: Final = "dashboard"  # whose sessions a page's are, where clients need tokens
TOKEN_TTL: Final = 3_600.0  # s; the page asks for the next one
SUBSCRIBES: Final = ("system.>", "alert.>", "progress.>")
CALLS: Final = ("progress.>",)
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._-]+)(:\d{1,5})?")


class ClientPort(NamedTuple):
    """Where clients connect.

    Attributes:
        port: as it is bound.
        tls: whether it speaks TLS.
        auth: whose tokens it takes.
    """

    port: int
    tls: bool
    auth: Auth


class Backend(Protocol):
    """What this part of the API speaks for."""

    def health(self) -> dict[str, Any]:
        """See :class:`engine.admin.Backend`."""

    def client_port(self) -> ClientPort:
        """The one of this engine."""


def routes(backend: Backend, gate: Gate) -> list[Route]:
    """The endpoints."""
    started = time.time()

    async def page(request: Request) -> Response:
        return _sent(
            request, INDEX, {"content-security-policy": policy(socket(request.headers, backend.client_port()))}
        )

    async def static(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in FILES:  # a table: no path of a stranger's becomes one of the file system
            raise RequestError(ErrorCode.NOT_FOUND, f"there is no {request.url.path}")
        return _sent(request, name, {})

    async def dashboard(request: Request) -> Response:
        health, port = backend.health(), backend.client_port()
        operate = gate.may("operate", request.headers)
        token = None
        if port.auth.secret is not None:
            token = mint(port.auth, USER, TOKEN_TTL, list(SUBSCRIBES), [], list(CALLS) if operate else [])
        return answer(
            {
                "socket": socket(request.headers, port),
                "token": token,
                "token_needed": port.auth.required,
                "operate": operate,
                "version": health["version"],
                "node": health["node"],
                "started": started,
                "now": time.time(),
            }
        )

    return [
        Route("/", page, methods=["GET"]),
        Route("/static/{name:path}", static, methods=["GET"]),
        Route("/api/dashboard", dashboard, methods=["GET"]),
    ]


def socket(headers: Mapping[str, str], port: ClientPort) -> str:
    """The address of the WebSocket, under the name in the Host header of whoever asks."""
    host = _HOST.fullmatch(headers.get("host", ""))
    return f"{'wss' if port.tls else 'ws'}://{host[1] if host else 'localhost'}:{port.port}/ws"


def policy(socket: str) -> str:
    """The page's Content-Security-Policy: nothing from elsewhere, nothing inline, no text that becomes markup."""
    place = socket.removesuffix("/ws")
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        f"connect-src 'self' {place} {place.replace('ws', 'http', 1)}; "  # the client asks why there is no WebSocket
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    )


@cache
def _file(name: str) -> StaticFile:
    body = files("engine").joinpath("static", "dashboard", *name.split("/")).read_bytes()
    return StaticFile.of(body, TYPES[name.rpartition(".")[2]])


def _sent(request: Request, name: str, headers: dict[str, str]) -> Response:
    """A file, to pages of this origin; 304 where the browser has it."""
    file = _file(name)
    headers = {
        "ETag": file.etag,
        "Cache-Control": CACHING,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        **headers,
    }
    if file.is_known(request.headers):
        return Response(None, 304, headers)
    return Response(file.body, 200, headers, file.media_type)
