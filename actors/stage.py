"""A stage: an actor of the user's own between the feeds and the router's log, in a thread of its own.

    class Spread(Stage):
        def on_events(self, batch: list[Event]) -> list[Event]:
            return [event.replace(data={**event.data, "spread": ...}) for event in batch]

A stage sees the publishes of its topics before they get their offsets, in order, and returns what goes on: changed,
fewer, or more. :mod:`actors.stage_runner` feeds it, and does without it while it fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from actors.blocking_actor import BlockingActor
from actors.messages import StageDone, StageWork
from actors.stage_batch import Outcome, StageBatch
from transport.event import Event


class Stage(BlockingActor):
    """Base of users' stages. ``options`` is the stage's table of the configuration.

    ``on_start``, ``on_events`` and ``on_stop`` run in the stage's own thread, one at a time; they may block, and have
    no event loop. Only the constructor runs on the hub's loop: what takes long belongs in ``on_start``.
    """

    def __init__(self, *, options: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.options: Mapping[str, Any] = {} if options is None else options

    def on_events(self, batch: list[Event]) -> list[Event]:
        """Override: what goes on instead of ``batch``; called with events of this stage's topics only, 256 at most.

        Make results of events with ``event.replace(…)``: so it is known which publish they answer. An error, a result
        that is no list of events, and a time above the stage's ``timeout`` fail the whole batch and end this instance:
        another one gets the next batch. An event that nobody could read (see :func:`transport.event.to_publish`)
        fails only the event that it was made of.
        """
        raise NotImplementedError(f"{type(self).__qualname__} must define on_events(batch)")

    def on_stage_work(self, work: StageWork) -> None:
        """Run one batch through the stage and say what becomes of it."""
        work.runner.tell(StageDone(self, self._process(work.batch)))

    def _process(self, batch: StageBatch) -> Outcome:
        return batch.returned(self.on_events(batch.events()))


class FunctionStage(Stage):
    """A stage that is a plain function.

    Args:
        function: called with one event; returns an event (changed), ``None`` (dropped) or a list of events. An error
            fails that event only.
    """

    def __init__(self, function: Callable[[Event], object]) -> None:
        super().__init__()
        self._function = function

    def _process(self, batch: StageBatch) -> Outcome:
        return batch.mapped(self._function)
