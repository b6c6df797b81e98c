"""A strategy whose parameters change while it runs: each change is a message in its own actor, between two prices.

heliograph run --demo --config examples/live_strategy.toml      in one terminal
python examples/live_strategy.py                                in another
heliograph call parameters.momentum set '{"values": {"threshold": 0.002}}'
"""

import asyncio
import sys
from collections import deque
from typing import Annotated

import pykka
from msgspec import Meta, Struct

from heliograph import Client, Event, ParametersChanged


class Momentum(Struct, frozen=True):
    """What may be changed; the engine refuses what is out of bounds."""

    threshold: Annotated[float, Meta(gt=0, le=1)] = 0.001  # share of the price
    look_back: Annotated[int, Meta(ge=2, le=1_000)] = 20  # prices


class Strategy(pykka.ThreadingActor):
    """Says when a price has moved; only this actor's thread ever sees its state."""

    def __init__(self) -> None:
        super().__init__()
        self.parameters = Momentum()
        self.prices: dict[str, deque[float]] = {}

    def on_receive(self, message: object) -> None:
        match message:
            case ParametersChanged(values=values, changed=changed, version=version):
                self.parameters = values
                print(f"version {version} ({', '.join(changed)}): {values}")
            case Event(topic=topic, data={"bid": bid}):
                self.on_price(topic, bid)

    def on_price(self, topic: str, bid: float) -> None:
        seen = self.prices.setdefault(topic, deque(maxlen=1_000))
        seen.append(bid)
        past = list(seen)[-self.parameters.look_back :]
        if abs(bid / past[0] - 1) >= self.parameters.threshold:
            print(f"{topic} {'up' if bid > past[0] else 'down'} from {past[0]} to {bid}")
            seen.clear()


async def main(url: str, count: int | None = None) -> None:
    strategy = Strategy.start()
    try:
        async with (
            Client(url) as client,
            client.parameters("momentum", Momentum) as parameters,
            client.subscribe("price.>") as prices,
        ):
            parameters.deliver_to(strategy)  # the present ones first
            async for event in prices:
                strategy.tell(event)
                if count is not None and (count := count - 1) == 0:
                    break
    finally:
        strategy.stop()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:8765/ws"))
