"""Print the prices as they come, the last known ones first; reconnects by itself.

heliograph run --demo                  in one terminal
python examples/subscribe_async.py     in another
"""

import asyncio
import sys

from heliograph import Client


async def main(url: str, count: int | None = None) -> None:
    async with Client(url) as client, client.subscribe("price.>", snapshot=True, on_gap=print) as prices:
        seen = 0
        async for event in prices:
            print(event.topic, event.offset, event.exact)  # exact: Decimals with the digits of the source
            seen += 1
            if seen == count:
                break


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:8765/ws"))
