"""What the broadcaster owes to the bus and to the loop; what clients get is in test_lanes and test_selective_fanout."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import uvloop

from actors.broadcaster import Broadcaster
from actors.messages import Disband, Hold, Operations, Seal
from actors.route import Route
from actors.subscription import Delivery
from bench import fakes
from tests.actors.test_fanout import until
from transport.messages import Publication
from transport.meter import Meter
from transport.pacing import Pacer
from transport.wire_forms import JsonForm


def event(offset: int) -> Publication:
    return Publication("a", "e", offset, time.time(), "t", b"1")


def test_a_batch_without_deliveries_that_comes_during_a_flush_is_acknowledged_with_it() -> None:
    """The hub's window may have closed with it: nothing else would come."""

    async def main() -> None:
        done: list[int] = []
        ref = Broadcaster.start(pacer=Pacer(0.0), meter=Meter(), processed=done.append)
        session, _ = fakes.session(JsonForm())
        route = Route()
        route.enter(session)
        ref.tell(Operations([((route,), event(1))], 1, time.perf_counter()))
        ref.tell(Operations([], 2))
        await until(lambda: done)
        assert done == [2]
        await ref.stop_async(timeout=5)

    uvloop.run(main())


def test_what_comes_during_a_flush_goes_along_with_the_cohorts_whose_turn_is_yet_to_come() -> None:
    async def main() -> None:
        encoded: list[int] = []

        class Form(JsonForm):
            def event(self, publication: Publication) -> bytes:
                encoded.append(publication.offset)
                return super().event(publication)

        form, got = Form(), list[tuple[str, list[int]]]()
        broadcaster = Broadcaster(pacer=Pacer(0.0), meter=Meter(), processed=lambda sequence: None)
        broadcaster._loop = asyncio.get_running_loop()
        routes = []
        for name in "abc":
            session, connection = fakes.session(form)

            def take(data: bytes, name: str = name) -> None:
                got.append((name, [int(n) for n in re.findall(rb'"offset":(\d+)', data)]))
                if name == "a" and len(got) == 1:  # while the first one is written to
                    broadcaster.on_operations(Operations([(tuple(routes), event(2))]))

            connection.write = take  # type: ignore[method-assign]
            routes.append(Route())
            routes[-1].enter(session)
        broadcaster.on_operations(Operations([(tuple(routes), event(1))]))
        await until(lambda: len(got) == 4)
        assert got == [("a", [1]), ("b", [1, 2]), ("c", [1, 2]), ("a", [2])]
        assert encoded == [1, 2, 2], "once a flush"

    uvloop.run(main())


def test_no_timer_outlives_what_it_was_for() -> None:
    async def main() -> None:
        timers: list[asyncio.TimerHandle] = []
        loop = asyncio.get_running_loop()
        broadcaster = Broadcaster(pacer=Pacer(0.0), meter=Meter(), processed=lambda sequence: None)
        later = loop.call_later

        def call_later(delay: float, *args: Any) -> asyncio.TimerHandle:
            timers.append(later(delay, *args))
            return timers[-1]

        class Loop:
            time, call_soon = loop.time, loop.call_soon

        Loop.call_later = staticmethod(call_later)  # type: ignore[attr-defined]
        broadcaster._loop = Loop()  # type: ignore[assignment]
        route = Route(Delivery(interval=1000.0, conflate=True))
        for n in range(1, 20, 2):
            broadcaster.on_operations(Operations([Hold(route, event(n)), Hold(route, event(n + 1)), Seal([route])]))
        broadcaster.on_operations(Operations([Hold(route, event(30)), Disband(route)]))
        assert len(timers) > 10
        assert not [timer for timer in timers if not timer.cancelled()]

    uvloop.run(main())
