"""Publish from code without a loop: a script, a notebook, a thread.

heliograph run                              in one terminal
heliograph subscribe 'alert.>'              in another
python examples/publish_sync.py             in a third
"""

import sys
from datetime import UTC, datetime
from decimal import Decimal

from heliograph import Client, RequestError, topic


def main(url: str) -> None:
    with Client.sync(url) as client:
        position = client.publish(
            topic("alert", "limit", "EUR/USD"),
            {"limit": Decimal("1.1200"), "at": datetime.now(UTC)},
            type="limit_reached",
            key="EUR/USD",
            priority="high",
        )
        print(f"accepted as {position.offset} of epoch {position.epoch}")
        try:
            client.publish("system.metrics", {})
        except RequestError as error:
            print(f"refused: {error}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:8765/ws")
