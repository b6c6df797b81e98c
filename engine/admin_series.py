"""What was sampled over time, in the admin API.

| request | answer |
|---|---|
| ``GET /api/series`` | ``{"series": [name…], "interval"}`` |
| ``GET /api/series?name=&from=&to=&points=`` | ``{"series": {name: [[ts, min, mean, max]…]}, "step"}`` |

``name`` may be given several times. ``from`` and ``to`` are Unix seconds, by default the last ``points`` intervals;
``points``, by default 300, is how many a series has at most. A point stands for ``step`` seconds from ``ts`` on; where
nothing was sampled there is none. A series that is not known has no points.
"""

from __future__ import annotations

import time
from typing import NamedTuple, Protocol

import msgspec
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from engine.admin_http import answer
from transport.codes import ErrorCode
from transport.errors import RequestError

NAMES = 200  # series in one request
POINTS = 300  # where a request does not say
MAX_POINTS = 1_000
LATEST = 1e11  # Unix s, the year 5138: what is beyond is a mistake, such as milliseconds
PARAMETERS = ("name", "from", "to", "points")


class Series(Protocol):
    """What has them; :class:`engine.sampling.Sampling`."""

    interval: float

    async def names(self) -> list[str]:
        """All, sorted."""

    async def read(
        self, names: list[str], start: float, end: float, points: int, /
    ) -> tuple[dict[str, list[tuple[float, float, float, float]]], float]:
        """Points by series, and the seconds from one to the next."""


class Backend(Protocol):
    """What this part of the API speaks for."""

    @property
    def series(self) -> Series: ...


class Asked(NamedTuple):
    """A request for points."""

    names: list[str]
    start: float
    end: float
    points: int


def routes(backend: Backend) -> list[Route]:
    """The endpoint."""

    async def series(request: Request) -> Response:
        source = backend.series
        if not request.query_params:
            return answer({"series": await source.names(), "interval": source.interval})
        found, step = await source.read(*asked(request.query_params, source.interval, time.time()))
        return answer({"series": found, "step": step})

    return [Route("/api/series", series, methods=["GET"])]


def asked(given: QueryParams, interval: float, now: float) -> Asked:
    """The parameters, checked; :class:`RequestError` names the one that is wrong."""
    names = list(dict.fromkeys(given.getlist("name")))
    for name in given:
        if name not in PARAMETERS:
            raise _bad(f"parameter {name!r} is not one of {', '.join(PARAMETERS)}", name)
        if name != "name" and len(given.getlist(name)) > 1:
            raise _bad(f"parameter {name!r} is given twice", name)
    if not 1 <= len(names) <= NAMES:
        raise _bad(f"1 to {NAMES} series in one request, not {len(names)}", "name")
    points = _number(given, "points", POINTS)
    if not (points % 1 == 0 and 1 <= points <= MAX_POINTS):
        raise _bad(f"a whole number from 1 to {MAX_POINTS}", "points")
    end = _number(given, "to", now)
    start = _number(given, "from", max(0.0, end - points * interval))
    for name, value in (("to", end), ("from", start)):
        if not 0 <= value <= LATEST:
            raise _bad("Unix seconds, of this age", name)
    if start > end:
        raise _bad("is after `to`", "from")
    return Asked(names, start, end, int(points))


def _number(given: QueryParams, name: str, default: float) -> float:
    if name not in given:
        return default
    try:
        return msgspec.convert(given[name], float, strict=False)
    except msgspec.ValidationError:
        raise _bad("is no number", name) from None


def _bad(message: str, field: str) -> RequestError:
    return RequestError(ErrorCode.BAD_REQUEST, message, field)
