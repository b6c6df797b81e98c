"""Recent events of a topic in the admin API.

| request | answer |
|---|---|
| ``GET /api/history?topic=&limit=&epoch=&offset=`` | ``{"topic", "events": […], "gap"}``, oldest first |

With ``epoch`` and ``offset`` the first events after that place, and ``gap`` says what of them is gone; else the last.
"""

from __future__ import annotations

from typing import Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from engine.admin_http import answer, parameters
from transport import requests
from transport.codec import unpack_batch
from transport.codes import ErrorCode
from transport.errors import RequestError
from transport.messages import HistoryPage
from transport.position import Position
from transport.requests import refusal
from transport.topics import check_topic
from transport.wire_forms import JsonForm, gap


class Backend(Protocol):
    """What this part of the API speaks for."""

    async def history(self, topic: str, limit: int, since: Position | None, /) -> HistoryPage:
        """Events that are kept; :class:`RequestError` ``unavailable`` without a hub."""


def routes(backend: Backend) -> list[Route]:
    """The endpoint."""
    form = JsonForm()

    async def history(request: Request) -> Response:
        it = asked(parameters(request, ("topic", "limit", "epoch", "offset")))
        page = await backend.history(it.topic, it.limit, it.since)
        events = [msgspec.Raw(form.event_json(event)) for event in unpack_batch(page.body)]
        lost = None if page.gap is None else gap(page.gap)
        return answer({"topic": it.topic, "events": events, "gap": lost})

    return [Route("/api/history", history, methods=["GET"])]


def asked(given: dict[str, str]) -> requests.History:
    """The parameters, checked as a client's request is; :class:`RequestError` names the one that is wrong."""
    if ("epoch" in given) is not ("offset" in given):
        missing = "offset" if "epoch" in given else "epoch"
        raise RequestError(ErrorCode.BAD_REQUEST, "a place is an epoch and an offset", missing)
    fields: dict[str, object] = {"op": "history", "id": 0, "topic": given.get("topic", "")}
    if "limit" in given:
        fields["limit"] = given["limit"]
    if "epoch" in given:
        fields["since"] = {"epoch": given["epoch"], "offset": given["offset"]}
    try:
        found = msgspec.convert(fields, requests.History, strict=False)
    except msgspec.ValidationError as error:
        raise refusal(error) from None
    check_topic(found.topic)
    return found
