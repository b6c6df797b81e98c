"""The way through the stages: which of them an event meets next, by its topic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from actors.messages import Staged
from actors.ref import Ref
from actors.stage_batch import Answer, Source
from transport.topics import matches

TOPICS_CACHED: Final = 65_536


class Stages:
    """A hub's stages in order. An event meets those that want its topic, and no other one waits for it.

    Order holds per topic: events of one topic go the same way, and each stage lets them on as they came.

    Args:
        behind: gets a :class:`~actors.messages.Staged` with what has passed all stages.
    """

    def __init__(self, behind: Ref) -> None:
        self._behind = behind
        self._stages: list[tuple[Ref, tuple[str, ...]]] = []
        self._ways: dict[str, tuple[int, ...]] = {}

    def __len__(self) -> int:
        return len(self._stages)

    def add(self, ref: Ref, topics: Sequence[str]) -> None:
        """One more, behind the others; before the first event."""
        self._stages.append((ref, tuple(topics)))

    def enter(self, batch: list[Source], step: int = 0) -> list[Source]:
        """Tell each stage from number ``step`` on what it is the next for; return what no stage wants (any more).

        Costs one look-up per event, and for a topic's first event one match per pattern.
        """
        ways = self._ways
        free: list[Source] = []
        wanted: dict[int, list[Source]] = {}
        for source in batch:
            topic = source[1].topic
            way = ways.get(topic)
            if way is None:
                way = self._resolve(topic)
            for number in way:
                if number >= step:
                    wanted.setdefault(number, []).append(source)
                    break
            else:
                free.append(source)
        for number, sources in wanted.items():
            self._stages[number][0].tell(Staged(sources, []))
        return free

    def forward(self, passed: list[Source], refused: list[Answer], step: int) -> None:
        """Where the stage before number ``step`` puts its results."""
        free = self.enter(passed, step)
        if free or refused:
            self._behind.tell(Staged(free, refused))

    def _resolve(self, topic: str) -> tuple[int, ...]:
        if len(self._ways) >= TOPICS_CACHED:
            self._ways.clear()
        way = self._ways[topic] = tuple(
            number
            for number, (_, topics) in enumerate(self._stages)
            if any(matches(pattern, topic) for pattern in topics)
        )
        return way
