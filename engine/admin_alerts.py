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

from engine.admin_http import answer, decoded, parameters, read_body
from engine.admin_monitor import Backend, listed, operator

SERVICE = "alerts"


class _Acknowledge(msgspec.Struct, forbid_unknown_fields=True):
    subject: str | None = None
    note: str | None = None


_decoder = msgspec.json.Decoder(_Acknowledge)


def routes(backend: Backend) -> list[Route]:
    """The endpoints."""

    async def every(request: Request) -> Response:
        parameters(request, ())
        return answer(await listed(backend, SERVICE, {"alerts": [], "more": 0, "rules": []}))

    async def acknowledge(request: Request) -> Response:
        asked = decoded(_decoder.decode, await read_body(request) or b"{}")
        who = {"rule": request.path_params["rule"], "by": operator(request)}
        return answer(await backend.ask_monitor(SERVICE, "acknowledge", {**who, **msgspec.to_builtins(asked)}))

    return [
        Route("/api/alerts", every, methods=["GET"]),
        Route("/api/alerts/{rule}/acknowledge", acknowledge, methods=["POST"]),
    ]
