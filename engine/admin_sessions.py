"""Sessions, users, presence and topics in the admin API.

| request | answer |
|---|---|
| ``GET /api/sessions?limit=&cursor=&user=&lane=`` | ``{"sessions": […], "cursor"}``, by id; null: the end |
| ``DELETE /api/sessions/ID``, ``/api/users/ID/sessions`` | ``{"closed": n}``: with 4003 |
| ``POST /api/{sessions|users}/ID/{subscribe|unsubscribe}`` | ``{"sessions": n}`` |
| ``GET /api/presence?topic=`` | ``{"topic", "users"}`` |
| ``GET /api/topics?limit=&cursor=&containing=`` | ``{"topics": […], "cursor"}``, by name |

A topic is ``{"topic", "epoch", "offset", "ts", "type"}``, of its last event; ``containing``: a part of its name.

The body of ``subscribe`` and ``unsubscribe`` is the client's request without ``op`` and ``id``. An unknown session is
``not_found``; a user without sessions is nobody that the engine could know of: ``n`` is 0. What is done to a user holds
for the sessions that are there, not for those to come.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from engine.admin_http import answer, decoded, page, parameters, read_body
from engine.log import get_logger
from transport.codes import ErrorCode
from transport.errors import RequestError, Unsupported
from transport.filters import Filter
from transport.requests import Subscribe, Unsubscribe, refusal
from transport.topics import check_pattern, check_topic, check_user

LANES = ("fast", "slow")  # see :mod:`actors.session`


class Backend(Protocol):
    """What this part of the API speaks for."""

    async def ask_workers(self, order: dict[str, Any], /) -> list[Any]:
        """The answer of each worker to an order, see :meth:`actors.session_directory.SessionDirectory.execute`.

        Raises:
            RequestError: the first refusal, the other workers may have done it; ``unavailable``: so, too.
        """

    async def topics(self, after: str, limit: int, containing: str, /) -> list[dict[str, Any]]:
        """At most ``limit`` topics with a name above ``after`` that has ``containing`` in it, by name; ``unavailable``
        without a hub."""

    async def users(self, topic: str, /) -> list[str]:
        """Who is present on ``topic``; :class:`RequestError` without a hub, or where topics have no presence."""


def routes(backend: Backend) -> list[Route]:
    """The endpoints."""
    api = _Sessions(backend)
    # A user may have a slash, as any token of a topic may.
    return [
        Route("/api/sessions", api.list, methods=["GET"]),
        Route("/api/sessions/{session}", api.close, methods=["DELETE"]),
        Route("/api/sessions/{session}/subscribe", api.subscribe, methods=["POST"]),
        Route("/api/sessions/{session}/unsubscribe", api.unsubscribe, methods=["POST"]),
        Route("/api/users/{user:path}/sessions", api.close, methods=["DELETE"]),
        Route("/api/users/{user:path}/subscribe", api.subscribe, methods=["POST"]),
        Route("/api/users/{user:path}/unsubscribe", api.unsubscribe, methods=["POST"]),
        Route("/api/presence", api.presence, methods=["GET"]),
        Route("/api/topics", api.topics, methods=["GET"]),
    ]


class _Sessions:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def list(self, request: Request) -> Response:
        given = parameters(request, ("limit", "cursor", "user", "lane"))
        after, limit = page(given)
        user = check_user(given["user"]) if "user" in given else None
        lane = given.get("lane")
        if lane not in (None, *LANES):
            raise RequestError(ErrorCode.BAD_REQUEST, f"one of {', '.join(LANES)}, not {lane!r}", "lane")
        order = {"do": "page", "user": user, "lane": lane, "after": after, "limit": limit + 1}
        found = [row for rows in await self._backend.ask_workers(order) for row in rows]
        found.sort(key=lambda row: row["id"])
        return answer({"sessions": found[:limit], "cursor": found[limit - 1]["id"] if len(found) > limit else None})

    async def close(self, request: Request) -> Response:
        return answer({"closed": await self._order(request, "close", {})})

    async def subscribe(self, request: Request) -> Response:
        given = options(await read_body(request), Subscribe)
        return answer({"sessions": await self._order(request, "subscribe", given)})

    async def unsubscribe(self, request: Request) -> Response:
        given = options(await read_body(request), Unsubscribe)
        return answer({"sessions": await self._order(request, "unsubscribe", given)})

    async def _order(self, request: Request, do: str, given: dict[str, Any]) -> int:
        """How many sessions an order has reached."""
        session, user = request.path_params.get("session"), request.path_params.get("user")
        if user is not None:
            check_user(user)
        order = {"do": do, "session": session, "user": user, "options": given}
        reached: int = sum(await self._backend.ask_workers(order))
        if user is None and not reached:
            raise RequestError(ErrorCode.NOT_FOUND, f"there is no session {session!r}")
        get_logger().info("sessions_ordered", order=do, session=session, user=user, sessions=reached)
        return reached

    async def presence(self, request: Request) -> Response:
        given = parameters(request, ("topic",))
        if "topic" not in given:
            raise RequestError(ErrorCode.BAD_REQUEST, "name a topic", "topic")
        topic = check_topic(given["topic"])
        return answer({"topic": topic, "users": await self._backend.users(topic)})

    async def topics(self, request: Request) -> Response:
        given = parameters(request, ("limit", "cursor", "containing"))
        after, limit = page(given)
        found = await self._backend.topics(after, limit + 1, given.get("containing", ""))
        return answer({"topics": found[:limit], "cursor": found[limit - 1]["topic"] if len(found) > limit else None})


_map = msgspec.json.Decoder(dict[str, Any])


def options(body: bytes, kind: type[Subscribe | Unsubscribe]) -> dict[str, Any]:
    """A request's fields without ``op`` and ``id``, checked as far as they do not depend on a session.

    Raises:
        RequestError: what is wrong, naming the field.
    """
    given = decoded(_map.decode, body)
    for field in ("op", "id"):
        if field in given:
            raise RequestError(ErrorCode.BAD_REQUEST, f"the path says it: leave out {field!r}", field)
    try:
        request = msgspec.convert({**given, "op": kind.__struct_config__.tag, "id": 0}, kind)
    except msgspec.ValidationError as error:
        raise refusal(error) from None
    if "since" in given:
        raise Unsupported("`since` on behalf of a session", "since")
    if isinstance(request.topics, str):
        if request.topics != "*":
            raise RequestError(ErrorCode.BAD_REQUEST, 'a list of topics, or "*" for all', "topics")
    elif not request.topics:
        raise RequestError(ErrorCode.BAD_REQUEST, "name at least one topic", "topics")
    else:
        for i, pattern in enumerate(request.topics):
            check_pattern(pattern, f"topics[{i}]")
    if given.get("where") is not None:
        Filter.parse(given["where"])
    return given
