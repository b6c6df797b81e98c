"""What a client may ask of the mock exchange, and the answers. Pure."""

from __future__ import annotations

import json
from typing import Any, Literal

import msgspec

from engine.mock_market import Market, Tick, Unknown

ALL = "*"
_BAD_REQUEST = 2


class _Resume(msgspec.Struct):
    symbol: str
    since: int | str


class _Request(msgspec.Struct):
    method: Literal["SUBSCRIBE", "UNSUBSCRIBE", "RESUME", "PING"]
    params: list[str] | _Resume | None = None
    id: int | str | None = None


_requests = msgspec.json.Decoder(_Request)


def decoded(raw: bytes) -> Any:
    """The JSON value; the text where it is none."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return raw.decode(errors="replace")


def answer(raw: bytes, market: Market, subscribed: set[str], resume: bool) -> list[str]:
    """The messages to send back, in order: the answer, then ticks that were missed.

    Args:
        subscribed: the symbols of this client; changed as it asks.
        resume: whether ``RESUME`` is understood.
    """
    missed: list[Tick] = []
    try:
        request = _requests.decode(raw)
        if request.method == "PING":
            reply: dict[str, Any] = {"method": "PONG"} | ({} if request.id is None else {"id": request.id})
        else:
            if request.method == "RESUME":
                symbols, missed = _resumed(request, market, resume)
            else:
                symbols = _named(request, market)
            (subscribed.difference_update if request.method == "UNSUBSCRIBE" else subscribed.update)(symbols)
            reply = {"result": None, "id": request.id}
    except (Unknown, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        request_id = message.get("id") if isinstance(message := decoded(raw), dict) else None
        reply = {"error": {"code": _BAD_REQUEST, "msg": f"Invalid request: {error}"}, "id": request_id}
    return [json.dumps(reply, separators=(",", ":")), *(tick.text for tick in missed)]


def _named(request: _Request, market: Market) -> set[str]:
    if not isinstance(request.params, list) or not request.params:
        raise Unknown(f'params: a list of {", ".join(market.symbols)}, or ["{ALL}"], is needed')
    if ALL in request.params:
        return set(market.symbols)
    return {market.known(symbol) for symbol in request.params}


def _resumed(request: _Request, market: Market, resume: bool) -> tuple[set[str], list[Tick]]:
    if not resume:
        raise Unknown("RESUME is not offered")
    if not isinstance(request.params, _Resume):
        raise Unknown('params: {"symbol":…,"since":…} is needed')
    symbol, since = request.params.symbol, str(request.params.since)
    if not (since.isascii() and since.isdecimal()) or len(since) > 18:
        raise Unknown(f"since: a number, not {since[:40]!r}")
    return {symbol}, market.after(symbol, int(since))
