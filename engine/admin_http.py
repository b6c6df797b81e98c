"""Reading the admin API's requests and writing its answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from transport.codes import ErrorCode
from transport.errors import RequestError
from transport.requests import refusal

BODY_BYTES = 1 << 20
BODY_TIMEOUT = 10.0  # s for a request's body to arrive
PAGE = 100  # rows, where a request does not say
MAX_PAGE = 1_000

T = TypeVar("T")


def answer(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """What JSON can hold, as a response that nobody keeps."""
    headers = {"cache-control": "no-store"} | (headers or {})
    return Response(msgspec.json.encode(body), status, headers, "application/json")


async def read_body(request: Request) -> bytes:
    """The body, held to ``BODY_BYTES`` and ``BODY_TIMEOUT``."""
    chunks, size = [], 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            async for chunk in request.stream():
                size += len(chunk)
                if size > BODY_BYTES:
                    raise RequestError(ErrorCode.LIMIT_EXCEEDED, f"a body has at most {BODY_BYTES} bytes")
                chunks.append(chunk)
    except TimeoutError:
        raise RequestError(ErrorCode.BAD_REQUEST, f"the body did not arrive within {BODY_TIMEOUT:g} s") from None
    except ClientDisconnect:
        raise RequestError(ErrorCode.BAD_REQUEST, "the body was cut short") from None
    return b"".join(chunks)


def decoded(decode: Callable[[bytes], T], body: bytes) -> T:
    """What a body says.

    Raises:
        RequestError: ``bad_request``: it is no JSON, in UTF-8, of what is wanted; names the field.
    """
    try:
        body.decode()  # what is taken over unread must be UTF-8 too
        return decode(body)
    except msgspec.ValidationError as error:
        raise refusal(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(ErrorCode.BAD_REQUEST, f"the body is not JSON: {error}") from None


def parameters(request: Request, known: Collection[str]) -> dict[str, str]:
    """The query's parameters, each once and one of ``known``; else :class:`RequestError` naming it."""
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in known or name in found:
            why = "is given twice" if name in found else f"is not one of {', '.join(known)}"
            raise RequestError(ErrorCode.BAD_REQUEST, f"parameter {name!r} {why}", name)
        found[name] = value
    return found


def page(given: dict[str, str]) -> tuple[str, int]:
    """Parameters ``cursor`` and ``limit``: after which row a page begins, and how many it has at most."""
    limit = given.get("limit", str(PAGE))
    if not (limit.isascii() and limit.isdigit() and len(limit) <= 9 and 1 <= int(limit) <= MAX_PAGE):
        raise RequestError(ErrorCode.BAD_REQUEST, f"a page has 1 to {MAX_PAGE} rows, not {limit!r}", "limit")
    return given.get("cursor", ""), int(limit)
