"""The FX server's Socket.IO events: what clients may ask, and what they are told.

| client emits | server answers |
|---|---|
| – | ``connection_established``, the first event of each connection |
| ``subscribe {"pairs": ["EUR_USD"] or "*"}`` | ``subscription_confirmed``, before the first price, or ``…_error`` |
| ``unsubscribe {"pairs": […] or "*"}`` | ``unsubscription_confirmed``, behind the last price, or ``…_error`` |
| ``get_subscriptions`` | ``subscriptions_info`` |
| ``request_price {"instrument": "EUR_USD"}`` | ``price_response`` or ``price_error`` |
| ``request_all_prices`` | ``all_prices_response`` or ``all_prices_error`` |
| ``get_server_stats`` | ``server_stats`` or ``server_stats_error`` |
| ``ping`` | ``pong`` |
| anything else | ``error`` |

A client that wants an acknowledgement gets the same map so, too. Subscribers of a pair are told of its ``price_update``
and ``volatility_alert``, all clients of ``correlation_alert`` and ``data_ready``. Of a request that names pairs and
others, the pairs are confirmed and the others are an error.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import msgspec

from fx.pairs import pairs, price_topic, room, volatility_topic
from fx.prices import BadPrice, Price, timestamp
from fx.requests import BadRequest, Choice, chosen, instrument
from heliograph import Event, Namespace, Publication, RequestError, SocketClient, on

FOR_ALL: Final = ("alert.correlation", "alert.correlation.>", "data.ready", "data.ready.>")
"""What every client gets without asking."""
_NAMES: Final = {
    "price": "price_update",
    "alert.volatility": "volatility_alert",
    "alert.correlation": "correlation_alert",
    "data.ready": "data_ready",
}
_OPTIONS: Final = frozenset({"pairs"})

_decode = msgspec.json.Decoder(float_hook=Decimal).decode
_encode = msgspec.json.Encoder(decimal_format="number").encode
_log = logging.getLogger(__name__)


class FxServer(Namespace):
    """Prices and alerts of currency pairs. ``options.pairs``: which ones, :data:`fx.pairs.DEFAULT_PAIRS` without it.

    Raises:
        ValueError: names the option that is wrong.
    """

    notices = frozenset({"gap"})

    def __init__(self, *, options: Mapping[str, Any], engine: Any) -> None:
        super().__init__(options=options, engine=engine)
        for name in sorted(options.keys() - _OPTIONS):
            raise ValueError(f"{name}: there is no such option; there is {', '.join(sorted(_OPTIONS))}")
        self._pairs = pairs(options)
        self._prices = {price_topic(pair): pair for pair in self._pairs}
        self._bad: set[str] = set()  # topics whose last event was no price

    # what clients are told --------------------------------------------------------------------------------------------

    def encode(self, event: Publication) -> bytes | None:
        """A published event as clients get it, once for all of them."""
        pair = self._prices.get(event.topic)
        if pair is None:
            name = _NAMES[".".join(event.topic.split(".", 2)[:2])]
            return b'["%b",%b]' % (name.encode(), event.data)
        try:
            price = Price.of(pair, _decode(event.data), event.source_ts or event.ts)
        except BadPrice as error:
            if event.topic not in self._bad:
                self._bad.add(event.topic)
                _log.warning("what is published on %s is no price: %s", event.topic, error)
            return None
        self._bad.discard(event.topic)
        return _encode([_NAMES["price"], price.update()])

    # connections ------------------------------------------------------------------------------------------------------

    async def on_connect(self, client: SocketClient, auth: Any) -> None:
        """Tell it who it is and what there is."""
        client.data["pairs"] = set()
        census = await self.engine.census()
        client.emit(
            "connection_established",
            {
                "client_id": client.id,
                "pair_count": len(self._pairs),
                "pairs": self._pairs,
                "active_clients": census.clients,
                "max_clients": census.limit,
                "time": _now(),
                "message": f"Connected: {len(self._pairs)} pairs, subscribe to those that you want",
            },
        )
        client.subscribe(FOR_ALL)

    def subscriptions_of(self, client: SocketClient) -> int:
        """Pairs; what all clients get is not counted."""
        return len(client.data["pairs"])

    # subscriptions ----------------------------------------------------------------------------------------------------

    @on("subscribe")
    async def subscribe(self, client: SocketClient, request: Any = None, *_: Any) -> dict[str, Any]:
        """``{"pairs": ["EUR_USD", "GBP_USD"]}`` or ``{"pairs": "*"}``."""
        return await self._change(client, "subscription", request, client.subscribe, client.data["pairs"].update)

    @on("unsubscribe")
    async def unsubscribe(self, client: SocketClient, request: Any = None, *_: Any) -> dict[str, Any]:
        """As :meth:`subscribe`; a pair that it has not subscribed to is no error."""
        forget = client.data["pairs"].difference_update
        return await self._change(client, "unsubscription", request, client.unsubscribe, forget)

    async def _change(
        self,
        client: SocketClient,
        kind: str,
        request: Any,
        ask: Callable[..., None],
        remember: Callable[[list[str]], None],
    ) -> dict[str, Any]:
        try:
            choice = chosen(request, self._pairs)
        except BadRequest as error:
            return _emitted(client, f"{kind}_error", {**_problem(error), "pairs": [], "invalid_pairs": []})
        refusal = self._invalid(choice)
        if refusal is not None:
            _emitted(client, f"{kind}_error", refusal)
            if not choice.pairs:
                return refusal
        answered: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

        def reply(fields: Mapping[str, Any]) -> bytes:
            """Where the answer's place among the prices is."""
            if fields["op"] == "error":
                name, answer = f"{kind}_error", {"message": fields["message"], "pairs": choice.pairs}
                answer |= {"field": "", "invalid_pairs": choice.invalid}
            else:
                remember(choice.pairs)
                name, answer = f"{kind}_confirmed", self._confirmation(client, choice)
            if not answered.done():
                answered.set_result(answer)
            return client.packet(name, answer)

        topics = [topic(pair) for pair in choice.pairs for topic in (price_topic, volatility_topic)]
        ask(topics, reply=reply)
        return await answered

    def _invalid(self, choice: Choice) -> dict[str, Any] | None:
        if not choice.invalid:
            return None
        what = "Invalid pair" if len(choice.invalid) == 1 else "Invalid pairs"
        return {
            "message": f"{what}: {', '.join(choice.invalid)}",
            "field": "pairs",
            "pairs": choice.invalid,
            "invalid_pairs": choice.invalid,
            "valid_pairs": self._pairs,
        }

    def _confirmation(self, client: SocketClient, choice: Choice) -> dict[str, Any]:
        total = len(client.data["pairs"])
        return {
            "pairs": choice.pairs,
            "pair_count": len(choice.pairs),
            "total": total,
            "total_subscriptions": total,
            "invalid_pairs": choice.invalid,
        }

    @on("get_subscriptions")
    def get_subscriptions(self, client: SocketClient, *_: Any) -> dict[str, Any]:
        """Which pairs it has, in the server's order."""
        found = [pair for pair in self._pairs if pair in client.data["pairs"]]
        info = {
            "client_id": client.id,
            "pairs": found,
            "pair_count": len(found),
            "total": len(found),
            "rooms": [room(pair) for pair in found],
        }
        return _emitted(client, "subscriptions_info", info)

    # last prices ------------------------------------------------------------------------------------------------------

    @on("request_price")
    async def request_price(self, client: SocketClient, request: Any = None, *_: Any) -> dict[str, Any]:
        """``{"instrument": "EUR_USD"}``: the last one, as long as the engine remembers it."""
        try:
            pair = instrument(request, self._pairs)
            found = (await self._last_prices([pair]))[pair]
        except (BadRequest, RequestError) as error:
            named = request.get("instrument") if isinstance(request, dict) else None
            shown = named[:40] if isinstance(named, str) else None
            return _emitted(client, "price_error", {**_problem(error), "instrument": shown})
        if found is None:
            nothing = {"message": f"No price of {pair} yet", "field": "instrument", "instrument": pair}
            return _emitted(client, "price_error", nothing)
        return _emitted(client, "price_response", found.response())

    @on("request_all_prices")
    async def request_all_prices(self, client: SocketClient, *_: Any) -> dict[str, Any]:
        """The last price of each pair; ``null`` for those that have none."""
        try:
            found = await self._last_prices(self._pairs)
        except RequestError as error:
            return _emitted(client, "all_prices_error", _problem(error))
        prices = {pair: None if price is None else price.response() for pair, price in found.items()}
        known = sum(price is not None for price in found.values())
        answer = {"prices": prices, "pair_count": len(prices), "count": known, "time": _now()}
        return _emitted(client, "all_prices_response", answer)

    async def _last_prices(self, wanted: list[str] | tuple[str, ...]) -> dict[str, Price | None]:
        events: list[Event] = await self.engine.snapshot([price_topic(pair) for pair in wanted])
        found: dict[str, Price | None] = dict.fromkeys(wanted)
        for event in events:
            pair = self._prices[event.topic]
            found[pair] = _price(event, pair) or await self._price_before(event.topic, pair)
        return found

    async def _price_before(self, topic: str, pair: str) -> Price | None:
        """The last of the recent events that is a price, where the very last is none."""
        events: list[Event] = await self.engine.history(topic)
        return next((price for event in reversed(events) if (price := _price(event, pair)) is not None), None)

    # the server -------------------------------------------------------------------------------------------------------

    @on("get_server_stats")
    async def get_server_stats(self, client: SocketClient, *_: Any) -> dict[str, Any]:
        """Clients and subscriptions of all workers, exactly, and how many last prices there are."""
        try:
            census = await self.engine.census()
            prices = [price for price in (await self._last_prices(self._pairs)).values() if price is not None]
        except RequestError as error:
            return _emitted(client, "server_stats_error", _problem(error))
        newest = max((price.time for price in prices), default=None)
        stats = {
            "active_clients": census.clients,
            "max_clients": census.limit,
            "total_subscriptions": census.subscriptions,
            "average_subs_per_client": round(census.subscriptions / max(census.clients, 1), 2),
            "cache": {
                "cached_pairs": len(prices),
                "total_pairs": len(self._pairs),
                "newest": None if newest is None else timestamp(newest),
            },
        }
        return _emitted(client, "server_stats", stats)

    @on("ping")
    def ping(self, client: SocketClient, *_: Any) -> dict[str, Any]:
        """To measure how long an answer takes."""
        return _emitted(client, "pong", {"time": _now(), "timestamp": time.time()})

    @on("*")
    def unknown(self, client: SocketClient, name: str, *_: Any) -> dict[str, Any]:
        """An event that there is not."""
        return _emitted(client, "error", {"message": f"there is no event {name[:40]!r}", "field": "event"})


def _price(event: Event, pair: str) -> Price | None:
    try:
        return Price.of(pair, event.exact, event.source_ts or event.ts)
    except BadPrice:
        return None


def _emitted(client: SocketClient, name: str, answer: dict[str, Any]) -> dict[str, Any]:
    """The answer as an event; what is returned is the acknowledgement."""
    client.emit(name, answer)
    return answer


def _problem(error: BadRequest | RequestError) -> dict[str, Any]:
    return {"message": str(error), "field": error.field}


def _now() -> str:
    return timestamp(datetime.now(UTC))
