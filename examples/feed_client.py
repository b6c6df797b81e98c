"""A feed without an engine: the actor that connects, reconnects and maps, in a program of one's own.

Whatever has `publish`, `is_writable` and `writable` can be its hub. With the mock exchange of the test tools, offline:

    python examples/feed_client.py
"""

import asyncio

from heliograph import (
    BackoffPolicy,
    BreakerPolicy,
    Connect,
    Disconnect,
    Fault,
    Feed,
    FeedConnection,
    FeedMap,
    FeedSpec,
    MappedProtocol,
    MockExchange,
    ProtocolSpec,
    Publish,
    RecoveryPolicy,
)

MAP = FeedMap(topic="price.{symbol}", key="s", sequence="n", data={"price": "p"}, filter={"e": "tick"})
SUBSCRIBE = {"method": "SUBSCRIBE", "params": ["BTC-USD"], "id": 1}


class Printer:
    """Takes everything at once. A slower one says `is_writable` False, and the exchange's socket rests until it can."""

    is_writable = True

    def publish(self, batch: list[Publish]) -> None:
        for event in batch:
            print(event.topic, event.type, event.data.decode())

    async def writable(self) -> None:
        pass


async def main() -> None:
    async with MockExchange(rate=0) as exchange:
        spec = FeedSpec(
            name="mock",
            urls=(exchange.url,),
            protocol=ProtocolSpec(MappedProtocol, {"maps": (MAP,), "subscribe": (SUBSCRIBE,)}),
            recovery=RecoveryPolicy(BackoffPolicy(first_s=0.05, jitter=False), BreakerPolicy(failures=3)),
        )
        feed = Feed(spec, Printer())  # keep it: it knows what outlives a connection
        connection = FeedConnection.start(feed)
        await exchange.wait_request("SUBSCRIBE")
        exchange.tick()
        exchange.during(Fault.RESET, 0.02)  # it comes back by itself
        await exchange.wait_request("SUBSCRIBE", count=2)
        exchange.tick(4)
        await connection.ask_async(Disconnect())
        await connection.ask_async(Connect())
        await exchange.wait_request("SUBSCRIBE", count=3)
        print(feed.snapshot()["reconnects"], "reconnects,", feed.published, "events")
        await connection.stop_async()


if __name__ == "__main__":
    asyncio.run(main())
