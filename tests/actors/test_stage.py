"""A stage by itself, as its author's own tests use it."""

from __future__ import annotations

import pytest

from actors.blocking_actor import BlockingActor
from actors.stage import Stage
from transport.event import Event


class Marking(Stage):
    """Marks its events."""

    def on_events(self, batch: list[Event]) -> list[Event]:
        return [event.replace(type=self.options.get("mark", "none")) for event in batch]


def test_its_work_can_be_called_without_an_engine() -> None:
    event = Event.of("t", 1)
    assert Marking(options={"mark": "x"}).on_events([event]) == [Event.of("t", 1, type="x")]
    assert Marking().on_events([event])[0].type == "none"


def test_it_is_an_actor_with_a_thread_of_its_own() -> None:
    assert issubclass(Stage, BlockingActor)


def test_one_without_on_events_says_what_it_lacks() -> None:
    class Mute(Stage):
        """Lacks it."""

    with pytest.raises(NotImplementedError, match=r"Mute must define on_events\(batch\)"):
        Mute().on_events([])
