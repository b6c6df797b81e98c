"""Alerts in the admin API, see ``docs/alert-rules.md``.

| request | answer |
|---|---|
| ``GET /api/alerts`` | ``{"alerts": [what is firing, newest first], "more": n, "rules": [{"rule", "state", …}]}`` |
| ``POST /api/alerts/RULE/acknowledge`` ``{"subject"?, "note"?}`` | the alert |

It is acknowledged in the name of the key, ``admin:KEY``, or of ``admin`` where none is needed.
"""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from engine.admin_http import answer, parameters, read_body
from engine.admin_monitor import Backend
from transport.codes import ErrorCode
from transport.errors import RequestError
from transport.requests import refusal

SERVICE = "alerts"


class _Acknowledge(msgspec.Struct, forbid_unknown_fields=True):
    subject: str | None = None
    note: str | None = None


_decoder = msgspec.json.Decoder(_Acknowledge)


def routes(backend: Backend) -> list[Route]:
    """The endpoints."""

    async def every(request: Request) -> Response:
        parameters(request, ())
        try:
            return answer(await backend.ask_monitor(SERVICE, "list", {}))
        except RequestError as error:
            if error.code is not ErrorCode.NOT_FOUND:
                raise
            return answer({"alerts": [], "more": 0, "rules": []})  # none is configured

    async def acknowledge(request: Request) -> Response:
        try:
            asked = _decoder.decode(await read_body(request) or b"{}")
        except msgspec.ValidationError as error:
            raise refusal(error) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise RequestError(ErrorCode.BAD_REQUEST, f"the body is not JSON: {error}") from None
        key = request.scope.get("heliograph.key")
        who = {"rule": request.path_params["rule"], "by": "admin" if key is None else f"admin:{key}"}
        return answer(await backend.ask_monitor(SERVICE, "acknowledge", {**who, **msgspec.to_builtins(asked)}))

    return [
        Route("/api/alerts", every, methods=["GET"]),
        Route("/api/alerts/{rule}/acknowledge", acknowledge, methods=["POST"]),
    ]
