"""What an upstream, a proxy, a file or an operator may do to a feed at the wrong moment; each was once a defect."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence

from websockets.asyncio.server import ServerConnection, serve

from actors.feed import FeedSpec
from actors.feed_protocol import FeedProtocol, Item, ProtocolSpec
from actors.feed_supervisor import ApplyFeeds, FeedSupervisor, GetFeeds
from tests.actors.test_connection import QUICK, Hub, run


async def wait_closed(connection: ServerConnection) -> None:
    await connection.wait_closed()


# reloads -------------------------------------------------------------------------------------------------------------


class Deaf(FeedProtocol):
    """Understands anything as nothing."""

    def receive(self, raw: bytes) -> Sequence[Item]:
        return ()


class Broken(Deaf):
    def opened(self) -> None:
        raise RuntimeError("a bug")


def test_a_reload_mends_a_feed_whose_protocol_crashed_until_it_was_paused() -> None:
    async def main() -> None:
        async with serve(wait_closed, "127.0.0.1", 0) as server:
            url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/"
            broken = FeedSpec("f", (url,), ProtocolSpec(Broken), recovery=QUICK)
            ref = FeedSupervisor.start(Hub(), [broken])

            async def wait_for(state: str) -> None:
                while (await ref.ask_async(GetFeeds()))["f"]["state"] != state:
                    await asyncio.sleep(0.002)

            await wait_for("failed")
            await ref.ask_async(ApplyFeeds((dataclasses.replace(broken, protocol=ProtocolSpec(Deaf)),)))
            await wait_for("connected")
            await ref.stop_async()

    run(main())
