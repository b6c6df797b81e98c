"""Stages of one's own, given to an engine as classes.

    async with Engine(workers=0, pipeline=Pipeline().stage("spread", SpreadStage, topics=["price.>"])): ...

The same from configuration: ``[stages.spread] actor = "my.module:SpreadStage"``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from actors.stage import Stage
from engine.config import Stage as StageConfig
from engine.wiring import stage_table


class Pipeline:
    """An immutable, ordered list of stages; each sees what the one before it lets go on."""

    def __init__(self, stages: Mapping[str, StageConfig] | None = None) -> None:
        self.stages: dict[str, StageConfig] = dict(stages or {})

    def stage(
        self,
        name: str,
        kind: type[Stage],
        topics: Sequence[str] = (">",),
        options: Mapping[str, Any] | None = None,
    ) -> Pipeline:
        """A pipeline with one more stage.

        Args:
            name: in logs and figures.
            kind: a subclass of :class:`heliograph.Stage`, importable by its name.
            topics: patterns of the events that it gets.
            options: ``self.options`` of the stage.
        """
        return Pipeline({**self.stages, name: stage_table(kind, topics, options or {})})
