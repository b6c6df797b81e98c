"""What does the broadcaster add to the kernel's writes? One iteration is 100 flushes, each of some events of a route
with 500 members whose sockets take the bytes for nothing: encode, join, 500 writes, and the loop's two turns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from actors.broadcaster import Broadcaster
from actors.messages import Join, Operations
from actors.ref import Ref
from actors.route import Route
from bench import fakes
from transport.messages import Publication
from transport.meter import Meter
from transport.pacing import Pacer
from transport.wire_forms import JsonForm

MEMBERS, FLUSHES = 500, 100


@pytest.mark.parametrize("events", [1, 10])
def test_flush(
    measure: Callable[..., Any],
    loop: asyncio.AbstractEventLoop,
    publications: Callable[..., list[Publication]],
    events: int,
) -> None:
    route, form = Route(), JsonForm()
    members = [fakes.session(form) for _ in range(MEMBERS)]
    operations = [((route,), publication) for publication in publications(events)]
    flushed: list[int] = []
    more = asyncio.Event()

    def processed(sequence: int) -> None:
        flushed.append(sequence)
        more.set()

    async def start() -> Ref:
        ref = Broadcaster.start(pacer=Pacer(0.0), meter=Meter(), processed=processed)
        ref.tell(Operations([Join(route, [session for session, _ in members])]))
        return ref

    ref = loop.run_until_complete(start())

    async def iteration() -> None:
        flushed.clear()
        for sequence in range(1, FLUSHES + 1):
            more.clear()
            ref.tell(Operations(list(operations), sequence))
            await more.wait()

    measure(lambda: loop.run_until_complete(iteration()), FLUSHES)
    assert flushed == list(range(1, FLUSHES + 1))
    writes = {connection.writes for _, connection in members}
    assert len(writes) == 1
    assert not writes.pop() % FLUSHES
    assert members[0][1].last.count(b'"op":"event"') == events
    loop.run_until_complete(ref.stop_async(timeout=5))
