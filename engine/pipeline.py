"""Stages of one's own, given to an engine as classes or functions.

    async with Engine(workers=0, pipeline=Pipeline().stage("spread", SpreadStage, topics=["price.>"])): ...

The same from configuration: ``[stages.spread] actor = "my.module:SpreadStage"``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from actors.stage import Stage
from engine.stage_config import Stage as StageConfig
from engine.tables import Reader
from engine.user_code import stage_maker, stage_path
from transport.event import Event


class Pipeline:
    """An immutable, ordered list of stages; each sees what the one before it lets go on."""

    def __init__(self, stages: Mapping[str, StageConfig] | None = None) -> None:
        self.stages: dict[str, StageConfig] = dict(stages or {})

    def stage(
        self,
        name: str,
        kind: type[Stage] | Callable[[Event], Event | list[Event] | None],
        topics: Sequence[str] = (">",),
        options: Mapping[str, Any] | None = None,
        *,
        timeout: float = 1.0,
        on_error: Literal["pass", "drop"] = "pass",
    ) -> Pipeline:
        """A pipeline with one more stage.

        Args:
            name: in logs and figures.
            kind: a subclass of :class:`heliograph.Stage`, or a function that gets an event and returns an event,
                ``None`` (dropped) or a list of events; importable by its name.
            topics: patterns of the events that it gets.
            options: ``self.options`` of the stage.
            timeout: seconds that a batch of at most 256 events may take.
            on_error: an event for which the stage does nothing, because it fails or is late, goes on as it came
                (``pass``) or is dropped.

        Raises:
            ConfigError: naming the field, as the configuration would be.
        """
        where = f"stages.{name}"
        given = {
            "actor" if isinstance(kind, type) else "function": stage_path(kind, where),
            "topics": tuple(topics),
            "timeout": timeout,
            "on_error": on_error,
        }
        table = msgspec.structs.replace(Reader().struct(StageConfig, given, where), options=dict(options or {}))
        stage_maker(name, table)
        return Pipeline({**self.stages, name: table})
