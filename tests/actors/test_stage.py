"""A stage by itself: what goes in as publishes comes out as publishes, whatever the user's code does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from actors.messages import Staged
from actors.stage import Stage
from actors.supervisor import ChildSpec, GetStatistics, Supervisor
from transport.codes import Priority
from transport.event import Event
from transport.messages import Publish

PEER: Any = object()
Work = Callable[[list[Event]], list[Event]]


class Worker(Stage):
    """A stage that does what the test says."""

    work: Work

    def on_events(self, batch: list[Event]) -> list[Event]:
        return type(self).work(batch)


class Mute(Stage):
    """Lacks on_events."""


def through(
    work: Work, batch: list[Publish], topics: tuple[str, ...] = ("t.>",), dropped: tuple[int, ...] = ()
) -> Staged:
    """One batch through a stage."""
    kind = type("Test", (Worker,), {"work": staticmethod(work)})
    out: list[Staged] = []
    stage = kind(topics=topics, forward=out.append, options={})
    stage.on_staged(Staged(PEER, batch, list(dropped), 1))
    (staged,) = out
    assert staged.peer is PEER and staged.step == 2
    return staged


def test_a_stage_sees_whole_events_and_they_come_back_whole() -> None:
    whole = Publish(7, "t.a", "tick", b'{"p":1.1200}', "k", "high", 12.5)
    plain = Publish(0, "t.b", "message", b"null")
    seen: list[Event] = []

    def work(batch: list[Event]) -> list[Event]:
        seen.extend(batch)
        return batch

    assert through(work, [whole, plain]).batch == [whole, plain]
    assert seen == [
        Event(topic="t.a", payload=b'{"p":1.1200}', type="tick", key="k", priority=Priority.HIGH, source_ts=12.5),
        Event(topic="t.b", payload=b"null"),
    ]


def test_a_stage_changes_drops_and_multiplies() -> None:
    def work(batch: list[Event]) -> list[Event]:
        out = [event.replace(data={**event.exact, "n": 1}) for event in batch if event.topic != "t.drop"]
        return [*out, Event.of("other", Decimal("1.50"))]

    batch = [Publish(1, "t.a", "m", b'{"p":1.1200}'), Publish(2, "t.drop", "m", b"{}"), Publish(3, "t.b", "m", b"{}")]
    staged = through(work, batch, dropped=(9,))
    assert [(publish.topic, publish.data) for publish in staged.batch] == [
        ("t.a", b'{"p":1.1200,"n":1}'),
        ("t.b", b'{"n":1}'),
        ("other", b"1.50"),
    ]
    assert [publish.ref for publish in staged.batch] == [1, 2, 3], "each publisher gets one answer"
    assert staged.dropped == [9]


@pytest.mark.parametrize("results", range(6))
def test_every_publisher_is_answered_once(results: int) -> None:
    batch = [Publish(ref, "t.a", "m", b"1") for ref in (4, 0, 5)]
    staged = through(lambda _: [Event.of("t.a", n) for n in range(results)], batch)
    assert len(staged.batch) == results
    refs = [publish.ref for publish in staged.batch if publish.ref] + staged.dropped
    assert sorted(refs) == [4, 5]


def test_topics_of_others_pass_by_and_keep_their_order() -> None:
    batch = [Publish(0, topic, "m", str(n).encode()) for n, topic in enumerate(["x", "t.a", "x", "y", "t.a", "x"])]
    staged = through(lambda events: events, batch)
    for topic in ("x", "y", "t.a"):
        assert [p.data for p in staged.batch if p.topic == topic] == [p.data for p in batch if p.topic == topic]
    untouched = [Publish(0, "x", "m", b"1")]
    assert through(lambda events: pytest.fail("not its topic"), untouched).batch == untouched


def _raise(batch: list[Event]) -> list[Event]:
    raise KeyError("nothing of the sort")


BROKEN: dict[str, Work] = {
    "raises": _raise,
    "returns nothing": lambda batch: None,  # type: ignore[dict-item, return-value]
    "returns other things": lambda batch: [1, 2],  # type: ignore[list-item]
    "a topic that is none": lambda batch: [event.replace(topic="a..b") for event in batch],
    "a pattern": lambda batch: [event.replace(topic="a.*") for event in batch],
    "a payload that is text": lambda batch: [event.replace(payload="1") for event in batch],
    "a payload that is no JSON": lambda batch: [event.replace(payload=b"{") for event in batch],
    "a payload that is no UTF-8": lambda batch: [event.replace(payload=b'"\xff"') for event in batch],
    "a payload that is too large": lambda batch: [event.replace(payload=b"1" * (17 << 20)) for event in batch],
    "data without a JSON form": lambda batch: [event.replace(data=float("nan")) for event in batch],
    "a type that is no text": lambda batch: [event.replace(type=7) for event in batch],
    "a key that is no text": lambda batch: [event.replace(key=7) for event in batch],
    "a priority that is none": lambda batch: [event.replace(priority="urgent") for event in batch],
    "a time that is none": lambda batch: [event.replace(source_ts=float("nan")) for event in batch],
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_stage_that_fails_lets_the_batch_go_on_as_it_came_and_fails(what: str) -> None:
    batch = [Publish(1, "t.a", "m", b"1"), Publish(0, "x", "m", b"2")]
    kind = type("Test", (Worker,), {"work": staticmethod(BROKEN[what])})
    out: list[Staged] = []
    with pytest.raises(Exception):  # noqa: B017  for the supervisor, which restarts the stage
        kind(topics=["t.>"], forward=out.append, options={}).on_staged(Staged(PEER, batch, [5], 1))
    assert out == [Staged(PEER, batch, [5], 2)]


def test_a_stage_without_on_events_says_what_it_lacks() -> None:
    out: list[Staged] = []
    stage = Mute(topics=[">"], forward=out.append, options={})
    with pytest.raises(NotImplementedError, match="Mute must define on_events"):
        stage.on_staged(Staged(PEER, [Publish(0, "t", "m", b"1")], [], 1))
    assert len(out) == 1


def test_a_failed_stage_is_restarted_and_the_batches_behind_are_handled() -> None:
    lives: list[object] = []

    class Fragile(Stage):
        """Fails at its second batch."""

        def on_start(self) -> None:
            self.batches = 0
            lives.append(self.options["name"])

        def on_events(self, batch: list[Event]) -> list[Event]:
            self.batches += 1
            if self.batches == 2:
                raise ValueError("the second")
            return [event.replace(data=[event.data, len(lives)]) for event in batch]

    async def scenario() -> None:
        out: list[Staged] = []
        spec = ChildSpec("fragile", lambda: Fragile(topics=[">"], forward=out.append, options={"name": "x"}))
        supervisor = Supervisor.start(children=[spec])
        for n in range(5):
            spec.ref.tell(Staged(PEER, [Publish(0, "t", "m", str(n).encode())], [], 1))
        async with asyncio.timeout(5):
            while len(out) < 5:
                await asyncio.sleep(0)
        assert [staged.batch[0].data for staged in out] == [b"[0,1]", b"1", b"[2,2]", b"3", b"[4,3]"]
        statistics = await supervisor.ask_async(GetStatistics(), timeout=5)
        assert statistics.children[0].restarts == 2
        await supervisor.stop_async(timeout=5)

    asyncio.run(scenario())
    assert lives == ["x"] * 3
