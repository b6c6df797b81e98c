"""``GET /api/index`` in the admin API: how much is in the workers' indexes, and whether they are sound.

The answer is ``{"workers": [{"worker", …}, …]}``, with the figures of :class:`actors.audiences.Statistics`. With
``?check=1`` each worker compares its index with what its sessions have subscribed to, and its filter indexes with the
filters: ``problems`` has a sentence for each thing that is wrong, a bug each; ``complete`` is false where not all of it
was looked at, because there was too much of it or too much wrong.

Cost of a check: about 15 µs per filter and 1 µs per session and audience. The worker's events go on meanwhile, but wait
while the filters on one pattern are looked at: 0.15 s for 10,000 of them; more than
:data:`actors.index_check.FILTERS` are left out.
"""

from __future__ import annotations

from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from engine.admin_http import answer, parameters
from transport.codes import ErrorCode
from transport.errors import RequestError

SWITCH = {"0": False, "1": True}


class Backend(Protocol):
    """What this part of the API speaks for."""

    async def ask_workers(self, order: dict[str, Any], /) -> list[Any]:
        """The answer of each worker to an order, see :meth:`engine.worker.Worker.order`."""


def routes(backend: Backend) -> list[Route]:
    """The endpoint."""

    async def index(request: Request) -> Response:
        check = SWITCH.get(parameters(request, ("check",)).get("check", "0"))
        if check is None:
            raise RequestError(ErrorCode.BAD_REQUEST, "1 to check, 0 not to", "check")
        return answer({"workers": await backend.ask_workers({"do": "index", "check": check})})

    return [Route("/api/index", index, methods=["GET"])]
