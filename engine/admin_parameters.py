"""Live parameters in the admin API, see ``docs/parameters.md``.

| request | answer |
|---|---|
| ``GET /api/parameters`` | ``{"parameters": [{"name", "version", "values", "refused", "trouble", …}]}`` |
| ``GET /api/parameters/NAME`` | ``{"name", "version", "values", "changed", "by", "at", "reason", "schema"}`` |
| ``PATCH /api/parameters/NAME`` ``{"values", "version"?, "reason"?}`` | ``{"version", "values", "changed", …}`` |
| ``GET /api/parameters/NAME/history?limit=&before=`` | ``{"changes": [...], "before"}``, newest first |

A change is made in the name of the key, ``admin:KEY``, or of ``admin`` where none is needed.
"""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from actors.parameter_book import check_whole_numbers
from engine.admin_http import answer, decoded, parameters, read_body
from engine.admin_monitor import Backend, listed, operator
from transport.codes import ErrorCode
from transport.errors import RequestError

SERVICE = "parameters"


def routes(backend: Backend) -> list[Route]:
    """The endpoints."""

    async def ask(request: Request, method: str, params: Any) -> Response:
        asked = {"name": request.path_params["name"], "by": operator(request), "params": params}
        return answer(await backend.ask_monitor(SERVICE, method, asked))

    async def every(request: Request) -> Response:
        parameters(request, ())
        return answer(await listed(backend, SERVICE, {"parameters": []}))

    async def one(request: Request) -> Response:
        parameters(request, ())
        return await ask(request, "get", {})

    async def change(request: Request) -> Response:
        wanted = decoded(msgspec.json.decode, await read_body(request))
        check_whole_numbers(wanted)  # the monitor could not be asked
        return await ask(request, "set", wanted)

    async def history(request: Request) -> Response:
        given = parameters(request, ("limit", "before"))
        return await ask(request, "history", {name: _number(name, text) for name, text in given.items()})

    return [
        Route("/api/parameters", every, methods=["GET"]),
        Route("/api/parameters/{name}", one, methods=["GET"]),
        Route("/api/parameters/{name}", change, methods=["PATCH"]),
        Route("/api/parameters/{name}/history", history, methods=["GET"]),
    ]


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise RequestError(ErrorCode.BAD_REQUEST, f"a whole number, not {text!r:.100}", name)
    return int(text)
