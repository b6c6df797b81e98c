"""A stage: an actor of the user's own between the feeds and the router's log.

    class Spread(Stage):
        def on_events(self, batch: list[Event]) -> list[Event]:
            return [event.replace(data={**event.data, "spread": ...}) for event in batch]

A stage sees the publishes of its topics before they get their offsets, in order, and returns what goes on: changed,
fewer, or more. If ``on_events`` raises, the batch goes on as it came, the failure is counted and logged, and the
supervisor restarts the stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from actors.loop_actor import LoopActor
from actors.messages import Staged
from transport.codes import Priority
from transport.event import Event, to_publish
from transport.messages import Publish
from transport.topics import matches


class Stage(LoopActor):
    """Base of users' stages. ``options`` is the stage's table of the configuration. Runs on the hub's loop."""

    def __init__(self, *, topics: Iterable[str], forward: Callable[[Staged], None], options: Mapping[str, Any]) -> None:
        super().__init__()
        self.options = options
        self._topics, self._forward = tuple(topics), forward
        self._wanted: dict[str, bool] = {}

    def on_events(self, batch: list[Event]) -> list[Event]:
        """Override: what goes on instead of ``batch``; called with events of this stage's topics only.

        An error, or an event that nobody could read (see :func:`transport.event.to_publish`), fails the stage.
        """
        raise NotImplementedError(f"{type(self).__qualname__} must define on_events(batch)")

    def on_staged(self, message: Staged) -> None:
        """Run one batch through the stage and hand it on, whatever happens."""
        batch, dropped = message.batch, message.dropped
        try:
            batch, dropped = self._run(batch, dropped)
        finally:
            self._forward(Staged(message.peer, batch, dropped, message.step + 1))

    def _run(self, batch: list[Publish], dropped: list[int]) -> tuple[list[Publish], list[int]]:
        mine = [publish for publish in batch if self._wants(publish.topic)]
        if not mine:
            return batch, dropped
        results = self.on_events([_event(publish) for publish in mine])
        # The i-th result answers the i-th publisher; publishers beyond the results learn that a stage dropped theirs.
        refs = [publish.ref for publish in mine]
        changed = [to_publish(event, refs[i] if i < len(refs) else 0) for i, event in enumerate(results)]
        rest = [publish for publish in batch if not self._wants(publish.topic)]
        return rest + changed, dropped + [ref for ref in refs[len(changed) :] if ref]

    def _wants(self, topic: str) -> bool:
        wanted = self._wanted.get(topic)
        if wanted is None:
            if len(self._wanted) > 10_000:
                self._wanted.clear()
            wanted = self._wanted[topic] = any(matches(pattern, topic) for pattern in self._topics)
        return wanted


def _event(publish: Publish) -> Event:
    return Event(
        topic=publish.topic,
        payload=publish.data,
        type=publish.type,
        key=publish.key,
        priority=None if publish.priority is None else Priority(publish.priority),
        source_ts=publish.source_ts,
    )
