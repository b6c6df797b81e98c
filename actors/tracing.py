"""What is traced of events whose publisher has chosen them: who chooses, and the spans of router and broadcaster.

A trace is decided where its event comes in, by a feed's connection or by the worker of a client, as a share of all
events; nobody decides again. Its context (W3C ``traceparent``) goes with the event to the hub, in
:attr:`transport.messages.Publish.trace`, and from there to the workers that get the event as
:class:`transport.messages.Traced`, before it. The log of events knows nothing of it: what is read from it later is not
traced. All times are Unix nanoseconds. An engine without ``[tracing]`` has none of these objects.

Not traced: which member of a consumer group got an event, and what another engine's feed or backplane does with it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from actors.history import Accepted
from transport.messages import Publication, Publish, Traced

REMEMBERED = 1_000
"""Traced events that a process knows at a time; of more, the oldest are not traced further."""

_Place = tuple[str, str, int]


class _Known(NamedTuple):
    context: str
    began: int


class Span(Protocol):
    """A part of an event's way that has begun."""

    context: str
    """Under which its children come."""

    def end(self, at: int) -> None:
        """It is over, and exported some time later. Never blocks, never fails."""


class Spans(Protocol):
    """Where spans go; :mod:`engine.tracing` has the one of OpenTelemetry."""

    def begin(self, name: str, at: int, parent: str | None, attributes: Mapping[str, str | int]) -> Span:
        """A span, of a new trace where there is no ``parent``."""


class PublishTracing:
    """Chooses events where they come in. Cost per event: a random number.

    Args:
        share: of events, 0 to 1.
    """

    def __init__(
        self,
        spans: Spans,
        share: float,
        random: Callable[[], float] = random.random,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._spans, self._share, self._random, self.clock = spans, share, random, clock
        self._open: list[Span] = []

    def chosen(self, name: str, batch: list[Publish], began: int, **attributes: str) -> list[Publish]:
        """The batch with some of its events chosen, as a span ``name`` each, since ``began``. :meth:`published` ends
        them."""
        return [
            self._choose(name, publish, began, attributes) if self._random() < self._share else publish
            for publish in batch
        ]

    def _choose(self, name: str, publish: Publish, began: int, attributes: dict[str, str]) -> Publish:
        span = self._spans.begin(name, began, None, {"topic": publish.topic, "type": publish.type, **attributes})
        self._open.append(span)
        return publish._replace(trace=span.context)

    def published(self) -> None:
        """What was chosen is on its way to the hub."""
        _end(self._open, self.clock)

    def publish(self, *fields: Any, **named: Any) -> Publish:
        """In the place of :class:`Publish`, for a client's event: chosen or not."""
        publish = Publish(*fields, **named)
        if self._random() >= self._share:
            return publish
        now = self.clock()
        publish = self._choose("publish", publish, now, {})
        self.published()
        return publish


class RouteTracing:
    """The router's spans: from an event's acceptance to its being handed to the workers."""

    def __init__(self, spans: Spans, clock: Callable[[], int] = time.time_ns) -> None:
        self._spans, self._clock = spans, clock
        self._waiting: dict[_Place, _Known] = {}
        self._open: list[Span] = []

    def accepted(self, pairs: Iterable[tuple[Publish, Any]], seconds: float) -> None:
        """Events that were given their places, or were refused, ``seconds`` after they came in."""
        for publish, outcome in pairs:
            if publish.trace is not None and isinstance(outcome, Accepted) and not outcome.again:
                began = self._clock() - int(seconds * 1e9)
                _remember(self._waiting, outcome.publication[:3], _Known(publish.trace, began))

    def distributing(self, events: list[Accepted]) -> list[Traced]:
        """Those of the events that are traced, for the workers that get them, before them."""
        out = []
        for event in events if self._waiting else ():
            topic, epoch, offset = place = event.publication[:3]
            known = self._waiting.pop(place, None)
            if known is not None:
                context, began = known
                attributes: dict[str, str | int] = {"topic": topic, "offset": offset}
                self._open.append(self._spans.begin("route", began, context, attributes))
                out.append(Traced(topic, epoch, offset, context))
        return out

    def distributed(self) -> None:
        """They are in the workers' queues."""
        _end(self._open, self._clock)


class WriteTracing:
    """A worker's spans: from an event's arrival to its having been written to clients. One that is written at several
    times, since some wait for it, has a span each."""

    def __init__(self, spans: Spans, clock: Callable[[], int] = time.time_ns) -> None:
        self._spans, self._clock = spans, clock
        self._known: dict[_Place, _Known] = {}
        self._writing: dict[_Place, tuple[_Known, int]] = {}

    def arrived(self, traced: Traced, _ops: list[Any]) -> bool:
        """The event that comes next of this topic is traced. ``True``: that is all there is to do with it."""
        topic, epoch, offset, context = traced
        _remember(self._known, (topic, epoch, offset), _Known(context, self._clock()))
        return True

    def writing(self, publications: Iterable[Publication], clients: int) -> None:
        """These are about to be written to so many clients."""
        if not self._known:
            return
        for publication in publications:
            place = publication[:3]
            if (known := self._known.get(place)) is not None:
                _, before = self._writing.get(place, (known, 0))
                self._writing[place] = (known, before + clients)

    def written(self) -> None:
        """All that was about to be is."""
        if self._writing:
            now = self._clock()
            for (topic, _, offset), (known, clients) in self._writing.items():
                attributes: dict[str, str | int] = {"topic": topic, "offset": offset, "clients": clients}
                self._spans.begin("broadcast", known.began, known.context, attributes).end(now)
            self._writing.clear()


def _remember(places: dict[_Place, _Known], place: _Place, known: _Known) -> None:
    if len(places) >= REMEMBERED:
        del places[next(iter(places))]
    places[place] = known


def _end(spans: list[Span], clock: Callable[[], int]) -> None:
    if spans:
        now = clock()
        for span in spans:
            span.end(now)
        spans.clear()
