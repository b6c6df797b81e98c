"""A feed of one's own: what an upstream speaks, as a class, where a map in TOML is not enough.

This one remembers prices to tell how they change, reads refusals, and asks for what it missed by number. With the mock
exchange of the test tools, without any network:

    python examples/my_feed.py

In the daemon the configuration names it (here feeds.toml):

    [feeds.mine]
    url = "wss://exchange.example/ws"
    protocol = "my_feed:TickFeed"
    options = { symbols = ["BTC-USD", "ETH-USD"] }
    heartbeat_interval = 10.0

    PYTHONPATH=examples heliograph run --config feeds.toml
"""

import asyncio
from collections.abc import Sequence
from decimal import Decimal

import msgspec

from heliograph import (
    BadMessage,
    ConfigError,
    Engine,
    Event,
    FailureKind,
    FeedGap,
    FeedProtocol,
    MappingError,
    MockExchange,
    Repeated,
    UpstreamRefused,
    topic,
)


class Message(msgspec.Struct):
    """A tick or the answer to a request; what a message lacks has its default."""

    e: str = ""
    s: str = ""
    p: Decimal | None = None
    T: int | None = None
    n: int = 0
    id: str | None = None
    error: dict[str, str | int] | None = None


_decode = msgspec.json.Decoder(Message).decode
_encode = msgspec.json.encode


class TickFeed(FeedProtocol):
    """One lives as long as its feed, so what it remembers outlives a connection."""

    def __init__(self, symbols: list[str]) -> None:
        super().__init__()
        if not symbols:
            raise ConfigError("name at least one symbol", "symbols")
        self._symbols = symbols
        self._last: dict[str, int] = {}
        self._price: dict[str, Decimal] = {}

    def opened(self) -> None:
        for symbol in self._symbols:
            if symbol in self._last:
                self._ask("RESUME", symbol, {"symbol": symbol, "since": self._last[symbol]})
            else:
                self._ask("SUBSCRIBE", symbol, [symbol])

    def receive(self, raw: bytes) -> Sequence[Event | FeedGap | Repeated | MappingError]:
        try:
            message = _decode(raw)
        except msgspec.ValidationError as error:
            return [MappingError(BadMessage.WRONG_TYPE, "", str(error))]
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return [MappingError(BadMessage.NOT_JSON, "", str(error))]
        if message.error is not None:
            return self._refused(message)
        return self._tick(message) if message.e == "tick" else ()

    def missed(self) -> None:
        """Nothing is to be said after a reconnect: the next number tells what was missed."""

    def heartbeat(self) -> None:
        self.outgoing.append('{"method":"PING"}')

    def _ask(self, method: str, symbol: str, params: object) -> None:
        request = {"method": method, "params": params, "id": f"{method} {symbol}"}
        self.outgoing.append(_encode(request).decode())

    def _refused(self, answer: Message) -> Sequence[FeedGap]:
        method, _, symbol = (answer.id or "").partition(" ")
        if method != "RESUME":
            raise UpstreamRefused(FailureKind.REJECTED, f"{answer.id}: {answer.error}")
        self._last.pop(symbol, None)  # its history does not reach so far back, or it counts anew
        self._ask("SUBSCRIBE", symbol, [symbol])
        return [FeedGap("history_lost", symbol)]

    def _tick(self, tick: Message) -> Sequence[Event | FeedGap | Repeated | MappingError]:
        if not tick.s or tick.p is None:
            return [MappingError(BadMessage.MISSING, "s" if not tick.s else "p")]
        if not tick.p.is_finite():
            return [MappingError(BadMessage.NOT_FINITE, "p", str(tick.p))]
        last = self._last.get(tick.s, tick.n - 1)
        if tick.n <= last:
            return [Repeated(tick.s, tick.n)]
        data = {"price": tick.p, "change": tick.p - self._price.get(tick.s, tick.p)}
        self._last[tick.s], self._price[tick.s] = tick.n, tick.p
        event = Event.of(
            topic("price", tick.s),
            data,
            type="price_update",
            key=tick.s,
            source_ts=None if tick.T is None else tick.T / 1000,
        )
        return [event] if tick.n == last + 1 else [FeedGap("sequence", tick.s, last + 1, tick.n - 1), event]


async def main() -> None:
    async with MockExchange(rate=0, resume=True) as exchange:
        feed = {
            "url": exchange.url,
            "protocol": "my_feed:TickFeed",
            "options": {"symbols": ["BTC-USD"]},
            "backoff_initial": 0.01,
        }
        async with (
            Engine(workers=0, port=0, admin_port=0, feeds={"mine": feed}) as engine,
            engine.client() as client,
            client.subscribe("price.*") as prices,
        ):
            await exchange.wait_request("SUBSCRIBE")
            exchange.tick(1, "BTC-USD")
            event = await anext(prices)
            print(event.topic, event.exact)
            exchange.reset()
            exchange.tick(2, "BTC-USD")  # while nobody is connected
            for _ in range(2):
                event = await anext(prices)
                print(event.topic, event.exact)


if __name__ == "__main__":
    asyncio.run(main())
