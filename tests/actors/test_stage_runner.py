"""A runner and its stage's thread: whatever the user's code does, what comes goes on, in order, counted."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors import stage_runner as module
from actors.messages import Staged
from actors.ref import Ref
from actors.stage import FunctionStage, Stage
from actors.stage_batch import Answer, Source
from actors.stage_runner import HUNG_THREADS, StagePolicy, StageRunner
from transport.event import Event
from transport.messages import Publish
from transport.meter import Meter

DEADLINE_S = 10.0
SHORT_S = 0.15  # a stage's timeout in tests in which it passes
Work = Callable[[list[Event]], Any]


class Doing(Stage):
    """A stage that does what the test says, and keeps a count that dies with it."""

    def __init__(self, work: Work, log: list[str]) -> None:
        super().__init__(options={"name": "x"})
        self.work, self.log, self.batches = work, log, 0

    def on_start(self) -> None:
        self.log.append(threading.current_thread().name)

    def on_stop(self) -> None:
        self.log.append("stop")

    def on_events(self, batch: list[Event]) -> list[Event]:
        self.batches += 1
        results: list[Event] = self.work(batch)
        return results


class Bench:
    """A runner, and what it lets go on."""

    def __init__(self, create: Callable[[], Stage], timeout: float, drop: bool) -> None:
        self.now = 0.0
        self.meter = Meter()
        self.passed: list[Publish] = []
        self.refused: list[tuple[int, str]] = []
        self.runner = StageRunner(
            stage="s",
            create=create,
            forward=self.forward,
            meter=self.meter,
            policy=StagePolicy(timeout, drop),
            clock=lambda: self.now,
        )
        self.runner._begin()
        self.ref: Ref = self.runner.actor_ref
        self.sent = 0

    def forward(self, passed: list[Source], refused: list[Answer]) -> None:
        self.passed += [publish for _, publish in passed]
        self.refused += [(answer.ref, answer.code) for _, answer in refused]

    def send(self, *data: Any, topic: str = "t") -> None:
        """A batch of numbered events; the numbers are the refs too."""
        publishes = [Publish(self.sent + n, topic, "m", repr(value).encode()) for n, value in enumerate(data, 1)]
        self.sent += len(data)
        self.ref.tell(Staged([("peer", publish) for publish in publishes], []))

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                await asyncio.sleep(0)

    async def settled(self) -> list[Any]:
        """All that was sent has gone on or was refused; the data of what went on, since the last time."""
        await self.until(lambda: len({p.ref for p in self.passed} | {ref for ref, _ in self.refused}) >= self.sent)
        return self.data()

    def data(self) -> list[Any]:
        return [eval(publish.data) for publish in self.passed]


@asynccontextmanager
async def bench(create: Callable[[], Stage], timeout: float = DEADLINE_S, drop: bool = False) -> AsyncIterator[Bench]:
    it = Bench(create, timeout, drop)
    try:
        yield it
    finally:
        await it.ref.stop_async(timeout=DEADLINE_S)


@pytest.fixture
def never() -> Iterator[threading.Event]:
    """What a hanging stage waits for: it comes when the test is over, and the threads end."""
    event = threading.Event()
    before = set(threading.enumerate())
    yield event
    event.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


def run(scenario: Awaitable[None]) -> None:
    asyncio.run(scenario)  # type: ignore[arg-type]


def doubled(batch: list[Event]) -> list[Event]:
    return [event.replace(data=event.data * 2) for event in batch]


def raising(batch: list[Event]) -> list[Event]:
    if any(event.data == 0 for event in batch):
        raise KeyError("nothing of the sort")
    return doubled(batch)


def test_a_stage_has_a_thread_of_its_own_and_leaves_none() -> None:
    log: list[str] = []
    before = set(threading.enumerate())

    async def scenario() -> None:
        async with bench(lambda: Doing(doubled, log)) as it:
            it.send(1, 2)
            it.send(3)
            assert await it.settled() == [2, 4, 6]
            assert [publish.ref for publish in it.passed] == [1, 2, 3] and not it.refused
            assert (it.meter.stage_failures, it.meter.stages_bypassed) == ({}, {"s": 0})

    run(scenario())
    assert log == ["actor-stage s", "stop"]
    assert set(threading.enumerate()) == before


def test_what_waits_goes_in_batches_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_EVENTS", 4)
    sizes: list[int] = []
    begun, go = threading.Event(), threading.Event()

    def work(batch: list[Event]) -> list[Event]:
        sizes.append(len(batch))
        begun.set()
        go.wait(DEADLINE_S)
        return batch

    async def scenario() -> None:
        async with bench(lambda: Doing(work, [])) as it:
            it.send(1)
            await it.until(begun.is_set)
            it.send(2)
            it.send(3, 4, 5, 6, 7)
            await it.until(lambda: len(it.runner._waiting) == 6)
            go.set()
            assert await it.settled() == [1, 2, 3, 4, 5, 6, 7]

    run(scenario())
    assert sizes == [1, 4, 2]


def test_a_batch_that_raises_goes_on_as_it_came_and_another_instance_takes_the_next() -> None:
    lives: list[str] = []

    async def scenario() -> None:
        async with bench(lambda: Doing(raising, lives)) as it:
            for data in (1, 0, 2, 0, 3):
                it.send(data)
                await it.settled()
            assert it.data() == [2, 0, 4, 0, 6]
            assert it.meter.stage_failures == {"s:raised": 2}
            assert it.meter.dropped == {}

    run(scenario())
    assert lives == ["actor-stage s"] * 3 + ["stop"]


def test_with_the_policy_drop_it_does_not_go_on() -> None:
    async def scenario() -> None:
        async with bench(lambda: Doing(raising, []), drop=True) as it:
            for data in ((1,), (5, 0), (2,)):
                it.send(*data)
                await it.settled()
            assert it.data() == [2, 4]
            assert it.refused == [(2, "unavailable"), (3, "unavailable")]
            assert it.meter.stage_failures == {"s:raised": 2}
            assert it.meter.dropped == {"stage": 2}

    run(scenario())


@pytest.mark.parametrize("result", [None, 7, [7], "text"])
def test_nonsense_is_counted_as_such(result: Any) -> None:
    async def scenario() -> None:
        async with bench(lambda: Doing(lambda batch: result, [])) as it:
            it.send(1, 2)
            assert await it.settled() == [1, 2]
            assert it.meter.stage_failures == {"s:nonsense": 2}

    run(scenario())


def test_a_function_is_a_stage() -> None:
    def function(event: Event) -> Any:
        if event.data == 3:
            return None
        return [event.replace(data=10 // event.data)] * 2

    async def scenario() -> None:
        async with bench(lambda: FunctionStage(function)) as it:
            it.send(1, 0, 3)
            assert await it.settled() == [10, 10, 0]
            assert it.meter.stage_failures == {"s:raised": 1}
            assert it.refused == [(3, "forbidden")]

    run(scenario())


# a stage that hangs ------------------------------------------------------------------------------------------------


def hangs_at(never: threading.Event, *data: int) -> Work:
    def work(batch: list[Event]) -> list[Event]:
        if any(event.data in data for event in batch):
            never.wait()
        return doubled(batch)

    return work


@pytest.mark.parametrize("drop", [False, True])
def test_nobody_waits_for_a_stage_that_hangs(never: threading.Event, drop: bool) -> None:
    async def scenario() -> None:
        async with bench(lambda: Doing(hangs_at(never, 0), []), SHORT_S, drop) as it:
            it.send(1)
            await it.settled()
            it.send(0)
            it.send(2)  # goes behind it, to another instance in another thread
            assert await it.settled() == ([2, 4] if drop else [2, 0, 4])
            assert it.refused == ([(2, "unavailable")] if drop else [])
            assert it.meter.stage_failures == {"s:timeout": 1}

    run(scenario())


def test_a_result_that_comes_too_late_is_discarded(never: threading.Event) -> None:
    late = threading.Event()

    def work(batch: list[Event]) -> list[Event]:
        if batch[0].data == 0:
            late.wait()
        return [event.replace(data=[event.data, "seen"]) for event in batch]

    async def scenario() -> None:
        async with bench(lambda: Doing(work, []), SHORT_S) as it:
            it.send(0)
            await it.settled()
            (hung,) = it.runner._hung
            late.set()
            await asyncio.to_thread(hung.join, DEADLINE_S)
            it.send(1)
            assert await it.settled() == [0, [1, "seen"]]
            assert it.meter.stage_failures == {"s:timeout": 1}

    run(scenario())


def test_threads_that_hang_are_few_and_one_that_returns_makes_room(never: threading.Event) -> None:
    first = threading.Event()
    waits = iter([first, never, never])

    def work(batch: list[Event]) -> list[Event]:
        event = next(waits, None)
        if event is not None:
            event.wait()
        return doubled(batch)

    async def scenario() -> None:
        async with bench(lambda: Doing(work, []), SHORT_S) as it:
            for n in range(1, HUNG_THREADS + 3):
                it.send(n)
                await it.settled()
            assert it.data() == [1, 2, 3, 4, 5]
            assert it.meter.stage_failures == {"s:timeout": 3, "s:bypassed": 2}
            assert it.meter.stages_bypassed == {"s": 1}
            first.set()
            await asyncio.to_thread(it.runner._hung[0].join, DEADLINE_S)
            it.send(6)
            assert (await it.settled())[-1] == 12
            assert it.meter.stages_bypassed == {"s": 0}

    run(scenario())


def test_a_start_that_hangs_is_waited_for_once(never: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Stage):
        """Does not come up."""

        def on_start(self) -> None:
            never.wait()

    monkeypatch.setattr(module, "START_TIMEOUT_S", SHORT_S)
    monkeypatch.setattr(module, "STOP_TIMEOUT_S", SHORT_S)

    async def scenario() -> None:
        async with bench(Slow, SHORT_S) as it:
            it.send(1)
            it.send(2)
            assert await it.settled() == [1, 2]
            it.send(3)
            await it.settled()
            assert it.meter.stage_failures["s:timeout"] >= 1
            assert sum(it.meter.stage_failures.values()) == 3

    run(scenario())


def test_the_start_of_a_successor_is_waited_for_no_longer_than_a_batch(
    never: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "START_TIMEOUT_S", 3 * DEADLINE_S)
    monkeypatch.setattr(module, "STOP_TIMEOUT_S", SHORT_S)
    lives = 0

    class Fragile(Stage):
        """Lives once."""

        def on_start(self) -> None:
            nonlocal lives
            lives += 1
            if lives > 1:
                never.wait()

        def on_events(self, batch: list[Event]) -> list[Event]:
            raise ValueError("as always")

    async def scenario() -> None:
        async with bench(Fragile, SHORT_S) as it:
            it.send(1)
            await it.settled()
            it.send(2)
            assert await it.settled() == [1, 2]
            assert it.meter.stage_failures == {"s:raised": 1, "s:timeout": 1}

    run(scenario())


def test_a_slow_start_is_left_to_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    up = threading.Event()

    class Slow(Stage):
        """Comes up when it is told to."""

        def on_start(self) -> None:
            up.wait(DEADLINE_S)

        def on_events(self, batch: list[Event]) -> list[Event]:
            return doubled(batch)

    async def scenario() -> None:
        async with bench(Slow) as it:
            it.runner._patience = SHORT_S
            it.runner._go(it.runner._at, SHORT_S)
            it.send(1)
            assert await it.settled() == [1]
            it.send(2)
            assert await it.settled() == [1, 2]
            assert it.meter.stage_failures == {"s:timeout": 1, "s:bypassed": 1}
            up.set()
            await it.until(lambda: it.runner._at is module.StageState.IDLE)
            it.send(3)
            assert (await it.settled())[-1] == 6

    run(scenario())


# a stage that fails again and again -----------------------------------------------------------------------------------


def test_a_stage_that_keeps_failing_is_left_alone_for_a_while_and_tried_again() -> None:
    broken = True
    seen: list[int] = []

    def work(batch: list[Event]) -> list[Event]:
        seen.extend(event.data for event in batch)
        if broken:
            raise ValueError("as always")
        return doubled(batch)

    async def scenario() -> None:
        nonlocal broken
        async with bench(lambda: Doing(work, [])) as it:

            async def one(n: int) -> Any:
                it.send(n)
                return (await it.settled())[-1]

            for n in range(1, 9):
                assert await one(n) == n
            assert seen == [1, 2, 3, 4, 5]
            assert it.meter.stage_failures == {"s:raised": 5, "s:bypassed": 3}
            assert it.meter.stages_bypassed == {"s": 1}
            it.now = 10.0
            assert [await one(9), await one(10)] == [9, 10] and seen[5:] == [9], "one batch tries"
            broken = False
            assert await one(11) == 11, "twice as long"
            it.now = 30.0
            assert [await one(12), await one(13)] == [24, 26]
            assert it.meter.stages_bypassed == {"s": 0}

    run(scenario())


def test_a_function_that_keeps_failing_is_left_alone_too() -> None:
    calls: list[int] = []

    def function(event: Event) -> Any:
        calls.append(event.data)
        return 7

    async def scenario() -> None:
        async with bench(lambda: FunctionStage(function)) as it:
            for n in range(1, 9):
                it.send(n)
                await it.settled()
            assert it.data() == list(range(1, 9))
            assert it.meter.stage_failures == {"s:nonsense": 5, "s:bypassed": 3}

    run(scenario())
    assert calls == [1, 2, 3, 4, 5]


def test_a_stage_that_cannot_be_made_is_bypassed() -> None:
    made = 0

    def create() -> Stage:
        nonlocal made
        made += 1
        raise TypeError("an option is missing")

    async def scenario() -> None:
        async with bench(create) as it:
            for n in range(8):
                it.send(n)
            assert await it.settled() == list(range(8))
            assert it.meter.stage_failures == {"s:raised": 0, "s:bypassed": 8}

    run(scenario())
    assert made == module.BREAKER.failures


def test_a_stage_that_does_not_start_is_bypassed() -> None:
    class Broken(Stage):
        """Fails at its start."""

        def on_start(self) -> None:
            raise OSError("no such file")

    async def scenario() -> None:
        async with bench(Broken) as it:
            for n in range(8):
                it.send(n)
                await it.settled()
            assert it.data() == list(range(8))
            assert it.meter.stage_failures == {"s:raised": 0, "s:bypassed": 8}
            assert it.meter.stages_bypassed == {"s": 1}

    run(scenario())


def test_a_stage_that_ends_its_own_thread_gets_another() -> None:
    def work(batch: list[Event]) -> list[Event]:
        if batch[0].data == 0:
            raise SystemExit
        return doubled(batch)

    async def scenario() -> None:
        async with bench(lambda: Doing(work, [])) as it:
            for n in (0, 1):
                it.send(n)
                await it.settled()
            assert it.data() == [0, 2]

    run(scenario())


# more than it can do --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", ["WAITING_EVENTS", "WAITING_BYTES"])
@pytest.mark.parametrize("drop", [False, True])
def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch, bound: str, drop: bool) -> None:
    monkeypatch.setattr(module, bound, 3)
    begun, go = threading.Event(), threading.Event()

    def work(batch: list[Event]) -> list[Event]:
        begun.set()
        go.wait(DEADLINE_S)
        return doubled(batch)

    async def scenario() -> None:
        async with bench(lambda: Doing(work, []), drop=drop) as it:
            it.send(1)
            await it.until(begun.is_set)
            for n in (2, 3, 4, 5, 6):
                it.send(n)
            if drop:  # those that came last
                await it.until(lambda: len(it.refused) == 2)
                assert (it.refused, it.passed) == ([(5, "unavailable"), (6, "unavailable")], [])
                go.set()
                assert await it.settled() == [2, 4, 6, 8]
                assert it.meter.stage_failures == {"s:overflow": 2}
            else:  # all, in order
                assert await it.settled() == [1, 2, 3, 4, 5, 6]
                assert it.meter.stage_failures == {"s:overflow": 4, "s:bypassed": 2}
                go.set()
                await it.until(lambda: it.runner._at is module.StageState.IDLE)
                it.send(7)
                assert (await it.settled())[-1] == 14, "the late result was not taken, the stage is"
            assert (it.runner._waiting_bytes, len(it.runner._waiting)) == (0, 0)

    run(scenario())


# whatever happens -----------------------------------------------------------------------------------------------------

ACTS = ("ok", "ok", "ok", "raise", "nonsense", "hang", "drop", "bad")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(ACTS), st.integers(1, 4)), min_size=1, max_size=12), st.booleans())
def test_order_per_topic_holds_and_each_publisher_is_answered_once(plan: list[tuple[str, int]], drop: bool) -> None:
    acts: dict[int, str] = {}
    end = threading.Event()

    def work(batch: list[Event]) -> Any:
        what = {acts[event.data] for event in batch}
        if "raise" in what:
            raise ValueError("as it was asked to")
        if "hang" in what:
            end.wait()
        if "nonsense" in what:
            return [7]
        kept = [event for event in batch if acts[event.data] != "drop"]
        return [event.replace(source_ts=float("nan")) if acts[event.data] == "bad" else event for event in kept]

    async def scenario() -> None:
        async with bench(lambda: Doing(work, []), 0.005, drop) as it:
            for act, size in plan:
                numbers = range(it.sent + 1, it.sent + size + 1)
                acts.update(dict.fromkeys(numbers, act))
                it.send(*numbers)
                if size < 3:  # else several come at once, maybe too many
                    await asyncio.sleep(0)
            await it.settled()
            end.set()
            # Nothing comes from a thread that nobody waits for.
            for thread in it.runner._hung:
                await asyncio.to_thread(thread.join, DEADLINE_S)
            await asyncio.sleep(0)
            assert it.data() == sorted(it.data())
            answers = Counter([*(p.ref for p in it.passed), *(ref for ref, _ in it.refused)])
            assert answers == Counter(range(1, it.sent + 1))
            if not drop:
                assert {code for _, code in it.refused} <= {"forbidden"}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WAITING_EVENTS", 8)
        patch.setattr(module, "BATCH_EVENTS", 5)
        try:
            run(scenario())
        finally:
            end.set()


class Unspeakable(Exception):
    def __repr__(self) -> str:
        raise RuntimeError("not even this")

    __str__ = __repr__


def test_an_error_that_cannot_be_shown_costs_no_more_than_another(caplog: pytest.LogCaptureFixture) -> None:
    def failing(batch: list[Event]) -> list[Event]:
        if any(event.data == 0 for event in batch):
            raise Unspeakable
        return doubled(batch)

    async def scenario() -> None:
        async with bench(lambda: Doing(failing, [])) as it:
            it.send(0)
            it.send(1)
            assert await it.settled() == [0, 2]
            assert it.meter.stage_failures == {"s:raised": 1}
            assert "<Unspeakable without a repr>" in caplog.text

    run(scenario())
