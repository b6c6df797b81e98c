"""A stage of one's own: an actor on the events' way that adds the spread to every price.

Embedded, as below:

    python examples/stage_spread.py

or in the daemon, named by its configuration (here spread.toml):

    [stages.spread]
    actor = "stage_spread:SpreadStage"
    topics = ["price.>"]

    PYTHONPATH=examples heliograph run --demo --config spread.toml
    heliograph subscribe 'price.>'
"""

import asyncio

from heliograph import Engine, Event, Pipeline, Stage


class SpreadStage(Stage):
    """Runs in the hub, before an event gets its offset; what it returns goes on instead of what came."""

    def on_events(self, batch: list[Event]) -> list[Event]:
        return [self._with_spread(event) for event in batch]

    def _with_spread(self, event: Event) -> Event:
        price = event.exact  # Decimals: 1.121600 - 1.121200 is 0.000400, not 0.00039999999999995595
        if not isinstance(price, dict) or not {"bid", "ask"} <= price.keys():
            return event
        return event.replace(data={**price, "spread": price["ask"] - price["bid"]})


async def main() -> None:
    pipeline = Pipeline().stage("spread", SpreadStage, topics=["price.>"])
    async with (
        Engine(workers=0, port=0, admin_port=0, pipeline=pipeline) as engine,
        engine.client() as client,
        client.subscribe("price.>") as prices,
    ):
        await engine.publish("price.EUR_USD", {"bid": 1.1212, "ask": 1.1216}, type="price_update", key="EUR_USD")
        event = await anext(prices)
        print(event.topic, event.exact)


if __name__ == "__main__":
    asyncio.run(main())
