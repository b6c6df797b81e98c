"""``POST /api/explain`` in the admin API: who would receive an event, and which clause keeps it from whom.

The body is ``{"topic", "data", "type"?, "key"?, "session"?, "limit"?}``; nothing is published. The answer is
``{"topic", "strategy", "patterns", "receivers", "groups", "matched", "sessions", "truncated"}``, see
:class:`actors.explanation.Explanation`: ``sessions`` has a row for each of the first ``limit`` sessions of which a
pattern matches, with ``session`` for this one alone, whether a pattern matches or not.

Cost: each worker looks at all of its sessions, and gives way to their events meanwhile.
"""

from __future__ import annotations

from typing import Annotated, Any, Protocol

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from engine.admin_http import MAX_PAGE, PAGE, answer, decoded, read_body
from transport.codes import ErrorCode
from transport.errors import RequestError
from transport.topics import check_topic


class Backend(Protocol):
    """What this part of the API speaks for."""

    async def ask_workers(self, order: dict[str, Any], /) -> list[Any]:
        """The answer of each worker to an order, see :meth:`engine.worker.Worker.order`."""


class _Explain(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    topic: str
    data: msgspec.Raw
    type: str = "message"
    key: str | None = None
    session: str | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = PAGE


_decoder = msgspec.json.Decoder(_Explain)


def routes(backend: Backend) -> list[Route]:
    """The endpoint."""

    async def explain(request: Request) -> Response:
        asked = _asked(await read_body(request))
        order = {"do": "explain", **msgspec.structs.asdict(asked), "data": bytes(asked.data)}
        found = await backend.ask_workers(order)
        if not found:
            raise RequestError(ErrorCode.UNAVAILABLE, "no worker accepts clients")
        sessions = [row for worker in found for row in worker["sessions"]]
        if asked.session is not None and not sessions:
            raise RequestError(ErrorCode.NOT_FOUND, f"there is no session {asked.session!r}", "session")
        matched = sum(worker["matched"] for worker in found)
        return answer(
            {
                "topic": asked.topic,
                "strategy": found[0]["strategy"],
                "patterns": _union(found, "patterns"),
                "receivers": sum(worker["receivers"] for worker in found),
                "groups": _union(found, "groups"),
                "matched": matched,
                "sessions": sessions[: asked.limit],
                "truncated": matched > asked.limit,
            }
        )

    return [Route("/api/explain", explain, methods=["POST"])]


def _union(found: list[dict[str, Any]], name: str) -> list[str]:
    return sorted({item for worker in found for item in worker[name]})


def _asked(body: bytes) -> _Explain:
    asked = decoded(_decoder.decode, body)
    check_topic(asked.topic)
    return asked
