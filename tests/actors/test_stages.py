"""Which stage an event meets next."""

from __future__ import annotations

from typing import Any

from actors import stages as module
from actors.messages import Staged
from actors.stage_batch import Source
from actors.stages import Stages
from transport.messages import Publish, Refused


class Inbox:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Staged] = []

    def tell(self, message: Staged) -> None:
        self.told.append(message)

    def topics(self) -> list[list[str]]:
        """Of each message since the last time."""
        told, self.told = self.told, []
        return [[publish.topic for _, publish in message.batch] for message in told]


def stages(*patterns: tuple[str, ...]) -> tuple[Stages, list[Any], Any]:
    behind: Any = Inbox()
    it, inboxes = Stages(behind), [Inbox() for _ in patterns]
    for inbox, topics in zip(inboxes, patterns, strict=True):
        it.add(inbox, topics)  # type: ignore[arg-type]
    return it, inboxes, behind


def sources(*topics: str) -> list[Source]:
    return [("peer", Publish(0, topic, "m", b"1")) for topic in topics]


def topics(batch: list[Source]) -> list[str]:
    return [publish.topic for _, publish in batch]


def test_an_event_meets_only_those_that_want_it() -> None:
    it, (first, second, third), behind = stages(("a.>",), ("b", "b.*"), (">",))
    batch = sources("a.x", "b", "c", "a.y", "system.feeds.x", "b.z")
    assert topics(it.enter(batch)) == ["system.feeds.x"], "> is not for the engine's own topics"
    assert (first.topics(), second.topics(), third.topics()) == ([["a.x", "a.y"]], [["b", "b.z"]], [["c"]])
    it.forward(batch[:2], [], 1)
    assert (second.topics(), third.topics()) == ([["b"]], [["a.x"]])
    refused = [("peer", Refused(1, "forbidden", "dropped", None))]
    it.forward(batch[:2], refused, 3)
    assert behind.told == [Staged(batch[:2], refused)]
    it.forward([], refused, 1)
    assert behind.told[1:] == [Staged([], refused)], "an answer waits for nobody"
    it.forward([], [], 3)
    assert len(behind.told) == 2 and first.told == []


def test_a_stage_may_send_an_event_to_another_topic_but_not_back() -> None:
    it, (first, second), behind = stages(("a",), ("b",))
    it.forward(sources("b", "a", "c"), [], 1)
    assert (first.topics(), second.topics(), behind.topics()) == ([], [["b"]], [["a", "c"]])


def test_without_stages_all_is_free(monkeypatch: Any) -> None:
    it, _, _ = stages()
    assert len(it) == 0
    monkeypatch.setattr(module, "TOPICS_CACHED", 2)
    it, (only,), _ = stages(("t.*",))
    names = [f"t.{n}" for n in range(9)]
    assert it.enter(sources(*names)) == [] and only.topics() == [names]
    assert len(it._ways) <= 2, "what is remembered is bounded"
