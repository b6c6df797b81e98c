"""What does it cost to find an event's recipients?

`match`: one iteration is one topic matched against 10,000 patterns. `route_cache`: one iteration is a batch of 100
events of a topic whose route the index knows, from the bus's batch to the broadcaster's operations.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from actors.index import Index
from actors.mailbox import Mailbox
from actors.messages import Downlink, SubscribeFor
from actors.subscriptions import PatternIndex
from actors.topic_policy import TopicPolicies
from bench import fakes
from bench.wsload import TOPIC
from transport.messages import Fence, Publication
from transport.meter import Meter
from transport.requests import Subscribe
from transport.wire_forms import JsonForm

PATTERNS = 10_000
BATCH = 100


@pytest.mark.parametrize("topic", ["price.EUR_1234", "nothing.like.this"], ids=["hit", "miss"])
def test_match(measure: Callable[..., Any], topic: str) -> None:
    index = PatternIndex()
    for n in range(PATTERNS):
        index.add(f"price.EUR_{n}")
    for pattern in ("price.*", "price.>"):
        index.add(pattern)
    found = measure(lambda: index.match(topic), 1)
    assert found == (("price.*", "price.>", topic) if topic.startswith("price") else ())


def test_route_cache(
    measure: Callable[..., Any],
    loop: asyncio.AbstractEventLoop,
    publications: Callable[..., list[Publication]],
) -> None:
    broadcaster, meter = fakes.Ref(), Meter()
    index = Index(
        broadcaster=broadcaster,
        clients=fakes.Ref,
        uplink=fakes.Uplink(),
        meter=meter,
        policies=TopicPolicies({}),
        request_timeout=60.0,
    )
    session, _ = fakes.session(JsonForm())

    async def subscribe() -> None:
        index.launch(Mailbox("index"), cast(Any, _Watcher()))
        index.on_subscribe_for(SubscribeFor(session, Subscribe(id=1, topics=[TOPIC])))
        index.on_downlink(Downlink([Fence(1, "", {TOPIC: ("0a1b2c3d", 0)}, []), *publications(1)], 1))

    loop.run_until_complete(subscribe())
    sent = 1

    def batch() -> tuple[tuple[Downlink], dict[str, Any]]:
        nonlocal sent
        first, sent = sent + 1, sent + BATCH
        return (Downlink(cast(list[Any], publications(BATCH, first)), first),), {}

    measure(index.on_downlink, BATCH, setup=batch)
    assert meter.route_misses == 1
    assert len(broadcaster.last.ops) == BATCH
    index.kill()


class _Watcher:
    def started(self, actor: Any) -> None: ...

    def exited(self, actor: Any, error: BaseException | None) -> None: ...
